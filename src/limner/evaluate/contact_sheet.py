"""A picture of what was right and what was wrong, in the order in which it was asked, not the best of it."""

import textwrap
from collections.abc import Sequence

import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont

from limner.document.media import Image
from limner.evaluate.benchmark import Example

PER_SIDE = 12
"""Most examples of either kind on a sheet."""
TILE, TEXT_HEIGHT, COLUMNS, LINES = 96, 58, 3, 3
RIGHT, WRONG = (46, 125, 50), (198, 40, 40)


def contact_sheet(examples: Sequence[Example]) -> PIL.Image.Image:
    """Right examples in green frames on the left, wrong ones in red on the right."""
    sides = [[e for e in examples if e.is_right is wanted][:PER_SIDE] for wanted in (True, False)]
    tiles = [[_tile(example) for example in side] for side in sides]
    width = max((tile.width for side in tiles for tile in side), default=TILE)
    rows = max(1, *(-(-len(side) // COLUMNS) for side in tiles))
    height = TILE + TEXT_HEIGHT
    sheet = PIL.Image.new("RGB", (2 * COLUMNS * width + TILE // 4, rows * height), "white")
    for number, side in enumerate(tiles):
        left = number * (COLUMNS * width + TILE // 4)
        for index, tile in enumerate(side):
            sheet.paste(tile, (left + index % COLUMNS * width, index // COLUMNS * height))
    return sheet


def _tile(example: Example) -> PIL.Image.Image:
    inner = TILE - 8
    size = (max(2, len(example.pictures)) * TILE, TILE + TEXT_HEIGHT)
    tile = PIL.Image.new("RGB", size, "white")
    canvas = PIL.ImageDraw.Draw(tile)
    for place, picture in enumerate(example.pictures):
        tile.paste(_fitted(picture, inner), (place * TILE + 4, 4))
    color = RIGHT if example.is_right else WRONG
    canvas.rectangle((1, 1, size[0] - 3, size[1] - 3), outline=color)
    font = PIL.ImageFont.load_default(11)
    lines = [part for line in example.caption.splitlines() for part in textwrap.wrap(line, size[0] // 7)]
    canvas.multiline_text((6, TILE), "\n".join(lines[:LINES]), fill=color, font=font)
    return tile


def _fitted(picture: Image, side: int) -> PIL.Image.Image:
    return picture.pil().resize((side, side), PIL.Image.Resampling.BICUBIC)
