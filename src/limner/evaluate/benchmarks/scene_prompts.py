"""Scene prompts: short requests in seven categories, as GenEval has them (Ghosh et al. 2023), read by an exact parser.

What a request does not state is free: "a red circle" may be anywhere and of any size. A category's score is the share
of its drawings that show all that was stated and no shape more. Every word is of `data/scene_grammar`, so that models
which know no others can be asked too.

    category -> Scene -> request -> picture -> parser -> Scene, seen as the category sees it
"""

import random
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy

from limner.data.scene_grammar import BACKGROUND, CELLS, DRAW_REQUEST, PALETTE, place
from limner.data.scenes import KINDS, NUMBERS, SIZES, Scene, Shape
from limner.document.document import Document, Message
from limner.evaluate.answers import Respondent
from limner.evaluate.benchmark import Example, Outcome, Score, answer, drawn
from limner.evaluate.benchmarks.scenes import drawing_requests
from limner.evaluate.intervals import permuted, share
from limner.evaluate.metrics.scenes import read
from limner.evaluate.presets import refuse_choices

DEFAULT_COUNT = 140
MOST_COUNTED = 4


@dataclass(frozen=True)
class Category:
    """`sees` is what of a shape is stated; drawings are right where they have these and no others."""

    name: str
    num_shapes: Callable[[random.Random], int]
    sees: Callable[[Shape], Hashable]
    told: Callable[[Shape], str]
    is_alike: bool = False

    def scene(self, rng: random.Random) -> Scene:
        """Shapes in cells of their own, of different kinds and colours, or alike but for their cells."""
        count = self.num_shapes(rng)
        kinds, colors = rng.sample(KINDS, count), rng.sample(PALETTE, count)
        sizes = [rng.choice(tuple(SIZES)) for _ in range(count)]
        if self.is_alike:
            kinds, colors, sizes = ([one[0]] * count for one in (kinds, colors, sizes))
        looks = zip(rng.sample(CELLS, count), kinds, colors, sizes, strict=True)
        return Scene(tuple(Shape(*look) for look in looks), BACKGROUND)

    def request(self, scene: Scene) -> str:
        """The request in words."""
        if self.is_alike:
            kind = scene.shapes[0].kind
            plural = f"{kind}es" if kind.endswith("s") else f"{kind}s"
            return DRAW_REQUEST.format(scene=f"{NUMBERS[len(scene.shapes)]} {plural}")
        return DRAW_REQUEST.format(scene=", ".join(map(self.told, scene.shapes)))

    def seen(self, scene: Scene) -> Counter[Hashable]:
        """A scene as this category sees it."""
        return Counter(map(self.sees, scene.shapes))


CATEGORIES = (
    Category("one object", lambda rng: 1, lambda s: s.kind, lambda s: f"a {s.kind}"),
    Category("two objects", lambda rng: 2, lambda s: s.kind, lambda s: f"a {s.kind}"),
    Category("counts", lambda rng: rng.randint(2, MOST_COUNTED), lambda s: s.kind, lambda s: "", is_alike=True),
    Category("colours", lambda rng: 1, lambda s: s.noun, lambda s: f"a {s.noun}"),
    Category("positions", lambda rng: 2, lambda s: (s.kind, s.cell), lambda s: f"{place(s)} a {s.kind}"),
    Category("binding", lambda rng: 2, lambda s: s.noun, lambda s: f"a {s.noun}"),
    Category("sizes", lambda rng: 2, lambda s: (s.kind, s.size), lambda s: f"a {s.size} {s.kind}"),
)


@dataclass(frozen=True)
class Prompt:
    """A request of a category, and one scene that fulfils it."""

    category: Category
    scene: Scene

    @property
    def text(self) -> str:
        """The request."""
        return self.category.request(self.scene)

    def holds(self, found: Scene | None) -> bool:
        """Whether a drawn scene fulfils the request; none that was read does not."""
        return found is not None and self.category.seen(found) == self.category.seen(self.scene)


@dataclass(frozen=True)
class ScenePrompts:
    """`limit` counts the prompts of all categories together."""

    guidance_scale: float = 1.0
    num_inference_steps: int = 12
    name: str = "scene-prompts"

    def prompts(self, *, limit: int | None, seed: int) -> list[Prompt]:
        """Categories in turn; each prompt is a function of the seed and its number."""
        found = []
        for number in range(limit or DEFAULT_COUNT):
            category = CATEGORIES[number % len(CATEGORIES)]
            found.append(Prompt(category, category.scene(random.Random(f"scene prompts/{seed}/{number}"))))
        return found

    def run(self, engine: Respondent, *, limit: int | None, seed: int) -> Outcome:
        """Ask for each picture, and score what is drawn."""
        prompts = self.prompts(limit=limit, seed=seed)
        requests = drawing_requests(
            [Document.chat([("user", prompt.text)]) for prompt in prompts],
            guidance_scale=self.guidance_scale,
            num_inference_steps=self.num_inference_steps,
            seed=seed,
        )
        return self.score(prompts, answer(engine, requests, batch_size=64))

    def score(self, prompts: Sequence[Prompt], replies: Sequence[Message]) -> Outcome:
        """The share of fulfilled requests, of all and by category."""
        pictures = [next(iter(drawn(reply)), None) for reply in replies]
        found = [read(picture) for picture in pictures]
        square = numpy.array([[prompt.holds(scene) for prompt in prompts] for scene in found])
        right = square.diagonal()
        parts = {"all": list(range(len(prompts)))}
        for category in CATEGORIES:
            parts[category.name] = [place for place, one in enumerate(prompts) if one.category is category]
        return Outcome(
            name=self.name,
            setup=(
                "Requests that state as much as their category says; the rest is free. Drawings are read by the exact "
                "parser and right where they show what was stated and nothing more. Shuffled: drawings held against "
                "other requests (of the category, but for `all`)."
            ),
            baseline="",
            scores=tuple(
                Score(
                    name,
                    share(right[places], clusters=places),
                    len(places),
                    shuffled=permuted(square[numpy.ix_(places, places)], clusters=places, num_permutations=200),
                )
                for name, places in parts.items()
                if places
            ),
            examples=tuple(
                Example((picture,), prompt.text, bool(ok))
                for picture, prompt, ok in zip(pictures, prompts, right, strict=True)
                if picture is not None
            ),
            items=tuple(
                {
                    "key": str(number),
                    "category": prompt.category.name,
                    "asked": prompt.text,
                    "drawn": None if scene is None else scene.key,
                    "score": float(ok),
                }
                for number, (prompt, scene, ok) in enumerate(zip(prompts, found, right, strict=True))
            ),
            settings={"guidance_scale": self.guidance_scale, "num_inference_steps": self.num_inference_steps},
        )


def load_prompts(folder: Path, *, preset: str = "", split: str = "") -> ScenePrompts:
    """Short requests in seven categories; made on the spot, no files."""
    refuse_choices("scene_prompts", preset=preset, split=split)
    return ScenePrompts()
