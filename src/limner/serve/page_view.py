"""A conversation as mark-up: text escaped, pictures and sounds by address, what is being drawn with its progress.

Pictures are not written into the mark-up, which is sent anew while an answer comes: they lie on a `Shelf`, under names
that nobody can guess, and browsers keep them.
"""

import base64
import hashlib
import hmac
import secrets
import threading
from collections import OrderedDict
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from fastapi import Response

from limner.document.media import Image
from limner.serve.openai import Limits, checked

SPEAKERS = {"user": "You", "assistant": "Limner", "system": "Setting"}
FORMATS = (
    (b"RIFF", "wav"), (b"fLaC", "flac"), (b"OggS", "ogg"), (b"ID3", "mp3"),
    *((b"\xff" + bytes([version]), "mp3") for version in (0xFB, 0xFA, 0xF3, 0xF2)),
)  # fmt: skip
"""First bytes of a sound -> its format."""
TYPES = {"wav": "audio/wav", "flac": "audio/flac", "ogg": "audio/ogg", "mp3": "audio/mpeg"}
PICTURE_TYPES = (
    (b"\x89PNG", "image/png"), (b"\xff\xd8\xff", "image/jpeg"), (b"GIF8", "image/gif"), (b"RIFF", "image/webp"),
)  # fmt: skip
"""First bytes of a picture -> its type, where browsers show it as it is. RIFF: what is no sound is WebP."""
SHELF_BYTES = 256_000_000
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif")
WELCOME = '<p class="welcome">What is said and drawn will stand here.</p>'


class Shelf:
    """Pictures and sounds of conversations, by address. What was asked for longest ago is forgotten first."""

    def __init__(self, path: str, *, max_bytes: int = SHELF_BYTES) -> None:
        self.path = path
        self.max_bytes = max_bytes
        self._secret = secrets.token_bytes(32)
        self._items: OrderedDict[str, tuple[str, bytes]] = OrderedDict()
        self._size = 0
        self._lock = threading.Lock()

    def address(self, kind: str, encoded: str) -> str:
        """Where what is given in base64 can be fetched. The same thing has the same address."""
        name = hmac.new(self._secret, (kind + encoded).encode(), hashlib.sha256).hexdigest()
        with self._lock:
            if name not in self._items:
                self._items[name] = (kind, base64.b64decode(encoded))
                self._size += len(self._items[name][1])
            self._items.move_to_end(name)
            while self._size > self.max_bytes and len(self._items) > 1:
                _, (_, data) = self._items.popitem(last=False)
                self._size -= len(data)
        return f"{self.path}/{name}"

    def response(self, name: str) -> Response:
        """What lies there, or 404."""
        with self._lock:
            found = self._items.get(name)
        if found is None:
            return Response(status_code=404)
        kind, data = found
        headers = {"Cache-Control": "private, max-age=86400, immutable", "X-Content-Type-Options": "nosniff"}
        return Response(data, media_type=kind, headers=headers)


def part_of_file(path: str, *, limits: Limits) -> dict[str, Any]:
    """The part that shows a file: its own bytes where browsers show them, else PNG.

    Raises ValueError, in one line, for what is no picture and no sound, and for what would be too large to write anew.
    """
    data, name = Path(path).read_bytes(), Path(path).name
    kind = next((kind for beginning, kind in FORMATS if data.startswith(beginning) and data[8:12] != b"WEBP"), None)
    if kind is not None:
        return {"type": "input_audio", "input_audio": {"data": base64.b64encode(data).decode(), "format": kind}}
    kind = next((kind for beginning, kind in PICTURE_TYPES if data.startswith(beginning)), None)
    if kind is not None:
        url = f"data:{kind};base64,{base64.b64encode(data).decode()}"
    else:
        url = checked(lambda: Image.from_bytes(data, name=name), where=name, limits=limits).data_url()
    return {"type": "image_url", "image_url": {"url": url}}


def shown(messages: Sequence[dict[str, Any]], *, shelf: Shelf, note: str = "") -> str:
    """The conversation, to be read by eyes and by screen readers. `note` is what went wrong last."""
    turns, before = [], ""
    for message in messages:
        strips, before = _strips(message["parts"], shelf=shelf, before=before)
        waiting = "" if strips else '<p class="waiting" aria-label="thinking">&#8226;&#8226;&#8226;</p>'
        turns.append(
            f'<section class="turn {message["role"]}" aria-label="{SPEAKERS[message["role"]]}">'
            f'<p class="speaker" aria-hidden="true">{SPEAKERS[message["role"]]}</p>'
            f'<div class="said">{strips}{waiting}</div></section>'
        )
    warned = f'<p class="note" role="alert">{escaped(note)}</p>' if note else ""
    return f'<div role="log" aria-live="polite" aria-label="Conversation">{"".join(turns) or WELCOME}{warned}</div>'


def _strips(parts: Sequence[dict[str, Any]], *, shelf: Shelf, before: str) -> tuple[str, str]:
    """Words with the pictures that follow them, in strips, and the last words: they describe the next picture."""
    strips: list[list[str]] = []
    was_text = True
    for part in parts:
        is_text = part["type"] == "text"
        if not strips or (is_text and not was_text):
            strips.append([])
        strips[-1].append(_part(part, shelf=shelf, before=before))
        before, was_text = (part["text"] if is_text and part["text"].strip() else before), is_text
    return "".join(f'<div class="strip">{"".join(strip)}</div>' for strip in strips), before


def _part(part: dict[str, Any], *, shelf: Shelf, before: str) -> str:
    match part["type"]:
        case "text":
            paragraphs = [paragraph for paragraph in part["text"].split("\n\n") if paragraph.strip()]
            return "<div>" + "".join(f'<p dir="auto">{escaped(one.strip())}</p>' for one in paragraphs) + "</div>"
        case "image_url":
            kind, _, encoded = part["image_url"]["url"].removeprefix("data:").partition(";base64,")
            url = shelf.address(kind, encoded)
            words = " ".join(before.split())[:160]
            return (
                f'<figure><img src="{url}" alt="{escaped(f"Picture for: {words}" if words else "Picture")}"></figure>'
            )
        case "input_audio":
            sound = part["input_audio"]
            return f'<audio controls src="{shelf.address(TYPES[sound["format"]], sound["data"])}"></audio>'
    step, steps = part.get("step", 0), part.get("num_steps", 1)
    told = f"step {step} of {steps}" if "step" in part else "begins"
    return (
        f'<figure class="drawing"><div class="canvas"><span>drawing</span>'
        f'<progress value="{step}" max="{steps}" aria-label="drawing, {told}"></progress><small>{told}</small>'
        "</div></figure>"
    )


def escaped(text: str) -> str:
    """Text as it is: neither mark-up, nor a place that Gradio's templates would fill."""
    text = escape(text)
    for mark in "{}$`\\":
        text = text.replace(mark, f"&#{ord(mark)};")
    return text
