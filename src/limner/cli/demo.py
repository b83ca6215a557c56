"""`limner demo`: a model reads pictures, draws, tells an illustrated story and remembers, on one
page.

The page is written once, at the end, whole: an interrupted demo leaves no page behind.
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from limner.cli import options
from limner.cli.files import require_directory, require_text, write_atomically
from limner.cli.loading import locate_checkpoint, open_engine
from limner.cli.progress import EngineProgress
from limner.document.document import Document, Media, Message, Text
from limner.document.html import Layout, Section, to_html
from limner.document.media import Image

if TYPE_CHECKING:
    from limner.generate.engine import Engine

MODEL = "limner-tiny"
QUESTION = "What is this?"
DRAW = (
    "Draw a fox.", "Draw a sailboat.", "Draw a mushroom.", "Draw a rocket.", "Draw a castle.",
)  # fmt: skip
STORY = "Tell me a short illustrated story about a bear and a rocket."
TALK = ("Draw a cat.", "Now draw a house.", "What did you draw first?")
STORY_SEED = 7


def command(
    prompt: Annotated[
        list[str] | None, typer.Option(help="Your own request, answered with text and pictures; may be repeated.")
    ] = None,
    output: options.Output = Path("limner-demo"),
    model: Annotated[str, typer.Option(help="A model's name or a checkpoint directory.")] = MODEL,
    device: options.DeviceOption = options.Device.AUTO,
) -> None:
    """Write a page: pictures read and drawn, a story, a talk."""
    prompts = [require_text(text, option="--prompt") for text in prompt or ()]
    pictures = read_pictures(locate_checkpoint(model))
    require_directory(output)
    started = time.perf_counter()
    engine = open_engine(model, device=device)
    _tell("model loaded", time.perf_counter() - started)
    author = Author(engine)
    if prompts:
        sections = [author.narrate(text, title="Your request") for text in prompts]
    else:
        sections = [
            author.read(pictures),
            author.draw(DRAW),
            author.narrate(STORY, title="A story"),
            author.talk(TALK),
        ]
    name = Path(model).name
    footer = f"Written and drawn by {name} in {time.perf_counter() - started:.0f} seconds."
    page = to_html(sections, title=f"What {name} sees, draws and tells", footer=footer)
    path = output / "index.html"
    write_atomically(path, page)
    _tell("all", time.perf_counter() - started)
    print(path)


def read_pictures(checkpoint: Path) -> list[Media]:
    """The held-out pictures that come with a model: demo/*.webp in its directory, else those of the
    packaged model.

    Their file names say what they show. Raises ValueError when there are none.
    """
    packaged = Path(str(resources.files("limner"))) / "weights" / MODEL / "demo"
    for directory in (checkpoint / "demo", packaged):
        paths = sorted(directory.glob("*.webp"))
        if paths:
            return [Media(Image.from_path(path), alt=path.stem.replace("-", " ")) for path in paths[:3]]
    raise ValueError(
        f"no pictures to read: neither `{checkpoint}` nor the installed package has demo/*.webp\n"
        "hint: put up to three .webp pictures there, or reinstall limner"
    )


@dataclass(frozen=True)
class Author:
    """The parts of the page. Each is one section; requests that do not need each other run
    together.
    """

    engine: "Engine"

    def read(self, pictures: Sequence[Media]) -> Section:
        """Each picture, asked for by the same question. The likeliest words, nothing drawn by
        chance.
        """
        asked = [Document.chat([("user", [media, QUESTION])]) for media in pictures]
        documents, seconds = self._run("reading", asked, max_new_tokens=32, pictures="none")
        return Section(
            tuple(documents),
            "Reading",
            f"Pictures that were kept out of training, under their true names. {seconds:.1f} s.",
            Layout.PLATES,
        )

    def draw(self, prompts: Sequence[str]) -> Section:
        """All prompts in one batch, a picture each."""
        asked = [Document.chat([("user", prompt)]) for prompt in prompts]
        documents, seconds = self._run("drawing", asked, max_new_tokens=24, max_pictures=1, pictures="now")
        note = f"Drawn together, from noise. {seconds:.1f} s."
        return Section(tuple(documents), "Drawing", note, Layout.PLATES)

    def narrate(self, prompt: str, *, title: str) -> Section:
        """An answer whose pictures stand where the model puts them."""
        from limner.generate.sampling import Sampling

        documents, seconds = self._run(
            "telling",
            [Document.chat([("user", prompt)])],
            max_new_tokens=160,
            max_pictures=5,
            pictures="auto",
            sampling=Sampling(temperature=0.7, top_p=0.9),
            seed=STORY_SEED,
        )
        drawn = sum(1 for document in documents for _ in document.media())
        noun = "picture" if drawn == 1 else "pictures"
        decided = f"decided where its {drawn} {noun} go" if drawn else "chose to draw nothing"
        note = f"The model {decided}. {seconds:.1f} s."
        return Section(tuple(documents), title, note)

    def talk(self, turns: Sequence[str]) -> Section:
        """A conversation whose last turn asks about a picture that was drawn in it."""
        document, total = Document(()), 0.0
        for number, turn in enumerate(turns):
            asked = document.followed_by(Message("user", (Text(turn),)))
            is_last = number == len(turns) - 1
            documents, seconds = self._run(
                "talking",
                [asked],
                max_new_tokens=32,
                max_pictures=1,
                pictures="none" if is_last else "now",
                seed=number,
            )
            document, total = documents[0], total + seconds
        note = f"The last answer needs what was drawn before. {total:.1f} s."
        return Section((document,), "A conversation", note)

    def _run(
        self,
        what: str,
        documents: Sequence[Document],
        *,
        pictures: str,
        seed: int = 0,
        **settings: Any,
    ) -> tuple[list[Document], float]:
        from limner.generate.request import Pictures, Request

        # Seeds in turn: two pictures of a page do not start from the same noise.
        requests = [
            Request(document, pictures=Pictures(pictures), seed=seed + index, **settings)
            for index, document in enumerate(documents)
        ]
        started = time.perf_counter()
        with EngineProgress(what, num_requests=len(requests)) as progress:
            replies = self.engine.run(requests, on_event=progress)
        seconds = time.perf_counter() - started
        _tell(what, seconds)
        return replies, seconds


def _tell(what: str, seconds: float) -> None:
    print(f"{what:<14}{seconds:6.1f} s", file=sys.stderr)
