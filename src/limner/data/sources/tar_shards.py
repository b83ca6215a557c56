"""Webdataset shards: uncompressed tars whose members belong together by name. Nothing is unpacked.

`000.json` or `000.txt` (a caption) with `000.jpg` is a pair; with `input_ids` and `labels` in its JSON a pre-tokenized
one; `doc.json` followed by `doc-<picture's name>.jpg` is an interleaved document.
"""

import functools
import json
import tarfile
from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy

from limner.data.formats.rows import Format
from limner.data.formats.table import format_named
from limner.data.sources import storage
from limner.data.sources.columns import Columns, renamed
from limner.data.sources.index import Catalogue, Index, Tables, index_file
from limner.document.document import Document

PICTURES = ("png", "jpg", "jpeg", "webp", "gif", "bmp")
FILMS = ("mp4", "webm", "avi", "mov", "mkv")
GAP = 1 << 16
"""Bytes between the members of a sample that are rather read than skipped."""


class TarShards:
    """Samples of tars: paths, patterns, or a .json file that lists them. A picture named in a row is looked for among
    the sample's members; one that is not named is the sample's own."""

    def __init__(
        self, paths: str | Path | Iterable[str | Path], *, format: str, columns: Columns | None = None
    ) -> None:
        self.format: Format = format_named(format)
        self.columns = columns or {}
        self.catalogue = Catalogue(_shards(paths), index=_index)

    def __len__(self) -> int:
        return len(self.catalogue)

    def __getitem__(self, index: int) -> Document:
        sample = _sample(*self.catalogue.find(index))
        try:
            return self.format(renamed(sample.row(), self.columns), sample.read)
        except ValueError as error:
            error.add_note(f"sample `{sample.key}` of `{sample.url.rpartition('/')[2]}`")
            raise


def _shards(paths: str | Path | Iterable[str | Path]) -> list[str]:
    shards: list[str] = []
    for url in storage.expand(paths):
        if not url.endswith(".json"):
            shards.append(url)
            continue
        system, inside = storage.filesystem(url)
        try:
            listed = json.loads(system.cat_file(inside))
        except ValueError as error:
            raise ValueError(f'`{url}` is no list of shards ({error})\nhint: write ["a.tar", ...]') from error
        if not isinstance(listed, list) or not all(isinstance(name, str) for name in listed):
            raise ValueError(f'`{url}` is no list of shards\nhint: write ["a.tar", ...]')
        beside = storage.parent(url)
        shards += storage.expand([n if "://" in n or n.startswith("/") else f"{beside}/{n}" for n in listed])
    return shards


@dataclass(frozen=True)
class Sample:
    """The members of one sample: (name, first byte, length)."""

    url: str
    members: tuple[tuple[str, int, int], ...]

    @functools.cached_property
    def key(self) -> str:
        """What the names of its members begin with."""
        return _split(self.members[0][0])[0]

    def row(self) -> dict[str, Any]:
        """The sample's JSON, with its text as `caption` and its own files under the keys that formats use.

        `000.jpg` is its `image`, `000.mp4` its `video`, and `000.target.png` its `target`, unless the JSON says so.
        """
        row: dict[str, Any] = {}
        own: dict[str, Any] = {}
        for member in self.members:
            key, ending = _split(member[0])
            kind = ending.rpartition(".")[2]
            if key != self.key:
                continue
            if ending == "json":
                row = self._json(member)
            elif ending == "txt":
                own["caption"] = self._bytes(member).decode("utf-8", errors="replace")
            elif kind in PICTURES or kind in FILMS:
                name = ending.rpartition(".")[0] or ("image" if kind in PICTURES else "video")
                own.setdefault(name, member[0])
        return own | row

    def read(self, wanted: str) -> bytes:
        """The member of that name, of `<key>-<name>` or `<key>.<name>`; else the one whose name differs only in case
        or ending. Raises ValueError when there is none."""
        # Folders in front of a name say where it once lay.
        base = wanted.rpartition("/")[2]
        names = [wanted, base, f"{self.key}-{base}", f"{self.key}.{base}"]
        for name in names:
            for member in self.members:
                if member[0] == name:
                    return self._bytes(member)
        stems = {_split(name.lower())[0] for name in (wanted, f"{self.key}-{base}")}
        alike = [member for member in self.members if _split(member[0].lower())[0] in stems]
        alike = [member for member in alike if _split(member[0])[1] not in ("json", "txt")]
        if not alike:
            raise ValueError(
                f"sample `{self.key}` names `{wanted[:80]}`, which is not in {self.url.rpartition('/')[2]}\n"
                "hint: build the shard again"
            )
        return self._bytes(alike[0])

    def _json(self, member: tuple[str, int, int]) -> dict[str, Any]:
        try:
            row = json.loads(self._bytes(member))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"`{member[0]}` is no JSON ({error})\nhint: repair the shard") from error
        if not isinstance(row, dict):
            raise ValueError(f"`{member[0]}` holds {str(row)[:60]}; expected an object\nhint: repair the shard")
        return row

    def _bytes(self, member: tuple[str, int, int]) -> bytes:
        _, start, size = member
        block = self._block
        if block is None:
            return storage.read_range(self.url, start, start + size)
        return block[start - self._first : start - self._first + size]

    @functools.cached_property
    def _first(self) -> int:
        """Where the first of the members begins."""
        return min(start for _, start, _ in self.members)

    @functools.cached_property
    def _block(self) -> bytes | None:
        """All members by one read, where they lie together: a remote file answers each read slowly."""
        last = max(start + size for _, start, size in self.members)
        if last - self._first > sum(size + GAP for _, _, size in self.members):
            return None
        return storage.read_range(self.url, self._first, last)


def _split(name: str) -> tuple[str, str]:
    """(key, ending) of a member's name, as webdataset does: the key ends at the first dot after the last slash. The
    ending is in lower case."""
    folder, slash, base = name.rpartition("/")
    stem, _, ending = base.partition(".")
    return folder + slash + stem, ending.lower()


def _sample(url: str, index: Index, place: int) -> Sample:
    start, stop = index.table("samples", place, place + 2).tolist()
    members = index.table("members", start, stop).tolist()
    first, last = members[0][2], members[-1][3]
    names = index.table("names", first, last).tobytes()
    return Sample(
        url,
        tuple((names[begin - first : end - first].decode(), offset, size) for offset, size, begin, end in members),
    )


def _index(url: str) -> Index:
    return index_file(url, kind="tar", build=scan)


def scan(url: str) -> tuple[int, Tables]:
    """Find the samples of a shard: their number, and the tables `samples` (first member of each, and the end),
    `members` (first byte, length, begin and end of the name) and `names`. Raises ValueError for a damaged shard."""
    groups = _groups(_members(url))
    members, samples, names = array("q"), array("q", [0]), bytearray()
    for group in groups:
        for name, offset, size in group:
            encoded = name.encode()
            members.extend((offset, size, len(names), len(names) + len(encoded)))
            names += encoded
        samples.append(len(members) // 4)
    return len(groups), {
        "samples": numpy.frombuffer(samples, dtype=numpy.int64),
        "members": numpy.frombuffer(members, dtype=numpy.int64).reshape(-1, 4),
        "names": numpy.frombuffer(bytes(names), dtype=numpy.uint8),
    }


def _members(url: str) -> list[tuple[str, int, int]]:
    system, path = storage.filesystem(url)
    shard = url.rpartition("/")[2]
    try:
        with system.open(path, "rb") as stream, tarfile.open(fileobj=stream, mode="r:") as tar:
            members = [(m.name.removeprefix("./"), m.offset_data, m.size) for m in tar if m.isreg()]
            # tarfile takes a damaged header for the end; a real end is zeros, or nothing.
            stream.seek(tar.offset)
            rest = stream.read(tarfile.BLOCKSIZE)
            if rest.strip(b"\0"):
                raise tarfile.ReadError(f"damaged at byte {tar.offset}")
            return members
    except (tarfile.TarError, EOFError, UnicodeError) as error:
        raise ValueError(
            f"shard `{shard}` is no whole uncompressed tar ({error})\n"
            "hint: fetch it again, unpack a .gz with gunzip, or leave it out"
        ) from error


def _groups(members: list[tuple[str, int, int]]) -> list[list[tuple[str, int, int]]]:
    """Members by sample, in the order of the first. What is named `<key>-...` belongs to the JSON of that key, unless
    it is a sample of its own. What has neither JSON nor text is still a sample: its format says what is missing."""
    rows = {key for key, ending in (_split(name) for name, _, _ in members) if ending in ("json", "txt")}
    groups: dict[str, list[tuple[str, int, int]]] = {}
    for member in members:
        key, _ = _split(member[0])
        owner = key
        if key not in rows:
            parts = key.split("-")
            prefixes = ("-".join(parts[:n]) for n in range(len(parts) - 1, 0, -1))
            owner = next((prefix for prefix in prefixes if prefix in rows), key)
        groups.setdefault(owner, []).append(member)
    for owner, group in groups.items():
        # The first member's name gives the sample its key.
        group.sort(key=lambda member: (_split(member[0])[0] != owner, member[1]))
    return list(groups.values())
