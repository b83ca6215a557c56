"""`limner chat`: a conversation in the terminal. Pictures are saved as files and their paths
printed.
"""

import contextlib
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from limner.cli import options
from limner.cli.files import require_directory, require_page_path, require_text, write_document
from limner.cli.loading import open_engine
from limner.cli.progress import streaming
from limner.cli.settings import EXAMPLE, Settings, Turn, listed, size_of
from limner.document.document import Document, Media, Message, Text
from limner.document.media import Image

if TYPE_CHECKING:
    from limner.generate.engine import Engine

COMMANDS = {
    "/help": "this",
    "/image PATH": "show a picture with the next message",
    "/set": "the settings as they stand",
    "/set {cfg: 7.5, steps: 50}": "change some for good",
    "/model NAME": "take another model",
    "/new": "begin anew",
    "/save PAGE.html": "keep the conversation",
    "/quit": "end it",
}


def command(
    model: options.Model,
    seed: options.Seed = 0,
    pictures: options.PicturesOption = options.Pictures.AUTO,
    guidance_scale: options.GuidanceScale = 3.0,
    guidance_rescale: options.GuidanceRescale = 0.0,
    negative: options.Negative = "",
    steps: options.Steps = 24,
    sampler: options.Sampler = "",
    size: options.Size = "",
    best_of: options.BestOf = 1,
    scorer: options.ScorerOption = "",
    temperature: options.Temperature = 0.7,
    top_p: options.TopP = 0.9,
    max_new_tokens: options.MaxNewTokens = 256,
    device: options.DeviceOption = options.Device.AUTO,
    output: options.Output = Path("limner-pictures"),
) -> None:
    """Talk with a model in the terminal; with --pictures now every line is drawn."""
    require_directory(output)
    size_of(size)
    settings = Settings(
        seed=seed,
        pictures=pictures,
        guidance_scale=guidance_scale,
        guidance_rescale=guidance_rescale,
        negative=negative,
        steps=steps,
        sampler=sampler,
        size=size,
        best_of=best_of,
        scorer=scorer,
        temperature=temperature,
        top_p=top_p,
        max_new_tokens=max_new_tokens,
    )
    conversation = Conversation(
        model, open_model=lambda name: open_engine(name, device=device), settings=settings, folder=output
    )
    print("/help lists commands and settings, /quit ends the conversation", file=sys.stderr)
    conversation.run()


class Conversation:
    """What was said so far, the settings, and the pictures that wait to be shown."""

    def __init__(self, model: str, *, open_model: Callable[[str], "Engine"], settings: Settings, folder: Path) -> None:
        self.open_model = open_model
        self.engine = open_model(model)
        self.model = model
        self.settings = settings
        self.folder = folder
        self.document = Document(())
        self.waiting: list[Image] = []

    def run(self) -> None:
        """Read lines from stdin until it ends or /quit."""
        while True:
            line = _read_line()
            if line is None or line == "/quit":
                return
            try:
                self._take(line)
            except ValueError as error:
                # A slip ends the turn, not the conversation.
                print(f"error: {error}", file=sys.stderr)

    def _take(self, line: str) -> None:
        verb, _, argument = line.partition(" ")
        argument = argument.strip().strip("'\"")
        match verb:
            case "":
                return
            case "/help":
                print(_help(self.settings), file=sys.stderr)
            case "/image":
                self.waiting.append(_read_image(Path(argument).expanduser()))
                print(f"{self.waiting[-1].name} goes with your next message", file=sys.stderr)
            case "/set":
                self._set(argument)
            case "/model":
                self.engine, self.model = self.open_model(argument), argument
                self.document = Document(())
            case "/new":
                self.document, self.waiting = Document(()), []
            case "/save":
                self._save(require_page_path(Path(argument).expanduser()))
            case _ if verb.startswith("/"):
                known = ", ".join(dict.fromkeys(command.split()[0] for command in COMMANDS))
                raise ValueError(f"no command `{verb}`\nhint: there is {known}")
            case _:
                self._reply(Turn.of(line, settings=self.settings))

    def _set(self, argument: str) -> None:
        if not argument:
            print(listed(self.settings), file=sys.stderr)
            return
        block = argument if argument.startswith("{") else f"{{{argument}}}"
        turn = Turn.of(block, settings=self.settings)
        if turn.text or not turn.changes:
            raise ValueError(f"no settings in `{argument}`\nhint: try /set {{cfg: 7.5, steps: 50}}")
        self.settings = turn.applied(self.settings)

    def _save(self, path: Path) -> None:
        if not self.document.messages:
            raise ValueError("nothing was said yet\nhint: say something first")
        write_document(self.document, path, title="A conversation", footer=f"With {self.model}.")
        print(path)

    def _reply(self, turn: Turn) -> None:
        text = require_text(turn.text, option="the message")
        shown = [*self.waiting, *(_read_image(path) for path in turn.images)]
        asked = self.document.followed_by(Message("user", (*(Media(image) for image in shown), Text(text))))
        settings = turn.applied(self.settings)
        if "seed" not in turn.changes:
            # Seeded by its place: the same words asked twice are answered in two ways.
            settings = replace(settings, seed=settings.seed + len(asked.messages))
        request = settings.request(asked, model=self.engine.model)
        try:
            answered = self.engine.run([request], on_event=streaming(_to_stdout))[0]
        except KeyboardInterrupt:
            print("\n(stopped; that turn is forgotten)", file=sys.stderr)
            return
        print()
        self.document, self.waiting = answered, []
        for part in answered.messages[-1].parts:
            if isinstance(part, Media) and part.payload is not None:
                print(self._keep(part.content))

    def _keep(self, image: Image) -> Path:
        number = 1
        while (path := self.folder / f"{number:03d}.png").exists():
            number += 1
        path.write_bytes(image.png_bytes())
        return path


def _help(settings: Settings) -> str:
    """Commands, and what a line may end in."""
    commands = "\n".join(f"  {command:<28} {what}" for command, what in COMMANDS.items())
    return (
        f"{commands}\n"
        "A line may end in settings, which hold for it alone, and in a picture that is shown with it:\n"
        f"  {EXAMPLE}\n"
        "  What is this? {image: dog.png, pictures: none}\n"
        f"{listed(settings)}"
    )


def _read_image(path: Path) -> Image:
    """A picture that can be decoded."""
    image = Image.from_path(path)
    image.pil()
    return image


def _read_line() -> str | None:
    """The next line without its end; None at the end of the input."""
    if sys.stdin.isatty():
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401 - gives input() a history and line editing
        try:
            return input("> ").strip()
        except EOFError:
            return None
    line = sys.stdin.readline()
    return line.strip() if line else None


def _to_stdout(text: str) -> None:
    print(text, end="", flush=True)
