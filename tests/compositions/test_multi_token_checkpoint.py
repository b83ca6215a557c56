"""Folders of the original are read whole or refused by name."""

import json
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from limner.compositions.multi_token_checkpoint import (
    describe_multi_token,
    fill,
    folder_parts,
    merged,
    read_folder,
    read_multi_token,
    read_projectors_only,
)
from limner.config.call import build
from limner.config.serialize import to_json
from limner.document.document import Document
from limner.document.text_file import TextFile
from limner.evaluate.golden.multi_token_files import Files
from limner.generate.engine import Engine
from limner.generate.request import Request
from limner.model.checkpoint import load_checkpoint, save_checkpoint
from limner.model.multimodal import MultimodalLM

GOLDEN = Path(__file__).parents[1] / "golden" / "multi_token"
TOYS = GOLDEN / "checkpoints" / "toy_finetune"


def _copy(tmp_path: Path, source: Path = TOYS) -> Path:
    shutil.copytree(source, tmp_path / "folder", ignore=shutil.ignore_patterns("checkpoint-*"))
    return tmp_path / "folder"


def _read(path: Path) -> MultimodalLM:
    files = Files(GOLDEN)
    parts = folder_parts(read_folder(path), placeholders=files.placeholders, encoders=files.encoders)
    return read_multi_token(path, base=GOLDEN / "base", parts=parts)


def _change_projectors(path: Path, change: Mapping[str, torch.Tensor | None]) -> None:
    state = torch.load(path / "non_lora_trainables.bin", weights_only=True)
    state = {key: value for key, value in {**state, **change}.items() if value is not None}
    torch.save(state, path / "non_lora_trainables.bin")


def test_layout_and_widths_are_read_off_the_weights() -> None:
    folder = read_folder(TOYS)
    toy, patchy = folder.shape("toy"), folder.shape("patchy")
    assert (toy.layout, toy.num_positions, toy.width_in) == ("vector", 3, 5)
    assert (patchy.layout, patchy.num_positions, patchy.width_in) == ("patch", 0, 6)
    assert read_folder(GOLDEN / "checkpoints" / "document_gte_x16").shape("document_gte").num_positions == 32


def test_a_lost_adapter_is_refused_and_the_projectors_can_be_read_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = _copy(tmp_path)
    (path / "adapter_model.bin").unlink()
    with pytest.raises(ValueError, match=r"has neither adapter_model.safetensors nor .bin.*\nhint: fetch the adapter"):
        _read(path)
    files = Files(GOLDEN)
    parts = folder_parts(read_folder(path), placeholders=files.placeholders, encoders=files.encoders)
    with caplog.at_level(logging.WARNING):
        model = read_projectors_only(path, base=GOLDEN / "base", parts=parts)
    assert "its adapter is lost" in caplog.text
    assert not any("lora_" in name for name, _ in model.named_parameters())


def test_what_is_missing_surplus_or_of_another_width_is_named(tmp_path: Path) -> None:
    key = "base_model.model.model.toy_lmm_projector.mlps.1.2.bias"
    path = _copy(tmp_path)
    _change_projectors(path, {key: None})
    with pytest.raises(ValueError, match=r"projector of toy lacks 1 tensors, first `mlps.1.2.bias`\nhint: "):
        _read(path)
    _change_projectors(path, {key: torch.zeros(7)})
    with pytest.raises(ValueError, match=r"has another shape for 1 tensors.*\(7,\), expected \(16,\)"):
        _read(path)
    _change_projectors(path, {key: torch.zeros(16), key.replace("toy_", "other_"): torch.zeros(1)})
    with pytest.raises(ValueError, match=r"has projectors other, patchy, toy; expected patchy, toy\nhint: "):
        _read(path)


def test_an_adapter_that_lacks_a_layer_is_refused(tmp_path: Path) -> None:
    path = _copy(tmp_path)
    state = torch.load(path / "adapter_model.bin", weights_only=True)
    state.pop(next(iter(state)))
    (path / "adapter_model.bin").unlink()
    save_file(state, path / "adapter_model.safetensors")
    with pytest.raises(ValueError, match=r"adapter lacks 1 tensors"):
        _read(path)


@pytest.mark.parametrize(("key", "value"), [("bias", "all"), ("use_dora", True), ("modules_to_save", ["lm_head"])])
def test_an_adapter_of_another_kind_is_refused(tmp_path: Path, key: str, value: object) -> None:
    path = _copy(tmp_path)
    config = json.loads((path / "adapter_config.json").read_text())
    (path / "adapter_config.json").write_text(json.dumps({**config, key: value}))
    with pytest.raises(ValueError, match=rf"{key} = .*\nhint: merge it with peft first"):
        read_folder(path)


def test_what_is_no_folder_of_the_original_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no config.json\nhint: "):
        read_folder(tmp_path)
    with pytest.raises(ValueError, match=r"names no `modalities`\nhint: "):
        read_folder(GOLDEN / "base")


def test_pickled_code_is_not_run(tmp_path: Path) -> None:
    path = _copy(tmp_path)
    torch.save({"x": Path("/")}, path / "non_lora_trainables.bin")
    with pytest.raises(Exception, match=r"[Ww]eights.only"):
        read_folder(path)


def test_a_fully_trained_language_model_is_read_from_one_file(tmp_path: Path) -> None:
    path = _copy(tmp_path)
    (path / "adapter_model.bin").unlink()
    whole = {key: value + 0.5 for key, value in load_file(GOLDEN / "base" / "model.safetensors").items()}
    projectors = torch.load(path / "non_lora_trainables.bin", weights_only=True)
    whole |= {key.removeprefix("base_model.model."): value for key, value in projectors.items()}
    (path / "non_lora_trainables.bin").unlink()
    save_file(whole, path / "model.safetensors")
    model = _read(path)
    name = "model.layers.0.mlp.up_proj.weight"
    assert torch.equal(dict(model.backbone.language_model.named_parameters())[name], whole[name])


def test_an_imported_folder_becomes_a_checkpoint_that_answers_alike(tmp_path: Path) -> None:
    folder = read_folder(GOLDEN / "checkpoints" / "document_gte_x16")
    weights = {"document_gte": str(GOLDEN / "encoders" / "gte")}
    description = describe_multi_token(folder, base=str(GOLDEN / "base"), weights=weights)
    model = fill(build(description), folder)
    save_checkpoint(model, tmp_path / "model", description=to_json(description))
    loaded = load_checkpoint(tmp_path / "model")
    document = Document.chat([("user", [TextFile.from_text("Cold water, small stones."), " What is this?"])])
    said = [
        Engine(one).run([Request(document, max_new_tokens=12)])[0].messages[-1].text
        for one in (model, loaded, merged(loaded))
    ]
    assert said[0]
    assert said == [said[0]] * 3
