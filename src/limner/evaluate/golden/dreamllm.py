"""Recorded cases of the published DreamLLM at any size: `cases/cases.json` and the checkpoints beside it.

Sections run in the order of the data's way: text, pictures and parts, losses, generation, training, the sister model,
other forms of the checkpoint. A section that a directory lacks is left out.
"""

import json
from collections.abc import Iterator
from pathlib import Path

from limner.evaluate.golden.check import Check, exact
from limner.evaluate.golden.dreamllm_cases import Cases, num_patches
from limner.evaluate.golden.dreamllm_generation import image_to_text, text_to_image, timesteps
from limner.evaluate.golden.dreamllm_llava import llava
from limner.evaluate.golden.dreamllm_losses import forward, gradients, history_condition, training
from limner.evaluate.golden.dreamllm_parts import checkpoints, images, projectors, vision
from limner.evaluate.golden.dreamllm_text import batches, padding, samples, tokenization


def recognises(directory: Path) -> bool:
    """Whether the directory's cases are of this format."""
    file = directory / "cases" / "cases.json"
    if not file.is_file():
        return False
    found = json.loads(file.read_text(encoding="utf-8"))
    return isinstance(found, dict) and "num_dream_queries" in (found.get("model") or {})


def checks(directory: Path, *, only: str | None = None) -> Iterator[Check]:
    """Every check of a directory, in order. `only`: a glob over "section/case" or over sections."""
    cases = Cases(directory, only=only)
    yield from _model(cases)
    for section in (
        tokenization,
        padding,
        samples,
        batches,
        images,
        vision,
        projectors,
        forward,
        history_condition,
        gradients,
        timesteps,
        text_to_image,
        image_to_text,
        training,
        llava,
        checkpoints,
    ):
        yield from section(cases)


def _model(cases: Cases) -> Iterator[Check]:
    """Sizes and ids that the cases name, as the checkpoint's files have them."""
    if not cases.wants("model/sizes"):
        return
    recorded, checkpoint = cases.section("model"), cases.checkpoint
    model, settings = checkpoint.model, checkpoint.settings
    found = {
        "vocab_size": model.backbone.base_size,
        "num_dream_queries": settings.num_queries,
        "num_image_patches": num_patches(model),
        "tokenizer_legacy": settings.tokenizer_legacy,
        "special_tokens": {name: checkpoint.tokenizer().id_of(name) for name in recorded["special_tokens"]},
        "model_max_length": settings.model_max_length,
        "sd_resolution": settings.resolution,
        "loss_weight_lm": settings.loss_weight_lm,
        "loss_weight_vm": settings.loss_weight_vm,
    }
    for key, value in found.items():
        if key in recorded:
            yield exact(f"model/sizes/{key}", value, recorded[key])
