"""Procedural scenes: coloured shapes on a plain background, drawn, described and asked about.

Owns what a scene is, how one is sampled and drawn, what may truthfully be said about it, and the
Documents made from it; `scene_parser` reads a picture back and scores it. Assumes that a scene is
fully known, so every caption and answer is exact. Data flow:

    (index, seed) -> Scene -> render -> picture
                       `-> captions, question -> Document

A scene puts 1 to 4 shapes into different cells of a 3 x 3 grid. Train and test scenes are told
apart by a hash of the content, so no scene is in both, whatever the index or the seed.
"""

import hashlib
import random
from collections import Counter
from dataclasses import dataclass

from PIL import Image as PillowImage
from PIL import ImageDraw

from limner.document.document import Document, Media, Text
from limner.document.media import Image

KINDS = ("circle", "square", "triangle", "diamond", "star", "cross")
SIZES = {"small": 0.085, "large": 0.135}  # radius as a fraction of the picture's side
COLORS = {
    "red": (215, 35, 35),
    "orange": (245, 135, 15),
    "yellow": (250, 220, 40),
    "green": (35, 155, 60),
    "blue": (35, 85, 220),
    "purple": (130, 45, 175),
    "pink": (250, 130, 190),
    "black": (20, 20, 20),
    "white": (250, 250, 250),
}
BACKGROUNDS = {"white": COLORS["white"], "gray": (190, 190, 190), "black": COLORS["black"]}
GRID = 3
ROWS = ("top", "middle", "bottom")
COLUMNS = ("left", "center", "right")
NUMBERS = ("zero", "one", "two", "three", "four")
CATEGORIES = ("single", "count", "pair", "mixed")
ASPECTS = ("count", "shapes", "colors", "sizes", "binding", "relations", "cells", "background")
SPLITS = ("train", "test")
# Drawn this many times larger, then reduced: antialiased edges without a drawing library.
SUPERSAMPLE = 8

DESCRIBE_REQUESTS = (
    "Describe this picture.",
    "What is in this picture?",
    "What do you see?",
    "Write a caption for this picture.",
    "Tell me what is drawn here.",
)
DRAW_REQUESTS = (
    "Draw {caption}.",
    "Please draw {caption}.",
    "Show me {caption}.",
    "Make a picture of {caption}.",
    "Can you draw {caption}?",
    "I would like a picture with {caption}.",
)
# Kept out of every training Document, for evaluation.
HELD_OUT_DRAW_REQUESTS = (
    "Sketch {caption} for me.",
    "A drawing of {caption}, please.",
    "Produce an image that shows {caption}.",
)


@dataclass(frozen=True, order=True)
class Shape:
    """One shape; `cell` is (row, column), each 0 to 2, from the top left."""

    cell: tuple[int, int]
    kind: str
    color: str
    size: str

    @property
    def noun(self) -> str:
        """Colour and kind, for example "red circle"."""
        return f"{self.color} {self.kind}"

    @property
    def place(self) -> str:
        """The cell in words, for example "top left" or "center"."""
        row, column = self.cell
        if (row, column) == (1, 1):
            return "center"
        return f"{ROWS[row]} {COLUMNS[column]}"


@dataclass(frozen=True)
class Scene:
    """Shapes ordered by cell on a named background; equal content means equal scenes."""

    shapes: tuple[Shape, ...]
    background: str = "white"

    def __post_init__(self) -> None:
        object.__setattr__(self, "shapes", tuple(sorted(self.shapes)))

    @property
    def key(self) -> str:
        """The content as one line of text: what the split is decided on."""
        parts = (f"{s.cell[0]}{s.cell[1]} {s.size} {s.noun}" for s in self.shapes)
        return f"{self.background}: " + ", ".join(parts)

    @property
    def split(self) -> str:
        """ "test" for one scene in ten, by hash of the content, else "train"."""
        digest = hashlib.sha256(self.key.encode()).digest()
        return "test" if int.from_bytes(digest[:8], "big") % 10 == 0 else "train"


@dataclass(frozen=True)
class Caption:
    """A true sentence part about a scene, and the aspects (of ASPECTS) which it states."""

    text: str
    aspects: tuple[str, ...]


@dataclass(frozen=True)
class Question:
    """A question with its one right short answer; `topic` names the balanced group it is of."""

    text: str
    answer: str
    topic: str


def sample_scene(index: int, *, seed: int, split: str = "train") -> Scene:
    """The scene at `index`: a pure function of its arguments, always inside `split`.

    Categories (one shape; equal shapes; a pair in one row or column; a mixture) are equally likely.
    Raises ValueError for an unknown split.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown scene split {split!r}, expected one of {SPLITS}\nhint: pass split='train'")
    rng = random.Random(f"scene/{seed}/{index}")
    category = rng.choice(CATEGORIES)
    while True:
        scene = _draw_category(category, rng)
        if scene.split == split:
            return scene


def _draw_category(category: str, rng: random.Random) -> Scene:
    background = rng.choice(tuple(BACKGROUNDS))
    colors = [name for name in COLORS if name != background]
    count = {"single": 1, "pair": 2}.get(category) or rng.randint(2 if category == "count" else 3, 4)
    every = [(row, column) for row in range(GRID) for column in range(GRID)]
    cells = rng.sample(every, count)
    while category == "pair" and cells[0][0] != cells[1][0] and cells[0][1] != cells[1][1]:
        cells = rng.sample(every, count)

    def looks() -> tuple[str, str, str]:
        return rng.choice(KINDS), rng.choice(colors), rng.choice(tuple(SIZES))

    chosen = [looks()] * count if category == "count" else [looks() for _ in cells]
    while category == "pair" and chosen[0][:2] == chosen[1][:2]:
        chosen = [looks() for _ in cells]
    shapes = (Shape(cell, *look) for cell, look in zip(cells, chosen, strict=True))
    return Scene(tuple(shapes), background)


def render(scene: Scene, *, side: int = 64) -> PillowImage.Image:
    """The scene as an RGB picture of `side` x `side` pixels with antialiased edges."""
    large = side * SUPERSAMPLE
    picture = PillowImage.new("RGB", (large, large), BACKGROUNDS[scene.background])
    pen = ImageDraw.Draw(picture)
    for shape in scene.shapes:
        y, x = ((index + 0.5) / GRID * large for index in shape.cell)
        _draw_shape(pen, shape.kind, x, y, SIZES[shape.size] * large, COLORS[shape.color])
    return picture.resize((side, side), PillowImage.Resampling.BOX)


def _draw_shape(pen: ImageDraw.ImageDraw, kind: str, x: float, y: float, radius: float, color: tuple) -> None:
    if kind == "circle":
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=color)
        return
    pen.polygon([(x + u * radius, y + v * radius) for u, v in OUTLINES[kind]], fill=color)


OUTLINES = {  # corners in units of the radius, y downwards
    "square": ((-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)),
    "triangle": ((0, -1), (1, 0.85), (-1, 0.85)),
    "diamond": ((0, -1.1), (0.75, 0), (0, 1.1), (-0.75, 0)),
    "star": (
        (0, -1.1), (0.28, -0.38), (1.05, -0.34), (0.45, 0.14), (0.65, 0.89),
        (0, 0.47), (-0.65, 0.89), (-0.45, 0.14), (-1.05, -0.34), (-0.28, -0.38),
    ),
    "cross": (
        (-0.35, -1), (0.35, -1), (0.35, -0.35), (1, -0.35), (1, 0.35), (0.35, 0.35),
        (0.35, 1), (-0.35, 1), (-0.35, 0.35), (-1, 0.35), (-1, -0.35), (-0.35, -0.35),
    ),
}  # fmt: skip


def _article(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def _counted(noun: str, count: int) -> str:
    if count == 1:
        return _article(noun)
    plural = f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{NUMBERS[count]} {plural}"


def _join(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def relation(first: Shape, second: Shape) -> str | None:
    """How `first` lies to `second` in the same row or column; None when they share neither."""
    (row, column), (other_row, other_column) = first.cell, second.cell
    if row == other_row:
        return "to the left of" if column < other_column else "to the right of"
    if column == other_column:
        return "above" if row < other_row else "below"
    return None


def captions(scene: Scene) -> tuple[Caption, ...]:
    """Every caption the scene has, without capital or full stop, from plain to complete."""
    told = ("count", "shapes", "colors", "binding")
    groups = Counter(shape.noun for shape in scene.shapes)
    sized = Counter(f"{shape.size} {shape.noun}" for shape in scene.shapes)
    plain = _join([_counted(noun, count) for noun, count in groups.items()])
    full = _join([_counted(noun, count) for noun, count in sized.items()])
    placed = _join([f"{_article(s.noun)} in the {s.place}" for s in scene.shapes])
    found = [
        Caption(plain, told),
        Caption(f"{plain} on a {scene.background} background", (*told, "background")),
        Caption(f"{full} on a {scene.background} background", (*told, "sizes", "background")),
        Caption(placed, (*told, "relations", "cells")),
    ]
    if len(scene.shapes) == 2 and len(groups) == 2:
        for first, second in (scene.shapes, scene.shapes[::-1]):
            if words := relation(first, second):
                text = f"{_article(first.noun)} {words} {_article(second.noun)}"
                found.append(Caption(text, (*told, "relations")))
    return tuple(found)


def question(scene: Scene, *, seed: int) -> Question:
    """One question about the scene, by hash of (seed, content).

    The topic is drawn first, uniformly over the topics that have an unambiguous question here, and
    a yes/no answer is drawn before its wording, so yes and no are equally likely.
    """
    rng = random.Random(f"question/{seed}/{scene.key}")
    topics = ["count", "count", "existence", "binding"]
    lone = [s for s in scene.shapes if [t.noun for t in scene.shapes].count(s.noun) == 1]
    kinds = Counter(shape.kind for shape in scene.shapes)
    colors = Counter(shape.color for shape in scene.shapes)
    only_kind = [shape for shape in scene.shapes if kinds[shape.kind] == 1]
    only_color = [shape for shape in scene.shapes if colors[shape.color] == 1]
    pairs = [(a, b) for a in lone for b in lone if a != b and relation(a, b)]
    topics += ["position", "size"] * bool(lone) + ["color"] * bool(only_kind)
    topics += ["shape"] * bool(only_color) + ["relation"] * bool(pairs)
    topic = rng.choice(topics)
    if topic == "count":
        return _count_question(scene, rng)
    if topic in ("existence", "binding"):
        return _existence_question(scene, topic, rng)
    if topic == "relation":
        return _relation_question(*rng.choice(pairs), rng)
    if topic == "color":
        shape = rng.choice(only_kind)
        return Question(f"What color is the {shape.kind}?", shape.color, topic)
    if topic == "shape":
        shape = rng.choice(only_color)
        return Question(f"What shape is the {shape.color} thing?", shape.kind, topic)
    shape = rng.choice(lone)
    if topic == "size":
        return Question(f"Is the {shape.noun} small or large?", shape.size, topic)
    return Question(f"Where is the {shape.noun}?", shape.place, topic)


def _count_question(scene: Scene, rng: random.Random) -> Question:
    shape = rng.choice(scene.shapes)
    kind = rng.choice((shape.kind, rng.choice(KINDS)))
    plural = _counted(kind, 2).removeprefix("two ")
    wanted, number = rng.choice(
        (
            ("shapes", len(scene.shapes)),
            (plural, sum(s.kind == kind for s in scene.shapes)),
            (f"{shape.color} shapes", sum(s.color == shape.color for s in scene.shapes)),
        )
    )
    wording = rng.choice(("How many {} are there?", "How many {} do you see?", "Count the {}."))
    return Question(wording.format(wanted), NUMBERS[number], "count")


def _existence_question(scene: Scene, topic: str, rng: random.Random) -> Question:
    present = {shape.noun if topic == "binding" else shape.kind for shape in scene.shapes}
    if topic == "binding":
        # The false nouns are made of kinds and colours that a scene may hold: only binding decides.
        every = {f"{color} {kind}" for color in COLORS for kind in KINDS}
        near = {f"{a.color} {b.kind}" for a in scene.shapes for b in scene.shapes} - present
        absent = near or every - present
    else:
        absent = set(KINDS) - present
    answer = rng.choice(("yes", "no"))
    noun = rng.choice(sorted(present if answer == "yes" else absent))
    return Question(f"Is there {_article(noun)}?", answer, topic)


def _relation_question(first: Shape, second: Shape, rng: random.Random) -> Question:
    answer = rng.choice(("yes", "no"))
    words = relation(first, second) if answer == "yes" else relation(second, first)
    return Question(f"Is the {first.noun} {words} the {second.noun}?", answer, "relation")


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + "."


def _media(scene: Scene, side: int) -> Media:
    picture = Image.from_pil(render(scene, side=side))
    return Media(picture, alt=captions(scene)[0].text)


def _meta(scene: Scene, task: str, **more: object) -> dict[str, object]:
    return {"task": task, "scene": scene.key, "split": scene.split, **more}


def caption_document(scene: Scene, *, seed: int, side: int = 64) -> Document:
    """The user shows the scene and asks for a description; the assistant gives a true one."""
    rng = random.Random(f"caption/{seed}/{scene.key}")
    caption = rng.choice(captions(scene))
    user = (_media(scene, side), Text(rng.choice(DESCRIBE_REQUESTS)))
    answer = (Text(_sentence(caption.text)),)
    return Document.chat([("user", user), ("assistant", answer)], meta=_meta(scene, "scene-caption"))


def creation_document(
    scene: Scene, *, seed: int, side: int = 64, requests: tuple[str, ...] = DRAW_REQUESTS
) -> Document:
    """The user asks for the scene in words; the assistant answers with the picture.

    `meta["aspects"]` are the aspects that the request states: the ones to score a drawing on.
    """
    rng = random.Random(f"creation/{seed}/{scene.key}")
    caption = rng.choice(captions(scene))
    user = (Text(rng.choice(requests).format(caption=caption.text)),)
    meta = _meta(scene, "scene-creation", aspects=list(caption.aspects))
    return Document.chat([("user", user), ("assistant", (_media(scene, side),))], meta=meta)


def question_document(scene: Scene, *, seed: int, side: int = 64) -> Document:
    """The user shows the scene and asks one question; the assistant gives the short answer."""
    asked = question(scene, seed=seed)
    user = (_media(scene, side), Text(asked.text))
    meta = _meta(scene, "scene-question", topic=asked.topic)
    answer = (Text(_sentence(asked.answer)),)
    return Document.chat([("user", user), ("assistant", answer)], meta=meta)
