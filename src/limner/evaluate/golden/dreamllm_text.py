"""Recorded tokenisation, padding, training samples and batches of DreamLLM: all exact."""

from collections.abc import Iterator, Sequence
from typing import Any

from limner.compositions.dreamllm_rows import LegacyBatch, LegacySample, collate, prompt_of, turns_of
from limner.evaluate.golden.check import Check, exact
from limner.evaluate.golden.dreamllm_cases import Case, Cases, Checkpoint

SWITCH = {"legacy": True, "non_legacy": False}
"""Keys of a sample's `expected`; `any` stands for both."""


def tokenization(cases: Cases) -> Iterator[Check]:
    """Ids, tokens and decoded text of strings, with the tokenizer's switch on and off."""
    for number, case in enumerate(cases.sections.get("tokenization", ())):
        name = f"tokenization/{number}"
        if not cases.wants(name):
            continue
        tokenizer = cases.checkpoint.tokenizer(legacy=case["legacy"])
        ids = tokenizer.prompt_ids(case["text"])
        yield exact(f"{name}/input_ids", ids, case["input_ids"])
        yield exact(f"{name}/tokens", tokenizer.tokens_of_ids(ids), case["tokens"])
        yield exact(f"{name}/decoded", tokenizer.decode_markup(case["input_ids"]), case["decoded"])
        text = tokenizer.decode(case["input_ids"])
        yield exact(f"{name}/decoded_skip_special_tokens", text, case["decoded_skip_special_tokens"])


def padding(cases: Cases) -> Iterator[Check]:
    """Prompts of different lengths, padded on either side."""
    for case in cases.sections.get("padding", ()):
        name = f"padding/{case['padding_side']}"
        if not cases.wants(name):
            continue
        tokenizer = cases.checkpoint.tokenizer(legacy=case["legacy"])
        prompts = [tokenizer.prompt_ids(text) for text in case["texts"]]
        ids, mask = padded(prompts, side=case["padding_side"], pad_id=cases.checkpoint.settings.pad_id)
        yield exact(f"{name}/input_ids", ids, case["input_ids"])
        yield exact(f"{name}/attention_mask", mask, case["attention_mask"])


def samples(cases: Cases) -> Iterator[Check]:
    """Training samples of every kind of record."""
    for case in cases.sections.get("samples", ()):
        name = f"samples/{case['name']}"
        if not cases.wants(name):
            continue
        if "prompt" in case:
            yield exact(f"{name}/prompt", prompt_of(turns_of(case["input"])[0]), case["prompt"])
        for key, expected in case["expected"].items():
            for legacy in (True, False) if key == "any" else (SWITCH[key],):
                found = sample_of(cases.checkpoint, case, legacy=legacy)
                yield from compared(f"{name}/{'' if legacy else 'non_'}legacy", found, expected)


def compared(name: str, found: LegacySample, expected: Case) -> Iterator[Check]:
    """A sample against a recorded one."""
    yield exact(f"{name}/input_ids", found.ids, expected["input_ids"])
    yield exact(f"{name}/labels", found.labels, expected["labels"])
    yield exact(f"{name}/clip_images", found.read, expected["clip_images"])
    if "sd_images" in expected:
        yield exact(f"{name}/sd_images", found.made, expected["sd_images"])


def batches(cases: Cases) -> Iterator[Check]:
    """Collated samples."""
    for name, case in cases.listed("batches"):
        tensors = cases.tensors("batches")
        found = batch_of(cases, case["samples"])
        prefix = case["name"]
        yield exact(f"{name}/shape", list(found.ids.shape), case["shape"])
        yield exact(f"{name}/clip_images", found.read, case["clip_images"])
        yield exact(f"{name}/sd_images", found.made, case["sd_images"])
        for view, key, names in (("clip", "images_shape", found.read), ("sd", "images_dm_shape", found.made)):
            shape = list(cases.pixels(names, view=view).shape) if names else None
            yield exact(f"{name}/{key}", shape, case[key])
        for key, tensor in (("input_ids", found.ids), ("attention_mask", found.mask), ("labels", found.labels)):
            yield exact(f"{name}/{key}", tensor.flatten(), tensors[f"{prefix}.{key}"].flatten())


def sample_of(checkpoint: Checkpoint, case: Case, *, legacy: bool | None = None) -> LegacySample:
    """The sample of a recorded case."""
    builder = checkpoint.builder(legacy=legacy, max_length=case.get("model_max_length"))
    draw = case.get("uniform_draw", 1.0)
    return builder.build(case["kind"], case["input"], mode=case.get("mode", "joint"), draw=draw)


def batch_of(cases: Cases, names: Sequence[str]) -> LegacyBatch:
    """The batch of samples by name."""
    by_name: dict[str, Any] = {case["name"]: case for case in cases.sections["samples"]}
    found = [sample_of(cases.checkpoint, by_name[name]) for name in names]
    return collate(found, pad_id=cases.checkpoint.settings.pad_id)


def padded(rows: Sequence[Sequence[int]], *, side: str, pad_id: int) -> tuple[list[list[int]], list[list[int]]]:
    """Ids and mask of rows padded on the left or the right."""
    longest = max(map(len, rows))
    ids, mask = [], []
    for row in rows:
        pad, ones = [pad_id] * (longest - len(row)), [1] * len(row)
        zeros = [0] * len(pad)
        ids.append([*pad, *row] if side == "left" else [*row, *pad])
        mask.append([*zeros, *ones] if side == "left" else [*ones, *zeros])
    return ids, mask
