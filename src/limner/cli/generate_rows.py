"""`limner generate --input rows.jsonl`: many prompts, answered together, kept as they come.

    {"prompt": "Draw a fox.", "images": ["a.png"], "seed": 3, "pictures": "now", "id": "anything"}      a row
    {"line": 1, "key": "...", "id": "anything", "text": "...", "document": {...}}                       its answer

A row may hold a setting of the command line under its own name; pictures are files beside the rows. An answer is one
line, written whole: what was answered before a run was killed is not asked again. `key` is the row, its pictures as
they lie on disk, the settings and the model's weights in one digest, so that answers to other rows are not taken for
these.
"""

import hashlib
import json
import sys
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from limner import zoo
from limner.cli.files import require_directory
from limner.cli.loading import STDERR, locate_checkpoint
from limner.cli.options import Pictures
from limner.cli.settings import Settings
from limner.document.document import Document
from limner.document.media import Image

if TYPE_CHECKING:
    from limner.generate.engine import Engine
    from limner.generate.request import Request

SETTINGS: Mapping[str, Any] = {entry.name: entry.type for entry in fields(Settings)}
OF_A_ROW = ("prompt", "images", "id")
BEGINNING = b'{"line": '
"""Of an answer: what a cut line begins with, as far as it goes."""


@dataclass(frozen=True)
class Row:
    """A line of the input. `images` are files; `line` counts from 1."""

    line: int
    key: str
    prompt: str
    images: tuple[Path, ...]
    settings: Settings
    id: Any = None

    def request(self, engine: "Engine") -> "Request":
        """What the engine is asked for. Raises ValueError for a picture that cannot be read."""
        shown = [Image.from_path(path) for path in self.images]
        for image in shown:
            image.pil()
        return self.settings.request(Document.chat([("user", [*shown, self.prompt])]), model=engine.model)


class Bad:
    """Rows that could not be answered, named as they are found."""

    def __init__(self) -> None:
        self.lines: list[int] = []

    def add(self, line: int, error: ValueError | OSError) -> None:
        """Tell on stderr, one line."""
        self.lines.append(line)
        message, _, hint = str(error).partition("\n")
        print(f"line {line}: {message}" + (f" ({hint})" if hint else ""), file=sys.stderr)


def read_rows(path: Path, settings: Settings, *, model: str, bad: Bad) -> list[Row]:
    """The rows of a file; what is wrong with one is told by its line. Raises ValueError where there is no file."""
    if not path.is_file():
        raise ValueError(f"no such file: `{path}`\nhint: --input takes one JSON object per line")
    rows, weights = [], _weights(model)
    with path.open(encoding="utf-8", errors="surrogateescape") as lines:
        for number, text in enumerate(lines, 1):
            if not text.strip():
                continue
            try:
                rows.append(_row(text, number, settings, folder=path.parent, model=[model, weights]))
            except (ValueError, OSError) as error:
                bad.add(number, error)
    return rows


def _row(text: str, line: int, settings: Settings, *, folder: Path, model: Sequence[Any]) -> Row:
    try:
        given = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"no JSON: {error.msg} at character {error.pos + 1}") from error
    if not isinstance(given, dict):
        raise ValueError('expected an object\nhint: {"prompt": "Draw a fox."}')
    unknown = [name for name in given if name not in (*OF_A_ROW, *SETTINGS)]
    if unknown:
        raise ValueError(f"no field `{unknown[0]}`\nhint: there is {', '.join((*OF_A_ROW, *SETTINGS))}")
    _require_unicode(given)
    prompt, images = given.get("prompt"), given.get("images", [])
    if not isinstance(prompt, str) or not prompt.strip():
        raise ValueError("`prompt` is no text that says something")
    if not isinstance(images, list) or not all(isinstance(name, str) for name in images):
        raise ValueError("`images` is no list of files")
    changes = {name: _setting(name, value) for name, value in given.items() if name in SETTINGS}
    own = replace(settings, **changes)
    paths = tuple(folder / name for name in images)
    pictures = [[name, _stamp(path)] for name, path in zip(images, paths, strict=True)]
    told = json.dumps([model, prompt, pictures, asdict(own), given.get("id")], ensure_ascii=True, sort_keys=True)
    key = hashlib.sha256(told.encode()).hexdigest()[:16]
    return Row(line, key, prompt, paths, own, given.get("id"))


def _require_unicode(given: Mapping[str, Any]) -> None:
    try:
        json.dumps(given, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise ValueError("text that is no valid Unicode\nhint: write the file as UTF-8") from error


def _stamp(path: Path) -> tuple[int, int] | None:
    """Size and time of a file; None where there is none to look at, which whoever reads it will tell."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns


def _weights(model: str) -> list[tuple[str, tuple[int, int] | None]]:
    """The weight files of a model with their stamps; none for a name that loading will refuse."""
    if not Path(model).is_dir() and model not in zoo.ENTRIES:
        return []
    return [(path.name, _stamp(path)) for path in sorted(locate_checkpoint(model).glob("*.safetensors"))]


def _setting(name: str, value: Any) -> Any:
    kind = SETTINGS[name]
    if kind is Pictures and value in list(Pictures):
        return Pictures(value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not kind:
        expected = ", ".join(Pictures) if kind is Pictures else f"a {kind.__name__}"
        raise ValueError(f"`{name}` is `{value!s:.40}`; expected {expected}")
    return value


def answered(path: Path, rows: Sequence[Row]) -> set[int]:
    """Lines that `path` answers already; a last line that was cut is taken away.

    Raises ValueError for a file that holds something else than answers to these rows.
    """
    if not path.exists():
        return set()
    keys = {row.line: row.key for row in rows}
    found: set[int] = set()
    with path.open("rb+") as kept:
        whole = 0
        for text in kept:
            if not text.endswith(b"\n"):
                if not text.startswith(BEGINNING[: len(text)]):
                    raise _no_answers(path)  # a file of somebody else's: nothing is taken away
                break
            line, key = _answered_line(text, path)
            if keys.get(line) != key:
                raise ValueError(
                    f"`{path}` answers another row {line}, or it was asked otherwise\nhint: give another --output"
                )
            found.add(line)
            whole += len(text)
        kept.truncate(whole)
    return found


def _answered_line(text: bytes, path: Path) -> tuple[int, str]:
    try:
        answer = json.loads(text)
        line, key = answer["line"], answer["key"]
    except (ValueError, KeyError, TypeError) as error:
        raise _no_answers(path) from error
    if type(line) is not int or type(key) is not str:
        raise _no_answers(path)
    return line, key


def _no_answers(path: Path) -> ValueError:
    return ValueError(f"`{path}` is no file of answers\nhint: give another --output, or delete it")


def answer_rows(engine: "Engine", rows: Sequence[Row], *, num_together: int, output: TextIO, bad: Bad) -> int:
    """Answer all rows, `num_together` at once, each written as it ends; how many were answered."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("answering"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    count = 0
    with Progress(*columns, console=STDERR, disable=not STDERR.is_terminal) as progress:
        task = progress.add_task("answering", total=len(rows))
        for row, document in _answers(engine, rows, num_together=num_together, bad=bad):
            progress.update(task, advance=1)
            if document is None:
                continue
            told = {"line": row.line, "key": row.key} | ({} if row.id is None else {"id": row.id})
            told |= {"text": document.messages[-1].text, "document": document.to_json()}
            output.write(json.dumps(told, ensure_ascii=False) + "\n")
            output.flush()
            count += 1
    return count


def _answers(
    engine: "Engine", rows: Sequence[Row], *, num_together: int, bad: Bad
) -> Iterator[tuple[Row, Document | None]]:
    """Rows with their answers, None for a bad one, in the order in which they end."""
    from limner.generate.events import reply_to
    from limner.generate.request import Phase

    running = engine.running(num_rows=num_together)
    waiting, under_way = deque(rows), []
    request = None
    while waiting or under_way:
        while waiting and len(under_way) < num_together:
            row = waiting[0]
            try:
                # Built once, however many steps it waits for its place.
                request = row.request(engine) if request is None else request
                needed = running.num_slots(request)
                if needed > num_together:
                    raise ValueError(f"{needed} rows at once; there are {num_together}")
                if needed > running.num_free:
                    break
                under_way.append((row, running.add([request])[0]))
            except (ValueError, OSError) as error:
                bad.add(row.line, error)
                yield row, None
            waiting.popleft()
            request = None
        running.step()
        ended = [pair for pair in under_way if pair[1].phase is Phase.DONE]
        under_way = [pair for pair in under_way if pair[1].phase is not Phase.DONE]
        for row, state in ended:
            yield row, reply_to(state.request.document, state.parts)


def require_rows_path(path: Path) -> Path:
    """A path for answers. Raises ValueError for another suffix or a directory that cannot be written."""
    if path.suffix.lower() != ".jsonl" or path.is_dir():
        raise ValueError(f"cannot write answers to `{path}`\nhint: try --output answers.jsonl")
    require_directory(path.parent)
    return path
