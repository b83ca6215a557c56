"""Recorded losses, gradients and training steps of DreamLLM, under the randomness that was drawn then."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from limner.compositions.dreamllm_checkpoint import parameters_by_original_name
from limner.compositions.dreamllm_legacy import (
    Creation,
    Draws,
    LegacyLosses,
    LossRules,
    latent_decoder,
    legacy_batch,
    legacy_losses,
    prompt_states,
)
from limner.compositions.dreamllm_rows import LegacyBatch
from limner.evaluate.golden.check import Check, close, close_relative
from limner.evaluate.golden.dreamllm_cases import Case, Cases, Checkpoint, Tensors
from limner.evaluate.golden.dreamllm_text import batch_of
from limner.model.multimodal import MultimodalLM
from limner.tokens.batch import IGNORED, Batch

LOGITS, LOSSES, GRADIENTS, LATENTS = 5e-5, 1e-5, 1e-4, 2e-4
"""Tolerances: logits and conditions (absolute); losses and gradients (relative); latents (absolute)."""
TRAINED_LOSSES = 1e-4
FROZEN_LLM_WEIGHTS, TRAINED_LLM_WEIGHTS, MEAN_OF_TRAINED = 1e-5, 2e-4, 1e-6
"""Tolerances of weights after training: without the language model; with it, the largest and the mean difference."""


def forward(cases: Cases) -> Iterator[Check]:
    """Losses, logits and what lies between, under every override."""
    for name, case in cases.listed("forward"):
        model, tensors, key = cases.checkpoint.model, cases.tensors("forward"), case["name"]
        batch = _forward_batch(cases, case)
        draws = draws_of(tensors, f"{key}.draw.") if case["mode"] == "train" else None
        rules = rules_of(cases.checkpoint, case["overrides"])
        with torch.no_grad(), unet_calls(model) as calls:
            found = legacy_losses(model, batch, draws=draws, rules=rules)
        yield from losses_agree(name, found, case, tolerance=LOSSES)
        logits_name = case.get("logits_equal_to", f"{key}.logits")
        if logits_name in tensors:
            logits = logits_at(model, found.hidden, batch.documents > 0)
            yield close(f"{name}/logits", logits, tensors[logits_name], tolerance=LOGITS)
        if f"{key}.logits_at_supervised" in tensors:
            logits = logits_at(model, found.hidden, before_targets(batch.labels))
            yield close(
                f"{name}/logits_at_supervised", logits, tensors[f"{key}.logits_at_supervised"], tolerance=LOGITS
            )
        if found.creation is not None:
            assert draws is not None, "pictures are made of what was drawn"
            yield from _creation(name, tensors, key, found.creation)
            yield from _diffusion(name, tensors, key, found.creation, calls=calls, draws=draws)


def _forward_batch(cases: Cases, case: Case) -> Batch:
    """The batch of a case, made of its samples, or of the tensors that it brings itself."""
    model, tensors, key = cases.checkpoint.model, cases.tensors("forward"), case["name"]
    named = {entry["name"]: entry for entry in cases.section("batches")["list"]}
    if f"{key}.input_ids" not in tensors:
        return tensors_of(cases, model, batch_of(cases, named[case["batch"]]["samples"]))
    # Its rows are those of a batch, moved; so are its pictures.
    source = named[case["batch"].split()[0]]
    return legacy_batch(
        model,
        tensors[f"{key}.input_ids"],
        mask=tensors[f"{key}.attention_mask"],
        labels=tensors[f"{key}.labels"],
        read=cases.pixels(source["clip_images"], view="clip"),
        made=cases.pixels(source["sd_images"], view="sd"),
    )


def _creation(name: str, tensors: Tensors, key: str, creation: Creation) -> Iterator[Check]:
    """What the condition of made pictures passes through."""
    yield close(f"{name}/cond", creation.condition, tensors[f"{key}.cond"], tolerance=LOGITS)
    yield close(f"{name}/cond_projected", creation.projected, tensors[f"{key}.cond_projected"], tolerance=LOGITS)
    if f"{key}.uncond" in tensors:
        assert creation.unconditional is not None, "a case with an unconditional branch has a drop probability"
        yield close(f"{name}/uncond", creation.unconditional, tensors[f"{key}.uncond"], tolerance=LOGITS)


def _diffusion(
    name: str,
    tensors: Tensors,
    key: str,
    creation: Creation,
    *,
    calls: Sequence[tuple[Tensor, Tensor]],
    draws: Draws,
) -> Iterator[Check]:
    """Latents, what the UNet was given and gave, and what that is compared with."""
    noise = draws.noise
    if draws.offset_noise is not None:
        noise = noise + creation.decoder.denoising.noise_offset * draws.offset_noise
    noisy, predicted = zip(*calls, strict=True)
    found = {
        "latents": creation.latents,
        "noisy_latents": torch.cat(noisy),
        "model_pred": torch.cat(predicted),
        "target": creation.decoder.target(creation.latents, noise=noise, timesteps=draws.timesteps),
    }
    for part, value in found.items():
        yield close(f"{name}/{part}", value, tensors[f"{key}.{part}"], tolerance=LATENTS)


@contextmanager
def unet_calls(model: MultimodalLM) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """What the UNet is given and what it gives, call by call."""
    calls: list[tuple[Tensor, Tensor]] = []

    def keep(unet: nn.Module, given: tuple[Tensor, ...], found: Any) -> None:
        calls.append((given[0], found[0]))

    handle = latent_decoder(model).unet.register_forward_hook(keep)
    try:
        yield calls
    finally:
        handle.remove()


def history_condition(cases: Cases) -> Iterator[Check]:
    """Hidden states at the queries behind a prompt that holds a picture."""
    section = cases.section("history_condition")
    if not section or not cases.wants("history_condition/one"):
        return
    tensors = cases.tensors("history_condition")
    ids = tensors["history_condition.input_ids"]
    read = cases.pixels(section["clip_images"], view="clip")
    with torch.no_grad():
        found = prompt_states(cases.checkpoint.model, ids, mask=torch.ones_like(ids), read=read)[0]
    yield close("history_condition/one/cond", found, tensors["history_condition.cond"], tolerance=LOGITS)


def gradients(cases: Cases) -> Iterator[Check]:
    """Gradients of the total loss."""
    named = {entry["name"]: entry for entry in cases.section("batches").get("list", ())}
    for name, case in cases.listed("gradients"):
        tensors, key = cases.tensors("gradients"), case["name"]
        model = cases.checkpoint.fresh_model()
        parameters = trainable(model, list(case["grad_norms"]))
        batch = tensors_of(cases, model, batch_of(cases, named[case["batch"]]["samples"]))
        rules = rules_of(cases.checkpoint, case["overrides"])
        found = legacy_losses(model, batch, draws=draws_of(tensors, f"{key}.draw."), rules=rules)
        yield from losses_agree(name, found, case, tolerance=LOSSES)
        found.total.backward()
        yield from norms_agree(name, parameters, case["grad_norms"])
        total = norm_of(parameters)
        yield close_relative(
            f"{name}/total_grad_norm", total, torch.tensor(case["total_grad_norm"]), tolerance=GRADIENTS
        )
        for tensor, expected in tensors.below(f"{key}.grad."):
            gradient = gradient_of(parameters[tensor]).view_as(expected)
            yield close_relative(f"{name}/grad.{tensor}", gradient, expected, tolerance=GRADIENTS)
        for tensor, expected in tensors.below(f"{key}.grad_rows."):
            gradient = gradient_of(parameters[tensor])[case["embedding_rows"]]
            yield close_relative(f"{name}/grad_rows.{tensor}", gradient, expected, tolerance=GRADIENTS)


def norms_agree(name: str, parameters: Mapping[str, nn.Parameter], expected: Mapping[str, float]) -> Iterator[Check]:
    """Norms of gradients; where the original has a zero one, it is zero and not missing."""
    for tensor, norm in expected.items():
        missing = parameters[tensor].grad is None
        found = torch.tensor(float("nan")) if missing else gradient_of(parameters[tensor]).norm()
        yield close_relative(f"{name}/norm.{tensor}", found, torch.tensor(norm), tolerance=GRADIENTS)


def training(cases: Cases) -> Iterator[Check]:
    """Optimiser steps from the checkpoint on: losses and gradient norms of each, and the weights at the end."""
    for case in cases.sections.get("training", {}).get("list", ()):
        name = f"training/{case['name']}"
        if cases.wants(name):
            yield from _trained(cases, name, case)


def _trained(cases: Cases, name: str, case: Case) -> Iterator[Check]:
    tensors, key, settings = cases.tensors("training"), case["name"], case["optimizer"]
    model = cases.checkpoint.fresh_model()
    parameters = trainable(model, case["trainable"])
    before = {tensor: parameter.detach().clone() for tensor, parameter in parameters.items()}
    optimizer = optimizer_of(parameters, settings)
    weights = {part: case[part] for part in ("loss_weight_lm", "loss_weight_vm")}
    rules = rules_of(cases.checkpoint, weights)
    for number, step in enumerate(case["steps"]):
        at = f"{name}/step{number}"
        batch = tensors_of(cases, model, batch_of(cases, step["samples"]))
        found = legacy_losses(model, batch, draws=draws_of(tensors, f"{key}.step{number}.draw."), rules=rules)
        yield from losses_agree(at, found, step, tolerance=TRAINED_LOSSES)
        optimizer.zero_grad()
        found.total.backward()
        norm = nn.utils.clip_grad_norm_(list(parameters.values()), settings["max_grad_norm"])
        expected = torch.tensor(step["grad_norm_before_clipping"])
        yield close_relative(f"{at}.grad_norm", norm, expected, tolerance=TRAINED_LOSSES)
        for group in optimizer.param_groups:
            group["lr"] = step["learning_rate"]
        optimizer.step()
    yield from _weights_agree(name, case, tensors, before=before, after=parameters)


def _weights_agree(
    name: str, case: Case, tensors: Tensors, *, before: Mapping[str, Tensor], after: Mapping[str, Tensor]
) -> Iterator[Check]:
    trains_llm = any(tensor.startswith("model.layers.") for tensor in case["trainable"])
    tolerance = TRAINED_LLM_WEIGHTS if trains_llm else FROZEN_LLM_WEIGHTS
    for tensor, expected in tensors.below(f"{case['name']}.final."):
        found = after[tensor].detach().view_as(expected)
        yield close(f"{name}/final.{tensor}", found, expected, tolerance=tolerance)
        mean = (found - expected).abs().mean()
        yield close(f"{name}/final_mean.{tensor}", mean, torch.zeros(()), tolerance=min(tolerance, MEAN_OF_TRAINED))
    for tensor, norm in case["change_norm"].items():
        change = (after[tensor].detach() - before[tensor]).norm()
        yield close_relative(f"{name}/change.{tensor}", change, torch.tensor(norm), tolerance=1e-3)


def optimizer_of(parameters: Mapping[str, nn.Parameter], settings: Case) -> torch.optim.Optimizer:
    """The recorded optimiser. Raises ValueError for another than AdamW."""
    if settings["type"] != "AdamW":
        raise ValueError(f"the cases train with {settings['type']}\nhint: only AdamW is known here")
    return torch.optim.AdamW(
        list(parameters.values()),
        lr=0.0,
        betas=tuple(settings["betas"]),
        eps=settings["eps"],
        weight_decay=settings["weight_decay"],
    )


def trainable(model: MultimodalLM, names: Sequence[str]) -> dict[str, nn.Parameter]:
    """Let only these parameters, named as in the original, be trained. Raises ValueError for one that is not there."""
    known = parameters_by_original_name(model)
    if absent := [name for name in names if name not in known]:
        raise ValueError(f"the model has no parameter `{absent[0]}`\nhint: names are those of the original's files")
    model.requires_grad_(False)
    for name in names:
        known[name].requires_grad_(True)
    return {name: known[name] for name in names}


def gradient_of(parameter: nn.Parameter) -> Tensor:
    """A gradient, NaN where there is none: nothing equals it."""
    return torch.full_like(parameter, float("nan")) if parameter.grad is None else parameter.grad


def norm_of(parameters: Mapping[str, nn.Parameter]) -> Tensor:
    """The norm of all gradients."""
    return torch.stack([gradient_of(parameter).norm() for parameter in parameters.values()]).norm()


def losses_agree(name: str, found: LegacyLosses, case: Case, *, tolerance: float) -> Iterator[Check]:
    """Unweighted losses and the total."""
    for key, value in (("lm_loss", found.lm), ("vm_loss", found.vm), ("loss", found.total)):
        if key in case:
            yield close_relative(f"{name}/{key}", value, torch.tensor(case[key]), tolerance=tolerance)


def rules_of(checkpoint: Checkpoint, overrides: Mapping[str, Any]) -> LossRules:
    """The checkpoint's loss settings with what a case changes."""
    settings, names = checkpoint.settings, {"loss_weight_lm": "weight_lm", "loss_weight_vm": "weight_vm"}
    names |= {"loss_scale_schedule": "scale_schedule"}
    given: dict[str, Any] = {
        "weight_lm": settings.loss_weight_lm,
        "weight_vm": settings.loss_weight_vm,
        "scale_schedule": settings.loss_scale_schedule,
        "drop_prob": settings.drop_prob,
        "noise_offset": settings.noise_offset,
        "input_perturbation": settings.input_perturbation,
        "snr_gamma": settings.snr_gamma,
    }
    return LossRules(**given | {names.get(key, key): value for key, value in overrides.items()})


def draws_of(tensors: Tensors, prefix: str) -> Draws | None:
    """What was drawn for a case; None where it made no picture."""
    found: dict[str, Any] = dict(tensors.below(prefix))
    return Draws(**found) if found else None


def tensors_of(cases: Cases, model: MultimodalLM, batch: LegacyBatch) -> Batch:
    """A collated batch with the recorded pixels of its pictures."""
    return legacy_batch(
        model,
        batch.ids,
        mask=batch.mask,
        labels=batch.labels,
        read=cases.pixels(batch.read, view="clip"),
        made=cases.pixels(batch.made, view="sd"),
    )


def before_targets(labels: Tensor) -> Tensor:
    """Positions whose next label is a target."""
    found = torch.zeros_like(labels, dtype=torch.bool)
    found[:, :-1] = labels[:, 1:] != IGNORED
    return found


@torch.no_grad()
def logits_at(model: MultimodalLM, hidden: Tensor, places: Tensor) -> Tensor:
    """Logits at some positions, row by row."""
    return model.backbone.logits(hidden[places])
