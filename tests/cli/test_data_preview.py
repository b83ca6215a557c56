"""`limner data preview` writes a page of a recipe's packed stages, and says what it cannot show."""

from pathlib import Path

import pytest

from limner.cli.data_preview import preview

SCENES = str(Path(__file__).parents[2] / "configs" / "tiny" / "scenes.py")


def test_a_page_shows_the_rows_of_the_packed_stages(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    page = tmp_path / "page.html"
    preview(SCENES, output=page, rows=2)
    text = page.read_text()
    assert text.count('class="row"') == 2
    assert "image out" in text
    assert "together" in text
    assert capsys.readouterr().out.startswith("together\t2 rows\t")


@pytest.mark.parametrize(
    ("stage", "output", "said"),
    [
        (["nowhere"], "page.html", "its stages are autoencoder, together"),
        (["autoencoder"], "page.html", "stages with packed rows are together"),
        (None, "page.json", "expected .html"),
    ],
)
def test_what_cannot_be_shown_is_refused_in_a_line(tmp_path: Path, stage: list[str] | None, output: str, said: str):
    with pytest.raises(ValueError, match=said):
        preview(SCENES, output=tmp_path / output, stage=stage, rows=1)
