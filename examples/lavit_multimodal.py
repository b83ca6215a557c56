"""Draw from pictures and text together with LaVIT: a prompt's pictures stand in it as their codes.

python examples/lavit_multimodal.py path/to/LaVIT together.png dog.jpg "It is running in the snow"
"""

import sys
from pathlib import Path

from limner.compositions.lavit_model import lavit_model
from limner.compositions.lavit_pixels import ASPECT_RATIOS
from limner.document.document import Direction, Document, Media
from limner.document.media import Image
from limner.generate.engine import Engine
from limner.generate.request import Pictures, Request
from limner.generate.sampling import Sampling

folder, output, *prompt = sys.argv[1:]
parts = [Media(Image.from_path(p), directions=(Direction.OUT,)) if Path(p).is_file() else p for p in prompt]
request = Request(
    Document.chat([("user", parts)]),
    pictures=Pictures.NOW,
    max_pictures=1,
    max_new_tokens=1,
    code_sampling=Sampling(temperature=1.0, top_k=50),
    code_guidance_scale=5.0,
    guidance_scale=7.0,
    num_inference_steps=25,
    size=ASPECT_RATIOS["1:1"],
)
(reply,) = Engine(lavit_model(path=folder)).run([request])
[media for _, media in reply.media()][-1].content.pil().save(output)
