"""docs/generation.md does what it says, with a model of random weights named `model`."""

import re
import shlex
from pathlib import Path

import PIL.Image
import pytest
from tiny import model_call, tiny_model

from limner.cli.main import main
from limner.config.serialize import to_json
from limner.model.checkpoint import save_checkpoint

PAGE = Path(__file__).parents[2] / "docs" / "generation.md"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    save_checkpoint(tiny_model(), tmp_path / "model", description=to_json(model_call()))
    for name, colour in (("dog", "brown"), ("hill", "green"), ("fox", "red")):
        PIL.Image.new("RGB", (40, 30), colour).save(tmp_path / f"{name}.png")
    return tmp_path


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def test_every_snippet_runs_as_written_one_after_the_other(folder: Path) -> None:
    namespace: dict[str, object] = {}
    for block in blocks("python"):
        exec(compile(block, PAGE.name, "exec"), namespace)
    assert (folder / "drawn.png").stat().st_size > 0


def test_every_command_runs_as_written(folder: Path) -> None:
    (commands,) = blocks("bash")
    for line in commands.splitlines():
        with pytest.raises(SystemExit) as leaving:
            main(shlex.split(line)[1:])
        assert leaving.value.code == 0, line


def test_every_line_of_the_chat_is_understood(folder: Path) -> None:
    from limner.cli.settings import Settings, Turn

    (lines,) = blocks("text")
    for line in lines.splitlines():
        turn = Turn.of(line.removeprefix("> "))
        assert turn.changes
        turn.applied(Settings())
