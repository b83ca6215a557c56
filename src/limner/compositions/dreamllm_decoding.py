"""How the published DreamLLM continued prompts: greedily or by beam search, over a backbone and its cache.

Parity only: scores, stopping and padding are those of the library it used then (transformers 4.35). The engine
(`limner.generate`) is what serves. Assumes prompts without padding; rows have positions of their own, which is what the
original's left padding amounts to.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from limner.backbone.cache import RowCache
from limner.compositions.dreamllm_legacy import IMAGE, legacy_batch
from limner.document.document import Direction
from limner.model.multimodal import MultimodalLM


@dataclass(frozen=True)
class Continuation:
    """New ids of each row, filled with the pad id behind its end; `logits` of each step (greedy), `scores` (beams)."""

    ids: list[list[int]]
    logits: Float[Tensor, "batch steps vocab"] | None = None
    scores: tuple[float, ...] = ()


class _Decoding:
    """Rows of a cache that take one token each."""

    def __init__(self, model: MultimodalLM, prompts: Sequence[Sequence[int]], *, num_new: int) -> None:
        self.model = model
        capacity = max(map(len, prompts)) + num_new
        self.cache = RowCache(num_rows=len(prompts), capacity=capacity)

    def prefill(self, prompts: Sequence[Sequence[int]], *, read: Tensor | None) -> Float[Tensor, "batch vocab"]:
        """Logits behind each prompt. `read` are the pixels of all pictures in row order."""
        longest, counts = max(map(len, prompts)), [len(prompt) for prompt in prompts]
        ids = torch.tensor([[*prompt, *[0] * (longest - len(prompt))] for prompt in prompts])
        mask = (torch.arange(longest) < torch.tensor(counts)[:, None]).long()
        return self._forward(self.model.embed(legacy_batch(self.model, ids, mask=mask, read=read)), counts)

    def take(self, ids: Sequence[int]) -> Float[Tensor, "batch vocab"]:
        """Logits behind one new token of each row."""
        return self._forward(self.model.backbone.embed(torch.tensor(ids)[:, None]), [1] * len(ids))

    def _forward(self, embeddings: Tensor, counts: list[int]) -> Tensor:
        backbone = self.model.backbone
        step = self.cache.step(list(range(len(counts))), counts=counts)
        hidden = backbone.hidden_states(
            embeddings, positions=step.positions, mask=step.mask(backbone.dtype), cache=step
        )
        step.commit()
        return backbone.logits(hidden[torch.arange(len(counts)), torch.tensor(counts) - 1])

    def reorder(self, rows: Sequence[int]) -> None:
        """Let row i go on from row `rows[i]`; there may be more rows than before."""
        index = torch.tensor(rows)
        self.cache.layers = [(keys[index], values[index]) for keys, values in self.cache.layers]
        self.cache.lengths = [self.cache.lengths[row] for row in rows]
        self.cache.num_rows = len(rows)


@torch.inference_mode()
def continue_greedily(
    model: MultimodalLM,
    prompts: Sequence[Sequence[int]],
    *,
    read: Tensor | None,
    max_new_tokens: int,
    eos_id: int | None,
    pad_id: int,
) -> Continuation:
    """The likeliest token at every step, until all rows have ended (`eos_id` None: never)."""
    decoding = _Decoding(model, prompts, num_new=max_new_tokens)
    logits = decoding.prefill(prompts, read=read)
    said: list[list[int]] = [[] for _ in prompts]
    ended = [False] * len(prompts)
    steps = []
    for number in range(max_new_tokens):
        steps.append(logits)
        likeliest = logits.argmax(dim=-1).tolist()
        new = [pad_id if over else token for token, over in zip(likeliest, ended, strict=True)]
        for row, token in zip(said, new, strict=True):
            row.append(token)
        ended = [over or token == eos_id for token, over in zip(new, ended, strict=True)]
        if all(ended) or number == max_new_tokens - 1:
            break
        logits = decoding.take(new)
    return Continuation(said, logits=torch.stack(steps, dim=1))


@torch.inference_mode()
def continue_by_beams(
    model: MultimodalLM,
    prompts: Sequence[Sequence[int]],
    *,
    read: Tensor | None,
    max_new_tokens: int,
    eos_id: int | None,
    pad_id: int,
    num_beams: int,
) -> Continuation:
    """The continuation of each prompt that a beam search finds best (log-likelihood per token, prompt included)."""
    begin = model.vocabulary.span(IMAGE, Direction.IN).begin
    counts = [list(prompt).count(begin) for prompt in prompts]
    pictures = torch.zeros(0) if read is None else read
    found = [
        _best_beam(
            model,
            prompt,
            read=pixels,
            max_new_tokens=max_new_tokens,
            eos_id=eos_id,
            num_beams=num_beams,
            padded_length=max(map(len, prompts)),
        )
        for prompt, pixels in zip(prompts, pictures.split(counts), strict=True)
    ]
    longest = max(len(ids) for _, ids in found)
    rows = [[*ids, *[pad_id] * (longest - len(ids))] for _, ids in found]
    return Continuation(rows, scores=tuple(score for score, _ in found))


def _best_beam(
    model: MultimodalLM,
    prompt: Sequence[int],
    *,
    read: Tensor,
    max_new_tokens: int,
    eos_id: int | None,
    num_beams: int,
    padded_length: int,
) -> tuple[float, list[int]]:
    """Score and ids of one prompt's best continuation.

    The search ends when no running beam, as it stands, is better than the worst of `num_beams` finished ones. Scores
    are divided by all tokens before the last, padding and prompt included: long prompts prefer short answers less.
    """
    decoding = _Decoding(model, [prompt], num_new=max_new_tokens)
    logits = decoding.prefill([prompt], read=read).expand(num_beams, -1)
    decoding.reorder([0] * num_beams)
    finished: list[tuple[float, list[int]]] = []
    said: list[list[int]] = [[] for _ in range(num_beams)]
    # All beams are the same at first; only one of them may branch.
    totals = torch.tensor([0.0, *[-1e9] * (num_beams - 1)])
    for length in range(1, max_new_tokens + 1):
        scores = logits.log_softmax(dim=-1) + totals[:, None]
        best = scores.flatten().topk(2 * num_beams)
        running: list[tuple[int, int, float]] = []
        for rank, (total, place) in enumerate(zip(best.values.tolist(), best.indices.tolist(), strict=True)):
            row, token = divmod(place, scores.shape[1])
            if token == eos_id and rank < num_beams:
                finished.append((total / (padded_length + length - 1), [*said[row], token]))
            elif token != eos_id and len(running) < num_beams:
                running.append((row, token, total))
        finished = sorted(finished, key=lambda entry: -entry[0])[:num_beams]
        said = [[*said[row], token] for row, token, _ in running]
        totals = torch.tensor([total for _, _, total in running])
        if len(finished) == num_beams and finished[-1][0] >= best.values[0].item() / (padded_length + length):
            break
        if length < max_new_tokens:
            decoding.reorder([row for row, _, _ in running])
            logits = decoding.take([token for _, token, _ in running])
    else:
        whole = padded_length + max_new_tokens
        finished += [(total / whole, ids) for total, ids in zip(totals.tolist(), said, strict=True)]
    return max(finished, key=lambda entry: entry[0])
