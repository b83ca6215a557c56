"""OpenAI's forms and ours: bodies become Requests, events become chunks and completions.

An answer is text and pictures in order. OpenAI's `content` can hold only text, so a completion says everything twice:
`content` is the text, and `parts` beside it (the clients keep fields they do not know) is the whole in its order:

    {"id": "part-0", "type": "text", "text": "Once upon a time"}
    {"id": "part-1", "type": "image_url", "image_url": {"url": "data:image/png;base64,..."}}

Streamed, each chunk's `delta` has `content` for text, and `part` for what happens to a part: `image_started`,
`image_progress` (step of num_steps), `image_url` (finished). Ids are those of the parts in order, so a client that
collects them has the document.
"""

import base64
import binascii
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from limner.document.audio import Audio
from limner.document.document import Document, Media, Message, Part, Role, Text
from limner.document.media import Image
from limner.generate.events import Done, Event, MediaFinished, MediaProgress, MediaStarted, TextDelta
from limner.generate.request import Pictures, Request
from limner.generate.sampling import Sampling
from limner.serve.schema import AudioPart, ChatBody, ChatMessage, ContentPart, ImagePart, TextPart

AUDIO_TYPES = {"wav": "audio/wav", "mp3": "audio/mpeg", "flac": "audio/flac", "ogg": "audio/ogg"}
ENCODE = json.JSONEncoder(ensure_ascii=False).encode


@dataclass(frozen=True)
class Limits:
    """What one request may bring and ask for. Raises no error itself; `to_request` does."""

    max_new_tokens: int = 1024
    max_pictures: int = 8
    max_media: int = 16
    max_media_bytes: int = 20_000_000
    max_pixels: int = 40_000_000
    max_steps: int = 200
    max_drawn_pixels: int = 2048 * 2048
    max_ratio: float = 100.0
    """Of a picture's longer side to its shorter: encoders scale by the shorter."""
    max_seconds: float = 600.0
    """Of one sound."""


class BadRequest(ValueError):
    """The client's fault; `param` names the field."""

    def __init__(self, message: str, *, param: str) -> None:
        super().__init__(message)
        self.param = param


def to_request(body: ChatBody, *, limits: Limits) -> Request:
    """What the engine is asked for. Raises BadRequest that names the field."""
    document = to_document(body.messages, limits=limits)
    wanted = body.max_completion_tokens or body.max_tokens or 256
    return Request(
        document,
        max_new_tokens=min(wanted, limits.max_new_tokens),
        max_pictures=limits.max_pictures,
        sampling=Sampling(temperature=body.temperature, top_p=body.top_p),
        pictures=Pictures(body.pictures),
        guidance_scale=body.image.guidance_scale,
        num_inference_steps=min(body.image.num_inference_steps, limits.max_steps),
        stop=stops_of(body.stop),
        seed=body.seed,
    )


def stops_of(stop: str | list[str] | None) -> tuple[str, ...]:
    """What ends a reply, as OpenAI's field gives it: one, several, or none."""
    return (stop,) if isinstance(stop, str) else tuple(stop or ())


def to_document(messages: Sequence[ChatMessage], *, limits: Limits) -> Document:
    """The conversation. `developer` speaks as the system."""
    turns = []
    count = 0
    for index, message in enumerate(messages):
        given: Sequence[ContentPart] | str = message.parts or message.content or []
        where = f"messages[{index}].content"
        parts = (
            (Text(given),)
            if isinstance(given, str)
            else tuple(_part(part, where=f"{where}[{number}]", limits=limits) for number, part in enumerate(given))
        )
        count += sum(isinstance(part, Media) for part in parts)
        if count > limits.max_media:
            raise BadRequest(f"more than {limits.max_media} pictures or sounds", param=where)
        role: Role = "system" if message.role == "developer" else message.role
        turns.append(Message(role, parts))
    return Document(tuple(turns))


def _part(part: ContentPart, *, where: str, limits: Limits) -> Part:
    if isinstance(part, TextPart):
        return Text(part.text)
    if isinstance(part, ImagePart):
        return Media(image_of(part.image_url.url, where=where, limits=limits))
    return Media(_audio(part, where=where, limits=limits), modality="sound")


def image_of(url: str, *, where: str, limits: Limits) -> Image:
    """The picture of a data URL. Raises BadRequest."""
    if not url.startswith("data:"):
        raise BadRequest("pictures are taken as data URLs; this server fetches nothing", param=where)
    if len(url) * 3 // 4 > limits.max_media_bytes:
        raise BadRequest(f"the picture has more than {limits.max_media_bytes} bytes", param=where)
    return checked(lambda: Image.from_data_url(url, name=where), where=where, limits=limits)


def checked(read: Callable[[], Image], *, where: str, limits: Limits) -> Image:
    """A picture that can be decoded, its size checked before a pixel is. Raises BadRequest."""
    try:
        image = read()
        height, width = image.size
        check_pixels(width, height, limits=limits)
        image.pil()
    except ValueError as error:
        raise BadRequest(str(error).partition("\n")[0], param=where) from error
    return image


def check_pixels(width: int, height: int, *, limits: Limits) -> None:
    """Raises ValueError for a picture of too many pixels, or of a shape that scaling would make too many of."""
    if width * height > limits.max_pixels:
        raise ValueError(f"the picture has {width}x{height} pixels; most are {limits.max_pixels}")
    if max(width, height) > limits.max_ratio * min(width, height):
        raise ValueError(f"{width}x{height} pixels; the most is {limits.max_ratio:.0f} times as long as wide")


def _audio(part: AudioPart, *, where: str, limits: Limits) -> Audio:
    given = part.input_audio
    if len(given.data) * 3 // 4 > limits.max_media_bytes:
        raise BadRequest(f"the sound has more than {limits.max_media_bytes} bytes", param=where)
    try:
        base64.b64decode(given.data, validate=True)
        sound = Audio.from_data_url(f"data:{AUDIO_TYPES[given.format]};base64,{given.data}", name=where)
        if isinstance(sound, Audio) and not 0.0 < sound.seconds <= limits.max_seconds:
            raise ValueError(f"{sound.seconds:.0f} seconds; expected more than 0 and at most {limits.max_seconds:.0f}")
    except (ValueError, binascii.Error) as error:
        raise BadRequest(f"the sound cannot be read: {str(error).partition(chr(10))[0]}", param=where) from error
    if not isinstance(sound, Audio):
        raise BadRequest("the sound cannot be read", param=where)
    return sound


@dataclass
class Answer:
    """Events of one reply on their way to the client: chunks as they come, or the completion at the end."""

    id: str
    model: str
    num_prompt_tokens: int = 0
    created: int = field(default_factory=lambda: int(time.time()))
    parts: list[dict[str, Any]] = field(default_factory=list)
    num_tokens: int = 0
    num_pictures: int = 0
    finish_reason: str | None = None

    def take(self, event: Event) -> list[dict[str, Any]]:
        """Deltas of an event, which is also added to the answer."""
        match event:
            case TextDelta(part, text):
                self._text_part(part)["text"] += text
                return [{"content": text, "part": {"id": _part_id(part), "type": "text", "text": text}}]
            case MediaStarted(part, modality):
                return [{"part": {"id": _part_id(part), "type": f"{modality}_started"}}]
            case MediaProgress(part, step, num_steps):
                done = {"id": _part_id(part), "type": "progress", "step": step + 1, "num_steps": num_steps}
                return [{"part": done}]
            case MediaFinished(part, media):
                self.num_pictures += 1
                finished = {"id": _part_id(part), "type": "image_url", "image_url": {"url": media.content.data_url()}}
                self.parts.append(finished)
                return [{"part": finished}]
            case Done(reason):
                self.finish_reason = reason
                return []

    def chunk(self, delta: dict[str, Any], *, finish_reason: str | None = None) -> dict[str, Any]:
        """One chunk of a stream."""
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason, "logprobs": None}
        return self._head("chat.completion.chunk") | {"choices": [choice]}

    def last_chunks(self, *, include_usage: bool) -> list[dict[str, Any]]:
        """What closes a stream."""
        chunks = [self.chunk({}, finish_reason=self.finish_reason or "stop")]
        if include_usage:
            chunks.append(self._head("chat.completion.chunk") | {"choices": [], "usage": self.usage})
        return chunks

    def completion(self) -> dict[str, Any]:
        """The whole answer at once."""
        message = {"role": "assistant", "content": self.text, "parts": self.parts, "refusal": None}
        choice = {"index": 0, "message": message, "finish_reason": self.finish_reason or "stop", "logprobs": None}
        return self._head("chat.completion") | {"choices": [choice], "usage": self.usage}

    @property
    def text(self) -> str:
        """All text of the answer."""
        return "".join(part["text"] for part in self.parts if part["type"] == "text")

    @property
    def usage(self) -> dict[str, int]:
        """Tokens read and written; pictures are counted besides."""
        total = self.num_prompt_tokens + self.num_tokens
        return {
            "prompt_tokens": self.num_prompt_tokens,
            "completion_tokens": self.num_tokens,
            "total_tokens": total,
            "images": self.num_pictures,
        }

    def _text_part(self, part: int) -> dict[str, Any]:
        if part == len(self.parts):
            self.parts.append({"id": _part_id(part), "type": "text", "text": ""})
        return self.parts[part]

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}


def error_body(message: str, *, kind: str, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    """An error as OpenAI's clients read it. What a client sent and UTF-8 cannot hold is written out."""
    written = [text and text.encode(errors="backslashreplace").decode() for text in (message, param)]
    return {"error": {"message": written[0], "type": kind, "param": written[1], "code": code}}


def sse(data: dict[str, Any]) -> str:
    """One server-sent event."""
    return f"data: {ENCODE(data)}\n\n"


def _part_id(part: int) -> str:
    return f"part-{part}"
