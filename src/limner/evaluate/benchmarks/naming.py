"""Naming: pictures that were never shown, asked about in wordings that were never used.

Every picture gets one held-out question, the reply is greedy and in words only. Scores by part of
the set, each with the replies held against other pictures (luck) and the best constant reply.

Files, with the repository: emoji/heldout-*.tar (in the folder `data`)
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy

from limner.data import stories
from limner.data.stories import Library, Record
from limner.data.story_text import HELD_OUT
from limner.document.document import Document
from limner.evaluate.answers import Respondent
from limner.evaluate.benchmark import Example, Outcome, Score, answer
from limner.evaluate.benchmarks.emoji import held_out_concepts, held_out_styles
from limner.evaluate.intervals import permuted, share
from limner.evaluate.metrics import naming
from limner.evaluate.presets import refuse_choices
from limner.generate.request import Pictures, Request

MAX_NEW_TOKENS = 32
PEOPLE = "people-body"


@dataclass(frozen=True)
class Naming:
    """`styles`: pictures in a style that was never read; `concepts`: new things in that style."""

    styles: Library
    concepts: Library
    name: str = "naming"

    def run(self, engine: Respondent, *, limit: int | None, seed: int) -> Outcome:
        """Ask about both sets, `limit` pictures each."""
        sets = {
            "withheld style": _sample(self.styles.records, limit=limit, seed=seed),
            "withheld style and thing, without people": _sample(
                [r for r in self.concepts.records if r.group != PEOPLE], limit=limit, seed=seed
            ),
        }
        scores: list[Score] = []
        examples: tuple[Example, ...] = ()
        items: list[dict] = []
        for label, records in sets.items():
            replies = ask(engine, records, seed=seed)
            table = _Table(records, replies)
            parts = {label: [True] * len(records)}
            if label == "withheld style":
                for style in self.styles.styles:
                    parts[f"{label}, {style}"] = [record.style == style for record in records]
                parts[f"{label}, without people"] = [record.group != PEOPLE for record in records]
                examples = table.examples()
            scores += [s for part, kept in parts.items() for s in table.scores(part, kept)]
            items += [{"set": label, **item, "key": f"{label}/{item['key']}"} for item in table.items()]
        return Outcome(
            name=self.name,
            setup=(
                "Greedy replies to one held-out question per picture, words only. Exact: the "
                "reply holds the name. Any word: the name, a telling word of it, or a keyword. "
                "Intervals by concept. Shuffled: the same replies held against pictures of other "
                "concepts."
            ),
            baseline="best constant reply",
            scores=tuple(scores),
            examples=examples,
            items=tuple(items),
            settings={"max_new_tokens": MAX_NEW_TOKENS, "questions": list(HELD_OUT["describe"])},
        )


def ask(engine: Respondent, records: Sequence[Record], *, seed: int) -> list[str]:
    """One greedy reply in words per picture, to a held-out question chosen by its key."""
    requests = [
        Request(question(record, seed=seed), max_new_tokens=MAX_NEW_TOKENS, pictures=Pictures.NONE)
        for record in records
    ]
    return [reply.text for reply in answer(engine, requests)]


def question(record: Record, *, seed: int) -> Document:
    """The picture with a held-out question, in the form that training has."""
    template = random.Random(f"naming/{seed}/{record.key}").choice(HELD_OUT["describe"])
    asked = stories.describe(0, seed=seed, library=Library([record]), templates=[template])
    return Document(asked.messages[:1])


class _Table:
    """Every reply against every picture of a set."""

    def __init__(self, records: Sequence[Record], replies: Sequence[str]) -> None:
        self.records, self.replies = records, replies
        self.phrases = {
            "exact name": [[naming.normalized(record.name)] for record in records],
            "any word": [naming.hints(record) for record in records],
        }
        self.hits = {name: naming.hits(replies, items) for name, items in self.phrases.items()}

    def scores(self, part: str, kept: Sequence[bool]) -> list[Score]:
        """Both measures on the pictures that are kept; none where none is."""
        places = [place for place, is_kept in enumerate(kept) if is_kept]
        if not places:
            return []
        found = []
        clusters = [self.records[place].concept for place in places]
        for measure, items in self.phrases.items():
            phrases = [items[place] for place in places]
            words = sorted({phrase for item in phrases for phrase in item})
            candidates = [*(self.replies[place] for place in places), *words]
            square = self.hits[measure][numpy.ix_(places, places)]
            found.append(
                Score(
                    name=f"{part}: {measure}",
                    value=share(square.diagonal(), clusters=clusters),
                    num_items=len(places),
                    shuffled=permuted(square, clusters=clusters),
                    baseline=naming.best_constant(candidates, phrases)[1],
                )
            )
        return found

    def examples(self) -> tuple[Example, ...]:
        """Every picture with what was said; right where any word is."""
        right = self.hits["any word"].diagonal()
        return tuple(
            Example((record.image(),), f"{record.name}\n> {reply.strip()}", bool(is_right))
            for record, reply, is_right in zip(self.records, self.replies, right, strict=True)
        )

    def items(self) -> list[dict]:
        """What was said about each picture, and how it was scored."""
        return [
            {
                "key": record.key,
                "cluster": record.concept,
                "name": record.name,
                "reply": reply,
                **{name: bool(square[place, place]) for name, square in self.hits.items()},
                "score": float(self.hits["any word"][place, place]),
            }
            for place, (record, reply) in enumerate(zip(self.records, self.replies, strict=True))
        ]


def _sample(records: Sequence[Record], *, limit: int | None, seed: int) -> list[Record]:
    count = len(records) if limit is None else min(limit, len(records))
    return random.Random(f"naming/{seed}").sample(list(records), count)


def load(folder: Path, *, preset: str = "", split: str = "") -> Naming:
    """The held-out parts of the emoji set."""
    refuse_choices("naming", preset=preset, split=split)
    return Naming(held_out_styles(folder), held_out_concepts(folder))
