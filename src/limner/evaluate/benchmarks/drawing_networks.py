"""The drawings of `drawing` as networks see them: those that score `coco_drawing`. 200 where no limit is given.

Captions are names, asked for in held-out wordings; the real pictures are of the drawn style, at the size that is drawn.

Files, with the repository: emoji/*.tar (in the folder `data`). Networks beside it, in `networks`; others where they are
installed.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from limner.data.stories import Library
from limner.evaluate.answers import Respondent
from limner.evaluate.benchmark import Outcome
from limner.evaluate.benchmarks.drawing import prompt, targets
from limner.evaluate.benchmarks.drawn_captions import DrawnCaptions, Painting, Wanted
from limner.evaluate.benchmarks.emoji import DRAWN, at_target_size, decoder_of, trained
from limner.evaluate.metrics.networks import Networks, found_networks
from limner.evaluate.presets import refuse_choices


@dataclass(frozen=True)
class DrawingNetworks:
    """`library` as in `Drawing`; `networks` are opened when they are needed."""

    library: Library
    networks: Callable[[], Networks]
    name: str = "drawing_networks"

    def run(self, engine: Respondent, *, limit: int | None, seed: int) -> Outcome:
        """Draw the names that `Drawing` draws, and compare."""
        decoder = decoder_of(engine.model)
        records = [self.library.records[place] for place in targets(self.library, limit=limit, seed=seed)]
        wanted = [
            Wanted(record.key, record.name, at_target_size(record.image(), decoder=decoder), prompt(record, seed=seed))
            for record in records
        ]
        return DrawnCaptions(self.name, wanted, Painting("held-out wordings"), self.networks).run(
            engine, limit=None, seed=seed
        )


def load(folder: Path, *, preset: str = "", split: str = "") -> DrawingNetworks:
    """The drawn style of the emoji set."""
    refuse_choices("drawing_networks", preset=preset, split=split)
    return DrawingNetworks(trained(folder, DRAWN), functools.partial(found_networks, folder / "networks"))
