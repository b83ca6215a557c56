"""Ask a model for an illustrated story and keep it as a web page.

python examples/continue_a_page.py story.html
"""

import sys
from pathlib import Path

from limner import zoo
from limner.document.document import Document
from limner.document.html import to_html
from limner.generate.engine import Engine
from limner.generate.request import Request
from limner.generate.sampling import Sampling
from limner.model.checkpoint import load_checkpoint

engine = Engine(load_checkpoint(zoo.locate("limner-tiny")))
prompt = Document.chat([("user", "Tell me a short illustrated story about a fox and a boat.")])
request = Request(prompt, sampling=Sampling(temperature=0.7, top_p=0.9), max_pictures=4, seed=1)
story = engine.run([request])[0]
Path(sys.argv[1]).write_text(to_html(story, title="A fox and a boat"), encoding="utf-8")
