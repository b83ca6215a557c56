"""`limner convert`: what it writes, and how it refuses."""

import shutil
from pathlib import Path

import pytest
import typer
from originals import GOLDEN
from typer.testing import CliRunner

from limner.cli import convert
from limner.compositions.weights import read_tensors

PROGRAM = typer.Typer()
PROGRAM.command()(convert.command)


@pytest.fixture
def parts() -> list[str]:
    return ["--part", f"clip={GOLDEN / 'clip-tiny'}", "--part", f"diffusion={GOLDEN / 'sd-tiny'}"]


def test_a_checkpoint_goes_into_our_layout_and_back(tmp_path: Path, parts: list[str]):
    there = CliRunner().invoke(PROGRAM, [str(GOLDEN / "checkpoint_fsdp"), str(tmp_path / "ours"), *parts])
    assert there.exit_code == 0, there.output
    assert str(tmp_path / "ours") in there.output
    back = CliRunner().invoke(PROGRAM, [str(tmp_path / "ours"), str(tmp_path / "back"), "--to", "dreamllm"])
    assert back.exit_code == 0, back.output
    before, after = read_tensors(GOLDEN / "checkpoint")[0], read_tensors(tmp_path / "back")[0]
    assert before.keys() - after.keys() == set()
    # The recorded monolith is in bfloat16, its tables rounded too; all other values are those of the other form.
    assert all(before[name].equal(value) for name, value in after.items() if not name.endswith("inv_freq"))
    assert (tmp_path / "back" / "config.json").read_bytes() == (GOLDEN / "checkpoint_fsdp" / "config.json").read_bytes()


def test_what_is_wrong_is_said(tmp_path: Path, parts: list[str]):
    source = tmp_path / "checkpoint"
    shutil.copytree(GOLDEN / "checkpoint", source)
    result = CliRunner().invoke(PROGRAM, [str(source), str(tmp_path / "ours")])
    assert isinstance(result.exception, ValueError)
    assert "hint: say where its clip files are" in str(result.exception)
    result = CliRunner().invoke(PROGRAM, [str(source), str(tmp_path / "ours"), "--part", "clip"])
    assert "--part clip: expected NAME=DIR" in str(result.exception)
    assert not (tmp_path / "ours").exists()
