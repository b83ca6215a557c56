"""Turn pictures into LaVIT's codes and back into pictures: what the codes keep, and what the decoder makes up.

python examples/lavit_detokenize.py path/to/LaVIT 1:1 picture.jpg another.png
"""

import sys
from pathlib import Path

from limner.compositions.lavit_model import lavit_model
from limner.compositions.lavit_pixels import ASPECT_RATIOS
from limner.document.document import Media
from limner.document.media import Image
from limner.modalities.base import Codes
from limner.modalities.guidance import guidance_for
from limner.modalities.noise import keyed_generator

folder, aspect_ratio, *files = sys.argv[1:]
model = lavit_model(path=folder)
codes = [model.render.spell(Media(Image.from_path(file))) for file in files]
pictures = model.speller("image").detokenizer.sample(
    Codes.of(codes),
    guidance=guidance_for(7.0),
    generators=[keyed_generator(0, file) for file in files],
    num_inference_steps=50,
    size=ASPECT_RATIOS[aspect_ratio],
)
for file, spelled, pixels in zip(files, codes, pictures, strict=True):
    output = f"{Path(file).stem}.rebuilt.png"
    levels = ((pixels.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0)
    Image.from_array(levels.numpy()).pil().save(output)
    print(f"{file}: {len(spelled)} codes, {output}")
