"""Draw a text with LaVIT, in one of the sizes that its decoder was trained for.

python examples/lavit_text_to_image.py path/to/LaVIT "a red apple on a wooden table" apple.png 3:2
"""

import sys

from limner.compositions.lavit_model import lavit_model
from limner.compositions.lavit_pixels import ASPECT_RATIOS
from limner.document.document import Document
from limner.generate.engine import Engine
from limner.generate.request import Pictures, Request
from limner.generate.sampling import Sampling

folder, text, output, aspect_ratio = sys.argv[1:]
request = Request(
    Document.chat([("user", text)]),
    pictures=Pictures.NOW,
    max_pictures=1,
    max_new_tokens=1,
    code_sampling=Sampling(temperature=1.0, top_k=50),
    code_guidance_scale=4.0,  # of the codes; guidance_scale is that of the pixels
    guidance_scale=7.0,
    num_inference_steps=25,
    size=ASPECT_RATIOS[aspect_ratio],
    seed=0,
)
(reply,) = Engine(lavit_model(path=folder)).run([request])
for _, media in reply.media():
    media.content.pil().save(output)
