"""Rows over HTTP: a request is one row of a data set, the answer is its text.

    POST /generate   {"messages": [{"role": "user", "content": "What is <image>?"}], "images": ["data:image/png;..."]}
    200              {"output": "A red disc."}

Items are data URLs, numbers, and texts; files below one folder and addresses only where the server was told so. What a
client's item becomes is decided here, before a reader of rows sees it: none of them gets a path.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from limner.document.array import Array
from limner.document.audio import Audio
from limner.document.media import File, Image
from limner.document.rows import Kind, Placeholder, kind_of, row_document
from limner.generate.request import Pictures, Request
from limner.generate.sampling import Sampling
from limner.model.multimodal import MultimodalLM
from limner.serve.fetch import Fetching, fetch
from limner.serve.openai import BadRequest, Limits, check_pixels
from limner.serve.schema import MAX_TEXT

TYPES: Mapping[Kind, Sequence[str]] = {
    "image": ("image/",),
    "sound": ("audio/", "application/ogg"),
    "video": ("video/",),
    "array": ("application/x-npy", "application/octet-stream"),
    "imagebind": ("image/", "audio/"),
}
"""Media types that may be fetched for a kind of item; a text is the text itself."""


class RowMessage(BaseModel):
    """Text with placeholders."""

    model_config = ConfigDict(hide_input_in_errors=True)

    role: Literal["system", "user", "assistant"]
    content: str = Field(max_length=MAX_TEXT)


class RowBody(BaseModel):
    """POST /generate. Items stand under the keys of the model's modalities; keys of other modalities are left alone."""

    model_config = ConfigDict(extra="allow", hide_input_in_errors=True)

    messages: list[RowMessage] = Field(min_length=1, max_length=512)


@dataclass(frozen=True)
class RowSettings:
    """How rows are answered. `media_root` None reads no files, `fetching` None fetches nothing; its `timeout` holds for
    all items of a row together.
    """

    max_new_tokens: int = 128
    temperature: float = 0.0
    media_root: Path | None = None
    fetching: Fetching | None = None
    limits: Limits = field(default_factory=Limits)


def placeholders_of(model: MultimodalLM) -> tuple[Placeholder, ...]:
    """How rows name a model's items: as it was built, or `<image>` and `images` where it reads pictures."""
    if model.placeholders:
        return model.placeholders
    names = [name for name, modality in model.modalities.items() if name == "image" and model.modality(name).reader]
    return tuple(Placeholder(name, f"<{name}>", f"{name}s", 0, name, "image") for name in names)


class Rows:
    """Bodies become Requests."""

    def __init__(self, placeholders: Sequence[Placeholder], *, settings: RowSettings) -> None:
        self.placeholders = tuple(placeholders)
        self.settings = settings

    def request(self, body: RowBody) -> Request:
        """What the engine is asked for; takes the time of fetching and decoding. Raises BadRequest and ValueError."""
        if body.messages[-1].role != "user":
            raise BadRequest("the last message is not the user's", param="messages")
        # One time limit for all items: who names many slow addresses waits no longer than who names one.
        deadline = time.monotonic() + (self.settings.fetching.timeout if self.settings.fetching else 0.0)
        row: dict[str, Any] = {"messages": [message.model_dump() for message in body.messages]}
        given = body.model_extra or {}
        count = 0
        for placeholder in self.placeholders:
            items = given.get(placeholder.data_key)
            if items is None:
                continue
            if not isinstance(items, list):
                raise BadRequest("expected a list of items", param=placeholder.data_key)
            count += len(items)
            if count > self.settings.limits.max_media:
                raise BadRequest(f"more than {self.settings.limits.max_media} items", param=placeholder.data_key)
            row[placeholder.data_key] = [
                self._admitted(item, placeholder.kind, deadline=deadline, where=f"{placeholder.data_key}[{number}]")
                for number, item in enumerate(items)
            ]
        document = row_document(row, placeholders=self.placeholders)
        for number, (_, media) in enumerate(document.media()):
            self._check(media.payload, where=f"item {number}")
        return Request(
            document,
            max_new_tokens=self.settings.max_new_tokens,
            pictures=Pictures.NONE,
            sampling=Sampling(temperature=self.settings.temperature),
        )

    def _admitted(self, item: Any, kind: Kind, *, deadline: float, where: str) -> Any:
        """The item as a reader may have it: bytes, numbers, a text, or a data URL; never a path or an address.

        Of an object no more is passed on than is named here: readers take paths from what they are given.
        """
        if isinstance(item, dict) and kind == "sound" and item.get("array") is not None:
            return {"array": item["array"], "sampling_rate": item.get("sampling_rate")}
        path = item.get("path") if isinstance(item, dict) else item
        if isinstance(item, dict) and not isinstance(path, str):
            raise BadRequest("expected a data URL, a path or numbers", param=where)
        if not isinstance(path, str):
            return item
        if path.startswith("data:"):
            self._check_size(len(path) * 3 // 4, where=where)
            return path
        if kind == "text" or (kind == "imagebind" and kind_of(path) == "text"):
            return path
        try:
            data, name = self._fetched(path, kind, deadline=deadline) if "://" in path else self._local(path)
        except ValueError as error:
            raise BadRequest(str(error).partition("\n")[0], param=where) from error
        return {"bytes": data, "path": name}

    def _fetched(self, url: str, kind: Kind, *, deadline: float) -> tuple[bytes, str]:
        if self.settings.fetching is None:
            raise ValueError("this server fetches nothing; send the item as a data URL")
        left = replace(self.settings.fetching, timeout=deadline - time.monotonic())
        found = fetch(url, types=TYPES[kind], fetching=left)
        return found.data, found.name

    def _local(self, path: str) -> tuple[bytes, str]:
        root = self.settings.media_root
        if root is None:
            raise ValueError("this server reads no files of its own; send the item as a data URL")
        # Outside and missing are told alike: nobody learns what lies elsewhere.
        unknown = ValueError(f"no file `{path:.80}` in the folder of this server's media")
        try:
            file = (root / path).resolve()
            if not file.is_relative_to(root.resolve()) or not file.is_file():
                raise unknown
            size = file.stat().st_size
            if size > self.settings.limits.max_media_bytes:
                raise ValueError(f"`{path:.80}` has {size} bytes; most are {self.settings.limits.max_media_bytes}")
            return file.read_bytes(), file.name
        except (OSError, RuntimeError) as error:
            raise unknown from error

    def _check_size(self, size: int, *, where: str) -> None:
        if size > self.settings.limits.max_media_bytes:
            raise BadRequest(f"more than {self.settings.limits.max_media_bytes} bytes", param=where)

    def _check(self, payload: Image | File | None, *, where: str) -> None:
        """Decode what can be too much or not a number. Raises BadRequest."""
        import numpy as np

        try:
            if isinstance(payload, Image):
                height, width = payload.size
                check_pixels(width, height, limits=self.settings.limits)
                payload.pil()
            elif isinstance(payload, Audio):
                if payload.seconds > self.settings.limits.max_seconds:
                    raise ValueError(f"{payload.seconds:.0f} seconds; most are {self.settings.limits.max_seconds:.0f}")
                if not np.isfinite(payload.samples()).all():
                    raise ValueError("samples that are no numbers")
            elif isinstance(payload, Array) and not np.isfinite(payload.values()).all():
                raise ValueError("values that are no numbers")
        except ValueError as error:
            raise BadRequest(str(error).partition("\n")[0], param=where) from error
