"""CLIP as multi_token reads it: the stored pixels as RGB, and patch rows or the pooled class row.

A picture's orientation tag is not applied and its transparency ignored: published projectors were trained so.
"""

import io
from pathlib import Path
from typing import Any

import PIL.Image
import torch
from jaxtyping import Float
from torch import Tensor

from limner.document.document import Media
from limner.modalities.base import Features
from limner.modalities.encoders.clip import ClipEncoder


class PlainClipEncoder(ClipEncoder):
    """Patch rows of one hidden layer; `pads` widens a picture to a square of the mean colour, so nothing is cropped."""

    def __init__(self, path: str | Path, *, select_layer: int = -2, pads: bool = False) -> None:
        super().__init__(path, select_layer=select_layer)
        self.pads = pads

    @property
    def signature(self) -> str:
        """Published weights and the transform."""
        return f"{self.source} {self.select_layer} {self.pads}" if self.source else ""

    def preprocess(self, media: Media) -> Float[Tensor, "3 height width_px"]:
        """The stored pixels, scaled and cropped as the processor says, normalised."""
        media.content.size  # noqa: B018 - what is no picture, or too large, is refused here
        with PIL.Image.open(io.BytesIO(media.content.data)) as stored:
            picture = stored.convert("RGB")
        if self.pads:
            picture = _square(picture, tuple(int(value * 255) for value in self.processor.mean))
        return self.processor(picture)


class PooledClipEncoder(PlainClipEncoder):
    """One row per picture: the class row of the last layer after its norm, before CLIP's projection."""

    def __init__(self, path: str | Path, *, pads: bool = False) -> None:
        super().__init__(path, select_layer=-1, pads=pads)

    def measure(self, media: Media) -> int:
        """Always one."""
        return 1

    def forward(self, items: Float[Tensor, "items 3 height width_px"]) -> Features:
        """The pooled rows."""
        network: Any = self.network
        rows = network(items).pooler_output
        return Features(rows, torch.ones(len(rows), dtype=torch.long, device=rows.device))


def _square(picture: PIL.Image.Image, colour: tuple[int, ...]) -> PIL.Image.Image:
    side = max(picture.size)
    if picture.size == (side, side):
        return picture
    square = PIL.Image.new("RGB", (side, side), colour)
    square.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    return square
