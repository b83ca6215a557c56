"""The wiring: published and today's language models, vision towers and generators, with and without an out side."""

from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from diffusers import ControlNetModel
from originals import GOLDEN, write_original
from tiny import picture
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    DINOv3ViTConfig,
    DINOv3ViTModel,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from limner.compositions.dreamllm import (
    clip,
    controlled_diffusion,
    dinov3,
    dreamllm,
    dreamllm_7b,
    dreamllm_sdxl_7b,
    flow_transformer,
    llava_7b,
    siglip2,
    stable_diffusion,
)
from limner.config.call import Call, build, call
from limner.config.serialize import to_json
from limner.data.collate import Collator
from limner.document.document import Direction, Document, Media, null_prompt
from limner.generate.engine import Engine
from limner.generate.request import Pictures, Request
from limner.modalities.guidance import guidance_for
from limner.modalities.noise import keyed_generator
from limner.modalities.projectors import MLPProjector, Rowwise
from limner.model.checkpoint import load_checkpoint, save_checkpoint
from limner.tokens.tokenizer import byte_tokenizer

TOWER = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
LANGUAGE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Published parts at tiny sizes, each in its own directory."""
    root = tmp_path_factory.mktemp("published")
    torch.manual_seed(0)
    bytes_ = byte_tokenizer()
    sizes = {**LANGUAGE, "vocab_size": len(bytes_.tokenizer)}
    for name, model in {
        "qwen3": Qwen3ForCausalLM(Qwen3Config(**sizes, head_dim=8, tie_word_embeddings=True)),
        "llama3": LlamaForCausalLM(LlamaConfig(**sizes)),
    }.items():
        model.save_pretrained(root / name)
        bytes_.tokenizer.save_pretrained(root / name)
    vicuna = LlamaForCausalLM(LlamaConfig(**LANGUAGE, vocab_size=424))
    vicuna.save_pretrained(root / "vicuna")
    for name in ("tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"):
        (root / "vicuna" / name).write_bytes((GOLDEN / "checkpoint" / name).read_bytes())
    CLIPVisionModel(CLIPVisionConfig(**TOWER)).save_pretrained(root / "clip")
    SiglipVisionModel(SiglipVisionConfig(**TOWER)).save_pretrained(root / "siglip2")
    DINOv3ViTModel(DINOv3ViTConfig(**TOWER, num_register_tokens=2)).save_pretrained(root / "dinov3")
    made = write_original(root / "other")
    made.unet.save_pretrained(root / "sd" / "unet")
    control = ControlNetModel.from_unet(made.unet, conditioning_embedding_out_channels=(4, 8))
    for layer in [
        *control.controlnet_down_blocks,
        control.controlnet_mid_block,
        control.controlnet_cond_embedding.conv_out,
    ]:
        torch.nn.init.normal_(layer.weight, std=0.5)
    control.save_pretrained(root / "controlnet")
    made.vae.save_pretrained(root / "sd" / "vae")
    (root / "sd" / "scheduler").mkdir()
    noise = (root / "sd-small" / "scheduler" / "scheduler_config.json").read_text()
    (root / "sd" / "scheduler" / "scheduler_config.json").write_text(noise)
    return root


def wired(parts: Path, language_model: str = "vicuna", encoder: Any = clip, tower: str = "clip", **more: Any) -> Call:
    return call(
        dreamllm,
        language_model=str(parts / language_model),
        encoder=call(encoder, weights=str(parts / tower)),
        **more,
    )


def with_generator(parts: Path) -> dict[str, Any]:
    return {"decoder": call(stable_diffusion, weights=str(parts / "sd"), resolution=16), "num_queries": 3}


@pytest.mark.parametrize("language_model", ["vicuna", "llama3", "qwen3"])
@pytest.mark.parametrize(("encoder", "tower"), [(clip, "clip"), (siglip2, "siglip2"), (dinov3, "dinov3")])
def test_any_language_model_reads_through_any_tower_and_draws(parts: Path, language_model: str, encoder, tower: str):
    torch.manual_seed(0)
    model = build(wired(parts, language_model, encoder, tower, **with_generator(parts))).eval()
    page = Document.page(["Once ", picture("red"), " more."])
    chat = Document.chat([("user", ["What?", picture("blue")]), ("assistant", "Blue.")])
    batch = Collator(model)([[model.render(page), model.render(chat)]])
    terms = model(batch, noise_key=(0, 0))
    assert set(terms) == {"text", "image"}
    assert all(torch.isfinite(term.mean) for term in terms.values())
    # A span of four patches is read twice, three queries are made once.
    lengths = {key: value.lengths.tolist() for key, value in batch.spans.items()}
    assert sorted(lengths.values()) == [[3], [4, 4]]


def test_without_a_generator_the_model_reads_and_has_no_out_tokens(parts: Path):
    model = build(wired(parts))
    assert model.modality("image").maker is None
    assert set(model.vocabulary.ids) == {"image.in.begin", "image.in.slot", "image.in.end"}
    assert model.backbone.added_input.shape == (3, 32)


def test_a_language_model_without_a_chat_template_gets_vicuna_s_roles(parts: Path):
    model = build(wired(parts, system="Be kind."))
    rendered = model.render(
        Document.chat([("user", "red disc"), ("assistant", "blue"), ("user", "a"), ("assistant", "b")])
    )
    whole = model.tokenizer.prompt_ids("Be kind. USER: red disc ASSISTANT: blue</s>USER: a ASSISTANT: b</s>")
    assert list(rendered.ids) == whole
    trained = [token for token, train in zip(rendered.ids, rendered.trained, strict=True) if train]
    assert trained == [*model.tokenizer.text_ids("blue"), 2, *model.tokenizer.text_ids("b"), 2]


def test_published_weights_are_named_not_saved(parts: Path, tmp_path: Path):
    description = wired(parts, **with_generator(parts))
    torch.manual_seed(1)
    model = build(description).eval()
    save_checkpoint(model, tmp_path / "ours", description=to_json(description))
    saved = {file.name for file in (tmp_path / "ours").iterdir()}
    assert {"image.encoder.safetensors", "image.decoder.unet.safetensors"} & saved == set()
    again = load_checkpoint(tmp_path / "ours")
    loaded = again.state_dict()
    assert [name for name, value in model.state_dict().items() if not torch.equal(value, loaded[name])] == []


def test_a_flow_transformer_may_stand_where_the_unet_does(parts: Path, tmp_path: Path):
    generator = call(
        flow_transformer,
        autoencoder=str(parts / "sd"),
        resolution=16,
        condition_width=12,
        num_layers=1,
        num_heads=2,
        head_width=8,
    )
    description = wired(parts, "qwen3", decoder=generator, num_queries=3)
    torch.manual_seed(1)
    model = build(description).eval()
    batch = Collator(model)([[model.render(Document.page(["Once ", picture("red")]))]])
    assert torch.isfinite(model(batch, noise_key=(0, 0))["image"].mean)
    save_checkpoint(model, tmp_path / "ours", description=to_json(description))
    saved = {file.name for file in (tmp_path / "ours").glob("image.decoder.*")}
    assert saved == {"image.decoder.transformer.safetensors"}


def with_controlnet(parts: Path) -> dict[str, Any]:
    sizes = {"weights": str(parts / "sd"), "controlnet": str(parts / "controlnet"), "resolution": 16}
    return {"decoder": call(controlled_diffusion, **sizes), "num_queries": 3}


def test_a_model_with_a_controlnet_trains_is_saved_and_follows_a_control_picture(parts: Path, tmp_path: Path):
    description = wired(parts, "qwen3", **with_controlnet(parts))
    torch.manual_seed(1)
    model = build(description)
    batch = Collator(model)([[model.render(Document.page(["Once ", picture("red")]))]])
    model(batch, noise_key=(0, 0))["image"].mean.backward()
    trained = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert {"modalities.image.queries.rows", "modalities.image.output_projector.linear.weight"} <= trained
    assert not any(".decoder." in name for name in trained)
    save_checkpoint(model, tmp_path / "ours", description=to_json(description))
    assert not list((tmp_path / "ours").glob("image.decoder.*"))  # all of it is published elsewhere

    edges = Media(picture("black", size=(48, 36)), directions=())
    asked = [
        Document.chat([("user", ["Draw.", *shown])])
        for shown in ([edges], [], [Media(picture("white"), directions=())])
    ]
    assert model.render(asked[0]).ids == model.render(asked[1]).ids  # the language model does not see it
    ask = {"max_new_tokens": 2, "num_inference_steps": 2, "pictures": Pictures.NOW}
    requests = [Request(document, **ask) for document in asked]
    replies = Engine(load_checkpoint(tmp_path / "ours")).run(requests)
    alone = [Engine(model).run([request])[0] for request in requests]
    made, again = ([drawn(reply) for reply in replies] for replies in (replies, alone))
    assert abs(made[0] - made[1]).max() > 5
    assert abs(made[0] - made[2]).max() > 5
    for one, other in zip(made, again, strict=True):
        assert abs(one - other).max() <= 1  # a rounding to 8 bits


def test_a_control_picture_is_refused_where_nothing_follows_it(parts: Path):
    model = build(wired(parts, "qwen3", **with_generator(parts)))
    asked = Document.chat([("user", ["Draw.", Media(picture("black"), directions=())])])
    with pytest.raises(ValueError, match="a control picture is given and a LatentDiffusion follows none\nhint: "):
        Engine(model).run([Request(asked, num_inference_steps=1, pictures=Pictures.NOW)])


def test_a_picture_alone_is_a_prompt_for_its_variations(parts: Path):
    torch.manual_seed(0)
    model = build(wired(parts, "qwen3", **with_generator(parts))).eval()
    engine, ask = Engine(model), {"max_new_tokens": 1, "num_inference_steps": 2, "pictures": Pictures.NOW}
    prompts = [Document.page([Media(picture(colour), directions=(Direction.IN,))]) for colour in ("red", "blue")]
    made = [drawn(reply) for reply in engine.run([Request(prompt, **ask) for prompt in prompts])]
    assert abs(made[0] - made[1]).max() > 5
    # What is sampled is what is trained: the queries behind the picture, and the null prompt beside them.
    pair = Document.page([Media(picture("red"), directions=(Direction.IN,)), Media(None, directions=(Direction.OUT,))])
    states = []
    for document in (pair, null_prompt(Media(None))):
        batch = Collator(model)([[model.render(document)]])
        with torch.inference_mode():
            states.append(model.out_hidden(batch.spans["image", Direction.OUT], model.hidden_states(batch)))
    (expected,) = model.maker("image").decoder.sample(
        model.condition("image", torch.stack(states)),
        guidance=guidance_for(3.0),
        generators=[keyed_generator(0, "picture", 0)],
        num_inference_steps=2,
    )
    pixels = ((expected.permute(1, 2, 0) + 1.0) * 127.5).round().numpy()
    assert abs(made[0] - pixels).max() <= 1


def drawn(reply: Document) -> numpy.ndarray:
    """The first picture of a reply, RGB in [0, 255]."""
    made = next(media for message, media in reply.media() if Direction.OUT in message.directions(media))
    return numpy.asarray(made.content.pil(), dtype=float)


def test_an_mlp_may_stand_where_the_linear_projector_does(parts: Path):
    rows = call(MLPProjector, width_in=16, width_out=32, depth=3, normalise=False)
    model = build(wired(parts, input_projector=call(Rowwise, rows=rows)))
    assert len(model.modality("image").input_projector.rows.layers) == 5


@pytest.mark.parametrize(
    ("wiring", "parameters"),
    # Vicuna-7B, CLIP ViT-L/14's vision tower, and for drawing a VAE and the UNet of Stable Diffusion 2.1 or XL.
    [
        (dreamllm_7b, 6_738_415_616 + 303_179_776 + 83_653_863 + 865_910_724),
        (dreamllm_sdxl_7b, 6_738_415_616 + 303_179_776 + 83_653_863 + 2_567_463_684),
        (llava_7b, 6_738_415_616 + 303_179_776),
    ],
)
def test_published_sizes_build_on_the_meta_device_without_a_download(wiring, parameters: int):
    with torch.device("meta"):
        model = wiring()
    published = sum(p.numel() for name, p in model.named_parameters() if "projector" not in name)
    added = sum(p.numel() for name, p in model.named_parameters() if "added" in name or "queries" in name)
    assert published - added == parameters
    assert model.backbone.d_model == 4096
    if model.modality("image").maker is not None:
        assert model.maker("image").queries.num_queries == (196 if wiring is dreamllm_sdxl_7b else 64)
    if wiring is dreamllm_7b:
        assert model.maker("image").output_projector.linear.weight.shape == (1024, 4096)
