"""Formats of pages on which texts and pictures take turns, as written on the web or asked for by a user."""

from collections.abc import Sequence
from typing import Any

from limner.data.formats import rows
from limner.data.formats.rows import Read, Row
from limner.document.document import Document, Media, Part, Text


def interleaved(row: Row, read: Read) -> Document:
    """{"text_list", "image_info": [{"image_name", "matched_text_index"}]} -> a page; each picture follows its text."""
    return Document.page(_matched_parts(row, read))


def instruct_interleaved(row: Row, read: Read) -> Document:
    """As `interleaved` with an "instruction": a user asks for the page and an assistant writes it."""
    return Document.chat([("user", rows.text(row, "instruction")), ("assistant", _matched_parts(row, read))])


def alternating(row: Row, read: Read) -> Document:
    """{"texts", "images"}: two lists of one length, of which one has an entry at each place and the other None."""
    texts, images = rows.value(row, "texts", kind=list), rows.value(row, "images", kind=list)
    places = list(zip(texts, images, strict=False))
    if len(texts) != len(images) or any((said is None) == (shown is None) for said, shown in places):
        raise ValueError(
            f"row has {len(texts)} texts and {len(images)} images that do not take turns; expected either a text or an "
            "image at each place\nhint: repair the row"
        )
    parts: list[Part] = []
    for number, (said, shown) in enumerate(places):
        if shown is None:
            _add_text(parts, said, where=f"texts[{number}]")
        else:
            parts.append(Media(rows.picture(shown, key=f"images[{number}]", read=read)))
    return Document.page(parts)


def _matched_parts(row: Row, read: Read) -> Sequence[Part]:
    texts = rows.value(row, "text_list", kind=list)
    after: dict[int, list[Media]] = {}
    for number, info in enumerate(rows.value(row, "image_info", kind=list)):
        where = f"image_info[{number}]"
        name = rows.value(info, "image_name", kind=object, where=where)
        index = info.get("matched_text_index")
        if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < len(texts):
            raise ValueError(
                f"{where} key `matched_text_index` is {index!r:.60}; expected 0 to {len(texts) - 1}\n"
                "hint: repair the row"
            )
        after.setdefault(index, []).append(Media(rows.picture(name, key=f"{where}.image_name", read=read)))
    parts: list[Part] = []
    for index, said in enumerate(texts):
        _add_text(parts, said, where=f"text_list[{index}]")
        parts += after.get(index, [])
    return parts


def _add_text(parts: list[Part], said: Any, *, where: str) -> None:
    """Append a text, after a space where it follows another. A blank one says nothing and is left out."""
    if not isinstance(said, str):
        raise ValueError(f"{where} is {said!r:.60}; expected text\nhint: repair the row")
    if said.strip():
        space = " " if parts and isinstance(parts[-1], Text) else ""
        parts.append(Text(space + said.strip()))
