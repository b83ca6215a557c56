"""Beam search: the likeliest continuation among `num_beams` that are followed at once, for text alone.

    logits of the beams' rows --extend--> which row each beam goes on from (the cache is reordered), and its next token
                              --until `done`--> the best finished continuation

Scores are those of transformers' `generate`: the sum of log-probabilities over length ** `length_penalty`.
"""

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class BeamSearch:
    """A way to choose tokens, beside `Sampling`.

    Args:
        num_beams: continuations followed at once; each takes a row of the cache.
        length_penalty: above 0 favours long texts, below 0 short ones; 0 compares sums.
        early_stopping: whether the search ends with `num_beams` finished continuations, else where none of the beams
            at its present length could beat the worst of them, or ("never") at no length that is left.
    """

    num_beams: int = 5
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = False

    def __post_init__(self) -> None:
        if self.num_beams < 2:
            raise ValueError(f"num_beams is {self.num_beams}; expected at least 2\nhint: one beam is Sampling()")


class Continuation(NamedTuple):
    """A finished text: ids without the one that stopped it, its score, and whether it was stopped by such a one."""

    ids: tuple[int, ...]
    score: float
    stopped: bool


@dataclass
class Beams:
    """The state of one search. Beams that go on are in order of their sums."""

    search: BeamSearch
    texts: list[tuple[int, ...]] = field(default_factory=lambda: [()])
    sums: list[float] = field(default_factory=lambda: [0.0])
    finished: list[Continuation] = field(default_factory=list)
    done: bool = False

    def extend(self, logits: Float[Tensor, "beams vocab"], *, stop_ids: set[int], max_length: int) -> list[int]:
        """Take the next token of every beam; return the row of `logits` that each beam now goes on from.

        At first all rows are alike and the first alone is read. `max_length` is the most tokens of a text.
        """
        width = self.search.num_beams
        length = len(self.texts[0]) + 1
        scores = logits[: len(self.texts)].float().log_softmax(dim=-1)
        sums = scores + torch.tensor(self.sums, device=scores.device)[:, None]
        # So many that `width` remain where each beam's best is to stop.
        kept = min(width * max(2, 1 + len(stop_ids)), sums.numel())
        best, places = sums.flatten().topk(kept)
        sources: list[int] = []
        texts: list[tuple[int, ...]] = []
        running: list[float] = []
        finished: list[Continuation] = []
        for rank, (total, place) in enumerate(zip(best.tolist(), places.tolist(), strict=True)):
            source, token = divmod(place, scores.shape[1])
            if total == float("-inf"):
                break  # nothing else may be said
            stops = token in stop_ids
            if stops or length >= max_length:
                if rank < width:
                    ids = self.texts[source] if stops else (*self.texts[source], token)
                    finished.append(Continuation(ids, total / length**self.search.length_penalty, stops))
            elif len(texts) < width:
                sources.append(source)
                texts.append((*self.texts[source], token))
                running.append(total)
        self._keep(finished)
        if not texts:
            self.done = True
            return []
        self.texts, self.sums = texts, running
        self.done = not self._can_improve(length, max_length)
        return sources

    @property
    def best(self) -> Continuation:
        """The finished text of the highest score."""
        return self.finished[0]

    @property
    def tokens(self) -> list[int]:
        """The last token of each beam."""
        return [text[-1] for text in self.texts]

    def _keep(self, finished: list[Continuation]) -> None:
        """Keep the best; sorting is stable, so the older of two equals stays before the newer."""
        ranked = sorted([*self.finished, *finished], key=lambda text: -text.score)
        self.finished = ranked[: self.search.num_beams]

    def _can_improve(self, length: int, max_length: int) -> bool:
        if len(self.finished) < self.search.num_beams:
            return True
        if self.search.early_stopping is True:
            return False
        penalty = self.search.length_penalty
        hypothetical = max_length if self.search.early_stopping == "never" and penalty > 0.0 else length
        return self.sums[0] / hypothetical**penalty > self.finished[-1].score
