"""Recorded training of multi_token: the same rows, losses, gradient norms and final weights."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from limner.backbone.lora import LoraSpec
from limner.document.document import Document
from limner.evaluate.golden.check import Check, close, close_relative, exact
from limner.evaluate.golden.multi_token_files import (
    Files,
    adapter_names,
    dataset_rows,
    documents_of,
    projector_names,
    recorded_batch,
    wanted,
    without_prefix,
)
from limner.evaluate.golden.multi_token_model import batch_checks
from limner.model.losses import text_loss
from limner.model.multimodal import MultimodalLM

LOSS, NORM = 5e-6, 2e-5
WEIGHTS = {False: 2e-5, True: 5e-4}
"""Final weights, by whether adapters were trained: AdamW divides tiny gradients by tiny roots there."""


def training_checks(files: Files, *, only: str | None) -> Iterator[Check]:
    """Every trace below training/."""
    for file in sorted((files.directory / "training").glob("*.json")):
        name = f"training/{file.stem}"
        if wanted(name, only):
            yield from _trace_checks(files, file.stem, name)


def _trace_checks(files: Files, stem: str, name: str) -> Iterator[Check]:
    trace, tensors = files.json(f"training/{stem}.json"), files.tensors(f"training/{stem}.safetensors")
    initial, final = without_prefix(tensors, head="init."), without_prefix(tensors, head="final.")
    model = files.toy_model(lora=_lora_spec(trace, initial)).train()
    own: dict[str, nn.Parameter] = {**projector_names(model), **adapter_names(model)}
    yield exact(f"{name}/names", sorted(own), sorted(initial))
    with torch.no_grad():
        for key, value in initial.items():
            own[key].copy_(value)
    trained = {key: parameter for key, parameter in own.items() if _is_trained(key, trace["trainable"])}
    model.requires_grad_(False)
    for parameter in trained.values():
        parameter.requires_grad_(True)
    documents = documents_of(files, dataset_rows(files, trace["dataset"]), model)
    optimizer = _optimizer(trained, trace["optimizer"])
    number = 0
    for index, step in enumerate(trace["steps"]):
        optimizer.zero_grad()
        for micro in step["micro"]:
            rows = [documents[row] for row in micro["rows"]]
            head = f"micro{number}."
            stored = {key.removeprefix(head): value for key, value in tensors.items() if key.startswith(head)}
            longest = trace.get("model_max_length")
            yield from batch_checks(files, model, rows, case=f"{name}/micro{number}", stored=stored, max_length=longest)
            loss = _loss(model, rows, mask=stored["attention_mask"])
            (loss / trace["gradient_accumulation_steps"]).backward()
            yield close(f"{name}/micro{number}/loss", loss, torch.tensor(micro["loss"]), tolerance=LOSS)
            number += 1
        norm = nn.utils.clip_grad_norm_(trained.values(), trace["optimizer"]["max_grad_norm"])
        yield close_relative(f"{name}/step{index}/grad_norm", norm, torch.tensor(step["grad_norm"]), tolerance=NORM)
        for group in optimizer.param_groups:
            group["lr"] = step["lr"]
        optimizer.step()
    limit = WEIGHTS[any("lora_" in key for key in trained)]
    for key, value in final.items():
        yield close(f"{name}/final/{key}", own[key], value, tolerance=limit)


def _is_trained(key: str, trainable: str) -> bool:
    return "lora_" not in key or "LoRA" in trainable


def _lora_spec(trace: Mapping[str, Any], initial: Mapping[str, Tensor]) -> LoraSpec | None:
    targets = {found[1] for key in initial if (found := re.search(r"(\w+)\.lora_[AB]\.weight$", key))}
    if not targets:
        return None
    return LoraSpec(
        rank=trace["lora"]["lora_r"], alpha=float(trace["lora"]["lora_alpha"]), targets=tuple(sorted(targets))
    )


def _optimizer(trained: Mapping[str, nn.Parameter], described: Mapping[str, Any]) -> torch.optim.Optimizer:
    biases = [parameter for key, parameter in trained.items() if key.endswith("bias")]
    others = [parameter for key, parameter in trained.items() if not key.endswith("bias")]
    groups = [
        {"params": others, "weight_decay": described["weight_decay"]},
        {"params": biases, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, betas=tuple(described["betas"]), eps=described["eps"])


def _loss(model: MultimodalLM, documents: list[Document], *, mask: Tensor) -> Tensor:
    batch = recorded_batch(model, documents, mask=mask)
    return text_loss(model.backbone, model.hidden_states(batch), batch).mean
