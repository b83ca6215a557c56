"""Describe a picture with LaVIT, answer a question about it, and show which patches it kept as tokens.

python examples/lavit_understanding.py path/to/LaVIT picture.jpg "What is the weather like?" kept.png
"""

import sys
from pathlib import Path

import PIL.Image
import torch

from limner.compositions.lavit import read_lavit
from limner.compositions.lavit_model import model_of
from limner.document.document import Document, Media
from limner.document.media import Image
from limner.generate.engine import Engine
from limner.generate.request import Pictures, Request

folder, file, question, output = sys.argv[1:]
lavit = read_lavit(Path(folder))
picture = Image.from_path(file)
engine = Engine(model_of(lavit))
asked = [[picture], [picture, f"Question: {question} Answer:"]]
requests = [Request(Document.chat([("user", a)]), max_new_tokens=36, pictures=Pictures.NONE) for a in asked]
caption, answer = (reply.messages[-1].text for reply in engine.run(requests))
print(f"caption: {caption.split('.')[0]}\nanswer: {answer.splitlines()[0] if answer else ''}")

with torch.inference_mode():
    keep = lavit.reader.keep(lavit.encoder.preprocess(Media(picture))[None])[0]
edge = int(len(keep) ** 0.5)
size = (448, 448)
mask = PIL.Image.fromarray((255 * keep.view(edge, edge)).byte().numpy()).resize(size, PIL.Image.Resampling.NEAREST)
shown = picture.pil().resize(size)
PIL.Image.composite(shown, shown.convert("L").convert("RGB").point(lambda level: level // 3), mask).save(output)
print(f"{int(keep.sum())} of {len(keep)} patches kept: {output}")
