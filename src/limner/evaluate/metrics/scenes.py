"""What a drawing of a scene gets right, and what a text says a scene is. Knows pictures and texts, no model.

A drawing is read by the exact parser of `data/scene_parser`; a picture that it cannot read has no aspect right.
"""

import functools
from collections.abc import Collection, Sequence

import numpy

from limner.data.scene_grammar import BACKGROUND, CELLS, PALETTE, STATED, stated
from limner.data.scene_parser import parse, score
from limner.data.scenes import KINDS, SIZES, Scene, Shape
from limner.document.media import Image

LEAST_SIDE = 48
"""The parser reads nothing smaller; a smaller picture is enlarged first."""


def read(picture: Image | None) -> Scene | None:
    """The scene in a picture, None where there is no picture or none that can be parsed."""
    if picture is None:
        return None
    pixels = picture.pil()
    if min(pixels.size) < LEAST_SIDE:
        pixels = pixels.resize((LEAST_SIDE, LEAST_SIDE))
    try:
        return parse(pixels)
    except ValueError:
        return None


def marks(found: Scene | None, wanted: Scene, *, aspects: Collection[str] = STATED) -> dict[str, bool]:
    """Which of the stated aspects the found scene has right; none of them where there is no scene."""
    if found is None:
        return dict.fromkeys(aspects, False)
    return score(found, wanted, aspects=aspects)


def mark_square(found: Sequence[Scene | None], wanted: Sequence[Scene]) -> numpy.ndarray:
    """Float [found, wanted, aspects]: the marks of every found scene against every wanted one."""
    rows = [[[*marks(scene, target).values()] for target in wanted] for scene in found]
    return numpy.array(rows, dtype=float).reshape(len(found), len(wanted), len(STATED))


def said_shape(text: str) -> Shape | None:
    """The shape that the last sentence of a text states, None where it states none in the grammar's way."""
    sentences = [sentence.strip() for sentence in text.split(".") if sentence.strip()]
    return _statements().get(sentences[-1].lower()) if sentences else None


def shape_scene(shape: Shape) -> Scene:
    """The scene of one shape."""
    return Scene((shape,), BACKGROUND)


@functools.cache
def _statements() -> dict[str, Shape]:
    every = (Shape(cell, kind, color, size) for cell in CELLS for kind in KINDS for color in PALETTE for size in SIZES)
    return {stated(shape): shape for shape in every}
