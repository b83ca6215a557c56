"""Ask one question about many pictures, in one batch.

python examples/name_pictures.py picture.png another.webp
"""

import sys

from limner import zoo
from limner.document.document import Document
from limner.document.media import Image
from limner.generate.engine import Engine
from limner.generate.request import Pictures, Request
from limner.model.checkpoint import load_checkpoint

engine = Engine(load_checkpoint(zoo.locate("limner-tiny")))
requests = [
    Request(
        Document.chat([("user", [Image.from_path(path), "What is this?"])]),
        max_new_tokens=24,
        pictures=Pictures.NONE,
    )
    for path in sys.argv[1:]
]
for path, document in zip(sys.argv[1:], engine.run(requests), strict=True):
    print(f"{path}: {document.messages[-1].text}")
