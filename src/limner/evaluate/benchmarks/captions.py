"""Captions of pictures against people's: what all such benchmarks have in common."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy

from limner.evaluate.answers import Respondent
from limner.evaluate.benchmark import Example, Outcome, Score, Unit
from limner.evaluate.benchmarks.short_answers import MOST_SHUFFLED, Asked, ask, drawn_questions
from limner.evaluate.intervals import bootstrap, permuted
from limner.evaluate.metrics import caption
from limner.evaluate.presets import DREAMLLM_CAPTION, LAVIT_CAPTION, PLAIN_CAPTION, Preset

PRESETS = (PLAIN_CAPTION, DREAMLLM_CAPTION, LAVIT_CAPTION)
PER_CENT = 100.0


@dataclass(frozen=True)
class Captions:
    """`asked` holds no question: its `answers` are people's captions."""

    name: str
    asked: Sequence[Asked]
    preset: Preset

    def run(self, engine: Respondent, *, limit: int | None, seed: int) -> Outcome:
        """Describe `limit` pictures, drawn at random by `seed`; all where it is None. CIDEr's weights are those of the
        pictures that were drawn."""
        asked = drawn_questions(self.asked, limit=limit, seed=seed)
        replies = ask(engine, asked, preset=self.preset, seed=seed)
        known = [(one, reply) for one, reply in zip(asked, replies, strict=True) if one.answers]
        said = [caption.words(reply) for _, reply in known]
        references = [[caption.words(text) for text in one.answers] for one, _ in known]
        values = [PER_CENT * value for value in caption.cider(said, references)] if known else []
        return Outcome(
            name=self.name,
            setup=(
                f"CIDEr-D x 100. Greedy, preset `{self.preset.name}`. Intervals by picture, weights held. "
                f"Shuffled: captions held against other pictures ({MOST_SHUFFLED} at most)."
            ),
            baseline="",
            scores=self._scores(known, said, references, values),
            examples=tuple(
                Example((one.image,), f"{reply}\n({one.answers[0]})", value >= float(numpy.median(values)))
                for (one, reply), value in list(zip(known, values, strict=True))[:60]
            ),
            items=self._items(asked, replies, dict(zip([one.key for one, _ in known], values, strict=True))),
            settings={"preset": self.preset.name, "seed": seed, "max_new_tokens": self.preset.max_new_tokens},
            submissions={
                f"{self.name}.submission": [
                    {"image_id": int(one.key) if one.key.isdigit() else one.key, "caption": reply}
                    for one, reply in zip(asked, replies, strict=True)
                ]
            },
        )

    def _scores(
        self,
        known: Sequence[tuple[Asked, str]],
        said: Sequence[Sequence[str]],
        references: Sequence[Sequence[Sequence[str]]],
        values: Sequence[float],
    ) -> tuple[Score, ...]:
        groups = {"CIDEr": list(range(len(known)))}
        for place, (one, _) in enumerate(known):
            if one.group:
                groups.setdefault(f"CIDEr, {one.group}", []).append(place)
        keys = [one.key for one, _ in known]
        some = list(range(min(MOST_SHUFFLED, len(known))))
        shifted = _shuffled(said, references, some, keys=keys)
        return tuple(
            Score(
                name=name,
                value=bootstrap([values[place] for place in places], clusters=[keys[place] for place in places]),
                num_items=len(places),
                unit=Unit.NUMBER,
                shuffled=shifted if name == "CIDEr" else None,
            )
            for name, places in groups.items()
            if places
        )

    def _items(
        self, asked: Sequence[Asked], replies: Sequence[str], values: dict[str, float]
    ) -> tuple[dict[str, Any], ...]:
        return tuple(
            {"key": one.key, "cluster": one.key, "reply": reply}
            | ({"score": values[one.key]} if one.key in values else {})
            for one, reply in zip(asked, replies, strict=True)
        )


def _shuffled(
    said: Sequence[Sequence[str]],
    references: Sequence[Sequence[Sequence[str]]],
    places: Sequence[int],
    *,
    keys: Sequence[str],
) -> Any:
    """Captions against the references of other pictures: all turns of the list by up to ten places."""
    size = len(places)
    if size < 2:
        return None
    turns = []
    for turn in range(1, min(10, size - 1) + 1):
        moved = [said[places[(number + turn) % size]] for number in range(size)]
        turns.append([PER_CENT * value for value in caption.cider(moved, [references[place] for place in places])])
    square = numpy.zeros((size, size))
    for turn, values in enumerate(turns, start=1):
        for number, value in enumerate(values):
            square[(number + turn) % size, number] = value
    if len(turns) == size - 1:
        return permuted(square, clusters=[keys[place] for place in places])
    return bootstrap([value for values in turns for value in values], clusters=[*range(size)] * len(turns))
