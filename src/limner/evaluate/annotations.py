"""Annotation files of public benchmarks: records with the line they stand on, so that a bad one can be named.

Reads JSON (a list of records, records under a key, or a table of records by key), JSON lines and tab-separated tables.
"""

import csv
import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_SPACE = re.compile(r"[\s,:]*")


@dataclass(frozen=True)
class Record:
    """One record: its `value`, the `line` it begins on (from 1), and its `key` where it stood under one."""

    file: Path
    line: int
    value: Any
    key: str = ""

    def text(self, name: str) -> str:
        """A field that holds text or a number, as text."""
        value = self._field(name)
        if not isinstance(value, str | int) or isinstance(value, bool):
            raise self.wrong(f"`{name}` is a {type(value).__name__}", hint="expected text")
        return str(value)

    def texts(self, name: str, *, under: str = "") -> tuple[str, ...]:
        """A field that holds a list of texts, or of records with a text `under` a key; one text counts as a list."""
        value = self._field(name)
        values = [value] if isinstance(value, str) else value
        if not isinstance(values, list) or not values:
            raise self.wrong(f"`{name}` is {value!r:.40}", hint="expected a list of texts")
        found = [one.get(under) if isinstance(one, dict) else one for one in values]
        texts = tuple(one for one in found if isinstance(one, str))
        if len(texts) < len(found):
            raise self.wrong(f"`{name}` holds something that is no text", hint="expected a list of texts")
        return texts

    def wrong(self, what: str, *, hint: str) -> ValueError:
        """An error that names the file and the line."""
        return ValueError(f"`{self.file}`, line {self.line}: {what}\nhint: {hint}")

    def _field(self, name: str) -> Any:
        if not isinstance(self.value, dict) or name not in self.value:
            raise self.wrong(f"no `{name}`", hint="is this the file of this benchmark, whole?")
        return self.value[name]


def read_json(file: Path, *, under: str | None = None) -> Iterator[Record]:
    """Records of a JSON file: the items of its list (of the list `under` a key), or its values by key.

    Raises ValueError with the line where the file is no such JSON.
    """
    text = _text(file)
    decoder, place = json.JSONDecoder(), _after_space(text, 0)
    try:
        if under is not None:
            place = _find(text, place, under=under, decoder=decoder, file=file)
        if text[place : place + 1] not in ("[", "{"):
            raise ValueError(f"`{file}`, line {_line(text, place)}: expected records\nhint: is the file whole?")
        yield from _items(text, place, decoder=decoder, file=file)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"`{file}`, line {error.lineno}: no JSON ({error.msg})\nhint: is the file whole? fetch it again"
        ) from error


def read_json_lines(file: Path) -> Iterator[Record]:
    """Records of a file with one JSON value per line; empty lines do not count."""
    for number, line in enumerate(_text(file).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            yield Record(file, number, json.loads(line))
        except json.JSONDecodeError as error:
            raise ValueError(
                f"`{file}`, line {number}: no JSON ({error.msg})\nhint: is the file whole? fetch it again"
            ) from error


def read_table(file: Path) -> Iterator[Record]:
    """Records of a tab-separated table with a header; empty cells are left out."""
    csv.field_size_limit(2**31 - 1)  # pictures stand in cells
    rows = csv.DictReader(io.StringIO(_text(file), newline=""), delimiter="\t")
    for row in rows:
        if None in row or None in row.values():
            raise ValueError(
                f"`{file}`, line {rows.line_num}: {len([v for v in row.values() if v is not None])} cells for "
                f"{len(rows.fieldnames or ())} columns\nhint: is the file whole? fetch it again"
            )
        yield Record(file, rows.line_num, {name: cell for name, cell in row.items() if cell})


def _text(file: Path) -> str:
    if not file.is_file():
        raise ValueError(f"`{file}` is missing\nhint: say where the benchmark's files lie with --data")
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"`{file}` is no text ({error.reason})\nhint: unpack it first") from error


def _find(text: str, place: int, *, under: str, decoder: json.JSONDecoder, file: Path) -> int:
    """Where the value of a key of the outermost object begins."""
    if text[place : place + 1] == "{":
        place = _after_space(text, place + 1)
        while text[place : place + 1] == '"':
            key, place = decoder.raw_decode(text, place)
            place = _after_space(text, place)
            if key == under:
                return place
            place = _after_space(text, decoder.raw_decode(text, place)[1])
    raise ValueError(f"`{file}`, line {_line(text, place)}: no `{under}`\nhint: is this the file of this benchmark?")


def _items(text: str, place: int, *, decoder: json.JSONDecoder, file: Path) -> Iterator[Record]:
    """Items of the list, or values of the object, that begins at a place."""
    keyed, end = text[place] == "{", {"{": "}", "[": "]"}[text[place]]
    place = _after_space(text, place + 1)
    # Lines are counted from one record to the next, not from the beginning each time.
    counted, line = 0, 1
    while text[place : place + 1] != end:
        key = ""
        if keyed:
            key, place = decoder.raw_decode(text, place)
            place = _after_space(text, place)
        line, counted = line + text.count("\n", counted, place), place
        value, place = decoder.raw_decode(text, place)
        yield Record(file, line, value, key=str(key))
        place = _after_space(text, place)


def _after_space(text: str, place: int) -> int:
    found = _SPACE.match(text, place)
    assert found is not None, "the pattern matches nothing too"
    return found.end()


def _line(text: str, place: int) -> int:
    return text.count("\n", 0, place) + 1
