"""Rows: messages with placeholders in their text, and a list of items per modality.

    {"messages": [{"role": "user", "content": "Describe <image>"}, ...], "images": ["a.png"]}

Owns placeholders (their tokens, ids, row keys) and the way from such a row to a Document. A row needs no items at all,
and a key may be missing; but every placeholder has its item, and every item its placeholder.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from limner.document.array import Array
from limner.document.audio import Audio
from limner.document.document import Document, Media, Part, Role, Text
from limner.document.media import File, Image
from limner.document.text_file import TextFile
from limner.document.video import Video

Kind = Literal["image", "sound", "video", "text", "array", "imagebind"]

MAX_RATE = 768_000
"""Samples per second of a sound that is given as numbers."""

_PICTURES = (".jpg", ".png", ".jpeg")


@dataclass(frozen=True)
class Placeholder:
    """What stands for an item in text and in rows.

    name:          prefix of the projector's weights in the original's files.
    token:         what is written where an item stands, such as `<image>`.
    data_key:      the row's list of items.
    num_positions: rows of the language model's input per item.
    modality:      name in Documents and in the model.
    kind:          what the row's items are; see `READERS`.
    """

    name: str
    token: str
    data_key: str
    num_positions: int
    modality: str
    kind: Kind

    def read(self, item: Any, folder: Path) -> Image | File:
        """The payload of a row's item; a relative path starts at `folder`. Raises ValueError for what is none."""
        return READERS[self.kind](item, folder)

    @property
    def token_id(self) -> int:
        """The negative id that the original gives to the item's positions."""
        return placeholder_id(self.token)


def placeholder_id(token: str) -> int:
    """-(sum of ord(character i) ** i, modulo 10000): below every id of a vocabulary."""
    return -(sum(ord(character) ** index for index, character in enumerate(token)) % 10000)


def row_document(row: Mapping[str, Any], *, placeholders: Sequence[Placeholder], folder: Path = Path()) -> Document:
    """The Document of a row; relative paths start at `folder`. Text is kept to the letter.

    Placeholders count in what is asked (user, system); in an assistant's text they are text.
    Raises ValueError for a row without messages, and where placeholders and items do not match in number.
    """
    messages = row.get("messages")
    if not isinstance(messages, list | tuple) or not messages:
        raise ValueError(f"row key `messages` is {messages!r:.60}; expected a list\nhint: give at least one message")
    by_token = {placeholder.token: placeholder for placeholder in placeholders}
    items = {placeholder.token: _items(row, placeholder.data_key) for placeholder in placeholders}
    turns: list[tuple[Role, list[Part]]] = []
    for number, message in enumerate(messages):
        role, content = _message(message, number)
        parts: list[Part] = []
        for piece in split_tokens(content, list(by_token) if role != "assistant" else []):
            if piece not in by_token or role == "assistant":
                parts.append(Text(piece))
                continue
            placeholder = by_token[piece]
            if not items[piece]:
                raise ValueError(
                    f"messages[{number}] has a {piece} without an item\n"
                    f"hint: `{placeholder.data_key}` must hold one item per placeholder"
                )
            payload = placeholder.read(items[piece].pop(0), folder)
            parts.append(Media(payload, modality=placeholder.modality))
        turns.append((role, parts))
    for token, left in items.items():
        if left:
            raise ValueError(
                f"{len(left)} items of `{by_token[token].data_key}` have no {token}\n"
                "hint: put one placeholder per item into the messages"
            )
    return Document.chat(turns)


def split_tokens(text: str, tokens: Sequence[str]) -> list[str]:
    """Text and tokens in order, without empty pieces."""
    if not tokens:
        return [text] if text else []
    # Longest first: of `<toy>` and `<toy>s` the longer one is meant.
    pattern = "|".join(re.escape(token) for token in sorted(tokens, key=len, reverse=True))
    return [piece for piece in re.split(f"({pattern})", text) if piece]


def _message(message: Any, number: int) -> tuple[Role, str]:
    role = message.get("role") if isinstance(message, Mapping) else None
    content = message.get("content") if isinstance(message, Mapping) else None
    if role not in ("system", "user", "assistant") or not isinstance(content, str):
        raise ValueError(
            f"messages[{number}] is {message!r:.80}; expected a role and its content\n"
            "hint: roles are system, user and assistant; content is text with placeholders"
        )
    return role, content


def _items(row: Mapping[str, Any], key: str) -> list[Any]:
    found = row.get(key)
    if found is None:
        return []
    if not isinstance(found, list | tuple):
        raise ValueError(f"row key `{key}` is {found!r:.60}; expected a list of items\nhint: put it into a list")
    return list(found)


def read_image(item: Any, folder: Path) -> Image:
    """A path, a data URL, a PIL picture, or the {"bytes", "path"} that `datasets` stores."""
    if hasattr(item, "convert"):
        return Image.from_pil(item)
    data, path = _stored(item)
    if data is not None:
        return Image.from_bytes(data, name=path or "image")
    return Image.from_data_url(path) if path.startswith("data:") else Image.from_path(folder / _local(path))


def read_audio(item: Any, folder: Path) -> Audio:
    """A path, a data URL, {"path"}, {"bytes"} or {"array", "sampling_rate"}."""
    if isinstance(item, Mapping) and item.get("array") is not None:
        rate = item.get("sampling_rate")
        if not isinstance(rate, int | float) or not 1 <= rate <= MAX_RATE:
            raise ValueError(f"a sound's `sampling_rate` is {rate!r:.40}; expected samples per second\nhint: give both")
        return Audio.from_samples(item["array"], rate=int(rate))
    data, path = _stored(item)
    if data is not None:
        return Audio.from_bytes(data, name=path or "sound.wav")
    return Audio.from_data_url(path) if path.startswith("data:") else Audio.from_path(folder / _local(path))


def read_video(item: Any, folder: Path) -> Video:
    """A path, a data URL, {"path"} or {"bytes"}."""
    data, path = _stored(item)
    if data is not None:
        return Video.from_bytes(data, name=path or "video.mp4")
    return Video.from_data_url(path) if path.startswith("data:") else Video.from_path(folder / _local(path))


def read_text(item: Any, folder: Path) -> TextFile:
    """The text itself."""
    if not isinstance(item, str):
        raise ValueError(f"a document is {item!r:.60}; expected its text\nhint: read the file into the row")
    return TextFile.from_text(item)


def read_array(item: Any, folder: Path) -> Array:
    """Nested lists of numbers, an array, or .npy: a path, a data URL, {"path"}, {"bytes"}."""
    if not isinstance(item, str | Path | Mapping):
        return Array.from_values(item)
    data, path = _stored(item)
    if data is not None:
        return Array.from_bytes(data, name=path or "array.npy")
    return Array.from_data_url(path) if path.startswith("data:") else Array.from_path(folder / _local(path))


def kind_of(item: str) -> Literal["vision", "audio", "text"]:
    """What ImageBind takes a string for: by its ending in lower case; anything else is a text by itself."""
    if item.endswith(".wav"):
        return "audio"
    return "vision" if item.endswith(_PICTURES) else "text"


def read_bound(item: Any, folder: Path) -> Image | File:
    """A picture, a sound or a text, by what its name or its data URL says."""
    name = item.get("path") or "" if isinstance(item, Mapping) else item
    kind = kind_of(name) if isinstance(name, str) else "text"
    if isinstance(item, str) and item.startswith(("data:image/", "data:audio/")):
        kind = "vision" if item.startswith("data:image/") else "audio"
    return {"vision": read_image, "audio": read_audio, "text": read_text}[kind](item, folder)


READERS: Mapping[str, Callable[[Any, Path], Image | File]] = {
    "image": read_image,
    "sound": read_audio,
    "video": read_video,
    "text": read_text,
    "array": read_array,
    "imagebind": read_bound,
}
"""How an item of a row becomes a payload, by the placeholder's kind."""


def _stored(item: Any) -> tuple[bytes | None, str]:
    """(bytes, path) of what a row names or holds."""
    if isinstance(item, Mapping):
        data, path = item.get("bytes"), item.get("path")
        if isinstance(data, bytes) or isinstance(path, str):
            return data if isinstance(data, bytes) else None, path or ""
    if isinstance(item, str | Path):
        return None, str(item)
    raise ValueError(f"an item is {item!r:.60}; expected a path or its bytes\nhint: fetch remote items first")


def _local(path: str) -> str:
    if "://" in path:
        raise ValueError(
            f"`{path:.80}` is an address; expected a path\nhint: download it first: nothing is fetched here"
        )
    return path
