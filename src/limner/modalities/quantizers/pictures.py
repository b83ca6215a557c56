"""Pictures as the square pixels that tokenizers of tiny pictures read and detokenizers are trained to draw."""

import numpy
import PIL.Image
import torch
from jaxtyping import Float
from torch import Tensor

from limner.document.document import Media


def squared_pixels(media: Media, *, size: int) -> Float[Tensor, "3 height width_px"]:
    """RGB in [-1, 1] at (size, size); what is not square is padded with white."""
    picture = media.content.pil()
    if picture.size != (size, size):
        side = max(picture.size)
        square = PIL.Image.new("RGB", (side, side), "white")
        square.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
        picture = square.resize((size, size), PIL.Image.Resampling.BICUBIC)
    return torch.from_numpy(numpy.array(picture)).permute(2, 0, 1).float() / 127.5 - 1.0
