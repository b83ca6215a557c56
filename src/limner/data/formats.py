"""Formats: a row as it lies on disk -> Document. Pure functions; a row that does not fit: ValueError naming the key.

A row is a dictionary; `image(name)` gives the picture a row names, wherever it lies (a folder, the row's tar sample).
"""

from collections.abc import Callable, Mapping
from typing import Any

from limner.document.document import Direction, Document, Media, Part, Text
from limner.document.media import Image

FindImage = Callable[[str], Image]
Format = Callable[[Mapping[str, Any], FindImage], Document]

PLACEHOLDER = "<image>"
"""Where a picture stands in a conversation turn (LLaVA's convention)."""


def _get(row: Mapping[str, Any], key: str, kind: type) -> Any:
    value = row.get(key)
    if not isinstance(value, kind) or not value:
        raise ValueError(
            f"row key `{key}` is {value!r:.60}; expected a non-empty {kind.__name__}\n"
            "hint: check that the file has the format named in the recipe"
        )
    return value


def native(row: Mapping[str, Any], image: FindImage) -> Document:
    """Limner's own JSON (`Document.to_json`), pictures inside as data URLs."""
    return Document.from_json(row)


def caption(row: Mapping[str, Any], image: FindImage) -> Document:
    """{"image", "caption"} -> a page on which the picture is read and the caption is written."""
    picture = Media(image(_get(row, "image", str)), directions=(Direction.IN,))
    return Document.page([picture, _get(row, "caption", str).strip()])


def creation(row: Mapping[str, Any], image: FindImage) -> Document:
    """{"image", "caption"} -> a page on which the caption is given and the picture is made."""
    picture = Media(image(_get(row, "image", str)), directions=(Direction.OUT,))
    return Document.page([Text(_get(row, "caption", str).strip(), train=False), picture])


def conversation(row: Mapping[str, Any], image: FindImage) -> Document:
    """{"image"?, "conversations": [{"from": human|gpt, "value"}]} with "<image>" where the picture stands.

    Raises ValueError when the placeholders and the pictures do not match in number.
    """
    names = row.get("image", [])
    pictures = [image(name) for name in ([names] if isinstance(names, str) else names)]
    turns = []
    roles = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
    for number, turn in enumerate(_get(row, "conversations", list)):
        role = roles.get(turn.get("from"))
        if role is None:
            raise ValueError(
                f"conversations[{number}] is from `{turn.get('from')}`; expected human or gpt\nhint: rename the speaker"
            )
        parts: list[Part] = []
        for place, text in enumerate(str(turn.get("value", "")).split(PLACEHOLDER)):
            if place:
                if not pictures:
                    raise ValueError(
                        f"conversations[{number}] has a {PLACEHOLDER} without a picture\n"
                        "hint: `image` must name one picture per placeholder"
                    )
                parts.append(Media(pictures.pop(0)))
            if text.strip("\n"):
                parts.append(Text(text.strip("\n")))
        turns.append((role, parts))
    if pictures:
        raise ValueError(f"{len(pictures)} pictures have no {PLACEHOLDER}\nhint: put one into a turn each")
    return Document.chat(turns)


def interleaved(row: Mapping[str, Any], image: FindImage) -> Document:
    """{"text_list", "image_info": [{"image_name", "matched_text_index"}]} -> a page; each picture follows its text."""
    texts = _get(row, "text_list", list)
    after: dict[int, list[Media]] = {}
    for info in _get(row, "image_info", list):
        index = info.get("matched_text_index")
        if not isinstance(index, int) or not 0 <= index < len(texts):
            raise ValueError(f"matched_text_index is {index!r}; expected 0 to {len(texts) - 1}\nhint: repair the row")
        after.setdefault(index, []).append(Media(image(_get(info, "image_name", str))))
    parts: list[Part] = []
    for index, text in enumerate(texts):
        space = " " if parts and isinstance(parts[-1], Text) else ""
        parts += [Text(space + str(text).strip()), *after.get(index, [])]
    return Document.page(parts)
