"""Augmentation: changed copies of pictures that a user shows, few per picture, so that encoders can be cached."""

import functools
import random
from dataclasses import dataclass

import PIL.Image
import PIL.ImageEnhance

from limner.document.media import Image


@dataclass(frozen=True)
class Augmentation:
    """Changes of pictures that a user shows: turned, moved, scaled, recoloured a little. `num_variants` per picture, so
    that frozen encoders can be cached; variant 0 is the picture itself."""

    num_variants: int
    rotation: float = 20.0
    scale: tuple[float, float] = (0.6, 1.1)
    colour: float = 0.3

    def __call__(self, image: Image, *, choice: random.Random) -> Image:
        """A variant of an RGB picture, chosen by `choice`."""
        return self.variant(image, choice.randrange(self.num_variants))

    def variant(self, image: Image, number: int) -> Image:
        """Variant `number`, a pure function of the picture's content and the number."""
        return image if number == 0 else _varied(image, number, self)

    def draw(self, image: Image, number: int) -> Image:
        """Make variant `number` > 0."""
        rng = random.Random(f"{image.digest}/{number}")
        picture = image.pil()
        size = picture.size
        if rng.random() < 0.5:
            picture = picture.transpose(PIL.Image.Transpose.FLIP_LEFT_RIGHT)
        for enhance in (PIL.ImageEnhance.Color, PIL.ImageEnhance.Brightness, PIL.ImageEnhance.Contrast):
            picture = enhance(picture).enhance(1.0 + rng.uniform(-self.colour, self.colour))
        factor = rng.uniform(*self.scale)
        scaled = picture.resize((max(1, round(size[0] * factor)), max(1, round(size[1] * factor))))
        scaled = scaled.rotate(
            rng.uniform(-self.rotation, self.rotation),
            resample=PIL.Image.Resampling.BICUBIC,
            fillcolor=(255, 255, 255),
        )
        canvas = PIL.Image.new("RGB", size, (255, 255, 255))
        corner = [round(rng.random() * (whole - part)) for whole, part in zip(size, scaled.size, strict=True)]
        canvas.paste(scaled, (corner[0], corner[1]))
        return Image.from_pil(canvas, name=f"{image.name}#{number}")


@functools.lru_cache(maxsize=16384)
def _varied(image: Image, number: int, augmentation: Augmentation) -> Image:
    """Variants are met again every epoch; making one costs more than keeping it."""
    return augmentation.draw(image, number)
