"""What the engine does, shown on stderr while it does it: text as it is written, steps of pictures
as they pass.
"""

import sys
from collections.abc import Callable
from types import TracebackType

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from limner.cli.loading import STDERR


class EngineProgress:
    """A bar over the replies of one `Engine.run`; pass it as `on_event`. Silent where stderr is no
    terminal.
    """

    def __init__(self, description: str, *, num_requests: int) -> None:
        self.description = description
        self.num_requests = num_requests
        self._done = 0
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[status]}"),
            TimeElapsedColumn(),
            console=STDERR,
            transient=True,
            disable=not STDERR.is_terminal,
        )
        self._task = self._progress.add_task(description, total=float(num_requests), status="")

    def __enter__(self) -> "EngineProgress":
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def __call__(self, index: int, event: object) -> None:
        from limner.generate.events import Done, MediaProgress, TextDelta

        match event:
            case MediaProgress(_, step, num_steps):
                part = self._done + 0.9 * step / num_steps if self.num_requests > 1 else None
                status = f"drawing {step}/{num_steps}"
                self._progress.update(self._task, completed=part, status=status)
            case TextDelta():
                self._progress.update(self._task, status="writing")
            case Done():
                self._done += 1
                self._progress.update(self._task, completed=float(self._done))
            case _:
                pass


def streaming(write: Callable[[str], None]) -> Callable[[int, object], None]:
    """An `on_event` that hands on text as it comes, and says on stderr that a picture is being
    made.
    """

    def on_event(index: int, event: object) -> None:
        from limner.generate.events import MediaStarted, TextDelta

        match event:
            case TextDelta(_, text):
                write(text)
            case MediaStarted():
                print(" [drawing] ", end="", file=sys.stderr, flush=True)
            case _:
                pass

    return on_event
