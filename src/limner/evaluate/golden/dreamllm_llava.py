"""The recorded text-output-only sister of DreamLLM: samples, losses, gradients and one continuation."""

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from limner.compositions.dreamllm_legacy import IMAGE, LossRules, legacy_batch, legacy_losses
from limner.compositions.dreamllm_rows import collate
from limner.document.document import Media
from limner.document.media import Image
from limner.evaluate.golden.check import Check, close, exact
from limner.evaluate.golden.dreamllm_cases import Case, Cases, Checkpoint, num_patches
from limner.evaluate.golden.dreamllm_generation import continued
from limner.evaluate.golden.dreamllm_losses import (
    LOGITS,
    LOSSES,
    before_targets,
    logits_at,
    losses_agree,
    norms_agree,
    trainable,
)
from limner.evaluate.golden.dreamllm_parts import FEATURES, PIXELS
from limner.evaluate.golden.dreamllm_text import compared, sample_of


class _Llava:
    """The section, its checkpoint and its pictures."""

    def __init__(self, cases: Cases) -> None:
        self.cases = cases
        self.section = cases.section("llava")
        self.tensors = cases.tensors("llava")
        parts = {"clip": cases.directory / self.section["clip_config"]}
        self.checkpoint = Checkpoint(cases.directory / self.section["checkpoint"], parts=parts)

    @cached_property
    def samples(self) -> Mapping[str, Case]:
        """Samples by name."""
        return {case["name"]: case for case in self.section["samples"]}

    def pixels(self, names: list[str]) -> Tensor:
        """Stacked pixels of pictures for this model's encoder."""
        stack = [self.tensors[f"clip.{name}"] for name in names]
        return torch.stack(stack) if stack else torch.zeros(0, 3, 1, 1)


def llava(cases: Cases) -> Iterator[Check]:
    """All of the section; nothing where the directory has none."""
    if not cases.section("llava") or not any(map(cases.wants, _names(cases.section("llava")))):
        return
    section = _Llava(cases)
    if cases.wants("llava/model"):
        yield from _model(section)
    for case in section.section["samples"]:
        name = f"llava/sample_{case['name']}"
        if cases.wants(name):
            yield from compared(name, sample_of(section.checkpoint, case), case["expected"])
    for case in section.section["forward"]:
        name = f"llava/forward_{case['name']}"
        if cases.wants(name):
            yield from _forward(section, name, case)
    if cases.wants("llava/generation"):
        case = section.section["generation"]
        read = section.pixels(case["clip_images"])
        yield from continued(section.checkpoint, "llava/generation", case, read=read, logits=None)


def _names(section: Mapping[str, Any]) -> list[str]:
    samples = [f"llava/sample_{case['name']}" for case in section["samples"]]
    return [
        "llava/model",
        *samples,
        *[f"llava/forward_{case['name']}" for case in section["forward"]],
        "llava/generation",
    ]


def _model(section: _Llava) -> Iterator[Check]:
    """Ids and sizes as recorded, pictures from their files."""
    checkpoint, recorded = section.checkpoint, section.section
    ids = checkpoint.settings.special_ids
    yield exact(
        "llava/model/special_tokens",
        {name: ids[name] for name in recorded["special_tokens"]},
        recorded["special_tokens"],
    )
    yield exact("llava/model/num_image_patches", num_patches(checkpoint.model), recorded["num_image_patches"])
    yield exact("llava/model/vocab_size", checkpoint.model.backbone.base_size, recorded["vocab_size"])
    files = {case["name"]: case["file"] for case in section.cases.section("images").get("list", ())}
    encoder = checkpoint.model.reader(IMAGE).encoder
    for name, expected in section.tensors.below("clip."):
        if name in files:
            found = encoder.preprocess(Media(Image.from_path(section.cases.directory / files[name])))
            yield close(f"llava/model/clip.{name}", found, expected, tolerance=PIXELS)


def _forward(section: _Llava, name: str, case: Case) -> Iterator[Check]:
    """Losses in both modes, and in training the norms of gradients."""
    checkpoint, tensors, key = section.checkpoint, section.tensors, case["name"]
    samples = [sample_of(checkpoint, section.samples[sample]) for sample in case["samples"]]
    rows = collate(samples, pad_id=checkpoint.settings.pad_id)
    yield exact(f"{name}/clip_images", rows.read, case["clip_images"])
    trains = case["mode"] == "train"
    model = checkpoint.fresh_model() if trains else checkpoint.model
    parameters = trainable(model, list(case.get("grad_norms", ())))
    read = section.pixels(case["clip_images"])
    batch = legacy_batch(model, rows.ids, mask=rows.mask, labels=rows.labels, read=read)
    found = legacy_losses(model, batch, draws=None, rules=LossRules(weight_lm=section.section["loss_weight_lm"]))
    yield from losses_agree(name, found, case, tolerance=LOSSES)
    # Tensors are recorded once for both modes, under the name of the batch.
    stem = key.removesuffix("_train").removesuffix("_eval")
    for tensor, value in (("input_ids", rows.ids), ("attention_mask", rows.mask), ("labels", rows.labels)):
        yield exact(f"{name}/{tensor}", value.flatten(), tensors[f"{stem}.{tensor}"].flatten())
    if f"{stem}.features" in tensors:
        rows_in = model.read(IMAGE, read).values.detach()
        expected = tensors[f"{stem}.features"]
        yield close(f"{name}/features", rows_in.view_as(expected), expected, tolerance=FEATURES)
    logits = logits_at(model, found.hidden, before_targets(batch.labels))
    yield close(f"{name}/logits_at_supervised", logits, tensors[f"{stem}.logits_at_supervised"], tolerance=LOGITS)
    if trains:
        found.total.backward()
        yield from norms_agree(name, parameters, case["grad_norms"])
