"""Recorded pictures and texts that DreamLLM generated, with the noise that was drawn for them."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import PIL.Image
import torch
from torch import Tensor

from limner.compositions.dreamllm_decoding import Continuation, continue_by_beams, continue_greedily
from limner.compositions.dreamllm_legacy import IMAGE, LossRules, decoder_with, latent_space, prompt_states
from limner.evaluate.golden.check import Check, close, exact
from limner.evaluate.golden.dreamllm_cases import Case, Cases, Checkpoint
from limner.evaluate.golden.dreamllm_parts import decoded
from limner.evaluate.golden.dreamllm_text import padded
from limner.modalities.decoders.latent_diffusion import LatentDiffusion
from limner.modalities.guidance import Guidance, guidance_for

LOGITS, LATENTS, PNG_LEVELS = 5e-5, 2e-4, 1.0
"""Tolerances: logits and conditions; latents and pictures; levels (of 255) of a PNG."""
SAMPLER = "ddpm"


def timesteps(cases: Cases) -> Iterator[Check]:
    """Timesteps of many numbers of steps."""
    tables = cases.section("text_to_image").get("timestep_tables", {})
    for steps, expected in tables.items():
        if cases.wants("text_to_image/timestep_tables"):
            sampler = _decoder(cases.checkpoint, {}).make_sampler(SAMPLER, num_inference_steps=int(steps))
            yield exact(f"text_to_image/timestep_tables/{steps}", _ints(sampler.timesteps), expected)


def text_to_image(cases: Cases) -> Iterator[Check]:
    """Prompts to conditions, denoising step by step, pictures and PNG files."""
    for name, case in cases.listed("text_to_image"):
        with torch.inference_mode():
            yield from _prompts(cases, name, case)
            yield from _pictures(cases, name, case)


def _prompts(cases: Cases, name: str, case: Case) -> Iterator[Check]:
    tensors, key = cases.tensors("text_to_image"), case["name"]
    texts = _listed(case["prompt"])
    ids, mask = _prompt_rows(cases.checkpoint, texts, side=case["padding_side"])
    yield exact(f"{name}/prompt_ids", ids, tensors[f"{key}.prompt_ids"])
    yield exact(f"{name}/prompt_mask", mask, tensors[f"{key}.prompt_mask"])
    negatives = [""] * len(texts) if case["negative_prompt"] is None else _listed(case["negative_prompt"])
    for tensor, prompts in (("prompt_embeds", texts), ("negative_embeds", negatives)):
        ids, mask = _prompt_rows(cases.checkpoint, prompts, side=case["padding_side"])
        states = prompt_states(cases.checkpoint.model, ids, mask=mask)
        yield close(f"{name}/{tensor}", states, tensors[f"{key}.{tensor}"], tolerance=LOGITS)


def _pictures(cases: Cases, name: str, case: Case) -> Iterator[Check]:
    tensors, key, model = cases.tensors("text_to_image"), case["name"], cases.checkpoint.model
    decoder = _decoder(cases.checkpoint, case.get("scheduler_overrides", {}))
    sampler = decoder.make_sampler(SAMPLER, num_inference_steps=case["num_inference_steps"])
    yield exact(f"{name}/timesteps", _ints(sampler.timesteps), case["timesteps"])
    initial, step_noise = tensors[f"{key}.initial_latents"], tensors[f"{key}.step_noise"]
    guidance = _guidance(case)
    branches = ("prompt_embeds", "negative_embeds")[: guidance.num_branches]
    condition = torch.stack([model.condition(IMAGE, tensors[f"{key}.{branch}"]) for branch in branches])
    steps: list[Tensor] = []
    found = decoder.denoise(
        initial,
        condition,
        guidance=guidance,
        sampler=sampler,
        step_noise=step_noise.unbind(0),
        on_step=lambda step, num_steps, latents: steps.append(latents.clone()),
    )
    yield close(
        f"{name}/latents_after_step", torch.stack(steps), tensors[f"{key}.latents_after_step"], tolerance=LATENTS
    )
    yield close(f"{name}/final_latents", found, tensors[f"{key}.final_latents"], tolerance=LATENTS)
    if f"{key}.decoded" in tensors:
        unclamped = decoded(decoder, found / latent_space(decoder).scale)
        yield close(f"{name}/decoded", unclamped, tensors[f"{key}.decoded"], tolerance=LATENTS)
    image = (decoder.autoencoder.decode(found) + 1.0) / 2.0
    yield close(f"{name}/image", image, tensors[f"{key}.image"], tolerance=LATENTS)
    size = [case["height"], case["width"]]
    yield exact(f"{name}/size", list(image.shape[-2:]), size)
    for index, file in enumerate(case.get("png", ())):
        levels = (image[index] * 255.0).round().permute(1, 2, 0)
        with PIL.Image.open(cases.directory / file) as png:
            stored = torch.frombuffer(bytearray(png.convert("RGB").tobytes()), dtype=torch.uint8)
        yield close(f"{name}/png_{index}", levels, stored.view(levels.shape).float(), tolerance=PNG_LEVELS)
    if "generator_seed" in case:
        yield from _seeded(cases, name, case, condition=condition, decoder=decoder)


def _seeded(cases: Cases, name: str, case: Case, *, condition: Tensor, decoder: LatentDiffusion) -> Iterator[Check]:
    """One generator yields the initial latents, then the noise of each step; `sample` draws in that order too."""
    tensors, key = cases.tensors("text_to_image"), case["name"]
    initial, step_noise = tensors[f"{key}.initial_latents"], tensors[f"{key}.step_noise"]
    generator = torch.Generator().manual_seed(case["generator_seed"])
    drawn = [torch.randn(initial.shape, generator=generator) for _ in range(1 + len(step_noise))]
    yield close(f"{name}/seeded_latents", drawn[0], initial, tolerance=0.0)
    yield close(f"{name}/seeded_noise", torch.stack(drawn[1:]), step_noise, tolerance=0.0)
    if len(initial) > 1:
        return  # Limner has one generator per picture.
    pixels = decoder.sample(
        condition,
        guidance=_guidance(case),
        generators=[torch.Generator().manual_seed(case["generator_seed"])],
        num_inference_steps=case["num_inference_steps"],
        sampler=SAMPLER,
        size=(case["height"], case["width"]),
    )
    yield close(f"{name}/seeded_sample", (pixels + 1.0) / 2.0, tensors[f"{key}.image"], tolerance=LATENTS)


def image_to_text(cases: Cases) -> Iterator[Check]:
    """Continued prompts with pictures: greedily and by beam search."""
    for name, case in cases.listed("image_to_text"):
        tensors = cases.tensors("image_to_text")
        read = cases.pixels(case["clip_images"], view="clip")
        expected = dict(tensors.below(f"{case['name']}.")).get("logits")
        yield from continued(cases.checkpoint, name, case, read=read, logits=expected)


def continued(checkpoint: Checkpoint, name: str, case: Case, *, read: Tensor, logits: Tensor | None) -> Iterator[Check]:
    """A continuation against a recorded one."""
    tokenizer, settings = checkpoint.tokenizer(), checkpoint.settings
    prompts = [tokenizer.prompt_ids(text) for text in case["prompts"]]
    pad_id = case.get("pad_token_id", settings.pad_id)
    ids, mask = padded(prompts, side="left", pad_id=pad_id)
    yield exact(f"{name}/prompt_ids", ids, case["prompt_ids"])
    if "attention_mask" in case:
        yield exact(f"{name}/attention_mask", mask, case["attention_mask"])
    found = _continuation(checkpoint, prompts, case, read=read, pad_id=pad_id)
    yield exact(f"{name}/new_ids", found.ids, case["new_ids"])
    yield exact(f"{name}/text", [tokenizer.decode(row) for row in found.ids], case["text"])
    if "text_with_special_tokens" in case:
        texts = [tokenizer.decode_markup(row) for row in found.ids]
        yield exact(f"{name}/text_with_special_tokens", texts, case["text_with_special_tokens"])
    if "sequence_score" in case:
        expected = torch.tensor(case["sequence_score"])
        yield close(f"{name}/sequence_score", torch.tensor(found.scores), expected, tolerance=LOGITS)
    if logits is not None and found.logits is not None:
        yield close(f"{name}/logits", found.logits, logits, tolerance=LOGITS)
    if "min_top2_margin" in case and found.logits is not None:
        margin = torch.tensor(case["min_top2_margin"])
        yield close(f"{name}/min_top2_margin", smallest_margin(found, case), margin, tolerance=2 * LOGITS)


def smallest_margin(found: Continuation, case: Mapping[str, Any]) -> Tensor:
    """The smallest gap between best and second-best logit at steps whose rows had not ended."""
    assert found.logits is not None, "margins are those of greedy decoding"
    best = found.logits.topk(2, dim=-1).values
    margins = best[..., 0] - best[..., 1]
    eos_id = case.get("eos_token_id")
    ends = torch.tensor([[token == eos_id for token in row] for row in found.ids]).long()
    running = (ends.cumsum(dim=1) - ends) == 0
    return margins[running].min()


def _continuation(
    checkpoint: Checkpoint, prompts: Sequence[Sequence[int]], case: Case, *, read: Tensor, pad_id: int
) -> Continuation:
    tokenizer = checkpoint.tokenizer()
    eos_id = case["eos_token_id"] if "eos_token_id" in case else tokenizer.eos_ids[0]
    options: dict[str, Any] = {"read": read, "max_new_tokens": case["max_new_tokens"], "eos_id": eos_id}
    num_beams = case.get("num_beams", 1)
    if num_beams == 1:
        return continue_greedily(checkpoint.model, prompts, **options, pad_id=pad_id)
    return continue_by_beams(checkpoint.model, prompts, **options, pad_id=pad_id, num_beams=num_beams)


def _prompt_rows(checkpoint: Checkpoint, texts: Sequence[str], *, side: str) -> tuple[Tensor, Tensor]:
    """Ids and mask of prompts, padded."""
    prompts = [checkpoint.tokenizer().prompt_ids(text) for text in texts]
    ids, mask = padded(prompts, side=side, pad_id=checkpoint.settings.pad_id)
    return torch.tensor(ids), torch.tensor(mask)


def _decoder(checkpoint: Checkpoint, overrides: Mapping[str, Any]) -> LatentDiffusion:
    """The decoder with other entries in its scheduler's json."""
    decoder = decoder_with(checkpoint.model, LossRules())
    decoder.scheduler = {**decoder.scheduler, **overrides}
    return decoder


def _guidance(case: Case) -> Guidance:
    """The original guides where the scale is above 1."""
    return guidance_for(max(1.0, case["guidance_scale"]), rescale=case["guidance_rescale"])


def _listed(text: str | Sequence[str]) -> list[str]:
    return [text] if isinstance(text, str) else list(text)


def _ints(values: Any) -> list[int]:
    return [int(value) for value in values]
