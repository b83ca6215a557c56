"""Losses of one step: what each term was on average over all its targets, and the same per source.

Sums stay on the device until the step is over and are read once, so no microbatch waits for a number.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from limner.modalities.base import LossTerm
from limner.train.parallel import World


class StepLosses:
    """Collects the terms of a rank's batches. `counts` are the targets of each term in them.

    What is asked of the collection (shares, means) is about the whole step: all batches of all ranks.
    """

    def __init__(self, counts: Mapping[str, float], *, world: World | None = None) -> None:
        self.world = world or World()
        self.counts = {name: max(1.0, count) for name, count in self.world.sum_counts(counts).items()}
        self._means: dict[str, Tensor] = {}
        self._sources: dict[tuple[str, str], tuple[Tensor, Tensor]] = {}

    def shares(self, counts: Mapping[str, float]) -> dict[str, float]:
        """Each term's share of the step in a batch that has `counts`; a term that the batch lacks has 0."""
        return {name: counts.get(name, 0.0) / total for name, total in self.counts.items()}

    def add(self, terms: Mapping[str, LossTerm], *, shares: Mapping[str, float]) -> None:
        """Take in a batch: its mean weighs as its share (a decoder may draw several times per item)."""
        for name, term in terms.items():
            mean = term.mean.detach().double() * shares[name]
            self._means[name] = self._means[name] + mean if name in self._means else mean
            for source, (total, count) in term.by_source.items():
                before = self._sources.get((name, source), (0.0, 0.0))
                self._sources[name, source] = (before[0] + total.double(), before[1] + count.double())

    def read(self) -> tuple[dict[str, float], dict[tuple[str, str], float]]:
        """Mean per term, and mean per (term, source) of the sources that had targets, on whatever rank.

        A rank without batches has nothing to add, and is told the same.
        """
        collected: dict[tuple[str, ...], Tensor] = {(name,): mean for name, mean in self._means.items()}
        for key, (total, count) in self._sources.items():
            collected |= {(*key, "sum"): total, (*key, "count"): count}
        values = torch.stack(list(collected.values())).tolist() if collected else []
        summed = self.world.sum_counts(dict(zip(collected, values, strict=True)))
        means = {key[0]: value for key, value in summed.items() if len(key) == 1}
        sources = {
            (name, source): summed[name, source, "sum"] / summed[name, source, "count"]
            for name, source, what in (key for key in summed if len(key) == 3)
            # A source of texts alone has pictures' loss neither 0 nor any other.
            if what == "sum" and summed[name, source, "count"]
        }
        return means, sources
