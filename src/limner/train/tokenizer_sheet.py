"""What a tokenizer makes of pictures, to be looked at: picture, what is kept of it, what is painted from its codes."""

from collections.abc import Sequence

import PIL.Image
import PIL.ImageDraw
import torch
from jaxtyping import Float
from torch import Tensor

CELL, LABEL = 96, 14
"""Pixels of a picture's side and of a line of text."""
FADED = 0.15
"""How much of a dropped patch is shown."""


def kept_patches(
    pixels: Float[Tensor, "items 3 height width_px"], keep: Float[Tensor, "items patches"]
) -> Float[Tensor, "items 3 height width_px"]:
    """Square pictures, RGB in [-1, 1], with gray over the patches that are dropped."""
    grid = round(keep.shape[1] ** 0.5)
    mask = keep.detach().unflatten(1, (1, grid, grid))
    mask = torch.nn.functional.interpolate(mask, size=pixels.shape[-2:], mode="nearest")
    shown = mask + (1.0 - mask) * FADED
    return pixels * shown


def contact_sheet(
    rows: Sequence[Float[Tensor, "items 3 height width_px"]], *, labels: Sequence[str]
) -> PIL.Image.Image:
    """Pictures, RGB in [-1, 1], row after row; a label under each column of pictures."""
    height = len(rows) * CELL + LABEL
    sheet = PIL.Image.new("RGB", (len(labels) * CELL, height), "white")
    pen = PIL.ImageDraw.Draw(sheet)
    for line, pictures in enumerate(rows):
        for column, pixels in enumerate(pictures):
            levels = ((pixels.clamp(-1.0, 1.0) + 1.0) * 127.5).round().byte().permute(1, 2, 0).cpu().numpy()
            picture = PIL.Image.fromarray(levels).resize((CELL - 4, CELL - 4), PIL.Image.Resampling.NEAREST)
            sheet.paste(picture, (column * CELL + 2, line * CELL + 2))
    for column, label in enumerate(labels):
        pen.text((column * CELL + 4, len(rows) * CELL), label, fill="black")
    return sheet
