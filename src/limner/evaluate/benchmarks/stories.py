"""Stories: does the model illustrate when it may, leave it when it may not, and draw what it tells? 100 by default.

A picture fits when the longest known name in the text since the picture before is among the nearest
names of what was drawn. Controls: pictures held against the texts of other places, and the recipe's
own stories under the same rule (a hero may have a longer name than what the picture shows).

Files, with the repository: emoji/*.tar (in the folder `data`)
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy

from limner.data import stories
from limner.data.stories import Library
from limner.data.story_text import HELD_OUT
from limner.document.document import Document, Media, Message, Part
from limner.document.media import Image
from limner.evaluate.answers import Respondent
from limner.evaluate.benchmark import Example, Outcome, Score, Unit, answer, drawn
from limner.evaluate.benchmarks.emoji import DRAWN, own_judge, trained
from limner.evaluate.intervals import bootstrap, permuted, share
from limner.evaluate.metrics.naming import holds, normalized
from limner.evaluate.metrics.retrieval import Judge
from limner.evaluate.presets import refuse_choices
from limner.generate.request import Request
from limner.generate.sampling import Sampling
from limner.model.multimodal import MultimodalLM

DEPTH = 5
SAMPLING = Sampling(temperature=0.7)
MAX_NEW_TOKENS = 160
MAX_PICTURES = 6


@dataclass(frozen=True)
class Place:
    """A picture of a story, and the longest known name in the text before it ("" for none)."""

    story: int
    picture: Image
    name: str


@dataclass(frozen=True)
class Stories:
    """`library` holds one picture per name: the gallery of the judge of a model, in this order."""

    library: Library
    judge: Callable[[MultimodalLM], Judge]
    name: str = "stories"

    def run(self, engine: Respondent, *, limit: int | None, seed: int) -> Outcome:
        """Ask for `limit` stories (None: 100) with pictures, and for as many in words only."""
        count = 100 if limit is None else limit
        judge = self.judge(engine.model)
        asked = [self._request(number, seed=seed) for number in range(count)]
        replies = tell(engine, asked, seed=seed)
        places = [
            Place(number, picture, name)
            for number, reply in enumerate(replies)
            for (_, name), picture in zip(
                named_pictures(reply.parts, names=self.library.names), drawn(reply), strict=True
            )
        ]
        fits, ranked = self._fits(places, judge=judge)
        return Outcome(
            name=self.name,
            setup=(
                "Stories about random things of the training split in held-out wordings, "
                f"temperature {SAMPLING.temperature}; where pictures go is the model's choice. A "
                "picture fits when the longest name in the text before it is within rank "
                f"{DEPTH} of {len(self.library.names)}, judge: {judge.name}. Intervals by "
                "story. Requests for words only have wordings of training."
            ),
            baseline="chance",
            scores=(
                *self._counts(places, num_stories=count),
                *fits,
                self._words_only(engine, count=count, seed=seed),
            ),
            examples=tuple(
                Example((p.picture,), f"{p.name or '(no name)'}\nrank {rank:g}", rank <= DEPTH)
                for p, rank in zip(places, ranked, strict=True)
            ),
            items=tuple(
                {
                    "key": str(number),
                    "request": request.messages[0].text,
                    "reply": _as_text(reply, places, number),
                    "score": _share_fitting(places, ranked, number),
                }
                for number, (request, reply) in enumerate(zip(asked, replies, strict=True))
            ),
            settings={
                "seed": seed,
                "temperature": SAMPLING.temperature,
                "max_new_tokens": MAX_NEW_TOKENS,
            },
        )

    def _request(self, number: int, *, seed: int) -> Document:
        made = stories.story(number, seed=_apart(seed), library=self.library, requests=HELD_OUT["story"])
        return Document(made.messages[:1])

    def _counts(self, places: Sequence[Place], *, num_stories: int) -> list[Score]:
        per_story = numpy.bincount([place.story for place in places], minlength=num_stories)
        own = range(num_stories)
        return [
            Score("stories with a picture", share(per_story > 0, clusters=own), num_stories),
            Score("pictures per story", bootstrap(per_story, clusters=own), num_stories, Unit.NUMBER),
        ]

    def _fits(self, places: Sequence[Place], *, judge: Judge) -> tuple[list[Score], list[float]]:
        """Scores of the pictures, and the rank of each (infinite without a name before it)."""
        if not places:
            return [], []
        column = {record.name: number for number, record in enumerate(self.library.records)}
        ranked = judge.ranks([place.picture for place in places]).numpy()
        columns = [column.get(place.name, -1) for place in places]
        square = numpy.where(numpy.array(columns) >= 0, ranked[:, columns], numpy.inf)
        clusters = [place.story for place in places]
        named = [bool(place.name) for place in places]
        scores = [
            Score(
                "pictures with a known name before them",
                share(named, clusters=clusters),
                len(places),
            ),
            Score(
                "pictures that fit the text before them",
                share(square.diagonal() <= DEPTH, clusters=clusters),
                len(places),
                shuffled=permuted(square <= DEPTH, clusters=[place.name for place in places]),
                baseline=DEPTH / len(column),
            ),
            self._bound(len(places)),
        ]
        return scores, square.diagonal().tolist()

    def _bound(self, count: int) -> Score:
        """The same rule on stories of the recipe, whose pictures are the true ones."""
        right, clusters = [], []
        for number in range(count):
            made = stories.story(number, seed=_apart(0), library=self.library)
            for media, name in named_pictures(made.messages[1].parts, names=self.library.names):
                right.append(media.alt == name)
                clusters.append(number)
        return Score(
            "bound: the recipe's stories under the same rule",
            share(right, clusters=clusters),
            len(right),
        )

    def _words_only(self, engine: Respondent, *, count: int, seed: int) -> Score:
        asked = [
            Document(stories.words_only(number, seed=_apart(seed), library=self.library).messages[:1])
            for number in range(count)
        ]
        replies = tell(engine, asked, seed=seed, num_inference_steps=1)
        without = [not drawn(reply) for reply in replies]
        return Score("no picture when asked for words only", share(without, clusters=range(count)), count)


def tell(engine: Respondent, asked: Sequence[Document], *, seed: int, num_inference_steps: int = 24) -> list[Message]:
    """The replies, each with a seed of its own; where pictures go is the model's choice."""
    requests = [
        Request(
            document,
            max_new_tokens=MAX_NEW_TOKENS,
            max_pictures=MAX_PICTURES,
            sampling=SAMPLING,
            num_inference_steps=num_inference_steps,
            seed=seed + number,
        )
        for number, document in enumerate(asked)
    ]
    return answer(engine, requests)


def named_pictures(parts: Sequence[Part], *, names: Sequence[str]) -> list[tuple[Media, str]]:
    """Each picture with the longest known name in the text since the picture before it, or ""."""
    longest_first = sorted(names, key=lambda name: (-len(name), name))
    found, text = [], ""
    for part in parts:
        if not isinstance(part, Media):
            text += part.text
            continue
        words = normalized(text)
        name = next((n for n in longest_first if holds(words, normalized(n))), "")
        found.append((part, name))
        text = ""
    return found


def _apart(seed: int) -> int:
    """A seed for requests: training draws its documents with seed 0."""
    return 1_000_003 + seed


def _as_text(reply: Message, places: Sequence[Place], story: int) -> str:
    names = iter([place.name for place in places if place.story == story])
    return "".join(f" [{next(names)}]" if isinstance(part, Media) else part.text for part in reply.parts)


def _share_fitting(places: Sequence[Place], ranked: Sequence[float], story: int) -> float:
    """The share of a story's pictures that fit; 0 for a story without pictures."""
    fitting = [rank <= DEPTH for place, rank in zip(places, ranked, strict=True) if place.story == story]
    return sum(fitting) / len(fitting) if fitting else 0.0


def load(folder: Path, *, preset: str = "", split: str = "") -> Stories:
    """Stories about the things of the emoji set."""
    refuse_choices("stories", preset=preset, split=split)
    library = trained(folder, DRAWN)
    return Stories(library, functools.partial(own_judge, library))
