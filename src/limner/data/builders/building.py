"""Builds a data set of rows from what a builder makes of a public source.

    source --records--> builder --outcomes--> (another model's answers) --> rows.jsonl, skipped.jsonl, manifest.json

A row is what the format `keyed_chat` reads: messages with placeholders, and a list of items per kind. Paths in rows
start at the media folder, whose place the manifest tells. Nothing is left out silently: what does not become a row is
named in skipped.jsonl and counted by its reason. Files appear whole or not at all, and are a function of the source,
the seed and the answers.
"""

import json
import os
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from limner.data.formats.conversations import KEYED_MEDIA
from limner.data.sources.json_rows import JsonRows

ROWS, SKIPPED, MANIFEST = "rows.jsonl", "skipped.jsonl", "manifest.json"

Row = dict[str, Any]


@dataclass(frozen=True)
class Left:
    """A record that becomes no row: its name, why in a word or two, and what exactly."""

    key: str
    reason: str
    detail: str = ""


@dataclass(frozen=True)
class Question:
    """A row that another model is to write: what it is asked, and the row that its answer makes.

    `finish` raises ValueError for an answer that makes no row.
    """

    key: str
    messages: tuple[Mapping[str, str], ...]
    finish: Callable[[Mapping[str, Any]], Row]


Outcome = Row | Left | Question


@dataclass(frozen=True, kw_only=True)
class Given:
    """What a builder is given. `max_items` is the most items of one row where a builder draws their number."""

    sources: tuple[Path, ...]
    media: Path
    seed: int = 0
    max_items: int = 4

    def draws(self, key: str) -> random.Random:
        """A generator that belongs to the record alone."""
        return random.Random(f"{self.seed}/{key}")

    def found(self, *names: str) -> str | None:
        """The first of the names that is a file below the media folder; one that leads out of it is none."""
        inside = (name for name in names if name and not Path(name).is_absolute() and ".." not in Path(name).parts)
        return next((name for name in inside if (self.media / name).is_file()), None)


def chat(key: str, *turns: str, **items: Sequence[Any]) -> Row:
    """A row of turns, user and assistant by turns, and its items by their row key."""
    roles = ("user", "assistant")
    messages = [{"role": roles[number % 2], "content": content} for number, content in enumerate(turns)]
    return {"id": key, "messages": messages, **{name: list(values) for name, values in items.items()}}


def exercise(key: str, mark: str, *, system: str, told: str, comes_first: bool, **items: Sequence[Any]) -> Question:
    """A question and its answer, to be written by another model that is `told` of the items; `mark`, their
    placeholders, stands before the question or behind it."""

    def finish(answer: Mapping[str, Any]) -> Row:
        question, reply = written(answer, "question", "answer")
        return chat(key, f"{mark}\n{question}" if comes_first else f"{question}\n{mark}", reply, **items)

    return Question(key, ({"role": "system", "content": system}, {"role": "user", "content": told}), finish)


def unless_left(found: Iterable[tuple[str, ...] | Left], make: Callable[..., Outcome]) -> Iterator[Outcome]:
    """What `make` makes of each that was found; what was left out stays so."""
    for one in found:
        yield one if isinstance(one, Left) else make(*one)


def written(answer: Mapping[str, Any], *names: str) -> list[str]:
    """The texts that another model gave under these names, without white space and placeholders around or in them.

    Raises ValueError where one is missing.
    """
    found = []
    for name in names:
        text = answer.get(name)
        for token in KEYED_MEDIA:
            text = text.replace(token, "") if isinstance(text, str) else text
        if not isinstance(text, str) or not text.strip():
            raise ValueError(
                f"the answer has no `{name}`: {dict(answer)!r:.120}\nhint: ask a model that follows formats"
            )
        found.append(text.strip())
    return found


def problem(row: Row) -> str:
    """Why no model could read a row; "" where one can."""
    for number, message in enumerate(row["messages"]):
        if not message["content"].strip():
            return f"messages[{number}] is blank"
    said = "".join(message["content"] for message in row["messages"])
    for token, (key, _) in KEYED_MEDIA.items():
        items = row.get(key) or []
        if said.count(token) != len(items):
            return f"{said.count(token)} {token} for {len(items)} `{key}`"
    if not any(message["role"] == "assistant" for message in row["messages"]):
        return "nobody answers"
    return ""


def write_rows(
    outcomes: Iterable[Row | Left],
    *,
    output: Path,
    name: str,
    media: Path,
    seed: int,
    sources: Sequence[Mapping[str, str]] = (),
    limit: int | None = None,
) -> dict[str, Any]:
    """Write rows and what was left out below `output`, at most `limit` rows. Returns the manifest."""
    output.mkdir(parents=True, exist_ok=True)
    count, skipped = 0, Counter[str]()
    temporary = {file: output / f".{file}.part" for file in (ROWS, SKIPPED)}
    with ExitStack() as stack:
        rows, left = (stack.enter_context(path.open("w", encoding="utf-8")) for path in temporary.values())
        for outcome in outcomes:
            if not isinstance(outcome, Left) and (wrong := problem(outcome)):
                outcome = Left(str(outcome["id"]), "does not fit", wrong)
            if isinstance(outcome, Left):
                skipped[outcome.reason] += 1
                left.write(_line({"id": outcome.key, "reason": outcome.reason, "detail": outcome.detail}))
                continue
            rows.write(_line(outcome))
            count += 1
            if count == limit:
                break
    for file, path in temporary.items():
        path.replace(output / file)
    manifest = {
        "name": name,
        "seed": seed,
        "media": os.path.relpath(media, output),
        "samples": {"train": count},
        "skipped": dict(sorted(skipped.items())),
        "shards": {ROWS: {"samples": count}},
        "sources": list(sources),
    }
    part = output / f".{MANIFEST}.part"
    part.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    part.replace(output / MANIFEST)
    return manifest


def built(path: str | Path) -> JsonRows:
    """The documents of a data set that was built or merged here, for recipes: call(built, path="data/spoken").

    Raises ValueError where there is none.
    """
    folder = Path(path)
    return JsonRows(folder / ROWS, format="keyed_chat", root=media_of(folder))


def media_of(folder: Path) -> Path:
    """The folder where the items of a built data set lie."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        return Path(os.path.normpath(folder / manifest["media"]))
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"`{folder}` is no data set that was built here ({type(error).__name__})\n"
            "hint: make one with `limner data build`"
        ) from error


def unasked(outcomes: Iterator[Outcome]) -> Iterator[Row | Left]:
    """Outcomes of a builder that asks nobody."""
    for outcome in outcomes:
        if isinstance(outcome, Question):
            raise ValueError(f"`{outcome.key}` is to be written by another model\nhint: give --endpoint and --model")
        yield outcome


def _line(content: Mapping[str, Any]) -> str:
    return json.dumps(content, ensure_ascii=False) + "\n"
