"""Recorded cases of LaVIT's pictures: ids for prompts, pixels for ids, and the way from prompt to picture."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from limner.compositions.lavit_decoding import Step
from limner.compositions.lavit_generation import (
    CodeSettings,
    PixelSettings,
    code_condition,
    codes_of,
    image_code_limits,
    image_ids,
    prompt_ids,
    prompt_rows,
    resized,
)
from limner.compositions.lavit_pixels import HIGH_RES, LOW_RES, SAMPLER, Framing, draw
from limner.evaluate.golden.lavit_cases import Case, Found
from limner.evaluate.golden.lavit_parts import opaque
from limner.generate.sampling import Sampling

RELEASED = CodeSettings(strays=True)
"""The published settings, whose suppression lets special tokens through."""


def text_to_image_ids(case: Case) -> Found:
    """Prompts to ids of pictures, with the scores of the first steps."""
    lavit, steps = case.lavit, []
    prompts = [lavit.text.markup_ids(text) for text in case.inputs["prompts"]]
    ids = _ids(case, prompts, settings=_code_settings(case.settings), steps=steps)
    rows = prompt_rows(lavit, prompts)
    return {
        "out.ids": ids,
        "out.prompt_ids": rows.ids,
        "out.prompt_mask": rows.mask,
        "ids": ids,
        "codes": codes_of(lavit, ids.tolist()),
        "generated_steps": ids.shape[1] - 1,
        "stray_ids_seen": _strays(case, ids),
        **_scores(case, steps),
    }


def _ids(
    case: Case, prompts: Sequence[Sequence[int]], *, settings: CodeSettings, steps: list[Step] | None = None
) -> Tensor:
    lavit = case.lavit
    limits = image_code_limits(lavit, settings)
    if "also_suppressed" in case.inputs:
        limits = replace(limits, suppressed=[*limits.suppressed, *case.inputs["also_suppressed"]])
    negative = case.input("in.uncond_ids").tolist() if "in.uncond_ids" in case.inputs else None
    return image_ids(
        lavit,
        prompts,
        settings=settings,
        limits=limits,
        draws=case.exponential(num_ids=lavit.ids.size),
        unconditional=negative,
        on_step=None if steps is None else steps.append,
    )


def _code_settings(settings: Mapping[str, Any]) -> CodeSettings:
    sampling = Sampling()
    if settings.get("use_nucleus_sampling", True):
        sampling = Sampling(
            temperature=float(settings.get("temperature", RELEASED.sampling.temperature)),
            top_k=settings.get("top_k", RELEASED.sampling.top_k),
            top_p=float(settings.get("top_p", RELEASED.sampling.top_p)),
        )
    scale = settings.get("guidance_scale_for_llm", settings.get("guidance_scale", RELEASED.guidance_scale))
    return replace(
        RELEASED,
        sampling=sampling,
        max_new=settings.get("max_length", RELEASED.max_new),
        min_new=settings.get("min_length", RELEASED.min_new),
        guidance_scale=float(scale),
        num_returned=settings.get("num_return_images", RELEASED.num_returned),
    )


def _strays(case: Case, ids: Tensor) -> list[int]:
    """Ids that are neither codes nor the end. The id that pads is not counted, though it can be drawn too."""
    known = case.lavit.ids
    return sorted({token for token in ids[:, 1:].flatten().tolist() if token < known.image_end} - {known.end})


def _scores(case: Case, steps: list[Step]) -> Found:
    """Scores of the recorded first steps, at the recorded columns."""
    columns = case.tensors["index.candidate_ids"]
    steps = steps[: len(case.tensors["out.cond_logits"])]
    conditional = torch.stack([step.conditional for step in steps])
    found = {
        "out.cond_logits": conditional[..., columns],
        "out.cond_logsumexp": conditional.logsumexp(dim=-1),
        "out.guided_logits": torch.stack([step.guided for step in steps])[..., columns],
        "out.probs": torch.stack([step.scores.softmax(dim=-1) for step in steps])[..., columns],
    }
    other = [step.unconditional for step in steps if step.unconditional is not None]
    if other:
        unconditional = torch.stack(other)
        found["out.uncond_logits"] = unconditional[..., columns]
        found["out.uncond_logsumexp"] = unconditional.logsumexp(dim=-1)
    return found


def pixel_decoding(case: Case) -> Found:
    """Rows of ids to pictures."""
    return _drawn(case, codes_of(case.lavit, case.inputs["token_rows"]))


def multimodal_prompts(case: Case) -> Found:
    """Prompts of texts and pictures to ids, with the original's cap on new ids (the prompt's length) and without."""
    lavit = case.lavit
    items = [opaque(case, content) if kind == "image" else content for kind, content in case.inputs["items"]]
    prompt = prompt_ids(lavit, items, noise=case.gumbel)
    uncapped = replace(_code_settings(case.settings), sampling=Sampling())
    ids = {
        "capped": _ids(case, [prompt], settings=replace(uncapped, max_new=len(prompt))),
        "uncapped": _ids(case, [prompt], settings=uncapped),
    }
    found: dict[str, Any] = {"out.prompt_ids": torch.tensor(prompt), "prompt_ids": prompt}
    for name, rows in ids.items():
        found |= {f"out.ids_{name}": rows, f"ids_{name}": rows}
    return found


def end_to_end(case: Case) -> Found:
    """Prompts to pictures."""
    prompts = [case.lavit.text.markup_ids(text) for text in case.inputs["prompts"]]
    ids = _ids(case, prompts, settings=_code_settings(case.settings))
    return {"out.ids": ids, "ids": ids, **_drawn(case, codes_of(case.lavit, ids.tolist()))}


def reconstruction(case: Case) -> Found:
    """Pictures to codes and back."""
    tokens = case.lavit.tokenizer(resized(case.lavit, case.input("in.image01")), noise=case.gumbel[0])
    codes = [row.tolist() for row in tokens.codes.split(tokens.lengths.tolist())]
    found = {"out.z_q": tokens.values, "out.counts": tokens.lengths, "out.codes": tokens.codes}
    return {**found, **_drawn(case, codes)}


def _pixel_settings(case: Case) -> PixelSettings:
    given = case.settings
    kind = case.inputs.get("kind") or (LOW_RES if LOW_RES in case.entry["name"] else HIGH_RES)
    scale = given.get("guidance_scale_for_decoder", given.get("guidance_scale", PixelSettings.guidance_scale))
    original = given.get("original_size")
    top, left = given.get("crops_coords_top_left") or (0, 0)
    size = (given["height"], given["width"])
    framing = Framing(size, original_size=tuple(original) if original else None, corner=(top, left))
    steps = given.get("num_inference_steps", PixelSettings.num_inference_steps)
    return PixelSettings(framing, decoder=kind, num_inference_steps=steps, guidance_scale=float(scale))


def _drawn(case: Case, codes: list[list[int]]) -> Found:
    """Latents step by step, and the picture."""
    settings, noise = _pixel_settings(case), case.tensors["noise.latents.0"]
    decoder = case.lavit.pixel_decoder(settings.decoder)
    diffusion, condition = decoder.diffusion, code_condition(case.lavit, decoder, codes)
    steps: list[Tensor] = []
    latents = draw(
        decoder,
        condition,
        framing=settings.framing,
        noise=noise,
        guidance_scale=settings.guidance_scale,
        num_inference_steps=settings.num_inference_steps,
        on_step=lambda step, num_steps, moved: steps.append(moved.clone()),
    )
    network: Any = diffusion.autoencoder
    scaled = latents / network.scale
    picture = network.network.decode(scaled).sample
    sampler = diffusion.make_sampler(SAMPLER, num_inference_steps=settings.num_inference_steps)
    # The recording has the unconditional half first.
    told = decoder.told(condition, settings.framing).flip(0).flatten(0, 1)
    time = sampler.timesteps[0].expand(len(told))
    return {
        "out.eps_first_step": diffusion.predict(noise.repeat(2, 1, 1, 1), time, told),
        "out.latents_per_step": torch.stack(steps),
        "out.vae_input": scaled,
        "out.image_float": picture,
        "out.image_u8": ((picture / 2.0 + 0.5).clamp(0.0, 1.0) * 255.0).round().permute(0, 2, 3, 1),
    }
