"""Samples of a model under training: a contact sheet of fixed prompts, to be looked at while the
run goes on.

<stage>/samples/<step>.png prompt, picture, and what the model sees in that picture
"""

import logging
from pathlib import Path

import PIL.Image
import PIL.ImageDraw

from limner.document.document import Document, Media, Text
from limner.generate.engine import Engine
from limner.generate.request import Pictures, Request
from limner.model.multimodal import MultimodalLM

logger = logging.getLogger(__name__)

PROMPTS = (
    "Draw a fox.", "Draw a sailboat.", "Draw a mushroom.", "Draw a rocket.",
    "Draw a house.", "Draw a pizza.", "Draw a bear.", "Draw a violin.",
)  # fmt: skip
QUESTION = "What is this?"
CELL, LABEL, COLUMNS = 160, 16, 4
"""Pixels of a cell's side and of a line of text; cells in a row."""


def write_samples(model: MultimodalLM, directory: Path, step: int) -> None:
    """Draw the prompts, ask what each picture shows, write the sheet; always the same noise."""
    engine = Engine(model)
    drawn = engine.run(
        [
            Request(
                Document.chat([("user", prompt)]),
                max_new_tokens=8,
                max_pictures=1,
                pictures=Pictures.NOW,
                seed=index,
            )
            for index, prompt in enumerate(PROMPTS)
        ]
    )
    pictures = [_picture(document) for document in drawn]
    asked = [Document.chat([("user", [media, QUESTION])]) for media in pictures if media is not None]
    described = iter(engine.run([Request(d, max_new_tokens=24, pictures=Pictures.NONE) for d in asked]))
    captions = ["" if media is None else _text(next(described)) for media in pictures]
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{step:07d}.png"
    _sheet(pictures, captions=captions).save(path)
    logger.info("samples of step %d: %s", step, path)


def _picture(document: Document) -> Media | None:
    return next((p for p in document.messages[-1].parts if isinstance(p, Media)), None)


def _text(document: Document) -> str:
    return "".join(p.text for p in document.messages[-1].parts if isinstance(p, Text))


def _sheet(pictures: list[Media | None], *, captions: list[str]) -> PIL.Image.Image:
    height = CELL + 2 * LABEL
    rows = -(-len(pictures) // COLUMNS)
    sheet = PIL.Image.new("RGB", (COLUMNS * CELL, rows * height), "white")
    pen = PIL.ImageDraw.Draw(sheet)
    for index, (media, caption) in enumerate(zip(pictures, captions, strict=True)):
        left, top = index % COLUMNS * CELL, index // COLUMNS * height
        pen.text((left + 4, top + 2), PROMPTS[index][:24], fill="black")
        if media is not None and media.payload is not None:
            shown = media.content.pil().resize((CELL - 8, CELL - 8))
            sheet.paste(shown, (left + 4, top + LABEL + 4))
        # The built-in font knows Latin only; a model at its start may say anything.
        plain = " ".join(caption.encode("ascii", "replace").decode().split())
        pen.text((left + 4, top + LABEL + CELL), plain[:26], fill="black")
    return sheet
