"""Original checkpoints: every form gives the recorded values, goes back unchanged, and is refused by name if broken."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from originals import GOLDEN, TOKENS, Original, plugin_states, write_original
from safetensors.torch import load_file, save_file
from torch import Tensor

from limner.compositions.dreamllm_checkpoint import (
    describe_dreamllm,
    parameters_by_original_name,
    read_dreamllm,
    settings_of,
    write_dreamllm,
)
from limner.compositions.dreamllm_model import projector_of
from limner.compositions.dreamllm_settings import read_settings
from limner.compositions.layouts import convert
from limner.compositions.weights import read_tensor_file, read_tensors, tensor_ending
from limner.config.call import build
from limner.config.serialize import from_json, to_json
from limner.document.document import Direction, Document, Media
from limner.document.media import Image
from limner.modalities.base import Features
from limner.modalities.guidance import NoGuidance
from limner.model.checkpoint import load_checkpoint, save_checkpoint
from limner.model.multimodal import MultimodalLM

CHECKPOINT = GOLDEN / "checkpoint"
BINS = ("clip_vision_embedding.bin", "dream_embedding.bin", "stable_diffusion_head.bin")
CASES: dict[str, Any] = json.loads((GOLDEN / "cases" / "cases.json").read_text())


def recorded(section: str) -> dict[str, Tensor]:
    return load_file(GOLDEN / "cases" / f"{section}.safetensors")


@pytest.fixture(scope="module")
def model() -> MultimodalLM:
    return read_dreamllm(CHECKPOINT)


def hidden_states(model: MultimodalLM, ids: Tensor, mask: Tensor, spliced: dict[str, Tensor]) -> Tensor:
    """Final hidden states of right-padded rows; values of a role follow each of its begin tokens."""
    rows = model.backbone.embed(ids)
    for direction, values in spliced.items():
        begin = model.vocabulary.span("image", Direction(direction)).begin
        for (row, place), value in zip((ids == begin).nonzero().tolist(), values, strict=True):
            rows[row, place + 1 : place + 1 + len(value)] = value
    positions = torch.arange(ids.shape[1]).expand_as(ids)
    return model.backbone.packed_hidden_states(rows, positions=positions, documents=mask)


def assert_same(one: MultimodalLM, other: MultimodalLM) -> None:
    """The same tensors, bit for bit."""
    found, expected = one.state_dict(), other.state_dict()
    assert found.keys() == expected.keys()
    assert [name for name, value in found.items() if not torch.equal(value, expected[name])] == []


# ---------------------------------------------------------------------------------------------- recorded values


@torch.no_grad()
def test_features_and_projected_rows_are_the_recorded_ones(model: MultimodalLM):
    vision, pixels = recorded("vision"), recorded("pixels")
    for name in CASES["vision"]["images"]:
        items = pixels[f"clip.{name}"][None]
        features = model.reader("image").encoder(items)
        torch.testing.assert_close(features.values, vision[f"penultimate.{name}"], rtol=0, atol=1e-4)
        torch.testing.assert_close(model.read("image", items).values, vision[f"projected.{name}"], rtol=0, atol=1e-4)
    torch.testing.assert_close(model.maker("image").queries(1), vision["dream_queries"], rtol=0, atol=0)


def test_pictures_are_preprocessed_as_recorded(model: MultimodalLM):
    pixels = recorded("pixels")
    assert CASES["images"]["list"]
    for entry in CASES["images"]["list"]:
        media = Media(Image.from_path(GOLDEN / entry["file"]))
        found = model.reader("image").encoder.preprocess(media)
        torch.testing.assert_close(found, pixels[f"clip.{entry['name']}"], rtol=0, atol=1e-5)
        target = model.maker("image").decoder.preprocess(media)
        torch.testing.assert_close(target, pixels[f"sd.{entry['name']}"], rtol=0, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("case", ["comp_pairs", "crea_pairs", "mixed"])
def test_logits_of_batches_are_the_recorded_ones(model: MultimodalLM, case: str):
    entry = next(entry for entry in CASES["forward"]["list"] if entry["name"] == case)
    batch = next(entry_ for entry_ in CASES["batches"]["list"] if entry_["name"] == entry["batch"])
    batches, pixels = recorded("batches"), recorded("pixels")
    ids, mask = (batches[f"{entry['batch']}.{key}"] for key in ("input_ids", "attention_mask"))
    made = (ids == model.vocabulary.ids["image.out.begin"]).sum()
    read = [model.read("image", pixels[f"clip.{name}"][None]).values for name in batch["clip_images"]]
    queries = [model.maker("image").queries(1)] * int(made)
    hidden = hidden_states(model, ids, mask, {"in": read, "out": queries})
    logits = model.backbone.logits(hidden[mask.bool()])
    torch.testing.assert_close(logits, recorded("forward")[f"{case}.logits"], rtol=0, atol=5e-5)


@torch.no_grad()
def test_query_hidden_states_behind_a_picture_are_the_recorded_ones(model: MultimodalLM):
    case = CASES["history_condition"]
    tensors = recorded(Path(case["file"]).stem)
    out = model.vocabulary.span("image", Direction.OUT)
    prompt = tensors["history_condition.input_ids"].view(-1).tolist()
    num_queries = model.maker("image").queries.num_queries
    ids = torch.tensor([[*prompt, out.begin, *[out.slot] * num_queries, out.end]])
    read = [model.read("image", recorded("pixels")[f"clip.{name}"][None]).values for name in case["clip_images"]]
    hidden = hidden_states(model, ids, torch.ones_like(ids), {"in": read, "out": [model.maker("image").queries(1)]})
    condition = hidden[0, -1 - num_queries : -1]
    torch.testing.assert_close(condition, tensors["history_condition.cond"].view_as(condition), rtol=0, atol=5e-5)


@torch.no_grad()
def test_a_reader_without_an_out_side_gives_the_recorded_logits():
    llava, values = read_dreamllm(GOLDEN / "llava_checkpoint"), recorded("llava")
    assert llava.modality("image").maker is None
    read = llava.read("image", values["clip.red_disc"][None]).values
    torch.testing.assert_close(read, values["one.features"][0], rtol=0, atol=1e-4)
    hidden = hidden_states(llava, values["one.input_ids"], values["one.attention_mask"], {"in": [read]})
    supervised = values["one.labels"][0, 1:] != -100
    logits = llava.backbone.logits(hidden[0, :-1][supervised])
    torch.testing.assert_close(logits, values["one.logits_at_supervised"], rtol=0, atol=5e-5)
    with pytest.raises(ValueError, match="no `image` in the direction `out`"):
        llava.render(Document.page([Media(None)]))


@torch.no_grad()
def test_projectors_of_every_type_give_the_recorded_outputs():
    values = recorded("projectors")
    for entry in CASES["projectors"]["list"]:
        projector = projector_of(
            entry["type"], depth=entry["depth"], bias=entry["bias"], width_in=entry["in_features"], width_out=24
        )
        own = {"linear": "linear.", "mlp": "layers.", "conv": "conv."}[entry["type"]]
        weights = {key: values[f"{entry['name']}.weights.{key}"] for key in entry["state_keys"]}
        projector.load_state_dict({own + key.removeprefix("projector."): value for key, value in weights.items()})
        rows = values[f"{entry['name']}.input"]
        if entry["type"] == "conv":
            found = projector(Features(rows.flatten(0, 1), torch.tensor([9, 9]))).values.view(2, 9, -1)
        else:
            found = projector(rows)
        torch.testing.assert_close(found, values[f"{entry['name']}.output"], rtol=0, atol=5e-5)


def test_settings_are_read_from_the_files():
    settings = read_settings(CHECKPOINT)
    recorded_ids = CASES["model"]["special_tokens"]
    assert dict(settings.special_ids) == recorded_ids
    assert settings.pad_id == recorded_ids["[PAD]"]
    assert (settings.loss_weight_lm, settings.loss_weight_vm, settings.loss_scale_schedule) == (1.0, 10.0, "none")
    assert (settings.num_queries, settings.resolution, settings.tokenizer_legacy) == (6, 64, True)
    assert settings.scheduler["prediction_type"] == "epsilon"
    assert settings_of(describe_dreamllm(CHECKPOINT)) == settings


# ---------------------------------------------------------------------------------------------- forms


def test_one_file_with_everything_is_the_same_model(model: MultimodalLM):
    assert_same(read_dreamllm(GOLDEN / "checkpoint_fsdp", parts=PARTS), model)


PARTS = {"clip": GOLDEN / "clip-tiny", "diffusion": GOLDEN / "sd-tiny"}


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The checkpoint and its architectures, to be changed."""
    for name in ("checkpoint", "clip-tiny", "sd-tiny"):
        shutil.copytree(GOLDEN / name, tmp_path / name)
    return tmp_path / "checkpoint"


def test_plugin_files_beside_a_file_with_everything_win(model: MultimodalLM, copy: Path):
    (copy / "model.safetensors").unlink()
    everything = read_tensor_file(GOLDEN / "checkpoint_fsdp" / "pytorch_model.bin")
    everything["model.dream_embedding.dream_queries"] = torch.zeros(1, 1, 1)
    torch.save(everything, copy / "pytorch_model.bin")
    assert_same(read_dreamllm(copy), model)


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_shards_are_joined(model: MultimodalLM, copy: Path, kind: str):
    state = load_file(copy / "model.safetensors")
    (copy / "model.safetensors").unlink()
    stem, places = {"safetensors": "model", "bin": "pytorch_model"}[kind], {}
    for number, names in enumerate((sorted(state)[::2], sorted(state)[1::2]), 1):
        file = f"{stem}-{number:05d}-of-00002.{kind}"
        part = {name: state[name] for name in names}
        save_file(part, copy / file) if kind == "safetensors" else torch.save(part, copy / file)
        places |= dict.fromkeys(names, file)
    (copy / f"{stem}.{kind}.index.json").write_text(json.dumps({"weight_map": places}))
    assert_same(read_dreamllm(copy), model)
    (copy / f"{stem}-00002-of-00002.{kind}").unlink()
    with pytest.raises(ValueError, match=rf"lacks the shard `{stem}-00002-of-00002\.{kind}`.*\nhint: "):
        read_dreamllm(copy)


def test_the_oldest_files_over_base_weights_are_the_same_model(model: MultimodalLM, copy: Path):
    image = model.modality("image")
    image.encoder.network.save_pretrained(copy.parent / "clip-tiny")
    shutil.copy(GOLDEN / "clip-tiny" / "config.json", copy.parent / "clip-tiny")
    image.decoder.unet.save_pretrained(copy.parent / "sd-tiny" / "unet")
    image.decoder.autoencoder.network.save_pretrained(copy.parent / "sd-tiny" / "vae")
    for name in BINS:
        (copy / name).unlink()
    shutil.copytree(GOLDEN / "legacy_plugin_files", copy, dirs_exist_ok=True)
    assert_same(read_dreamllm(copy), model)


def test_plugin_files_may_lie_in_folders_of_their_own(model: MultimodalLM, copy: Path, tmp_path: Path):
    (tmp_path / "creation").mkdir()
    for name in BINS[1:]:
        (copy / name).rename(tmp_path / "creation" / name)
    parts = dict.fromkeys(("dream_embedding", "stable_diffusion_head"), tmp_path / "creation")
    assert_same(read_dreamllm(copy, parts=parts), model)


def test_architectures_may_lie_inside_the_directory(model: MultimodalLM, copy: Path):
    for name in ("clip-tiny", "sd-tiny"):
        (copy.parent / name).rename(copy / name)
    assert_same(read_dreamllm(copy), model)


# ---------------------------------------------------------------------------------------------- round trips


def test_a_round_trip_changes_no_key_and_no_value(model: MultimodalLM, tmp_path: Path):
    write_dreamllm(model, tmp_path / "back", description=describe_dreamllm(CHECKPOINT))
    assert {file.name for file in CHECKPOINT.iterdir()} == {file.name for file in (tmp_path / "back").iterdir()}
    for file in CHECKPOINT.iterdir():
        written = tmp_path / "back" / file.name
        if file.suffix not in (".bin", ".safetensors"):
            assert written.read_bytes() == file.read_bytes()
            continue
        before, after = read_tensor_file(file), read_tensor_file(written)
        assert before.keys() == after.keys()
        assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("source", ["checkpoint", "checkpoint_fsdp", "llava_checkpoint"])
def test_through_our_layout_and_back_rotary_tables_are_as_they_were(source: str, tmp_path: Path):
    prefix = "llava_" if source.startswith("llava") else ""
    parts = {"clip": GOLDEN / f"{prefix}clip-tiny", "diffusion": GOLDEN / "sd-tiny"}
    convert(GOLDEN / source, tmp_path / "ours", to="limner", parts=parts)
    convert(tmp_path / "ours", tmp_path / "back", to="dreamllm", parts={})
    before, after = (
        {name: value for name, value in read_tensors(path)[0].items() if name.endswith("inv_freq")}
        for path in (GOLDEN / source, tmp_path / "back")
    )
    assert before.keys() == after.keys()
    assert bool(before) == (source != "llava_checkpoint")
    for name, value in before.items():
        assert value.dtype == after[name].dtype
        assert torch.equal(value, after[name])


def test_tables_are_found_without_reading_everything_in_every_form(tmp_path: Path):
    table, other = torch.arange(3.0), torch.zeros(2)
    forms = {
        "model.safetensors": lambda file: save_file({"a.inv_freq": table, "b": other}, file),
        "pytorch_model.bin": lambda file: torch.save({"a.inv_freq": table, "b": other}, file),
        "model-1.safetensors": lambda file: save_file({"a.inv_freq": table}, file),
    }
    for name, write in forms.items():
        folder = tmp_path / name
        folder.mkdir()
        write(folder / name)
        if name == "model-1.safetensors":
            places = {"b": "model-2.safetensors", "a.inv_freq": "model-1.safetensors"}
            (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
        found = tensor_ending(folder, ".inv_freq")
        assert found is not None
        assert torch.equal(found, table)
        assert tensor_ending(folder, ".absent") is None
    (tmp_path / "model.safetensors" / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"is missing or damaged .*\nhint: fetch it again"):
        tensor_ending(tmp_path / "model.safetensors", ".inv_freq")


@pytest.mark.parametrize("umask", [0o022, 0o027])
def test_files_that_are_written_are_as_open_as_others(model: MultimodalLM, tmp_path: Path, umask: int):
    before = os.umask(umask)
    try:
        write_dreamllm(model, tmp_path / "back", description=describe_dreamllm(CHECKPOINT))
    finally:
        os.umask(before)
    assert {file.stat().st_mode & 0o777 for file in (tmp_path / "back").iterdir()} == {0o666 & ~umask}


def test_our_own_directory_needs_nothing_of_the_original(model: MultimodalLM, copy: Path, tmp_path: Path):
    assert convert(copy, tmp_path / "ours", to="limner", parts={}) == "dreamllm"
    for folder in (copy, tmp_path / "clip-tiny", tmp_path / "sd-tiny"):
        shutil.rmtree(folder)
    ours = load_checkpoint(tmp_path / "ours")
    assert_same(ours, model)
    assert ours.external == {}
    page = Document.page(["A red disc.", Media(Image.from_path(GOLDEN / "images" / "red_disc.png"))])
    assert ours.render(page).ids == model.render(page).ids
    assert convert(tmp_path / "ours", tmp_path / "back", to="dreamllm", parts={}) == "limner"
    assert_same(read_dreamllm(tmp_path / "back", parts=PARTS), model)


def test_a_conversion_refuses_what_it_cannot_do(copy: Path, tmp_path: Path):
    with pytest.raises(ValueError, match=r"no layout named `gguf`\nhint: there is limner, .*dreamllm"):
        convert(copy, tmp_path / "out", to="gguf", parts={})
    with pytest.raises(ValueError, match=r"exists\nhint: "):
        convert(copy, copy, to="limner", parts={})
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"is no checkpoint: neither ours nor .*dreamllm's"):
        convert(tmp_path / "empty", tmp_path / "out", to="limner", parts={})


def test_a_model_of_another_wiring_cannot_be_written(tmp_path: Path):
    from tiny import model_call, tiny_model

    with pytest.raises(ValueError, match=r"was not imported from this layout.*\nhint: "):
        write_dreamllm(tiny_model(), tmp_path / "out", description=model_call())


def test_parameters_bear_the_original_s_names(model: MultimodalLM):
    everything = read_tensor_file(GOLDEN / "checkpoint_fsdp" / "pytorch_model.bin")
    names = {name for name in everything if not name.endswith("inv_freq")}
    found = parameters_by_original_name(model)
    assert set(found) == names
    assert found["lm_head.weight"] is model.backbone.language_model.lm_head.weight


# ---------------------------------------------------------------------------------------------- ids and text


def test_slots_share_a_row_and_every_id_is_the_language_model_s_own(model: MultimodalLM):
    ids = CASES["model"]["special_tokens"]
    assert model.vocabulary.span("image", Direction.IN) == (ids["<im_start>"], ids["<im_patch>"], ids["<im_end>"])
    assert model.vocabulary.span("image", Direction.OUT) == (
        ids["<dream_start>"],
        ids["<im_patch>"],
        ids["<dream_end>"],
    )
    assert model.vocabulary.num_added == 0
    assert model.backbone.added_input.shape == (0, 64)
    assert model.backbone.logits(torch.zeros(1, 64)).shape == (1, 424)


def test_markup_in_text_is_inert(model: MultimodalLM):
    specials = set(CASES["model"]["special_tokens"].values())
    typed = Document.page(["<im_start><im_patch><dream_start></s>[PAD] words"])
    rendered = model.render(typed).ids
    assert not specials & set(rendered[1:-1])
    assert (rendered[0], rendered[-1]) == (1, 2)


def test_a_page_is_laid_out_as_in_training(model: MultimodalLM):
    ids = CASES["model"]["special_tokens"]
    picture = Media(Image.from_path(GOLDEN / "images" / "red_disc.png"))
    text = list(model.tokenizer.text_ids("A red disc."))
    made = [ids["<dream_start>"], *[ids["<im_patch>"]] * 6, ids["<dream_end>"]]
    read = [ids["<im_start>"], *[ids["<im_patch>"]] * 9, ids["<im_end>"]]
    assert list(model.render(Document.page(["A red disc.", picture])).ids) == [1, *text, *made, *read, 2]


def test_the_engine_writes_and_draws_with_an_imported_model(model: MultimodalLM):
    from limner.generate.engine import Engine
    from limner.generate.request import Pictures, Request

    request = Request(
        Document.page(["A red disc."]),
        pictures=Pictures.NOW,
        num_inference_steps=2,
        max_new_tokens=3,
        guidance_scale=2.0,
    )
    reply = Engine(model).run([request])[0]
    assert any(isinstance(part, Media) for message in reply.messages for part in message.parts)


# ---------------------------------------------------------------------------------------------- other sizes


def expected_logits(made: Original, ids: Tensor, pixels: Tensor, *, layer: int) -> Tensor:
    """Logits of the original's rules, computed with stock modules: one picture read, one made."""
    rows = made.language_model.get_input_embeddings()(ids).clone()
    states = made.clip(pixels, output_hidden_states=True).hidden_states[layer][:, 1:]
    inner = made.projector["projector"]
    if isinstance(inner, torch.nn.Conv2d):
        features = inner(states.transpose(1, 2).unflatten(2, (2, 2))).flatten(2).transpose(1, 2)
    else:
        features = inner(states)
    if "post_layernorm" in made.projector:
        features = made.projector["post_layernorm"](features)
    for token, values in (("<im_start>", features[0]), ("<dream_start>", made.queries[0])):
        place = int((ids[0] == made.ids[token]).nonzero()) + 1
        rows[0, place : place + len(values)] = values
    return made.language_model(inputs_embeds=rows).logits[0]


@torch.no_grad()
@pytest.mark.parametrize(
    "sizes",
    [
        {},
        {"order": tuple(reversed(TOKENS)), "kv_heads": 1, "kind": "linear", "depth": 1, "legacy": True},
        {"order": (*TOKENS, "<dream_patch>"), "kind": "mlp", "depth": 3, "select_layer": -1, "num_queries": 2},
        {"kind": "conv", "depth": 1, "kv_heads": 4, "select_layer": 1, "post_norm": True, "clip_layers": 4},
        {"sdxl": True, "num_queries": 7},
    ],
    ids=["defaults", "reversed", "dream_patch", "conv", "sdxl"],
)
def test_other_sizes_orders_and_projectors_give_the_logits_of_stock_modules(tmp_path: Path, sizes: dict[str, Any]):
    made = write_original(tmp_path / "other", **sizes)
    model = read_dreamllm(tmp_path / "other")
    picture = Media(Image.from_array(torch.randint(0, 256, (40, 30, 3), dtype=torch.uint8).numpy()))
    document = Document.page(["Something ", Media(picture.payload, directions=(Direction.IN,)), "new", picture])
    sequence = model.render(Document.page([document.messages[0].parts[0], document.messages[0].parts[1]]))
    out = model.vocabulary.span("image", Direction.OUT)
    num_queries = made.queries.shape[1]
    ids = torch.tensor([[*sequence.ids[:-1], out.begin, *[out.slot] * num_queries, out.end]])
    pixels = model.reader("image").encoder.preprocess(picture)[None]
    hidden = hidden_states(
        model,
        ids,
        torch.ones_like(ids),
        {"in": [model.read("image", pixels).values], "out": [model.maker("image").queries(1)]},
    )
    layer = sizes.get("select_layer", -2)
    torch.testing.assert_close(
        model.backbone.logits(hidden[0]), expected_logits(made, ids, pixels, layer=layer), rtol=0, atol=2e-4
    )
    settings = read_settings(tmp_path / "other")
    assert (settings.loss_weight_lm, settings.loss_weight_vm, settings.loss_scale_schedule) == (0.5, 3.0, "l2_norm")
    assert (settings.drop_prob, settings.noise_offset, settings.snr_gamma) == (0.1, 0.1, 5.0)
    write_dreamllm(model, tmp_path / "back", description=describe_dreamllm(tmp_path / "other"))
    for name, state in plugin_states(made).items():
        written = read_tensor_file(tmp_path / "back" / f"{name}.bin")
        assert written.keys() == state.keys()
        assert all(torch.equal(written[key], state[key]) for key in state)


@torch.no_grad()
def test_the_second_head_gets_rows_a_pooled_condition_and_sizes(tmp_path: Path):
    made = write_original(tmp_path / "other", sdxl=True)
    model = read_dreamllm(tmp_path / "other")
    decoder, hidden = model.maker("image").decoder, torch.randn(2, 5, 32)
    told = []
    decoder.unet.register_forward_pre_hook(lambda _, inputs, given: told.append(given), with_kwargs=True)
    pixels = decoder.sample(
        model.condition("image", hidden)[None],
        guidance=NoGuidance(),
        generators=[torch.Generator().manual_seed(i) for i in range(2)],
        num_inference_steps=2,
        size=(16, 32),
    )
    assert pixels.shape == (2, 3, 16, 32)
    added = told[0]["added_cond_kwargs"]
    rows, mean = made.head_projector["projector"](hidden), hidden.mean(dim=1)
    torch.testing.assert_close(told[0]["encoder_hidden_states"], rows)
    torch.testing.assert_close(added["text_embeds"], made.global_projector["projector"](mean))
    assert added["time_ids"].tolist() == [[16, 32, 0, 0, 16, 32]] * 2


def test_half_precision_keeps_the_language_model_narrow_and_goes_back_unchanged(tmp_path: Path):
    model = read_dreamllm(GOLDEN / "checkpoint_fsdp", parts=PARTS, dtype="bfloat16")
    assert model.backbone.dtype == torch.bfloat16
    description = describe_dreamllm(GOLDEN / "checkpoint_fsdp", parts=PARTS, dtype="bfloat16")
    write_dreamllm(model, tmp_path / "back", description=description, dtype=torch.bfloat16)
    everything = read_tensor_file(GOLDEN / "checkpoint_fsdp" / "pytorch_model.bin")
    for name, value in read_tensors(tmp_path / "back")[0].items():
        assert torch.equal(value, everything[name])


def test_a_description_survives_its_json_and_rebuilds_on_the_meta_device(tmp_path: Path):
    write_original(tmp_path / "other")
    description = describe_dreamllm(tmp_path / "other")
    stored = json.loads(json.dumps(to_json(description)))
    with torch.device("meta"):
        shapes = build(from_json(stored))
    assert {name: value.shape for name, value in shapes.state_dict().items()} == {
        name: value.shape for name, value in read_dreamllm(tmp_path / "other").state_dict().items()
    }


def test_a_saved_import_is_rebuilt_from_its_directory_alone(tmp_path: Path):
    write_original(tmp_path / "other")
    model, description = read_dreamllm(tmp_path / "other"), describe_dreamllm(tmp_path / "other")
    save_checkpoint(model, tmp_path / "ours", description=to_json(description))
    shutil.rmtree(tmp_path / "other")
    assert_same(load_checkpoint(tmp_path / "ours"), model)


# ---------------------------------------------------------------------------------------------- broken directories


def change_json(path: Path, file: str, change: Callable[[dict[str, Any]], None]) -> None:
    content = json.loads((path / file).read_text())
    change(content)
    (path / file).write_text(json.dumps(content))


def change_plugin(path: Path, name: str, arguments: dict[str, Any]) -> None:
    change_json(path, "config.json", lambda content: content["plugins_init_kwargs"][name].update(arguments))


def change_tensors(path: Path, file: str, change: Callable[[dict[str, Tensor]], None]) -> None:
    state = read_tensor_file(path / file)
    state = {name: value.clone() for name, value in state.items()}
    change(state)
    save_file(state, path / file) if file.endswith("safetensors") else torch.save(state, path / file)


BREAKS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no config": (lambda p: (p / "config.json").unlink(), r"lacks config\.json"),
    "no tokenizer": (lambda p: (p / "tokenizer.model").unlink(), r"lacks tokenizer\.model"),
    "no weights": (lambda p: (p / "model.safetensors").unlink(), r"has no weights: none of model\.safetensors"),
    "no queries": (lambda p: (p / BINS[1]).unlink(), r"lacks dream_embedding\.bin \(dream_embedding\)"),
    "no head": (lambda p: (p / BINS[2]).unlink(), r"lacks stable_diffusion_head\.bin"),
    "no clip": (lambda p: (p / BINS[0]).unlink(), r"lacks clip_vision_embedding\.bin"),
    "missing tensor": (
        lambda p: change_tensors(p, "model.safetensors", lambda s: s.pop("model.norm.weight")),
        r"model\.safetensors` lacks 1 tensor: model\.norm\.weight",
    ),
    "surplus tensor": (
        lambda p: change_tensors(p, BINS[2], lambda s: s.update({"unet.extra": torch.zeros(1)})),
        r"stable_diffusion_head\.bin` holds unknown 1 tensor: unet\.extra",
    ),
    "mis-shaped tensor": (
        lambda p: change_tensors(p, BINS[1], lambda s: s.update({"dream_queries": torch.zeros(1, 5, 64)})),
        r"dream_queries has the shape \(1, 5, 64\); expected \(1, 6, 64\)",
    ),
    "damaged safetensors": (
        lambda p: (p / "model.safetensors").write_bytes(b"\x00" * 40),
        r"model\.safetensors` is damaged",
    ),
    "code in a pickle": (
        lambda p: torch.save({"dream_queries": Path("x")}, p / BINS[1]),
        r"dream_embedding\.bin` is damaged or holds more than tensors",
    ),
    "other contents": (
        lambda p: torch.save({"dream_queries": 3}, p / BINS[1]),
        r"dream_embedding\.bin` holds a dict, not tensors by name",
    ),
    "ids disagree": (
        lambda p: change_json(p, "added_tokens.json", lambda c: c.update({"<im_end>": 423})),
        r"the id of <im_end> is 423 in added_tokens\.json and 421 in tokenizer_config\.json",
    ),
    "ids beyond": (
        lambda p: change_json(p, "config.json", lambda c: c.update({"vocab_size": 423})),
        r"the id of <dream> is 423, beyond the 423 rows",
    ),
    "unknown target": (
        lambda p: change_plugin(p, "dream_embedding", {"_target_": "os.system"}),
        r"`dream_embedding` has the _target_ 'os\.system'; expected one of omni\.models\.dreamllm\.",
    ),
    "unknown projector": (
        lambda p: change_json(
            p,
            "config.json",
            lambda c: c["plugins_init_kwargs"]["clip_vision_embedding"].update({"projector_type": "sam"}),
        ),
        r"projector of type 'sam', depth 1; expected linear or conv of depth 1, or mlp",
    ),
    "no plugins": (
        lambda p: change_json(p, "config.json", lambda c: c.update({"plugins_init_kwargs": {}})),
        r"has no plugins: it is a plain language model",
    ),
    "architectures nowhere": (
        lambda p: shutil.rmtree(p.parent / "sd-tiny"),
        r"was made with `/data/ckpt/sd-tiny`, which is neither in it, beside it, nor there",
    ),
    "damaged config": (lambda p: (p / "config.json").write_text("{"), r"config\.json is damaged"),
}


@pytest.mark.parametrize("name", BREAKS)
def test_a_broken_directory_is_refused_by_name(copy: Path, name: str):
    break_it, message = BREAKS[name]
    break_it(copy)
    with pytest.raises(ValueError, match=message) as error:
        read_dreamllm(copy)
    first, *rest = str(error.value).split("\n")
    assert len(rest) == 1
    assert rest[0].startswith("hint: ")
    assert first


def test_the_oldest_files_without_base_weights_are_refused(copy: Path):
    (copy / BINS[0]).unlink()
    shutil.copy(GOLDEN / "legacy_plugin_files" / "clip_vision_model_projector.pt", copy)
    with pytest.raises(ValueError, match=r"clip-tiny` has no weights\nhint: the oldest form needs the base weights"):
        read_dreamllm(copy)
