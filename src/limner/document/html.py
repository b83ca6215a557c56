"""Documents as one self-contained page, and back.

Owns the page's structure; its look is `STYLE`. A page needs no script, opens no connection (a
content security policy says so too) and follows the reader's light or dark setting. Pictures are
data URLs with their bytes as they were. All text of a document is escaped.

Data flow: Sections of Documents -> `to_html` -> text -> `read_sections` | `from_html` -> equal
Sections and Documents. What reading needs stands in `data-` attributes; the rest of the mark-up is
for the eye.
"""

import json
from base64 import b64encode
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from html import escape
from html.parser import HTMLParser
from typing import Any

from limner.document.document import Direction, Document, Media, Message, Part, Text
from limner.document.media import File, Image
from limner.document.style import STYLE

FORMAT = "1"
SPEAKERS = {"system": "Setting", "user": "You", "assistant": "Limner", "page": ""}
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"

LARGE = 256
"""Pixels of the longer side above which a picture is shown as wide as the column; smaller ones are
scaled up to a tile.
"""
COARSE = 32
"""Up to this many pixels a picture is scaled up without smoothing: its pixels are the point."""
INITIAL_TEXT = 60
"""Characters that a text needs to carry a drop cap."""


class Layout(StrEnum):
    """How the documents of a section stand."""

    PAGE = "page"
    """One below the other, as running text."""
    PLATES = "plates"
    """Side by side, as cards: many short documents with a picture each."""


@dataclass(frozen=True)
class Section:
    """Documents under a heading. `note` is a line in small type below it."""

    documents: tuple[Document, ...]
    title: str = ""
    note: str = ""
    layout: Layout = Layout.PAGE


def to_html(sections: Iterable[Section] | Document, *, title: str = "An illuminated page", footer: str = "") -> str:
    """The whole page as text, to be written as UTF-8. A Document stands for one section without a
    heading.

    Raises ValueError for a document whose `meta` is not JSON.
    """
    if isinstance(sections, Document):
        sections = [Section((sections,))]
    body = "\n".join(_section(section) for section in sections)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        '<meta name="generator" content="Limner">\n'
        f"<title>{_escape(title)}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n"
        f'<main data-limner="{FORMAT}">\n<header><h1 dir="auto">{_escape(title)}</h1></header>\n'
        f"{body}\n"
        + (f'<footer dir="auto">{_escape(footer)}</footer>\n' if footer else "")
        + "</main>\n</body>\n</html>\n"
    )


def from_html(text: str) -> Document:
    """The only document of a page that `to_html` wrote. Raises ValueError for another page, or one
    that holds several.
    """
    documents = [document for section in read_sections(text) for document in section.documents]
    if len(documents) != 1:
        raise ValueError(
            f"the page holds {len(documents)} documents; expected one\nhint: read_sections gives all of them"
        )
    return documents[0]


def read_sections(text: str) -> tuple[Section, ...]:
    """The sections of a page that `to_html` wrote. Raises ValueError for any other page."""
    reader = _Reader()
    reader.feed(text)
    reader.close()
    if reader.format != FORMAT:
        found = "no page of Limner" if reader.format is None else f"in the format {reader.format}"
        raise ValueError(
            f"the page is {found}; expected one that to_html wrote, format {FORMAT}\n"
            "hint: documents travel between programs as JSON"
        )
    return tuple(
        Section(tuple(part["documents"]), part["title"], part["note"], Layout(part["layout"]))
        for part in reader.sections
    )


def _escape(text: str) -> str:
    """Text for element content and quoted attributes. A carriage return would be read back as a
    line feed, and HTML has no null character.
    """
    return escape(text).replace("\r", "&#13;").replace("\0", "\ufffd")


def _section(section: Section) -> str:
    head = f'<h2 dir="auto" data-part="title">{_escape(section.title)}</h2>\n' if section.title else ""
    note = f'<p class="note" data-part="note">{_escape(section.note)}</p>\n' if section.note else ""
    documents = "\n".join(_document(document, plate=section.layout is Layout.PLATES) for document in section.documents)
    return (
        f'<section data-layout="{section.layout}">\n{head}{note}'
        f'<div class="documents">\n{documents}\n</div>\n</section>'
    )


def _document(document: Document, *, plate: bool) -> str:
    roles = [message.role for message in document.messages if message.role != "system"]
    is_talk = len(roles) > 2 or roles.count("assistant") > 1
    shape = "plate" if plate else "talk" if is_talk else "manuscript"
    try:
        meta = json.dumps(dict(document.meta), ensure_ascii=False) if document.meta else ""
    except TypeError as error:
        raise ValueError(
            f"the meta of a document is not JSON ({error})\nhint: keep to text, numbers, lists and dicts"
        ) from error
    before = ""  # what was said last: it describes a picture that has no description of its own
    lines = []
    for message in document.messages:
        lines.append(_message(message, shape=shape, before=before))
        before = message.text or before
    attribute = f' data-meta="{_escape(meta)}"' if meta else ""
    return f'<article class="{shape}"{attribute}>\n' + "\n".join(lines) + "\n</article>"


def _message(message: Message, *, shape: str, before: str) -> str:
    speaker = SPEAKERS[message.role]
    strips: list[list[Part]] = []
    for part in message.parts:
        # A picture belongs to the words before it, so words after a picture begin a new strip.
        begins = not strips or (isinstance(part, Text) and isinstance(strips[-1][-1], Media))
        if begins:
            strips.append([])
        strips[-1].append(part)
    wants_initial = shape == "manuscript" and message.role in ("assistant", "page")
    lines = []
    for index, strip in enumerate(strips):
        lines.append(_strip(strip, initial=wants_initial and index == 0, before=before))
        before = "".join(part.text for part in strip if isinstance(part, Text)) or before
    label = f'<p class="speaker">{speaker}</p>\n' if speaker else ""
    inner = "\n".join(lines)
    return (
        f'<div class="message {message.role}" data-role="{message.role}">\n{label}'
        f'<div class="said">\n{inner}\n</div>\n</div>'
    )


def _strip(parts: Sequence[Part], *, initial: bool, before: str) -> str:
    """Words and the pictures that follow them."""
    texts = [part for part in parts if isinstance(part, Text)]
    media = [part for part in parts if isinstance(part, Media)]
    described = "".join(part.text for part in texts) or before
    words = "".join(
        _text(part, initial=initial and index == 0 and len(part.text) >= INITIAL_TEXT)
        for index, part in enumerate(texts)
    )
    figures = "".join(_figure(part, described=described) for part in media)
    pictures = f'<div class="pictures">{figures}</div>' if figures else ""
    is_paired = bool(described.strip() and texts) and len(media) == 1 and not _is_large(media[0].payload)
    return f'<div class="strip{" pair" if is_paired else ""}">{words}{pictures}</div>'


def _text(part: Text, *, initial: bool) -> str:
    train = "" if part.train is None else f' data-train="{str(part.train).lower()}"'
    paragraphs = []
    for index, paragraph in enumerate(part.text.split("\n\n")):
        name = ' class="initial"' if initial and index == 0 else ""
        paragraphs.append(f'<p{name} dir="auto">{_escape(paragraph)}</p>')
    blank = "" if part.text.strip() else " blank"
    return f'<div class="text{blank}" data-part="text"{train}>{"".join(paragraphs)}</div>'


def _figure(media: Media, *, described: str) -> str:
    attributes = f' data-modality="{_escape(media.modality)}"'
    if media.train is not None:
        attributes += f' data-train="{str(media.train).lower()}"'
    if media.directions is not None:
        attributes += f' data-directions="{" ".join(media.directions)}"'
    if media.alt:
        attributes += f' data-alt="{_escape(media.alt)}"'
    caption = f'<figcaption dir="auto">{_escape(media.alt)}</figcaption>' if media.alt else ""
    image = media.payload
    if image is None or isinstance(image, File):
        shown = f'<div class="missing">{"not drawn yet" if image is None else _escape(image.name)}</div>'
        return f'<figure data-part="media"{attributes}>{shown}{caption}</figure>'
    height, width = image.size
    words = " ".join(described.split())
    alt = media.alt or (f"Picture for: {words[:160]}" if words else "Picture")
    size = "large" if _is_large(image) else "coarse" if max(image.size) <= COARSE else "small"
    return (
        f'<figure class="{size}" data-part="media" data-name="{_escape(image.name)}"{attributes}>'
        f'<span class="frame"><img src="{_data_url(image)}" alt="{_escape(alt)}" '
        f'width="{width}" height="{height}"></span>{caption}</figure>'
    )


def _is_large(image: Image | File | None) -> bool:
    return isinstance(image, Image) and max(image.size) > LARGE


def _data_url(image: Image) -> str:
    """A data URL with the bytes as they are where browsers know the format, else as PNG."""
    data = image.data
    known = (
        (b"\x89PNG", "png"), (b"\xff\xd8\xff", "jpeg"), (b"GIF8", "gif"),
        (b"RIFF" + data[4:8] + b"WEBP", "webp"),
    )  # fmt: skip
    kind = next((kind for start, kind in known if data.startswith(start)), None)
    if kind is None:
        return image.data_url()
    return f"data:image/{kind};base64," + b64encode(data).decode("ascii")


class _Reader(HTMLParser):
    """Collects what the data attributes say; other mark-up passes by."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.format: str | None = None
        self.sections: list[dict[str, Any]] = []
        self._collected: list[str] | None = None
        self._paragraphs: list[str] = []
        self._open: dict[str, Any] | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        if "data-limner" in values:
            self.format = values["data-limner"]
        if self.format != FORMAT:
            return
        if "data-layout" in values:
            layout = values["data-layout"]
            self.sections.append({"layout": layout, "title": "", "note": "", "documents": []})
        elif tag == "article":
            meta = json.loads(values.get("data-meta") or "{}")
            self.sections[-1]["documents"].append(Document((), meta))
        elif "data-role" in values:
            self._replace_last(Message(values["data-role"], ()), new=True)  # pyright: ignore
        elif values.get("data-part") == "media":
            self._open = values | {"src": ""}
        elif tag == "img" and self._open is not None:
            self._open["src"] = values["src"]
        elif values.get("data-part") == "text":
            self._open, self._paragraphs = values, []
        elif values.get("data-part") in ("title", "note") or (tag == "p" and self._open):
            self._collected = []

    def handle_data(self, data: str) -> None:
        if self._collected is not None:
            self._collected.append(data)

    def handle_endtag(self, tag: str) -> None:
        if tag in ("h2", "p") and self._collected is not None:
            text, self._collected = "".join(self._collected), None
            if self._open is not None:
                self._paragraphs.append(text)
            else:
                self.sections[-1]["title" if tag == "h2" else "note"] = text
        elif tag == "figure" and self._open is not None:
            self._add(_read_media(self._open))
        elif tag == "div" and self._open is not None and self._open["data-part"] == "text":
            self._add(Text("\n\n".join(self._paragraphs), _read_train(self._open)))

    def _add(self, part: Part) -> None:
        self._open = None
        message = self.sections[-1]["documents"][-1].messages[-1]
        self._replace_last(Message(message.role, (*message.parts, part)), new=False)

    def _replace_last(self, message: Message, *, new: bool) -> None:
        documents = self.sections[-1]["documents"]
        kept = documents[-1].messages if new else documents[-1].messages[:-1]
        documents[-1] = Document((*kept, message), documents[-1].meta)


def _read_train(values: dict[str, str]) -> bool | None:
    return {"true": True, "false": False}.get(values.get("data-train", ""))


def _read_media(values: dict[str, str]) -> Media:
    source, directions = values["src"], values.get("data-directions")
    name = values.get("data-name", "image")
    return Media(
        Image.from_data_url(source, name=name) if source else None,
        modality=values["data-modality"],
        train=_read_train(values),
        directions=None if directions is None else tuple(Direction(word) for word in directions.split()),
        alt=values.get("data-alt", ""),
    )
