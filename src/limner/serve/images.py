"""OpenAI's routes of pictures: a prompt, a prompt with pictures shown before it, or a picture alone.

    /v1/images/generations   prompt                -> a picture is drawn at once
    /v1/images/edits         pictures, prompt      -> the same, with the pictures shown before the prompt
    /v1/images/variations    a picture             -> the same, with `ANOTHER` as the prompt

How far a picture drawn follows one that is shown is the model's matter: nothing is copied, and there are no masks.
"""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from limner.document.document import Document
from limner.document.media import Image
from limner.generate.request import Pictures, Request
from limner.serve.openai import BadRequest, Limits, checked
from limner.serve.schema import EditForm, ImageOptions, ImagesBody, VariationForm

ANOTHER = "Draw another picture like this one."
"""What a variation asks for."""


@dataclass(frozen=True)
class Drawn:
    """How many pictures of which size, and how."""

    n: int
    size: str | None
    seed: int
    options: ImageOptions

    def requests(self, shown: Sequence[Image], prompt: str, *, limits: Limits) -> list[Request]:
        """One request per picture, seeds counted on. Raises BadRequest for a picture that is too large."""
        size = _size(self.size)
        if size is not None and not 0 < size[0] * size[1] <= limits.max_drawn_pixels:
            raise BadRequest(f"{self.size} pixels; most are {limits.max_drawn_pixels} in all", param="size")
        return [
            Request(
                Document.chat([("user", [*shown, prompt])]),
                max_new_tokens=1,
                max_pictures=1,
                pictures=Pictures.NOW,
                guidance_scale=self.options.guidance_scale,
                num_inference_steps=min(self.options.num_inference_steps, limits.max_steps),
                size=size,
                seed=self.seed + number,
            )
            for number in range(self.n)
        ]


def generated(body: ImagesBody, *, limits: Limits) -> list[Request]:
    """What /v1/images/generations asks for."""
    return Drawn(body.n, body.size, body.seed, body.image).requests((), body.prompt, limits=limits)


def edited(form: EditForm, files: Sequence[bytes], *, limits: Limits) -> list[Request]:
    """What /v1/images/edits asks for; `files` are the bytes of its pictures. Raises BadRequest."""
    if not files:
        raise BadRequest("no picture is shown\nhint: send it as the file `image`, several as `image[]`", param="image")
    return Drawn(form.n, form.size, form.seed, form).requests(_shown(files, limits), form.prompt, limits=limits)


def varied(form: VariationForm, file: bytes, *, limits: Limits) -> list[Request]:
    """What /v1/images/variations asks for. Raises BadRequest."""
    return Drawn(form.n, form.size, form.seed, form).requests(_shown([file], limits), ANOTHER, limits=limits)


def images_response(pictures: Iterable[Image]) -> dict[str, Any]:
    """The answer of all three: PNG in base64."""
    data = [{"b64_json": picture.data_url().partition(",")[2]} for picture in pictures]
    return {"created": int(time.time()), "data": data, "output_format": "png"}


def _shown(files: Sequence[bytes], limits: Limits) -> list[Image]:
    pictures = []
    for number, data in enumerate(files):
        where = f"image[{number}]" if len(files) > 1 else "image"
        if len(data) > limits.max_media_bytes:
            raise BadRequest(f"the picture has more than {limits.max_media_bytes} bytes", param=where)
        pictures.append(checked(partial(Image.from_bytes, data, name=where), where=where, limits=limits))
    return pictures


def _size(text: str | None) -> tuple[int, int] | None:
    """(height, width) of "WIDTHxHEIGHT"; None leaves it to the decoder."""
    if text in (None, "auto"):
        return None
    width, _, height = text.partition("x")
    return int(height), int(width)
