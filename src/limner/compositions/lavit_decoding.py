"""How the published LaVIT continues prompts: greedily, by sampling, by beams, with guidance on tokens.

Scores, stopping and padding are those of the library it was published with (transformers 4.33), which later releases
changed. Prompts are rows of the language model's input without padding: a row has positions of its own, which is what
the original's left padding amounts to. Guidance runs both branches in one forward: rows of prompts, then rows of the
unconditional prompt.

    rows --prefill--> logits --[guidance]--> scores --minimum, suppression, [warping]--> next id --take--> logits ...

Every row of ids begins with an id that nobody generated. It counts: for the repetition penalty and for the length that
beams are divided by.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from limner.backbone.cache import RowCache
from limner.backbone.hf import Backbone
from limner.generate.sampling import Sampling

Rows = Sequence[Float[Tensor, "_ d_model"]]
"""Prompts as rows of the language model's input, each of its own length."""


class Step(NamedTuple):
    """What was known at a step: logits of both branches, what guidance made of them, and what was drawn from."""

    conditional: Float[Tensor, "batch vocab"]
    unconditional: Float[Tensor, "batch vocab"] | None
    guided: Float[Tensor, "batch vocab"]
    scores: Float[Tensor, "batch vocab"]


OnStep = Callable[[Step], None]


@dataclass(frozen=True)
class Limits:
    """Ids of which none is generated, and how many ids: the end not before `min_new`, nothing behind `max_new`.

    `begin` stands before the generated ids, `end` ends a row, `pad` fills it.
    """

    begin: int
    end: int
    pad: int
    max_new: int
    min_new: int = 0
    suppressed: Sequence[int] = ()

    def __post_init__(self) -> None:
        if self.max_new < 1:
            raise ValueError(f"max_new is {self.max_new}; expected at least 1\nhint: it counts generated ids")

    def restrict(self, scores: Float[Tensor, "batch vocab"], *, num_new: int) -> Float[Tensor, "batch vocab"]:
        """Scores with what may not come next at minus infinity."""
        scores = scores.clone()
        if num_new < self.min_new:
            scores[:, self.end] = float("-inf")
        if len(self.suppressed):
            scores[:, torch.tensor(list(self.suppressed), device=scores.device)] = float("-inf")
        return scores


@dataclass(frozen=True)
class BeamSettings:
    """`length_penalty` is an exponent of the length that sums are divided by."""

    num_beams: int
    length_penalty: float = 1.0
    early_stopping: bool = False
    num_returned: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.num_returned <= self.num_beams or self.num_beams < 2:
            raise ValueError(
                f"num_beams is {self.num_beams} and num_returned {self.num_returned}; expected at least 2, and no more "
                "returned than followed\nhint: one beam is greedy decoding"
            )


class Ranked(NamedTuple):
    """Ids of the best continuations, prompt after prompt, and their scores."""

    ids: Int[Tensor, "rows length"]
    scores: Float[Tensor, " rows"]


class _Decoding:
    """Rows of a cache that take one token each."""

    def __init__(self, backbone: Backbone, *, num_rows: int, capacity: int) -> None:
        self.backbone = backbone
        self.cache = RowCache(num_rows=num_rows, capacity=capacity, device=next(backbone.parameters()).device)

    def prefill(self, prompts: Rows, *, rows: list[int]) -> Float[Tensor, "batch vocab"]:
        """Logits behind each prompt, which is written into its row."""
        padded = torch.nn.utils.rnn.pad_sequence(list(prompts), batch_first=True)
        return self._forward(padded, rows, counts=[len(prompt) for prompt in prompts])

    def take(self, ids: Int[Tensor, " batch"]) -> Float[Tensor, "batch vocab"]:
        """Logits behind one new id of each row."""
        return self._forward(
            self.backbone.embed(ids[:, None].to(self.cache.device)), list(range(len(ids))), counts=[1] * len(ids)
        )

    def _forward(self, embeddings: Tensor, rows: list[int], *, counts: list[int]) -> Tensor:
        step = self.cache.step(rows, counts=counts)
        mask = step.mask(self.backbone.dtype)
        hidden = self.backbone.hidden_states(
            embeddings.to(self.backbone.dtype), positions=step.positions, mask=mask, cache=step
        )
        step.commit()
        return self.backbone.logits(
            hidden[torch.arange(len(rows), device=hidden.device), torch.tensor(counts, device=hidden.device) - 1]
        )


@torch.inference_mode()
def continue_rows(
    backbone: Backbone,
    prompts: Rows,
    *,
    limits: Limits,
    sampling: Sampling,
    draws: Iterable[Float[Tensor, "batch vocab"]] = (),
    unconditional: Rows = (),
    guidance_scale: float = 1.0,
    copies: int = 1,
    on_step: OnStep | None = None,
) -> Int[Tensor, "batch length"]:
    """Ids of each continuation, `limits.begin` in front; all are as long as the longest, which may be cut.

    Temperature 0 takes the best. Otherwise `draws` gives an Exp(1) number for each row and id at each step, and the id
    of the largest probability over its number is taken (which is a draw from the probabilities). `copies` continues
    each prompt so many times, prompt after prompt. With a guidance scale other than 1 every row has its
    `unconditional` prompt: `u + scale * (c - u)` over log-probabilities (Ho & Salimans 2022, eq. 6).

    Raises ValueError for unconditional prompts that are not as many as rows, and for sampling without draws.
    """
    batch, guided = len(prompts) * copies, guidance_scale != 1.0
    if guided and len(unconditional) != batch:
        raise ValueError(
            f"{len(unconditional)} unconditional prompts for {batch} rows; expected as many\n"
            "hint: one for each copy too"
        )
    everything = [*prompts, *(unconditional if guided else ())]
    capacity = max(map(len, everything)) + limits.max_new
    decoding = _Decoding(backbone, num_rows=batch * (2 if guided else 1), capacity=capacity)
    firsts = [copies * number for number in range(len(prompts))]
    logits = decoding.prefill(everything, rows=[*firsts, *range(batch, decoding.cache.num_rows)])
    if copies > 1:
        decoding.cache.copy([copies * (row // copies) for row in range(batch)], into=list(range(batch)))
        logits = torch.cat([logits[: len(prompts)].repeat_interleave(copies, dim=0), logits[len(prompts) :]])
    ids = torch.full((batch, 1), limits.begin, device=logits.device)
    ended = torch.zeros(batch, dtype=torch.bool, device=logits.device)
    processors, numbers = sampling.processors(), iter(draws)
    for num_new in range(limits.max_new):
        scores = _guided(logits, guidance_scale) if guided else logits
        allowed = processors(ids, limits.restrict(scores, num_new=num_new))  # pyright: ignore[reportArgumentType]
        if on_step is not None:
            on_step(Step(logits[:batch], logits[batch:] if guided else None, scores, allowed))
        chosen = allowed.argmax(dim=-1) if sampling.temperature == 0.0 else _drawn(allowed, next(numbers, None))
        chosen = chosen.masked_fill(ended, limits.pad)
        ids = torch.cat([ids, chosen[:, None]], dim=1)
        ended = ended | (chosen == limits.end)
        if bool(ended.all()) or num_new == limits.max_new - 1:
            break
        logits = decoding.take(chosen.repeat(2) if guided else chosen)
    return ids


def exponential_draws(generators: Sequence[torch.Generator], *, num_ids: int) -> Iterator[Float[Tensor, "batch vocab"]]:
    """Exp(1) numbers for one step after the other, each row's from its own generator."""
    while True:
        yield torch.stack([torch.empty(num_ids).exponential_(generator=generator) for generator in generators])


def _drawn(scores: Float[Tensor, "batch vocab"], numbers: Tensor | None) -> Int[Tensor, " batch"]:
    if numbers is None:
        raise ValueError("sampling without random numbers\nhint: give a generator for each row, or temperature 0")
    return (scores.softmax(dim=-1) / numbers.to(scores)).argmax(dim=-1)


def _guided(logits: Float[Tensor, "two_batches vocab"], scale: float) -> Float[Tensor, "batch vocab"]:
    conditional, unconditional = logits.log_softmax(dim=-1).chunk(2)
    return unconditional + scale * (conditional - unconditional)


@torch.inference_mode()
def continue_by_beams(
    backbone: Backbone, prompts: Rows, *, limits: Limits, beams: BeamSettings, repetition_penalty: float = 1.0
) -> Ranked:
    """The best continuations of each prompt, `limits.begin` in front."""
    width = beams.num_beams
    searches = [_Search(beams, texts=[(limits.begin,)] * width) for _ in prompts]
    decoding = _Decoding(backbone, num_rows=len(prompts) * width, capacity=max(map(len, prompts)) + limits.max_new)
    logits = decoding.prefill(prompts, rows=[width * number for number in range(len(prompts))])
    decoding.cache.copy(
        [width * (row // width) for row in range(decoding.cache.num_rows)], into=list(range(decoding.cache.num_rows))
    )
    logits = logits.repeat_interleave(width, dim=0)
    processors = Sampling(repetition_penalty=repetition_penalty).processors()
    for num_new in range(limits.max_new):
        said = torch.tensor([text for search in searches for text in search.texts], device=logits.device)
        penalised = processors(said, logits.log_softmax(dim=-1))  # pyright: ignore[reportArgumentType]
        scores = limits.restrict(penalised, num_new=num_new).unflatten(0, (-1, width))
        sources: list[int] = []
        for number, (search, rows) in enumerate(zip(searches, scores, strict=True)):
            sources += [number * width + source for source in search.extend(rows, end=limits.end, pad=limits.pad)]
        if all(search.done for search in searches) or num_new == limits.max_new - 1:
            break
        decoding.cache.copy(sources, into=list(range(len(sources))))
        logits = decoding.take(torch.tensor([text[-1] for search in searches for text in search.texts]))
    best = [text for search in searches for text in search.best()]
    longest = min(1 + max(len(text) for _, text in best), 1 + limits.max_new)
    rows = [[*text, *[limits.end, *[limits.pad] * longest][: longest - len(text)]] for _, text in best]
    return Ranked(torch.tensor(rows), torch.tensor([score for score, _ in best]))


@dataclass
class _Search:
    """The beams of one prompt. At first all are alike, and only one of them may branch."""

    beams: BeamSettings
    texts: list[tuple[int, ...]]
    sums: list[float] = field(default_factory=list)
    finished: list[tuple[float, tuple[int, ...]]] = field(default_factory=list)
    done: bool = False

    def __post_init__(self) -> None:
        self.sums = [0.0, *[-1e9] * (len(self.texts) - 1)]

    def extend(self, scores: Float[Tensor, "beams vocab"], *, end: int, pad: int) -> list[int]:
        """Take the next id of every beam; which beam each of them goes on from."""
        width = self.beams.num_beams
        if self.done:
            self.texts = [(*self.texts[0], pad)] * width
            return [0] * width
        sums = scores + torch.tensor(self.sums, device=scores.device)[:, None]
        best = sums.flatten().topk(2 * width)
        ranked = [
            (total, *divmod(place, scores.shape[1])) for total, place in zip(*map(Tensor.tolist, best), strict=True)
        ]
        going = [(total, source, token) for total, source, token in ranked if token != end][:width]
        last = ranked.index(going[-1]) if len(going) == width else len(ranked)
        for total, source, token in ranked[: min(last, width)]:
            if token == end:
                self._finish(total, self.texts[source])
        self.texts = [(*self.texts[source], token) for _, source, token in going]
        self.sums = [total for total, _, _ in going]
        self.done = self._is_done(best.values[0].item(), length=len(self.texts[0]))
        return [source for _, source, _ in going]

    def best(self) -> list[tuple[float, tuple[int, ...]]]:
        """Score and ids of the best, running ones included unless the search was done before."""
        if not self.done:
            for total, text in zip(self.sums, self.texts, strict=True):
                self._finish(total, text)
        return self.finished[::-1][: self.beams.num_returned]

    def _finish(self, total: float, text: tuple[int, ...]) -> None:
        """Keep a text among the best, which are in ascending order; the end does not count, the first id does."""
        self.finished.append((total / len(text) ** self.beams.length_penalty, text))
        self.finished = sorted(self.finished, key=lambda entry: entry[0])[-self.beams.num_beams :]

    def _is_done(self, best_sum: float, *, length: int) -> bool:
        if len(self.finished) < self.beams.num_beams:
            return False
        if self.beams.early_stopping:
            return True
        return self.finished[0][0] >= best_sum / length**self.beams.length_penalty
