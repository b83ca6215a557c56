"""The programs of LaVIT's four notebooks, run as they are on a tiny folder in the published layout."""

import runpy
from pathlib import Path

import PIL.Image
import pytest
from lavit_originals import read_tiny, write_lavit_original
from tiny import picture

from limner.compositions import lavit, lavit_model, lavit_pixels

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_lavit_original(tmp_path_factory.mktemp("lavit"))


def _size(file: str) -> tuple[int, int]:
    with PIL.Image.open(file) as drawn:
        return drawn.size


@pytest.fixture
def run(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Run a program with arguments in an empty directory that holds a picture, in a size that the tiny UNet can."""
    for module in (lavit, lavit_model):
        monkeypatch.setattr(module, "read_lavit", read_tiny)
    for name in lavit_pixels.ASPECT_RATIOS:
        monkeypatch.setitem(lavit_pixels.ASPECT_RATIOS, name, (8, 16))
    monkeypatch.chdir(tmp_path)
    picture("green", size=(40, 30)).pil().save("green.png")

    def run(name: str, *arguments: str) -> None:
        monkeypatch.setattr("sys.argv", [name, str(folder), *arguments])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")

    return run


def test_understanding_says_a_caption_and_an_answer_and_shows_what_was_kept(run, capsys) -> None:
    run("lavit_understanding.py", "green.png", "What is it?", "kept.png")
    said = capsys.readouterr().out
    assert all(word in said for word in ("caption: ", "answer: ", " of 16 patches kept: kept.png"))
    assert _size("kept.png") == (448, 448)


def test_a_text_is_drawn_in_the_size_asked_for(run) -> None:
    run("lavit_text_to_image.py", "a red apple", "apple.png", "3:2")
    assert _size("apple.png") == (16, 8)


def test_a_picture_and_a_text_are_drawn_together(run) -> None:
    run("lavit_multimodal.py", "both.png", "green.png", "in the snow")
    assert _size("both.png") == (16, 8)


def test_pictures_go_through_their_codes_and_back(run, capsys) -> None:
    run("lavit_detokenize.py", "1:1", "green.png")
    assert "codes, green.rebuilt.png" in capsys.readouterr().out
    assert _size("green.rebuilt.png") == (16, 8)
