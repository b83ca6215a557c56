"""Recorded cases of multi_token pass, and a changed recording or weight does not."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from limner.evaluate.golden import multi_token

GOLDEN = Path(__file__).parents[1] / "golden" / "multi_token"

FAST = (
    "tokenisation",
    "forward",
    "checkpoints",
    "lora/toy_finetune",
    "builders/audio_whisper",
    "builders/document_gte_x16",
    "builders/mix_vision_speech",
    "serve/toy_finetune",
    "serve/audio_clap",
    "serve/video_xclip",
    "encoder_cases/clip_small_*",
    "encoder_cases/clap*",
    "encoder_cases/whisper",
    "encoder_cases/xclip*",
    "encoder_cases/gte",
    "encoder_cases/document_split",
    "encoder_cases/imagebind_routing",
    "encoder_cases/load_audio",
    "encoder_cases/embedded_images",
)
SLOW = ("lora", "training", "builders", "serve", "encoder_cases")

pytestmark = pytest.mark.filterwarnings("ignore:Token indices sequence length")


def _failures(directory: Path, only: str) -> list[str]:
    checks = list(multi_token.checks(directory, only=only))
    assert checks, f"no checks match {only}"
    failed = [check for check in checks if not check.passed]
    return [f"{check.case}: {check.difference} > {check.tolerance} {check.note}" for check in failed]


@pytest.mark.parametrize("only", FAST)
def test_recorded_cases_pass(only: str) -> None:
    assert _failures(GOLDEN, only) == []


@pytest.mark.slow
@pytest.mark.parametrize("only", SLOW)
def test_all_recorded_cases_of_a_section_pass(only: str) -> None:
    assert _failures(GOLDEN, only) == []


def test_the_family_is_recognised_by_its_files(tmp_path: Path) -> None:
    assert multi_token.recognises(GOLDEN)
    assert not multi_token.recognises(tmp_path)


def test_a_changed_weight_and_a_changed_label_are_found(tmp_path: Path) -> None:
    for name in ("base", "forward", "tokenisation"):
        shutil.copytree(GOLDEN / name, tmp_path / name)
    shutil.copy(GOLDEN / "toy_modalities.json", tmp_path)
    assert _failures(tmp_path, "forward/single") == []
    state = load_file(tmp_path / "forward" / "projectors.safetensors")
    state = {key: value + 1e-3 * torch.ones_like(value) for key, value in state.items()}
    save_file(state, tmp_path / "forward" / "projectors.safetensors")
    assert any("inputs_embeds" in failure for failure in _failures(tmp_path, "forward/single"))
    file = tmp_path / "tokenisation" / "encode_chat.json"
    recorded = json.loads(file.read_text())
    recorded["cases"][-1]["labels"][0] = -100
    file.write_text(json.dumps(recorded))
    assert len(_failures(tmp_path, "tokenisation")) == 1
