"""The batches of a stage on this rank, and the state that all ranks share."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from limner.model.multimodal import MultimodalLM
from limner.tokens.batch import Batch
from limner.train.parallel import World
from limner.train.stage import Stage

_BY_RANK = "/decode"
"""Ending of the counters of documents that could not be decoded. Only the rank that was to read them knows."""


class StageLoader:
    """The loader of a stage's mixture for this rank. All ranks ask for batches and states in the same order."""

    def __init__(self, stage: Stage, *, model: MultimodalLM, world: World, num_workers: int) -> None:
        self.model = model
        self.world = world
        self._open = partial(stage.batching.loader, stage.mixture, model=model)
        self._loader = self._open(rank=world.rank, num_ranks=world.size, num_workers=num_workers)
        self._begun = self._loader.state_dict()

    def next_batch(self) -> Batch:
        """This rank's next batch, on the CPU."""
        return self._loader.next_batch()

    def state_dict(self) -> dict[str, Any]:
        """The place, which is the same on every rank, and the counters of all ranks."""
        state = self._loader.state_dict()
        if self.world.size == 1:
            return state
        before, now = self._begun.get("skipped", {}), state.get("skipped", {})
        own = {name: now[name] - before.get(name, 0) for name in now if name.endswith(_BY_RANK)}
        summed = {name: before.get(name, 0) + int(count) for name, count in self.world.sum_counts(own).items()}
        return {**state, "skipped": {**now, **summed}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken, on however many ranks."""
        self._loader.load_state_dict(state)
        self._begun = state

    @contextmanager
    def measuring(self) -> Iterator[Iterator[Batch]]:
        """From this place on the batches of all ranks, on the model's device; afterwards the place is what it was.

        What is measured on them is the same on every rank, and on any number of ranks.
        """
        state = self._loader.state_dict()
        # One rank takes the loader itself: what that caches for the measurement serves the training too.
        loader = self._loader if self.world.size == 1 else self._open()
        loader.load_state_dict(state)
        yield self._endless(loader.next_batch)
        self._loader.load_state_dict(state)

    def _endless(self, next_batch: Any) -> Iterator[Batch]:
        while True:
            yield next_batch().to(self.model.device)
