"""`limner chat`: a conversation in the terminal. Pictures are saved as files and their paths
printed.
"""

import contextlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from limner.cli import options
from limner.cli.files import require_directory, require_page_path, require_text, write_document
from limner.cli.loading import open_engine
from limner.cli.progress import streaming
from limner.document.document import Document, Media, Message, Text
from limner.document.media import Image

if TYPE_CHECKING:
    from limner.generate.engine import Engine
    from limner.generate.request import Request

HELP = "/image PATH shows a picture with the next message, /save PAGE.html keeps the conversation, /quit ends it"


def command(
    model: options.Model,
    seed: options.Seed = 0,
    pictures: options.PicturesOption = options.Pictures.AUTO,
    guidance_scale: options.GuidanceScale = 3.0,
    steps: options.Steps = 24,
    temperature: options.Temperature = 0.7,
    top_p: options.TopP = 0.9,
    max_new_tokens: options.MaxNewTokens = 256,
    device: options.DeviceOption = options.Device.AUTO,
    output: options.Output = Path("limner-pictures"),
) -> None:
    """Talk with a model in the terminal."""
    require_directory(output)
    engine = open_engine(model, device=device)

    from limner.generate.request import Pictures, Request
    from limner.generate.sampling import Sampling

    def make_request(document: Document) -> Request:
        return Request(
            document,
            max_new_tokens=max_new_tokens,
            sampling=Sampling(temperature=temperature, top_p=top_p),
            pictures=Pictures(pictures),
            guidance_scale=guidance_scale,
            num_inference_steps=steps,
            # Seeded by its place: the same words asked twice are answered in two ways.
            seed=seed + len(document.messages),
        )

    print(HELP, file=sys.stderr)
    Conversation(engine, make_request=make_request, folder=output, model=model).run()


class Conversation:
    """What was said so far, and the pictures that wait to be shown."""

    def __init__(
        self,
        engine: "Engine",
        *,
        make_request: Callable[[Document], "Request"],
        folder: Path,
        model: str,
    ) -> None:
        self.engine = engine
        self.make_request = make_request
        self.folder = folder
        self.model = model
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
            case "/image":
                image = Image.from_path(Path(argument).expanduser())
                image.pil()
                self.waiting.append(image)
                print(f"{image.name} goes with your next message", file=sys.stderr)
            case "/save":
                self._save(require_page_path(Path(argument).expanduser()))
            case _ if verb.startswith("/"):
                raise ValueError(f"no command `{verb}`\nhint: {HELP}")
            case _:
                self._reply(require_text(line, option="the message"))

    def _save(self, path: Path) -> None:
        if not self.document.messages:
            raise ValueError("nothing was said yet\nhint: say something first")
        write_document(self.document, path, title="A conversation", footer=f"With {self.model}.")
        print(path)

    def _reply(self, line: str) -> None:
        parts = (*(Media(image) for image in self.waiting), Text(line))
        asked = self.document.followed_by(Message("user", parts))
        try:
            answered = self.engine.run([self.make_request(asked)], on_event=streaming(_to_stdout))[0]
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
