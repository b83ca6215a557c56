"""Formats of conversations: one picture list per row with placeholders, one list per kind of media, OpenAI messages."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from limner.data.formats import rows
from limner.data.formats.rows import Read, Row
from limner.document.audio import Audio
from limner.document.document import Document, Media, Part, Role, Text
from limner.document.media import File, Image
from limner.document.rows import read_audio, read_text
from limner.document.video import Video

SPEAKERS: Mapping[str, Role] = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
}
"""Who speaks in a conversation row (LLaVA's words and the usual ones)."""

PLACEHOLDERS = ("<image>", "<dream>")
"""Where a picture stands in a conversation turn: one that is there, or one that an assistant is to make."""

KEYED_MEDIA = {
    "<image>": ("images", "image"),
    "<speech>": ("speech_audios", "speech"),
    "<sound>": ("sounds", "sound"),
    "<video>": ("videos", "video"),
    "<imagebind>": ("imagebinds", "imagebind"),
    "<document>": ("documents", "document"),
}
"""Placeholder -> (the row's list of items, modality) of a `keyed_chat`."""

PICTURE_ENDINGS = (".png", ".jpg", ".jpeg", ".webp")


def conversation(row: Row, read: Read) -> Document:
    """{"image"?, "conversations": [{"from": human|gpt, "value"}]} with "<image>" where the picture stands.

    "<dream>" stands for a picture that the assistant makes. Raises ValueError when the placeholders and the pictures
    do not match in number.
    """
    given = row.get("image")
    items = list(given) if isinstance(given, list | tuple) else [] if given is None else [given]
    turns: list[tuple[Role, list[Part]]] = []
    for number, turn in enumerate(rows.value(row, "conversations", kind=list)):
        where = f"conversations[{number}]"
        speaker = turn.get("from") if isinstance(turn, Mapping) else turn
        role = SPEAKERS.get(str(speaker))
        if role is None:
            raise ValueError(f"{where} is from `{speaker!s:.40}`; expected human or gpt\nhint: rename the speaker")
        parts: list[Part] = []
        for piece in _pieces(rows.text(turn, "value", where=where), PLACEHOLDERS):
            if piece not in PLACEHOLDERS:
                parts += [Text(piece.strip("\n"))] if piece.strip("\n") else []
                continue
            if not items:
                raise ValueError(
                    f"{where} has a {piece} without a picture\nhint: `image` must name one picture per placeholder"
                )
            parts.append(Media(rows.picture(items.pop(0), key="image", read=read)))
        turns.append((role, parts))
    if items:
        raise ValueError(f"{len(items)} pictures have no placeholder\nhint: put one {PLACEHOLDERS[0]} into a turn each")
    return Document.chat(turns)


def keyed_chat(row: Row, read: Read) -> Document:
    """{"messages": [{"role", "content"}], "images"?, "sounds"?, ...}: a list of items for each kind of placeholder.

    `KEYED_MEDIA` lists the kinds. Items are taken in order across the messages, and all of them must be used. An item
    of "documents" is the text itself; one of "imagebinds" is a picture, a sound or, with any other ending, a text. A
    sound may also be {"array", "sampling_rate"}. Payloads are of their kind: Image, Audio, Video, TextFile.
    """
    items = {kind: _items(row, key) for kind, (key, _) in KEYED_MEDIA.items()}
    turns: list[tuple[Role, list[Part]]] = []
    for number, message in enumerate(rows.value(row, "messages", kind=list)):
        where = f"messages[{number}]"
        role = _role(message, where=where)
        parts: list[Part] = []
        for piece in _pieces(rows.text(message, "content", where=where), KEYED_MEDIA):
            if piece not in KEYED_MEDIA:
                parts += [Text(piece)] if piece.strip() else []
                continue
            key, modality = KEYED_MEDIA[piece]
            if not items[piece]:
                raise ValueError(f"{where} has a {piece} without an item\nhint: `{key}` must hold one per placeholder")
            parts.append(Media(_keyed_payload(items[piece].pop(0), key=key, read=read), modality=modality))
        turns.append((role, parts))
    for kind, left in items.items():
        if left:
            raise ValueError(
                f"{len(left)} items of `{KEYED_MEDIA[kind][0]}` have no {kind}\nhint: put one into a message each"
            )
    return Document.chat(turns)


def openai_chat(row: Row, read: Read) -> Document:
    """{"messages": [{"role", "content"}]}: text, or text and image_url parts; a url may also name a file of the row."""
    turns: list[tuple[Role, list[Part]]] = []
    for number, message in enumerate(rows.value(row, "messages", kind=list)):
        where = f"messages[{number}]"
        role = _role(message, where=where)
        if isinstance(message.get("content"), str):
            turns.append((role, [Text(rows.text(message, "content", where=where))]))
            continue
        content = rows.value(message, "content", kind=list, where=where)
        turns.append((role, [_openai_part(part, f"{where}.content[{i}]", read) for i, part in enumerate(content)]))
    return Document.chat(turns)


def _openai_part(part: Any, where: str, read: Read) -> Part:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind == "text":
        # White space between pictures matters, so a part is kept as it is.
        return Text(rows.value(part, "text", kind=str, where=where))
    if kind == "image_url":
        link = rows.value(part, "image_url", kind=Mapping, where=where)
        url = rows.text(link, "url", where=f"{where}.image_url")
        return Media(rows.picture(url, key=where, read=read))
    raise ValueError(f"{where} has the type `{kind!s:.40}`; expected `text` or `image_url`\nhint: leave it out")


def _pieces(content: str, placeholders: Any) -> list[str]:
    """Text and placeholders in order."""
    return re.split("(" + "|".join(map(re.escape, placeholders)) + ")", content)


def _role(message: Any, *, where: str) -> Role:
    given = message.get("role") if isinstance(message, Mapping) else message
    role = SPEAKERS.get(str(given))
    if role is None:
        raise ValueError(f"{where} has the role `{given!s:.40}`; expected user or assistant\nhint: rename the role")
    return role


def _items(row: Row, key: str) -> list[Any]:
    found = row.get(key)
    if found is None:
        return []
    if not isinstance(found, list | tuple):
        raise ValueError(f"row key `{key}` is {found!r:.60}; expected a list of items\nhint: put it into a list")
    return list(found)


def _keyed_payload(item: Any, *, key: str, read: Read) -> Image | File:
    """The payload of a row's item: the kind that the row's key says, for imagebind the one that the ending says."""
    name = item if isinstance(item, str) else item.get("path") if isinstance(item, Mapping) else ""
    name = str(name or "").lower()
    if key == "documents" or (key == "imagebinds" and not name.endswith((*PICTURE_ENDINGS, ".wav"))):
        return read_text(item, Path())
    if key == "images" or name.endswith(PICTURE_ENDINGS):
        return rows.picture(item, key=key, read=read)
    if key == "videos":
        return rows.file(item, key=key, read=read, kind=Video)
    if isinstance(item, Mapping) and item.get("array") is not None:
        return read_audio(item, Path())
    return rows.file(item, key=key, read=read, kind=Audio)
