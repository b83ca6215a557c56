"""Scenes: does a model read, draw and illustrate what it never saw in training? Exact answers, no judge.

Three benchmarks over the test split of `data/scene_grammar`, in which every scene and page has a combination of colour,
kind and cell that no training document has. Each asks (`documents`, `requests`) and scores (`score`) apart: what is
scored are replies, whatever made them. Every score has a control: the same measure against the truths of other items.

    SceneReading   pictures -> descriptions and answers, compared word for word
    SceneDrawing   full text of a scene -> picture, read back by the exact parser
    ScenePages     statements and what to show -> a page; the model places its pictures
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy

from limner.data.scene_grammar import STATED, GrammarTask, SceneGrammar
from limner.data.scenes import Scene
from limner.document.document import Document, Message, Text
from limner.document.media import Image
from limner.evaluate.answers import Respondent
from limner.evaluate.benchmark import Example, Outcome, Score, Unit, answer, drawn
from limner.evaluate.intervals import permuted, share
from limner.evaluate.metrics import layout
from limner.evaluate.metrics.scenes import mark_square, read, said_shape, shape_scene
from limner.evaluate.presets import refuse_choices
from limner.generate.request import Pictures, Request

DEFAULT_COUNT = 200
MAX_NEW_TOKENS = 64
MAX_PICTURES = 6
TEST_SEED = 1_000_003
"""Added to the benchmark's seed; the test split is apart from training whatever the seed."""


def _documents(task: str, *, grammar: SceneGrammar, count: int, seed: int) -> list[Document]:
    source = GrammarTask(task=task, length=count, split="test", seed=TEST_SEED + seed, grammar=grammar)
    return [source[index] for index in range(count)]


def _prompt(document: Document) -> Document:
    return Document(document.messages[:1])


@dataclass(frozen=True)
class SceneReading:
    """As many descriptions as questions; `limit` counts both together."""

    grammar: SceneGrammar = field(default_factory=SceneGrammar)
    name: str = "scene-reading"

    def documents(self, *, limit: int | None, seed: int) -> list[Document]:
        """What is asked, with the true answers: descriptions first."""
        half = (2 * DEFAULT_COUNT if limit is None else limit) // 2
        return [
            document
            for task in ("describe", "question")
            for document in _documents(task, grammar=self.grammar, count=half, seed=seed)
        ]

    def run(self, engine: Respondent, *, limit: int | None, seed: int) -> Outcome:
        """Ask without letting it draw, and score the words."""
        documents = self.documents(limit=limit, seed=seed)
        requests = [
            Request(_prompt(document), max_new_tokens=MAX_NEW_TOKENS, pictures=Pictures.NONE) for document in documents
        ]
        return self.score(documents, answer(engine, requests, batch_size=64))

    def score(self, documents: Sequence[Document], replies: Sequence[Message]) -> Outcome:
        """Exact match, word for word, case and punctuation included."""
        said = [" ".join(reply.text.split()) for reply in replies]
        truth = [" ".join(document.messages[1].text.split()) for document in documents]
        right = [a == b for a, b in zip(said, truth, strict=True)]
        groups = [str(document.meta.get("topic", "description")) for document in documents]
        parts = {
            "exact match": range(len(said)),
            "descriptions": [n for n, group in enumerate(groups) if group == "description"],
            "questions": [n for n, group in enumerate(groups) if group != "description"],
        }
        for topic in sorted({*groups} - {"description"}):
            parts[f"questions: {topic}"] = [n for n, group in enumerate(groups) if group == topic]
        scores = []
        for name, places in parts.items():
            if not places:
                continue
            chosen = numpy.array([[said[i] == truth[j] for j in places] for i in places])
            scores.append(
                Score(
                    name,
                    share([right[place] for place in places], clusters=list(places)),
                    len(places),
                    shuffled=permuted(chosen, clusters=list(places), num_permutations=200),
                    baseline=Counter(truth[place] for place in places).most_common(1)[0][1] / len(places),
                )
            )
        return Outcome(
            name=self.name,
            setup=(
                "Scenes with a combination of colour, kind and cell never shown in training; half are described in "
                "full, half are asked about. A reply counts when it is the true one word for word."
            ),
            baseline="best constant reply",
            scores=tuple(scores),
            examples=tuple(
                Example((_shown(document),), f"{document.messages[0].text}\n> {reply}", ok)
                for document, reply, ok in zip(documents, said, right, strict=True)
            ),
            items=tuple(
                {
                    "key": str(number),
                    "asked": document.messages[0].text,
                    "truth": wanted,
                    "reply": reply,
                    "score": float(ok),
                }
                for number, (document, wanted, reply, ok) in enumerate(zip(documents, truth, said, right, strict=True))
            ),
        )


def _shown(document: Document) -> Image:
    return next(media.content for _, media in document.media())


def drawing_requests(
    prompts: Sequence[Document], *, guidance_scale: float, num_inference_steps: int, seed: int
) -> list[Request]:
    """One picture for each prompt, at once; each from the noise of a seed of its own."""
    return [
        Request(
            prompt,
            max_new_tokens=1,
            max_pictures=1,
            pictures=Pictures.NOW,
            guidance_scale=guidance_scale,
            num_inference_steps=num_inference_steps,
            seed=seed + number,
        )
        for number, prompt in enumerate(prompts)
    ]


@dataclass(frozen=True)
class SceneDrawing:
    """Full texts of scenes, one picture each, drawn at once."""

    grammar: SceneGrammar = field(default_factory=SceneGrammar)
    guidance_scale: float = 1.0
    num_inference_steps: int = 12
    name: str = "scene-drawing"

    def documents(self, *, limit: int | None, seed: int) -> list[Document]:
        """What is asked, with the true pictures."""
        return _documents("creation", grammar=self.grammar, count=limit or DEFAULT_COUNT, seed=seed)

    def run(self, engine: Respondent, *, limit: int | None, seed: int) -> Outcome:
        """Ask for each picture, and score what is drawn."""
        documents = self.documents(limit=limit, seed=seed)
        requests = drawing_requests(
            [_prompt(document) for document in documents],
            guidance_scale=self.guidance_scale,
            num_inference_steps=self.num_inference_steps,
            seed=seed,
        )
        return self.score(documents, answer(engine, requests, batch_size=64))

    def score(self, documents: Sequence[Document], replies: Sequence[Message]) -> Outcome:
        """The share of stated aspects that are right, and of scenes in which all are."""
        pictures = [next(iter(drawn(reply)), None) for reply in replies]
        found = [read(picture) for picture in pictures]
        truth = [read(_shown(document)) for document in documents]
        wanted = [scene for scene in truth if scene is not None]
        square = mark_square(found, wanted)
        own = list(range(len(found)))
        names = {name: square[:, :, place] for place, name in enumerate(STATED)}
        measures = {"stated aspects": square.mean(2), "whole scenes": square.min(2), **names}
        scores = [
            Score(
                name,
                share(values.diagonal(), clusters=own),
                len(own),
                shuffled=permuted(values, clusters=own, num_permutations=200),
            )
            for name, values in measures.items()
        ]
        return Outcome(
            name=self.name,
            setup=(
                "Scenes stated in full, with a combination of colour, kind and cell never drawn in training. Drawings "
                f"are read by the exact parser; aspects: {', '.join(STATED)}."
            ),
            baseline="",
            scores=tuple(scores),
            examples=tuple(
                Example((picture,), document.messages[0].text, bool(ok))
                for picture, document, ok in zip(pictures, documents, square.min(2).diagonal(), strict=True)
                if picture is not None
            ),
            items=tuple(
                {
                    "key": str(place),
                    "asked": document.messages[0].text,
                    "drawn": None if scene is None else scene.key,
                    **dict(zip(STATED, map(bool, square[place, place]), strict=True)),
                    "score": float(square[place, place].mean()),
                }
                for place, (document, scene) in enumerate(zip(documents, found, strict=True))
            ),
            settings={"guidance_scale": self.guidance_scale, "num_inference_steps": self.num_inference_steps},
        )


@dataclass(frozen=True)
class _Shown:
    """A picture of a page and the scene that the sentence before it states, None where it states none."""

    page: int
    picture: Image
    wanted: Scene | None


@dataclass(frozen=True)
class ScenePages:
    """Statements and an instruction; what is written and where pictures go is the model's choice."""

    grammar: SceneGrammar = field(default_factory=SceneGrammar)
    guidance_scale: float = 1.0
    num_inference_steps: int = 12
    name: str = "scene-pages"

    def documents(self, *, limit: int | None, seed: int) -> list[Document]:
        """What is asked, with the true pages."""
        return _documents("page", grammar=self.grammar, count=limit or DEFAULT_COUNT, seed=seed)

    def run(self, engine: Respondent, *, limit: int | None, seed: int) -> Outcome:
        """Ask for each page, and score where and what its pictures are."""
        documents = self.documents(limit=limit, seed=seed)
        requests = [
            Request(
                _prompt(document),
                max_new_tokens=MAX_NEW_TOKENS,
                max_pictures=MAX_PICTURES,
                guidance_scale=self.guidance_scale,
                num_inference_steps=self.num_inference_steps,
                seed=seed + number,
            )
            for number, document in enumerate(documents)
        ]
        return self.score(documents, answer(engine, requests, batch_size=64))

    def score(self, documents: Sequence[Document], replies: Sequence[Message]) -> Outcome:
        """Layout F1 over places, texts word for word, and pictures against the sentences before them."""
        found = [layout.places(reply.parts) for reply in replies]
        wanted = [layout.places(document.messages[1].parts) for document in documents]
        own = list(range(len(replies)))
        texts = [" ".join(reply.text.split()) for reply in replies]
        truth = [" ".join(document.messages[1].text.split()) for document in documents]
        same = numpy.array([[a == b for b in truth] for a in texts])
        alike = numpy.array([[a == b for b in wanted] for a in found])
        scores = [
            Score(
                "layout F1",
                layout.f1_interval(found, wanted),
                len(own),
                Unit.NUMBER,
                shuffled=layout.shuffled_f1(found, wanted),
            ),
            Score(
                "pages with every picture in its place",
                share(alike.diagonal(), clusters=own),
                len(own),
                shuffled=permuted(alike, clusters=own, num_permutations=200),
            ),
            Score(
                "texts",
                share(same.diagonal(), clusters=own),
                len(own),
                shuffled=permuted(same, clusters=own, num_permutations=200),
            ),
            *_picture_scores(replies),
        ]
        return Outcome(
            name=self.name,
            setup=(
                "Pages of 2 to 4 sentences, one with a combination of colour, kind and cell never seen in training; "
                "the instruction says which to show. A place is the number of words before a picture; the model "
                "chooses. Pictures are compared with the sentence before them, by the exact parser."
            ),
            baseline="",
            scores=tuple(scores),
            items=tuple(
                {
                    "key": str(number),
                    "asked": document.messages[0].text,
                    "reply": text,
                    "places": found[number],
                    "wanted": wanted[number],
                    "score": float(alike[number, number]),
                }
                for number, (document, text) in enumerate(zip(documents, texts, strict=True))
            ),
            settings={"guidance_scale": self.guidance_scale, "num_inference_steps": self.num_inference_steps},
        )


def _picture_scores(replies: Sequence[Message]) -> list[Score]:
    """Pictures against what the sentence before them states; none where no page has a picture."""
    shown = [item for page, reply in enumerate(replies) for item in _pictures_of(page, reply)]
    if not shown:
        return []
    square = _square([read(item.picture) for item in shown], [item.wanted for item in shown])
    clusters = [item.page for item in shown]
    measures = {"pictures: stated aspects": square.mean(2), "pictures: whole scenes": square.min(2)}
    return [
        Score(
            name,
            share(values.diagonal(), clusters=clusters),
            len(shown),
            shuffled=permuted(values, clusters=clusters, num_permutations=200),
        )
        for name, values in measures.items()
    ]


def _pictures_of(page: int, reply: Message) -> list[_Shown]:
    """Each picture with the scene that the last sentence before it states."""
    found, text = [], ""
    for part in reply.parts:
        if isinstance(part, Text):
            text += part.text
        elif part.payload is not None:
            shape = said_shape(text)
            found.append(_Shown(page, part.content, None if shape is None else shape_scene(shape)))
    return found


def _square(found: Sequence[Scene | None], wanted: Sequence[Scene | None]) -> numpy.ndarray:
    """`mark_square`, with nothing right where a sentence states nothing."""
    stated = [scene for scene in wanted if scene is not None]
    square = numpy.zeros((len(found), len(wanted), len(STATED)))
    square[:, [scene is not None for scene in wanted]] = mark_square(found, stated)
    return square


def load_reading(folder: Path, *, preset: str = "", split: str = "") -> SceneReading:
    """Scenes that were never shown, described and asked about; made on the spot, no files."""
    refuse_choices("scene_reading", preset=preset, split=split)
    return SceneReading()


def load_drawing(folder: Path, *, preset: str = "", split: str = "") -> SceneDrawing:
    """Scenes that were never drawn, drawn from their texts; made on the spot, no files."""
    refuse_choices("scene_drawing", preset=preset, split=split)
    return SceneDrawing()


def load_pages(folder: Path, *, preset: str = "", split: str = "") -> ScenePages:
    """Pages of scenes, illustrated where the instruction wants it; made on the spot, no files."""
    refuse_choices("scene_pages", preset=preset, split=split)
    return ScenePages()
