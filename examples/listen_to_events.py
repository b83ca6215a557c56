"""Hear what happens while a model writes and draws: words as they come, pictures as they are made.

python examples/listen_to_events.py "Draw a mushroom."
"""

import sys

from limner import zoo
from limner.document.document import Document
from limner.generate.engine import Engine
from limner.generate.events import Event, MediaFinished, MediaProgress, TextDelta
from limner.generate.request import Request
from limner.model.checkpoint import load_checkpoint


def hear(index: int, event: Event) -> None:
    match event:
        case TextDelta(_, text):
            print(text, end="", flush=True)
        case MediaProgress(_, step, num_steps):
            print(f"\rdrawing {step}/{num_steps}", end="", flush=True)
        case MediaFinished(part, media):
            media.payload.pil().save(f"picture-{part}.png")
            print(f"\rpicture-{part}.png")


engine = Engine(load_checkpoint(zoo.locate("limner-tiny")))
engine.run([Request(Document.chat([("user", sys.argv[1])]))], on_event=hear)
