"""Reads a drawn scene back from its pixels, and scores it against the scene that was wanted.

Owns the way picture -> Scene, exact on what `scenes.render` draws and tolerant of the light blur,
noise and colour drift of an image decoder. Assumes a square picture on a plain background. No
learned part, numpy only. Data flow:

    pixels -> nearest palette colour -> connected components -> colour, coverage mask
           -> area, centroid, normalised patch -> nearest reference shape -> Shape
    score(parse(picture), wanted, aspects=caption.aspects) -> which stated aspects are right
"""

import functools
from collections import Counter
from collections.abc import Collection, Iterator

import numpy
from PIL import Image as PillowImage

from limner.data.scenes import (
    ASPECTS,
    BACKGROUNDS,
    COLORS,
    GRID,
    KINDS,
    SIZES,
    Scene,
    Shape,
    render,
)

PATCH = 15  # samples per side of the normalised patch
REACH = 1.15  # the patch reaches this many square roots of the area from the centroid
NUM_BLURS = 3  # levels of soft edges that shapes are compared with
MIN_AREA = 0.35  # of the smallest reference shape; less is noise, not a shape
_NAMES = tuple(COLORS)
_PALETTE = numpy.array([COLORS[name] for name in _NAMES], dtype=numpy.float64)
_Array = numpy.ndarray


def parse(picture: PillowImage.Image) -> Scene:
    """The scene in a square RGB picture; shapes that fill no cell of their own share one.

    Raises ValueError for a picture that is not square or has fewer than 48 pixels a side.
    """
    width, height = picture.size
    if width != height or width < 48:
        raise ValueError(
            f"a scene picture of {height}x{width} pixels (h, w), expected a square of 48 or more\n"
            "hint: resize the picture first"
        )
    pixels = numpy.asarray(picture.convert("RGB"), dtype=numpy.float64)
    background = _background(pixels)
    smallest = min(area for area, _ in _references(width).values())
    shapes = []
    for color, coverage in _components(pixels, background):
        if coverage.sum() < MIN_AREA * smallest:
            continue
        area, center, patch = _measure(coverage)
        kind, size = _classify(area, patch, width)
        cell = tuple(min(GRID - 1, int(value / width * GRID)) for value in center)
        shapes.append(Shape((cell[0], cell[1]), kind, color, size))
    return Scene(tuple(shapes), background)


def _background(pixels: _Array) -> str:
    """The background whose colour is nearest to the median of the outermost pixels."""
    ring = (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1])
    median = numpy.median(numpy.concatenate(ring), axis=0)
    return min(BACKGROUNDS, key=lambda name: float(((median - BACKGROUNDS[name]) ** 2).sum()))


def _smooth(pixels: _Array) -> _Array:
    """Mean over 3 x 3 pixels, so that noise makes no components of its own."""
    padded = numpy.pad(pixels, ((1, 1), (1, 1), (0, 0)), mode="edge")
    height, width = pixels.shape[:2]
    shifts = (padded[y : y + height, x : x + width] for y in range(3) for x in range(3))
    return numpy.add.reduce(list(shifts)) / 9


def _components(pixels: _Array, background: str) -> Iterator[tuple[str, _Array]]:
    """(colour, coverage in [0, 1] per pixel) of every connected region off the background."""
    ground = numpy.array(BACKGROUNDS[background], dtype=numpy.float64)
    smooth = _smooth(pixels)
    nearest = ((smooth[:, :, None] - _PALETTE) ** 2).sum(-1).min(-1)
    # White and black stand in the palette too: there the two distances are equal, so no foreground.
    foreground = ((smooth - ground) ** 2).sum(-1) > nearest + 1e-6
    labels = _label(foreground)
    for label in range(1, int(labels.max()) + 1):
        region = labels == label
        inside = ~_dilated(~region)
        votes = pixels[inside if inside.any() else region]
        color = _color(numpy.median(votes, axis=0), background)
        axis = COLORS[color] - ground
        coverage = ((pixels - ground) @ axis / (axis @ axis)).clip(0, 1)
        yield color, coverage * _dilated(region)


def _color(value: _Array, background: str) -> str:
    names = [name for name in _NAMES if name != background]
    return min(names, key=lambda name: float(((value - COLORS[name]) ** 2).sum()))


def _dilated(mask: _Array) -> _Array:
    """The mask and its 4 neighbours."""
    grown = mask.copy()
    grown[1:] |= mask[:-1]
    grown[:-1] |= mask[1:]
    grown[:, 1:] |= mask[:, :-1]
    grown[:, :-1] |= mask[:, 1:]
    return grown


def _label(mask: _Array) -> _Array:
    """Connected components (4 neighbours), 1, 2, ... in order of their first pixel; 0 outside."""
    labels = numpy.zeros(mask.shape, dtype=numpy.int64)
    left = mask.copy()
    count = 0
    while left.any():
        count += 1
        region = numpy.zeros_like(mask)
        region[numpy.unravel_index(int(left.argmax()), mask.shape)] = True
        grown = _dilated(region) & mask
        while (grown != region).any():
            region, grown = grown, _dilated(grown) & mask
        labels[region] = count
        left &= ~region
    return labels


def _measure(coverage: _Array) -> tuple[float, tuple[float, float], _Array]:
    """Area in pixels, centroid (y, x) in pixels, and the patch around it scaled by the area."""
    area = float(coverage.sum())
    rows, columns = (numpy.arange(length) + 0.5 for length in coverage.shape)
    y = float((coverage.sum(1) * rows).sum() / area)
    x = float((coverage.sum(0) * columns).sum() / area)
    reach = numpy.linspace(-REACH, REACH, PATCH) * area**0.5
    return area, (y, x), _sample(coverage, y + reach - 0.5, x + reach - 0.5)


def _sample(values: _Array, rows: _Array, columns: _Array) -> _Array:
    """Bilinear samples on the grid rows x columns; zero outside."""
    padded = numpy.pad(values, 1)
    rows, columns = (
        (points + 1).clip(0, length - 1.001) for points, length in zip((rows, columns), padded.shape, strict=True)
    )
    top, left = rows.astype(int), columns.astype(int)
    down, right = (rows - top)[:, None], (columns - left)[None, :]
    upper = padded[numpy.ix_(top, left)] * (1 - right) + padded[numpy.ix_(top, left + 1)] * right
    lower = padded[numpy.ix_(top + 1, left)] * (1 - right) + padded[numpy.ix_(top + 1, left + 1)] * right
    return upper * (1 - down) + lower * down


@functools.cache
def _references(side: int) -> dict[tuple[str, str, int], tuple[float, _Array]]:
    """(kind, size, blur) -> (area, patch), measured on our own drawing at this picture size.

    `blur` counts 3 x 3 means over the drawing: a decoder's soft edges round small corners.
    """
    found = {}
    for kind in KINDS:
        for size in SIZES:
            scene = Scene((Shape((1, 1), kind, "black", size),))
            pixels = numpy.asarray(render(scene, side=side), dtype=numpy.float64)
            for blur in range(NUM_BLURS):
                span = BACKGROUNDS["white"][0] - COLORS["black"][0]
                area, _, patch = _measure((BACKGROUNDS["white"][0] - pixels[:, :, 0]) / span)
                found[kind, size, blur] = (area, patch)
                pixels = _smooth(pixels)
    return found


def _classify(area: float, patch: _Array, side: int) -> tuple[str, str]:
    """The kind by the shape of the patch, then the size by the area."""
    references = _references(side)
    kind = min(references, key=lambda look: float(((patch - references[look][1]) ** 2).sum()))[0]
    size = min(SIZES, key=lambda name: abs(float(numpy.log(area / references[kind, name, 0][0]))))
    return kind, size


def score(found: Scene, wanted: Scene, *, aspects: Collection[str] = ASPECTS) -> dict[str, bool]:
    """Which of the asked aspects the found scene gets right, GenEval-like.

    count, shapes, colors, sizes: the multisets agree. binding: so do the (colour, kind) pairs.
    relations: pairs wanted in one row or column lie the same way round. cells: every shape is in
    its cell. A picture is right when all aspects that its caption states are true.
    Raises ValueError for an unknown aspect.
    """
    if unknown := set(aspects) - set(ASPECTS):
        raise ValueError(
            f"unknown scene aspects {sorted(unknown)}, expected some of {ASPECTS}\nhint: pass the aspects of a Caption"
        )
    views = {
        "count": lambda scene: len(scene.shapes),
        "shapes": lambda scene: Counter(s.kind for s in scene.shapes),
        "colors": lambda scene: Counter(s.color for s in scene.shapes),
        "sizes": lambda scene: Counter(s.size for s in scene.shapes),
        "binding": lambda scene: Counter(s.noun for s in scene.shapes),
        "cells": lambda scene: Counter((s.noun, s.cell) for s in scene.shapes),
        "background": lambda scene: scene.background,
    }
    result = {name: views[name](found) == views[name](wanted) for name in aspects if name in views}
    if "relations" in aspects:
        result["relations"] = _relations_hold(found, wanted)
    return {name: result[name] for name in ASPECTS if name in result}


def _relations_hold(found: Scene, wanted: Scene) -> bool:
    ours, theirs = (sorted(scene.shapes, key=lambda s: (s.noun, s.cell)) for scene in (found, wanted))
    if [s.noun for s in ours] != [s.noun for s in theirs]:
        return False
    for first in range(len(theirs)):
        for second in range(first + 1, len(theirs)):
            for axis in (0, 1):
                want = theirs[first].cell[axis] - theirs[second].cell[axis]
                have = ours[first].cell[axis] - ours[second].cell[axis]
                aligned = theirs[first].cell[1 - axis] == theirs[second].cell[1 - axis]
                if aligned and want * have <= 0:
                    return False
    return True
