"""Document: the only currency at the edges.

Datasets, prompts, HTTP bodies, benchmark items and generated pages are all Documents: messages of text and media parts,
in any order, each part marked train / do not train. Owns their validation and their JSON and OpenAI forms.

    Document.chat([("user", ["What is this?", image]), ("assistant", ["A red apple."])])
    Document.page(["Once upon a time there was a fox.", image, "It was red."])
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Literal, get_args

from limner.document.array import Array
from limner.document.audio import Audio
from limner.document.media import File, Image
from limner.document.text_file import TextFile
from limner.document.video import Video

Role = Literal["system", "user", "assistant", "page"]
"""Who speaks. `page` is running text without role markup (a web page, a book, a null prompt)."""


class Direction(StrEnum):
    """`in`: the model reads the media. `out`: the model makes it."""

    IN = "in"
    OUT = "out"


@dataclass(frozen=True)
class Text:
    """A run of text. `train` None takes the role's default: assistant and page are trained, others are not."""

    text: str
    train: bool | None = None


@dataclass(frozen=True)
class Media:
    """One picture (or, with other modalities, one sound, video, text, array: a `File` of some kind).

    `directions` None takes the role's default: what a user shows is read (`in`); what an assistant or a page shows is
    made and then read back (`out`, `in`), so that what follows can see it. `payload` None stands for a picture that
    is still to be made: only an `out` direction can hold it.

    `directions` () is neither read nor made: such a picture is a control picture, see `control_picture`.
    """

    payload: Image | File | None
    modality: str = "image"
    train: bool | None = None
    directions: tuple[Direction, ...] | None = None
    alt: str = ""

    @property
    def content(self) -> Image:
        """The picture. Raises ValueError where it is still to be made, or is none."""
        if isinstance(self.payload, File):
            raise ValueError(
                f"`{self.payload.name}` of modality `{self.modality}` is no picture\n"
                "hint: the model needs an encoder for that modality"
            )
        if self.payload is None:
            raise ValueError(
                f"a part of modality `{self.modality}` has no payload\n"
                "hint: only what is still to be generated may be empty"
            )
        return self.payload


Part = Text | Media


@dataclass(frozen=True)
class Message:
    """Parts said by one role, in order."""

    role: Role
    parts: tuple[Part, ...]

    @property
    def text(self) -> str:
        """All text of the message, media left out."""
        return "".join(part.text for part in self.parts if isinstance(part, Text))

    def trained(self, part: Part) -> bool:
        """Whether `part` of this message is a training target."""
        return part.train if part.train is not None else self.role in ("assistant", "page")

    def directions(self, media: Media) -> tuple[Direction, ...]:
        """The directions in which `media` of this message is rendered."""
        if media.directions is not None:
            return media.directions
        if self.role in ("assistant", "page"):
            return (Direction.OUT, Direction.IN)
        return (Direction.IN,)


_MODALITIES: Mapping[type[File], str] = {Audio: "sound", Video: "video", TextFile: "document"}
"""The modality of a payload that stands by itself among the parts of a message."""


def _as_part(value: "Part | Image | File | str") -> Part:
    if isinstance(value, str):
        return Text(value)
    if isinstance(value, Image):
        return Media(value)
    if not isinstance(value, File):
        return value
    if type(value) not in _MODALITIES:
        raise ValueError(
            f"`{value.name}` does not say which modality reads it\n"
            f"hint: write Media({type(value).__name__}(...), modality=...)"
        )
    return Media(value, modality=_MODALITIES[type(value)])


@dataclass(frozen=True)
class Document:
    """Messages in order, and free `meta` (source, item key, licence) that never reaches the model."""

    messages: tuple[Message, ...]
    meta: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        roles = get_args(Role)
        for index, message in enumerate(self.messages):
            if message.role not in roles:
                raise ValueError(
                    f"message {index} has the role `{message.role}`; expected one of {', '.join(roles)}\n"
                    "hint: use `user` for what is asked and `assistant` for what is answered"
                )

    @staticmethod
    def page(parts: Iterable[Part | Image | File | str], *, meta: Mapping[str, Any] | None = None) -> "Document":
        """Running text and pictures, without roles."""
        return Document((Message("page", tuple(_as_part(part) for part in parts)),), meta or {})

    @staticmethod
    def chat(
        turns: Iterable[tuple[Role, Sequence[Part | Image | File | str] | str]],
        *,
        meta: Mapping[str, Any] | None = None,
    ) -> "Document":
        """A conversation: (role, parts) pairs; a plain string stands for one text part."""
        messages = tuple(
            Message(role, tuple(_as_part(part) for part in ([parts] if isinstance(parts, str) else parts)))
            for role, parts in turns
        )
        return Document(messages, meta or {})

    def media(self) -> Iterator[tuple[Message, Media]]:
        """Every media part with its message, in order."""
        for message in self.messages:
            for part in message.parts:
                if isinstance(part, Media):
                    yield message, part

    def followed_by(self, *messages: Message) -> "Document":
        """This document with more messages at its end."""
        return replace(self, messages=self.messages + messages)

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready dictionary; pictures become PNG data URLs. `from_json` is its inverse up to re-encoding."""
        return {
            "messages": [
                {"role": message.role, "parts": [_part_to_json(part) for part in message.parts]}
                for message in self.messages
            ],
            "meta": dict(self.meta),
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> "Document":
        """Read what `to_json` wrote. Raises ValueError that names the key."""
        messages = data.get("messages") if isinstance(data, Mapping) else None
        if not isinstance(messages, list):
            raise ValueError("a document has no list `messages`\nhint: see Document.to_json for the form")
        return Document(
            tuple(
                Message(
                    _require(message, "role", where=f"messages[{index}]"),
                    tuple(
                        _part_from_json(part, where=f"messages[{index}].parts[{number}]")
                        for number, part in enumerate(_require_list(message, "parts", where=f"messages[{index}]"))
                    ),
                )
                for index, message in enumerate(messages)
            ),
            data.get("meta", {}),
        )

    def to_openai(self) -> list[dict[str, Any]]:
        """The messages as OpenAI chat messages with text and image_url parts. Raises ValueError for `page`."""
        if any(message.role == "page" for message in self.messages):
            raise ValueError("a page has no OpenAI form\nhint: put it into a `user` or `assistant` message")
        return [
            {"role": message.role, "content": [_part_to_openai(part) for part in message.parts]}
            for message in self.messages
        ]

    @staticmethod
    def from_openai(messages: Sequence[Mapping[str, Any]]) -> "Document":
        """Read OpenAI chat messages: string content, or text and image_url parts with data URLs."""
        turns: list[Message] = []
        for index, message in enumerate(messages):
            where = f"messages[{index}]"
            content = _require(message, "content", where=where)
            text = isinstance(content, str)
            parts = [{"type": "text", "text": content}] if text else _require_list(message, "content", where=where)
            turns.append(
                Message(
                    _require(message, "role", where=where),
                    tuple(_part_from_openai(part, where=f"{where}.content[{i}]") for i, part in enumerate(parts)),
                )
            )
        return Document(tuple(turns))


def control_picture(document: Document, *, modality: str = "image") -> Image | None:
    """What pictures that answer a document shall follow in their lines: edges, depth, a pose. None where it shows none.

    It is the last part with `directions=()` of the last message that is not a reply.
    """
    asked = next((message for message in reversed(document.messages) if message.role != "assistant"), None)
    parts = [part for part in asked.parts if isinstance(part, Media)] if asked else []
    shown = [part for part in parts if part.directions == () and part.modality == modality]
    return shown[-1].content if shown else None


def null_prompt(media: Media) -> Document:
    """The unconditional branch: a page that holds nothing but one item to be made. What a model is trained on under
    condition dropout is this very document, and so is what guidance samples from."""
    target = replace(media, train=False, directions=(Direction.OUT,))
    return Document.page([target])


def _require(data: Any, key: str, *, where: str, kind: type = object) -> Any:
    if not isinstance(data, Mapping) or key not in data:
        raise ValueError(f"`{where}` has no `{key}`\nhint: every message and part needs it")
    if not isinstance(data[key], kind):
        raise ValueError(
            f"`{where}.{key}` is a {type(data[key]).__name__}; expected a {kind.__name__}\n"
            "hint: see Document.to_json and Document.to_openai for the forms"
        )
    return data[key]


def _require_list(data: Any, key: str, *, where: str) -> list[Any]:
    return _require(data, key, where=where, kind=list)


def _part_to_json(part: Part) -> dict[str, Any]:
    if isinstance(part, Text):
        return {"text": part.text} | ({} if part.train is None else {"train": part.train})
    result: dict[str, Any] = {"media": part.modality, "data": part.payload.data_url() if part.payload else None}
    if part.train is not None:
        result["train"] = part.train
    if part.directions is not None:
        result["directions"] = [str(direction) for direction in part.directions]
    if part.alt:
        result["alt"] = part.alt
    return result


def _part_from_json(data: Any, *, where: str) -> Part:
    if isinstance(data, Mapping) and "text" in data:
        return Text(_require(data, "text", where=where, kind=str), data.get("train"))
    modality = _require(data, "media", where=where, kind=str)
    url = None if data.get("data") is None else _require(data, "data", where=where, kind=str)
    directions = data.get("directions")
    known = [str(direction) for direction in Direction]
    if directions is not None and any(direction not in known for direction in directions):
        raise ValueError(
            f"`{where}.directions` is {directions}; expected some of {', '.join(known)}\nhint: leave it out"
        )
    payload = None
    if url is not None:
        payload = _payload_kind(url).from_data_url(url, name=where)
    return Media(
        payload,
        modality=modality,
        train=data.get("train"),
        directions=None if directions is None else tuple(Direction(direction) for direction in directions),
        alt=data.get("alt", ""),
    )


_KINDS: Mapping[str, type[Image | File]] = {
    "image/": Image,
    "audio/": Audio,
    "video/": Video,
    "text/": TextFile,
    "application/x-npy": Array,
}
"""Beginning of a data URL's type -> what it becomes; anything else stays a `File`."""


def _payload_kind(url: str) -> type[Image | File]:
    found = [kind for beginning, kind in _KINDS.items() if url.startswith("data:" + beginning)]
    return found[0] if found else File


def _part_to_openai(part: Part) -> dict[str, Any]:
    if isinstance(part, Text):
        return {"type": "text", "text": part.text}
    if part.payload is None:
        raise ValueError("a picture that was not made yet has no OpenAI form\nhint: generate the document first")
    if isinstance(part.payload, File):
        raise ValueError(f"`{part.payload.name}` has no OpenAI form here\nhint: send pictures and text")
    return {"type": "image_url", "image_url": {"url": part.payload.data_url()}}


def _part_from_openai(part: Any, *, where: str) -> Part:
    kind = _require(part, "type", where=where)
    if kind == "text":
        return Text(_require(part, "text", where=where, kind=str))
    if kind == "image_url":
        url = _require(_require(part, "image_url", where=where), "url", where=f"{where}.image_url", kind=str)
        return Media(Image.from_data_url(url, name=where))
    raise ValueError(
        f"`{where}` has the type `{kind}`; expected `text` or `image_url`\nhint: send pictures as data URLs"
    )
