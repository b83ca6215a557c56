"""What happens while a document is continued. Events in order fold back into the Document."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from limner.document.document import Document, Media, Message, Part, Text


@dataclass(frozen=True)
class TextDelta:
    """More text of the part at `part`."""

    part: int
    text: str


@dataclass(frozen=True)
class MediaStarted:
    """The model began to make the part at `part`."""

    part: int
    modality: str


@dataclass(frozen=True)
class MediaProgress:
    """`step` of `num_steps` denoising steps are done."""

    part: int
    step: int
    num_steps: int


@dataclass(frozen=True)
class MediaFinished:
    """The finished part."""

    part: int
    media: Media


@dataclass(frozen=True)
class Done:
    """The reply is complete: `stop` (the model ended it), `length` (tokens or context used up)."""

    reason: str


Event = TextDelta | MediaStarted | MediaProgress | MediaFinished | Done


def fold(document: Document, events: Iterable[Event]) -> Document:
    """The document with what the events say added to its open end."""
    parts: list[Part] = []
    for event in events:
        match event:
            case TextDelta(part, text) if part == len(parts):
                parts.append(Text(text))
            case TextDelta(part, text):
                before = parts[part]
                assert isinstance(before, Text), "text goes on where it was begun"
                parts[part] = Text(before.text + text)
            case MediaFinished(_, media):
                parts.append(media)
            case _:
                pass
    return reply_to(document, parts)


def reply_to(document: Document, parts: Iterable[Part]) -> Document:
    """The document with `parts` at its end: into an open assistant message or page, else as a new assistant message."""
    new = tuple(parts)
    last = document.messages[-1] if document.messages else None
    if last is not None and last.role in ("assistant", "page"):
        return replace(
            document,
            messages=(*document.messages[:-1], replace(last, parts=last.parts + new)),
        )
    return document.followed_by(Message("assistant", new))
