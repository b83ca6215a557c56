"""Data fetched from the package index: once, checked, and never offline."""

import hashlib
import subprocess
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import public_formats
import pytest

from limner.evaluate.benchmarks import easy_vqa
from limner.evaluate.published import Published
from limner.evaluate.tasks import open_task


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    """A wheel with the published layout and three questions."""
    public_formats.easy_vqa(tmp_path / "made" / "easy_vqa" / "data")
    file = tmp_path / "easy_vqa-1.0-py3-none-any.whl"
    with zipfile.ZipFile(file, "w") as stream:
        for one in sorted((tmp_path / "made").rglob("*.*")):
            stream.write(one, one.relative_to(tmp_path / "made"))
        stream.writestr("easy_vqa/__init__.py", "raise SystemExit")
    return file


@pytest.fixture
def fetches(wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """pip, replaced: copies the wheel to where it is wanted. Empty cache, online."""
    calls: list[list[str]] = []

    def run(command: list[str], **options: Any) -> SimpleNamespace:
        calls.append(command)
        into = Path(command[command.index("-d") + 1])
        (into / wheel.name).write_bytes(wheel.read_bytes())
        return SimpleNamespace(returncode=0, stderr="")

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setenv("LIMNER_CACHE", str(tmp_path / "cache"))
    for name in ("LIMNER_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    monkeypatch.setattr(easy_vqa, "PACKAGE", Published("easy-vqa==1.0", digest, "easy_vqa/data"))
    return calls


def test_questions_that_are_not_there_are_fetched_once(fetches: list[list[str]], tmp_path: Path) -> None:
    first = open_task("easy_vqa", folder=tmp_path / "nothing")
    assert [one.question for one in first.asked] == ["colour?", "what?", "is it red?"]
    assert all(one.image.pil().size for one in first.asked)
    assert open_task("easy_vqa", folder=tmp_path / "nothing").asked == first.asked
    assert len(fetches) == 1
    assert not list((tmp_path / "cache").rglob("*.py"))


def test_files_of_ones_own_come_first(fetches: list[list[str]], tmp_path: Path) -> None:
    public_formats.easy_vqa(tmp_path / "own" / "easy_vqa")
    assert open_task("easy_vqa", folder=tmp_path / "own").asked
    assert not fetches


def test_another_wheel_is_refused(fetches: list[list[str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(easy_vqa, "PACKAGE", Published("easy-vqa==1.0", "0" * 64, "easy_vqa/data"))
    with pytest.raises(ValueError, match=r"`easy-vqa==1.0` has SHA-256 .*; expected 000000000000\nhint: "):
        open_task("easy_vqa", folder=tmp_path)
    assert not list((tmp_path / "cache" / "benchmarks").iterdir())


def test_offline_nothing_is_fetched(fetches: list[list[str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LIMNER_OFFLINE", "1")
    with pytest.raises(ValueError, match=r"this is offline\nhint: unpack `easy_vqa/data` of easy-vqa==1.0"):
        open_task("easy_vqa", folder=tmp_path)
    assert not fetches


def test_pips_own_words_are_told(fetches: list[list[str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    failed = SimpleNamespace(returncode=1, stderr="ERROR: a\nERROR: no matching distribution")
    monkeypatch.setattr(subprocess, "run", lambda command, **options: failed)
    with pytest.raises(ValueError, match=r"could not be fetched \(ERROR: no matching distribution\)\nhint: "):
        open_task("easy_vqa", folder=tmp_path)


def test_the_pinned_checksum_is_a_sha256() -> None:
    assert len(bytes.fromhex(easy_vqa.PACKAGE.sha256)) == 32
