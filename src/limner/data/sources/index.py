"""Indices: where each row of a file lies, found once and kept, so that any row is read without its neighbours.

Owns the kept form and its names: one safetensors file of integer tables per indexed file, below `index/` of the cache,
named by the file's address and its stamp (size and time or tag); a file that changed is indexed anew by itself. Tables
stay on disk and are read by slices. Writes are atomic.

Data flow: file -> build(url) -> tables -> <cache>/index/<name>.safetensors -> `Index.table(name, start, stop)`
"""

import functools
import itertools
import json
import logging
import os
import tempfile
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from limner import zoo
from limner.data.sources import storage

logger = logging.getLogger(__name__)

VERSION = "1"
"""Part of every name: what another version wrote is never read."""

Tables = Mapping[str, numpy.ndarray]


class Index:
    """The tables of one file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __len__(self) -> int:
        return _length(str(self.path))

    def table(self, name: str, start: int, stop: int) -> numpy.ndarray:
        """Rows [start, stop) of a table."""
        return _table(str(self.path), name)[start:stop]


@functools.lru_cache(maxsize=1024)
def _table(path: str, name: str) -> numpy.ndarray:
    """A table, mapped into memory: read where it is looked at. (The numpy framework of safetensors would copy it.)"""
    with safe_open(path, framework="pt") as tables:
        return tables.get_tensor(name).numpy()


@functools.lru_cache(maxsize=65536)
def _length(path: str) -> int:
    with safe_open(path, framework="numpy") as tables:
        return int(tables.metadata()["length"])


def index_file(url: str, *, kind: str, build: Callable[[str], tuple[int, Tables]]) -> Index:
    """The index of a file: the kept one, or a new one made by `build(url) -> (number of rows, tables)`.

    Raises ValueError when the file is missing or damaged, or when the cache cannot be written.
    """
    path = zoo.cache_root() / "index" / f"{storage.digest(VERSION, kind, url, storage.stamp(url))}.safetensors"
    try:
        _length(str(path))
    except (OSError, SafetensorError, KeyError):
        length, tables = build(url)
        logger.info("indexed %s: %d rows", url, length)
        _write(path, tables, metadata={"length": str(length), "url": url, "kind": kind})
    return Index(path)


def index_listing(url: str, *, kind: str, build: Callable[[str], tuple[int, Tables, list[str]]]) -> Index:
    """The index of a folder, as `index_file`: `build` also names the folders that it looked into, and the index is
    made anew once one of them has changed. Places that give folders no time are looked through every time."""
    path = zoo.cache_root() / "index" / f"{storage.digest(VERSION, kind, url)}.safetensors"
    try:
        with safe_open(str(path), framework="numpy") as tables:
            kept = json.loads(tables.metadata()["folders"])
        if all(stamp is not None and _folder_stamp(folder) == stamp for folder, stamp in kept.items()):
            return Index(path)
    except (OSError, SafetensorError, KeyError, ValueError):
        pass
    length, tables, folders = build(url)
    logger.info("indexed %s: %d rows", url, length)
    stamps = {folder: _folder_stamp(folder) if storage.is_local(url) else None for folder in folders}
    metadata = {"length": str(length), "url": url, "kind": kind, "folders": json.dumps(stamps)}
    _write(path, tables, metadata=metadata)
    _table.cache_clear()
    _length.cache_clear()
    return Index(path)


def _folder_stamp(folder: str) -> float | None:
    return Path(folder).stat().st_mtime if Path(folder).is_dir() else None


def _write(path: Path, tables: Tables, *, metadata: dict[str, str]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".index-")
        os.close(handle)
        try:
            save_file(dict(tables), temporary, metadata=metadata)
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except (OSError, SafetensorError) as error:
        raise ValueError(
            f"cannot write the index of `{metadata['url']}` to `{path.parent}` ({error})\n"
            f"hint: free some space there, or set {zoo.CACHE_VARIABLE} to another directory"
        ) from error


class Catalogue:
    """Several indexed files or folders as one sequence of rows; `index` gives the index of each."""

    def __init__(self, urls: Sequence[str], *, index: Callable[[str], Index]) -> None:
        self.urls = list(urls)
        self.indices = [index(url) for url in urls]
        self.ends = list(itertools.accumulate(map(len, self.indices)))

    def __len__(self) -> int:
        return self.ends[-1] if self.ends else 0

    def find(self, row: int) -> tuple[str, Index, int]:
        """(file, its index, place in it) of a row. Raises IndexError, so that a source can be iterated over."""
        if not -len(self) <= row < len(self):
            raise IndexError(row)
        row %= len(self)
        number = bisect_right(self.ends, row)
        return self.urls[number], self.indices[number], row - (self.ends[number - 1] if number else 0)
