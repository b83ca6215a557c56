"""Recorded cases of the published LaVIT at any size: `sizes.json`, `cases/cases.json` and the checkpoint beside them.

Cases run in the order of the file. Each group of it has one function, which computes what a case lists; comparisons and
tolerances are the case's own.
"""

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from limner.evaluate.golden import lavit_parts as parts
from limner.evaluate.golden import lavit_pictures as pictures
from limner.evaluate.golden import lavit_texts as texts
from limner.evaluate.golden.check import Check, exact
from limner.evaluate.golden.lavit_cases import Case, Cases, Found

SECTIONS: dict[str, Callable[[Case], Found]] = {
    "text-tokenizer": texts.text_tokenizer,
    "preprocess": parts.preprocess,
    "vision-encoder": parts.vision_encoder,
    "selector": parts.selector,
    "keep-mask": parts.keep,
    "merger": parts.merger,
    "quantizer": parts.quantizer,
    "tokenize": parts.tokenize,
    "understanding-features": parts.understanding_features,
    "understanding": texts.understanding,
    "text-to-image-ids": pictures.text_to_image_ids,
    "feature-decoders": parts.feature_decoders,
    "pixel-decoding": pictures.pixel_decoding,
    "multimodal-prompts": pictures.multimodal_prompts,
    "end-to-end": pictures.end_to_end,
    "reconstruction": pictures.reconstruction,
}


def recognises(directory: Path) -> bool:
    """Whether the directory's cases are of this format."""
    file = directory / "sizes.json"
    if not file.is_file() or not (directory / "cases" / "cases.json").is_file():
        return False
    found = json.loads(file.read_text(encoding="utf-8"))
    return isinstance(found, dict) and {"quantizer", "merger", "ids"} <= set(found)


def checks(directory: Path, *, only: str | None = None) -> Iterator[Check]:
    """Every check of a directory, in order. `only`: a glob over "section/case" or over sections."""
    cases = Cases(directory, only=only)
    if only is None:
        yield from _ids(cases)
    for case in cases.wanted():
        section = SECTIONS.get(case.name.split("/")[0])
        if section is None:
            yield Check(case.name, math.inf, 0.0, "a group that nothing computes")
            continue
        with torch.inference_mode():
            yield from case.compared(section(case))


def _ids(cases: Cases) -> Iterator[Check]:
    """Ids that the sizes name, as the checkpoint's files have them."""
    ids = cases.lavit.ids
    found = {
        "bos": ids.begin,
        "eos_and_pad": ids.end,
        "text_vocab": ids.text_size,
        "image_start": ids.image_start,
        "image_end": ids.image_end,
        "first_code": ids.first_code,
        "vocab": ids.size,
    }
    for name, value in found.items():
        if name in cases.sizes["ids"]:
            yield exact(f"ids/sizes/{name}", value, cases.sizes["ids"][name])
