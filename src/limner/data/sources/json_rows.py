"""JSON files: one row per line, or one list of rows. Any row is read alone; files stay on disk.

JsonRows("chats.jsonl", format="conversation")
JsonRows("llava_v1_5_mix665k.json", format="conversation", root="images")
"""

import json
from array import array
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy

from limner.data.formats.table import format_named
from limner.data.sources import storage
from limner.data.sources.columns import Columns, renamed
from limner.data.sources.index import Catalogue, Index, Tables, index_file
from limner.document.document import Document

BLOCK = 1 << 22
"""Bytes of a list that are looked at together."""


class JsonRows:
    """Rows of .jsonl files (a row per line) and .json files (a list). A row's files lie below `root` (by default the
    folder of the first file); `columns` says what the row calls the keys of the format."""

    def __init__(
        self,
        paths: str | Path | Iterable[str | Path],
        *,
        format: str,
        root: str | Path | None = None,
        columns: Columns | None = None,
    ) -> None:
        self.format = format_named(format)
        self.columns = columns or {}
        urls = storage.expand(paths)
        self.catalogue = Catalogue(urls, index=_index)
        self.folder = storage.Folder(storage.parent(urls[0]) if root is None and urls else root or ".")

    def __len__(self) -> int:
        return len(self.catalogue)

    def __getitem__(self, index: int) -> Document:
        url, table, place = self.catalogue.find(index)
        start, size = table.table("rows", place, place + 1)[0].tolist()
        where = f"row {place} of `{url.rpartition('/')[2]}`"
        try:
            row = json.loads(storage.read_range(url, start, start + size))
        except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ValueError(f"{where} is no JSON ({error})\nhint: repair that row") from error
        if not isinstance(row, dict):
            raise ValueError(f"{where} is {str(row)[:60]}; expected an object\nhint: repair that row")
        try:
            return self.format(renamed(row, self.columns), self.folder.read)
        except ValueError as error:
            error.add_note(where)
            raise


def _index(url: str) -> Index:
    return index_file(url, kind="json", build=scan)


def scan(url: str) -> tuple[int, Tables]:
    """Find the rows of a file: their number, and a table `rows` of (first byte, length)."""
    system, path = storage.filesystem(url)
    name = url.rpartition("/")[2]
    with system.open(path, "rb") as stream:
        start = stream.read(1024)
        if start.startswith(b"\x1f\x8b"):
            raise ValueError(f"`{name}` is compressed and has no random access\nhint: unpack it with gunzip")
        # A byte order mark is no part of the first row.
        first = 3 if start.startswith(b"\xef\xbb\xbf") else 0
        stream.seek(first)
        is_list = start[first:].lstrip()[:1] == b"["
        places = _scan_list(stream, first, name) if is_list else _scan_lines(stream, first, name)
    return len(places) // 2, {"rows": numpy.frombuffer(places, dtype=numpy.int64).reshape(-1, 2)}


def _scan_lines(stream: Any, position: int, name: str) -> array:
    places = array("q")
    for line in stream:
        if line.strip():
            if not places and not line.lstrip().startswith(b"{"):
                raise ValueError(f"`{name}` holds neither a list nor a row per line\nhint: give a .json or .jsonl file")
            places.extend((position, len(line)))
        position += len(line)
    return places


def _scan_list(stream: Any, position: int, name: str) -> array:
    """The elements of a list, by the standard decoder over a moving window. One byte is one character of the window
    (Latin-1), because only the marks of JSON matter here and they are ASCII."""
    decoder: Any = json.JSONDecoder(strict=False)
    places = array("q")
    window, at, ended = "", 0, False
    is_open = False
    while True:
        while at < len(window) and window[at] in " \t\r\n,":
            at += 1
        if at < len(window) and not is_open:
            is_open, at = True, at + 1
            continue
        if at < len(window) and window[at] == "]":
            return places
        try:
            _, end = decoder.raw_decode(window, at)
            places.extend((position + at, end - at))
            at = end
            continue
        except (ValueError, RecursionError) as error:
            if ended:
                raise ValueError(
                    f"`{name}` is no whole list: row {len(places) // 2} cannot be read ({error})\n"
                    "hint: fetch the file again, or repair it there"
                ) from error
        position, window, at = position + at, window[at:], 0
        block = stream.read(max(BLOCK, len(window)))
        ended = not block
        window += block.decode("latin-1")
