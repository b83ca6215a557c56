"""Checkpoints: what is saved is what is loaded; what is damaged or foreign is refused by name."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import documents, model_call

from limner.config.call import build
from limner.config.serialize import to_json
from limner.data.collate import Collator
from limner.model import checkpoint as module
from limner.model.checkpoint import load_checkpoint, load_state, owned_state, save_checkpoint
from limner.model.multimodal import MultimodalLM

DESCRIPTION = to_json(model_call())


@pytest.fixture(scope="module")
def model() -> MultimodalLM:
    model = build(model_call())
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
        model.modalities["image"].decoder.autoencoder.latent_mean.fill_(0.25)
    return model.eval()


@pytest.fixture
def saved(model: MultimodalLM, tmp_path: Path) -> Path:
    path = tmp_path / "model"
    save_checkpoint(model, path, description=DESCRIPTION, meta={"stage": "x"})
    return path


def _outputs(model: MultimodalLM) -> dict[str, float]:
    sequences = [model.render(document, key=str(i)) for i, document in enumerate(documents())]
    with torch.no_grad():
        return {name: float(term.sum) for name, term in model(Collator(model)([sequences]), noise_key=(0,)).items()}


def _resign(path: Path, component: str) -> None:
    """Make the index believe a changed file."""
    index = json.loads((path / "limner.json").read_text())
    index["components"][component] = module._sha256(path / f"{component}.safetensors")
    (path / "limner.json").write_text(json.dumps(index))


def test_a_loaded_model_gives_what_the_saved_one_gave(model: MultimodalLM, saved: Path) -> None:
    loaded = load_checkpoint(saved)
    assert not loaded.training
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
    assert _outputs(loaded) == _outputs(model)


def test_a_checkpoint_has_one_file_per_component(saved: Path) -> None:
    parts = (
        "decoder.autoencoder",
        "decoder.transformer",
        "encoder",
        "input_projector",
        "output_projector",
        "queries",
    )
    expected = {
        "limner.json",
        "backbone.safetensors",
        *(f"image.{part}.safetensors" for part in parts),
    }
    assert {file.name for file in saved.iterdir()} == expected
    assert not [file for file in saved.parent.iterdir() if file != saved]


def test_a_narrow_checkpoint_is_half_the_size_and_close(model: MultimodalLM, saved: Path, tmp_path: Path) -> None:
    narrow = tmp_path / "narrow"
    save_checkpoint(model, narrow, description=DESCRIPTION, dtype=torch.float16)
    size = [(path / "backbone.safetensors").stat().st_size for path in (narrow, saved)]
    assert size[0] < 0.6 * size[1]
    for name, total in _outputs(load_checkpoint(narrow)).items():
        assert total == pytest.approx(_outputs(model)[name], rel=1e-2)


@pytest.mark.parametrize("moment", ["writing", "between the renames"])
def test_a_crash_leaves_the_last_good_checkpoint(
    model: MultimodalLM, saved: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    real, calls = Path.replace, []

    def replace(source: Path, target: Path) -> Path:
        calls.append(source)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(source, target)

    def save_nothing(*arguments: object) -> None:
        raise KeyboardInterrupt

    if moment == "writing":
        monkeypatch.setattr(module, "save_file", save_nothing)
    else:
        monkeypatch.setattr(Path, "replace", replace)
    other = build(model_call())
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(other, saved, description=DESCRIPTION)
    monkeypatch.undo()
    assert _outputs(load_checkpoint(saved)) == _outputs(model)
    save_checkpoint(other, saved, description=DESCRIPTION)
    assert _outputs(load_checkpoint(saved)) == _outputs(other.eval())


def _drop(state: dict) -> None:
    del state["modalities.image.queries.rows"]


def _add(state: dict) -> None:
    state["modalities.image.queries.stray"] = torch.zeros(1)


def _shape(state: dict) -> None:
    state["modalities.image.queries.rows"] = torch.zeros(1, 1)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_drop, r"lacks 1 tensors: .*queries\.rows"),
        (_add, r"unknown 1 .*stray"),
        (_shape, r"other shapes .*rows"),
    ],
)
def test_tensors_that_are_not_the_models_are_refused_by_name(saved: Path, change, says: str) -> None:
    file = saved / "image.queries.safetensors"
    state = load_file(file)
    change(state)
    save_file(state, file)
    _resign(saved, "image.queries")
    with pytest.raises(ValueError, match=says + r".*\nhint: "):
        load_checkpoint(saved)


def test_a_refused_load_changes_nothing() -> None:
    model = build(model_call())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = {name: value + 1 for name, value in owned_state(model).items()}
    _drop(state)
    with pytest.raises(ValueError, match="lacks"):
        load_state(model, state, expected=set(owned_state(model)), source="x")
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_a_flipped_byte_is_refused_with_the_files_name(saved: Path) -> None:
    file = saved / "image.encoder.safetensors"
    data = bytearray(file.read_bytes())
    data[-3] ^= 1
    file.write_bytes(bytes(data))
    with pytest.raises(ValueError, match=r"image\.encoder\.safetensors` does not match its checksum\nhint: "):
        load_checkpoint(saved)


def test_a_missing_file_is_refused_by_name(saved: Path) -> None:
    (saved / "image.decoder.transformer.safetensors").unlink()
    with pytest.raises(ValueError, match=r"lacks image\.decoder\.transformer\.safetensors\nhint: "):
        load_checkpoint(saved)


def test_what_is_no_checkpoint_is_refused(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"is no checkpoint.*\nhint: "):
        load_checkpoint(tmp_path)
    (saved / "limner.json").write_text("{")
    with pytest.raises(ValueError, match=r"limner\.json` is damaged .*\nhint: "):
        load_checkpoint(saved)
    (saved / "limner.json").write_text('{"format": 99}')
    with pytest.raises(ValueError, match=r"format 99; this version reads 1\nhint: "):
        load_checkpoint(saved)


def test_another_vocabulary_is_refused(saved: Path) -> None:
    index = json.loads((saved / "limner.json").read_text())
    index["vocabulary"]["ids"]["image.in.begin"] = 5
    (saved / "limner.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"another vocabulary.*\nhint: "):
        load_checkpoint(saved)


def test_external_parts_are_not_written_again_but_their_lora_is(tmp_path: Path) -> None:
    model = build(model_call())
    model.external["modalities.image.encoder"] = "somewhere@abc"
    path = tmp_path / "external"
    save_checkpoint(model, path, description=DESCRIPTION)
    assert not (path / "image.encoder.safetensors").exists()
    assert json.loads((path / "limner.json").read_text())["external"] == dict(model.external)
    shutil.rmtree(path)
