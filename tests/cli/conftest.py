"""A model of random weights in a directory, and the program run in this process."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import PIL.Image
import pytest

from limner.cli.main import main


class Result(NamedTuple):
    """How a run of the program ended, and what it said."""

    code: int
    out: str
    err: str


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with three pictures to read beside its weights. Not to be changed: copy it."""
    from tiny import model_call, tiny_model

    from limner.config.serialize import to_json
    from limner.model.checkpoint import save_checkpoint

    path = tmp_path_factory.mktemp("models") / "random"
    save_checkpoint(tiny_model(), path, description=to_json(model_call()))
    (path / "demo").mkdir()
    for name, colour in (("red-square", "red"), ("sky", "blue"), ("grass", "green")):
        PIL.Image.new("RGB", (32, 32), colour).save(path / "demo" / f"{name}.webp")
    return path


@pytest.fixture
def limner(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., Result]:
    """Run the program in an empty directory."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> Result:
        capsys.readouterr()
        with pytest.raises(SystemExit) as leaving:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Result(leaving.value.code, captured.out, captured.err)

    return run


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """A picture file."""
    path = tmp_path / "picture.png"
    PIL.Image.new("RGB", (40, 30), "red").save(path)
    return path
