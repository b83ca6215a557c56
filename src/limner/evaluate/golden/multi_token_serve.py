"""Recorded answers of multi_token's server, and greedy decoding of many rows at once."""

from collections.abc import Iterator, Sequence

import torch

from limner.backbone.cache import RowCache
from limner.compositions.multi_token_checkpoint import merged
from limner.data.collate import Collator
from limner.document.document import Document
from limner.evaluate.golden.check import Check, exact
from limner.evaluate.golden.multi_token_files import Files, wanted
from limner.generate.engine import Engine
from limner.generate.request import Request
from limner.model.multimodal import MultimodalLM


@torch.no_grad()
def greedy(model: MultimodalLM, documents: Sequence[Document], *, limits: Sequence[int]) -> list[list[int]]:
    """The best next tokens of all documents together, stop tokens included, at most `limits` of each."""
    backbone = model.backbone
    stops = {*model.tokenizer.eos_ids, *backbone.stop_ids}
    sequences = [model.render(document, reply=True) for document in documents]
    counts = [len(sequence) for sequence in sequences]
    capacity = max(count + limit for count, limit in zip(counts, limits, strict=True))
    cache = RowCache(num_rows=len(documents), capacity=capacity)
    rows = list(range(len(documents)))
    embeddings = model.embed(Collator(model)([[sequence] for sequence in sequences]))[:, : max(counts)]
    said: list[list[int]] = [[] for _ in documents]
    while rows:
        step = cache.step(rows, counts=counts)
        hidden = backbone.hidden_states(
            embeddings, positions=step.positions, mask=step.mask(backbone.dtype), cache=step
        )
        step.commit()
        last = hidden[torch.arange(len(rows)), torch.tensor(counts) - 1]
        for row, token in zip(rows, backbone.logits(last).argmax(-1).tolist(), strict=True):
            said[row].append(token)
        rows = [row for row in rows if said[row][-1] not in stops and len(said[row]) < limits[row]]
        counts = [1] * len(rows)
        embeddings = backbone.embed(torch.tensor([[said[row][-1]] for row in rows])) if rows else embeddings
    return said


def serve_checks(files: Files, *, only: str | None) -> Iterator[Check]:
    """Everything below serve/ that was answered: ids by greedy decoding in a batch, answers by the engine.

    What the original's server failed on is information only, and no case here.
    """
    cases = [case for case in files.json("serve/cases.json")["cases"] if "response" in case]
    for checkpoint in dict.fromkeys(case["checkpoint"] for case in cases):
        name = f"serve/{checkpoint.removeprefix('checkpoints/')}"
        if not wanted(name, only):
            continue
        model = merged(files.checkpoint(checkpoint))
        asked = [case for case in cases if case["checkpoint"] == checkpoint]
        documents = [files.document(case["request"], model) for case in asked]
        limits = [case["max_new_tokens"] for case in asked]
        found = greedy(model, documents, limits=limits)
        requests = [Request(document, max_new_tokens=limit) for document, limit in zip(documents, limits, strict=True)]
        answers = Engine(model).run(requests)
        for number, case in enumerate(asked):
            length = len(model.render(documents[number], reply=True))
            yield exact(f"{name}/{number}.prompt_length", length, case["prompt_length"])
            yield exact(f"{name}/{number}.new_ids", found[number], case["new_ids"])
            answer = answers[number].messages[-1].text.strip()
            yield exact(f"{name}/{number}.output", answer, case["response"]["output"])
