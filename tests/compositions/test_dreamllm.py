"""The wiring: published and today's language models, vision towers and generators, with and without an out side."""

from pathlib import Path
from typing import Any

import pytest
import torch
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
from limner.document.document import Document
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
