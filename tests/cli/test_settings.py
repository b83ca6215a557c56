"""Settings of a turn, as a line of a chat says them."""

from pathlib import Path

import pytest

from limner.cli.options import Pictures
from limner.cli.settings import Settings, Turn, size_of


def test_a_line_ends_in_settings_of_its_own() -> None:
    turn = Turn.of('a fox {cfg: 7.5, steps: 100, image: a b.png, seed: 3, negative: "dark, blurry", pictures: now}')
    assert (turn.text, turn.images) == ("a fox", (Path("a b.png"),))
    assert turn.applied(Settings()) == Settings(
        guidance_scale=7.5, steps=100, seed=3, negative="dark, blurry", pictures=Pictures.NOW
    )


@pytest.mark.parametrize(
    "line",
    [
        "a fox",
        "a {fox}",
        "{fox} in {}",
        "a {fox, a hen}",
        "x = {}",
        "a {seed of hope}",
        "{image of a fox}",
        "a {",
        "{size}",
    ],
)
def test_other_braces_are_words(line: str) -> None:
    assert Turn.of(line) == Turn(line)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("a {stps: 3}", "no setting `stps`\nhint: did you mean steps?"),
        ("a {steps: many}", "steps is `many`; expected a int"),
        ("a {pictures: never}", "pictures is `never`; expected auto, none, now"),
        ("a {cfg 7.5}", r"`{cfg 7.5}` cannot be read as settings\nhint: they are `key: value` in braces"),
        ("a {cfg=7.5}", "`{cfg=7.5}` cannot"),
        ("a {cfg: 7.5, fox}", "`{cfg: 7.5, fox}` cannot"),
        ("a {cfg: 7.5", "`{cfg: 7.5` cannot"),
        ("a {cfg: 7.5} fox", "`{cfg: 7.5}` cannot"),
        ("a {image fox.png}", "`{image fox.png}` cannot"),
        ("a {size 16x16, cfg 3}", "`{size 16x16, cfg 3}` cannot"),
    ],
)
def test_slips_are_named(line: str, says: str) -> None:
    with pytest.raises(ValueError, match="^" + says):
        Turn.of(line).applied(Settings())


def test_sizes_are_height_by_width() -> None:
    assert (size_of(""), size_of("16x24")) == (None, (16, 24))
    with pytest.raises(ValueError, match=r"size is `16`; expected HEIGHTxWIDTH in pixels\nhint: "):
        size_of("16")
