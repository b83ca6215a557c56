"""A small closed world of scenes for measuring what a model learns, with combinations that training never shows.

Owns the grammar (which looks and cells there are, which combinations are held out) and the Documents of four tasks:
descriptions and questions (reading), creation (drawing), pages (text with pictures in places that the instruction
implies). Assumes `scenes` for what a scene is and how it is drawn. Every text states a scene completely and in one way,
so that answers can be compared word for word and drawings aspect by aspect.

    (index, seed, split) -> Scene -> picture, text -> Document

Colour, kind and cell make a combination. One in `HELD_OUT_SHARE` of them is held out, by hash: no training document of
any task shows or names one, every scene and every page of the test split has at least one.
"""

import functools
import hashlib
import random
from dataclasses import dataclass, replace

from limner.data.scenes import COLORS, GRID, KINDS, NUMBERS, SIZES, SPLITS, Question, Scene, Shape, render
from limner.document.document import Direction, Document, Media, Part, Text
from limner.document.media import Image

HELD_OUT_SHARE = 10
BACKGROUND = "white"
STATED = ("count", "shapes", "colors", "sizes", "binding", "relations", "cells")
"""What the text of a scene states, of `scenes.ASPECTS`: everything but the background, which is always white."""
CELLS = tuple((row, column) for row in range(GRID) for column in range(GRID))
PALETTE = tuple(name for name in COLORS if name != BACKGROUND)

PLACES = ("northwest", "north", "northeast", "west", "center", "east", "southwest", "south", "southeast")

DESCRIBE_REQUEST = "Describe the picture."
DRAW_REQUEST = "Draw {scene}."
PAGE_REQUEST = "Show {wanted} of: {statements}."
WORDS = (
    *KINDS, *(f"{kind}es" if kind.endswith("s") else f"{kind}s" for kind in KINDS), *COLORS, *SIZES, *NUMBERS,
    *PLACES, *(place.capitalize() for place in PLACES), "a", "A", "the", "is", "are", "or",
    "there", "shape", "shapes", "Describe", "picture", "Draw", "Show", "of", "What", "Where", "How",
    "Is", "many", "color", "all", "nothing", "first", "second", "last", "but",
)  # fmt: skip
"""Every word of every document."""


@dataclass(frozen=True)
class SceneGrammar:
    """Which scenes there are: 1 to `max_shapes` shapes of `kinds` and `colors` in different cells.

    `side` is the edge of a picture in pixels; 48 is the least that the parser reads.
    """

    kinds: tuple[str, ...] = KINDS
    colors: tuple[str, ...] = PALETTE
    max_shapes: int = 3
    side: int = 48

    @functools.cached_property
    def combinations(self) -> dict[str, tuple[tuple[str, str, tuple[int, int]], ...]]:
        """(colour, kind, cell) by split: all that training may show, and those that are held out."""
        every = [(color, kind, cell) for color in self.colors for kind in self.kinds for cell in CELLS]
        return {
            "train": tuple(each for each in every if not is_held_out(*each)),
            "test": tuple(each for each in every if is_held_out(*each)),
        }

    def shape(self, rng: random.Random, *, split: str = "train") -> Shape:
        """A shape whose combination belongs to `split`."""
        color, kind, cell = rng.choice(self.combinations[split])
        return Shape(cell, kind, color, rng.choice(tuple(SIZES)))

    def scene(self, index: int, *, seed: int, split: str = "train") -> Scene:
        """The scene at `index`, a pure function of its arguments. Raises ValueError for an unknown split."""
        if split not in SPLITS:
            raise ValueError(f"unknown scene split {split!r}, expected one of {SPLITS}\nhint: pass split='train'")
        rng = random.Random(f"grammar/{split}/{seed}/{index}")
        count = rng.randint(1, self.max_shapes)
        shapes = [self.shape(rng, split=split)]
        while len(shapes) < count:
            other = self.shape(rng)
            if other.cell not in {shape.cell for shape in shapes}:
                shapes.append(other)
        return Scene(tuple(shapes), BACKGROUND)

    def picture(self, scene: Scene) -> Media:
        """The scene as a media part."""
        return Media(_picture(scene, self.side), alt=text_of(scene))


@functools.cache
def is_held_out(color: str, kind: str, cell: tuple[int, int]) -> bool:
    """Whether no training document has this combination."""
    digest = hashlib.sha256(f"{color} {kind} {cell}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % HELD_OUT_SHARE == 0


@functools.lru_cache(maxsize=4096)
def _picture(scene: Scene, side: int) -> Image:
    return Image.from_pil(render(scene, side=side), name="scene")


def place(shape: Shape) -> str:
    """The cell in one word, as on a map."""
    row, column = shape.cell
    return PLACES[row * GRID + column]


def stated(shape: Shape) -> str:
    """A shape in words, with nothing left out: "northwest a large red circle".

    The place stands first: in this order each word can be told from what is shown and the words before it.
    """
    return f"{place(shape)} a {shape.size} {shape.noun}"


def text_of(scene: Scene) -> str:
    """The one full text of a scene: its shapes in reading order."""
    return ", ".join(map(stated, scene.shapes))


def question(scene: Scene, *, seed: int) -> Question:
    """One question with one right short answer, by hash of (seed, content); topics are equally likely."""
    rng = random.Random(f"grammar question/{seed}/{scene.key}")
    shape = rng.choice(scene.shapes)
    asked = {
        "count": _count(scene, rng),
        **_by_place(shape),
        **_by_look(scene, shape, rng),
    }
    return asked[rng.choice(sorted(asked))]


def _by_place(shape: Shape) -> dict[str, Question]:
    """Questions about the shape in a cell, by topic."""
    thing = f"{place(shape)} shape"
    return {
        "color": Question(f"What color is the {thing}?", shape.color, "color"),
        "shape": Question(f"What is the {thing}?", shape.kind, "shape"),
        "size": Question(f"Is the {thing} small or large?", shape.size, "size"),
    }


def _by_look(scene: Scene, shape: Shape, rng: random.Random) -> dict[str, Question]:
    """Questions that name a shape by its look, where that is one shape alone; instead of those by place every other
    time."""
    found: dict[str, Question] = {}
    if sum(other.kind == shape.kind for other in scene.shapes) == 1 and rng.random() < 0.5:
        thing = shape.kind
        found["color"] = Question(f"What color is the {thing}?", shape.color, "color")
    if sum(other.color == shape.color for other in scene.shapes) == 1 and rng.random() < 0.5:
        thing = f"{shape.color} shape"
        found["shape"] = Question(f"What is the {thing}?", shape.kind, "shape")
    if sum(other.noun == shape.noun for other in scene.shapes) == 1:
        thing = shape.noun
        found["position"] = Question(f"Where is the {thing}?", place(shape), "position")
        if rng.random() < 0.5:
            found["size"] = Question(f"Is the {thing} small or large?", shape.size, "size")
    return found


def _count(scene: Scene, rng: random.Random) -> Question:
    kind = rng.choice((rng.choice(scene.shapes).kind, rng.choice(KINDS)))
    color = rng.choice((rng.choice(scene.shapes).color, rng.choice(PALETTE)))
    plural = f"{kind}es" if kind.endswith("s") else f"{kind}s"
    wanted, number = rng.choice(
        (
            ("shapes", len(scene.shapes)),
            (plural, sum(s.kind == kind for s in scene.shapes)),
            (f"{color} shapes", sum(s.color == color for s in scene.shapes)),
        )
    )
    return Question(f"How many {wanted} are there?", NUMBERS[number], "count")


def describe_document(index: int, *, grammar: SceneGrammar, seed: int, split: str = "train") -> Document:
    """The user asks for a description of the scene that follows; the assistant writes its full text."""
    scene = grammar.scene(index, seed=seed, split=split)
    return Document.chat(
        [("user", (Text(DESCRIBE_REQUEST), grammar.picture(scene))), ("assistant", text_of(scene) + ".")],
        meta={"task": "describe", "scene": scene.key},
    )


def question_document(index: int, *, grammar: SceneGrammar, seed: int, split: str = "train") -> Document:
    """The user asks about the scene that follows; the assistant gives the short answer."""
    scene = grammar.scene(index, seed=seed, split=split)
    asked = question(scene, seed=seed + index)
    return Document.chat(
        [("user", (Text(asked.text), grammar.picture(scene))), ("assistant", asked.answer)],
        meta={"task": "question", "scene": scene.key, "topic": asked.topic},
    )


def creation_document(index: int, *, grammar: SceneGrammar, seed: int, split: str = "train") -> Document:
    """The user states a scene; the assistant draws it."""
    scene = grammar.scene(index, seed=seed, split=split)
    request = DRAW_REQUEST.format(scene=text_of(scene))
    # Made and not read back: nothing follows that would have to see it.
    made = replace(grammar.picture(scene), directions=(Direction.OUT,))
    return Document.chat([("user", request), ("assistant", (made,))], meta={"task": "creation", "scene": scene.key})


def page_document(index: int, *, grammar: SceneGrammar, seed: int, split: str = "train") -> Document:
    """The user states 2 to 4 shapes and which of them to show; the assistant writes a sentence about each, and draws
    the ones wanted, each right behind its sentence.

    What is to be shown is said by number; `meta["shown"]` tells it for each sentence.
    """
    rng = random.Random(f"grammar page/{split}/{seed}/{index}")
    shapes = [grammar.shape(rng, split=split)]
    shapes += [grammar.shape(rng) for _ in range(rng.randint(1, 3))]
    rng.shuffle(shapes)
    wanted, shown = rng.choice(_instructions(len(shapes)))
    parts: list[Part] = []
    for shape, is_shown in zip(shapes, shown, strict=True):
        sentence = stated(shape)
        parts.append(Text(f" {sentence[0].upper()}{sentence[1:]}."))
        if is_shown:
            parts.append(grammar.picture(Scene((shape,), BACKGROUND)))
    request = PAGE_REQUEST.format(statements=", ".join(map(stated, shapes)), wanted=wanted)
    return Document.chat([("user", request), ("assistant", parts)], meta={"task": "page", "shown": shown})


def _instructions(count: int) -> list[tuple[str, list[bool]]]:
    """What may be asked to be shown of `count` shapes, and which of them that is."""
    numbers, last = range(count), count - 1
    return [
        ("all", [True for _ in numbers]),
        ("nothing", [False for _ in numbers]),
        ("the first", [n == 0 for n in numbers]),
        ("the second", [n == 1 for n in numbers]),
        ("the last", [n == last for n in numbers]),
        ("all but the first", [n != 0 for n in numbers]),
        ("all but the last", [n != last for n in numbers]),
    ]


MAKERS = {
    "describe": describe_document,
    "question": question_document,
    "creation": creation_document,
    "page": page_document,
}


class GrammarTask:
    """Documents of one task of `MAKERS`: unlimited, and without a held-out combination unless `split` is "test"."""

    def __init__(
        self, *, task: str, length: int, split: str = "train", seed: int = 0, grammar: SceneGrammar | None = None
    ) -> None:
        if task not in MAKERS:
            raise ValueError(f"no task `{task}`\nhint: tasks are {', '.join(MAKERS)}")
        self.make = functools.partial(MAKERS[task], grammar=grammar or SceneGrammar(), seed=seed, split=split)
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Document:
        return self.make(index)
