"""Data sets by name: what each is, how large, under which licence, and where its files belong.

Owns the table in `catalogue.py` with what a user adds to it, by a line of Python (`register`) or a line of JSON in
`datasets.jsonl` of the data root. Ships no data and fetches none. Data flow:

    name -> Dataset -> files below the data root ($LIMNER_DATA) -> Source
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from limner.config.suggestion import suggest
from limner.data.formats.table import format_named
from limner.data.mixture import Source
from limner.data.sizes import parse_size
from limner.data.sources import storage
from limner.data.sources.opening import open_source

ROOT_VARIABLE = "LIMNER_DATA"
OWN_FILE = "datasets.jsonl"
"""File of the data root whose lines register data sets of one's own."""

KINDS = {
    "image-text pair": ("caption", "creation"),
    "image-text token pair": ("tokenized_caption",),
    "image-image pair": ("image_image",),
    "interleaved": ("interleaved", "alternating"),
    "instruct-interleaved": ("instruct_interleaved",),
    "conversation": ("conversation", "keyed_chat", "openai_chat", "native"),
    "video-text pair": ("video_caption",),
}
"""Kind -> the formats that read it; the first is taken unless another is asked for."""


@dataclass(frozen=True)
class Dataset:
    """One data set. `files` and `media_root` are relative to the data root."""

    name: str
    kind: str
    files: str
    """Path or pattern of the files; their ending says how they are read."""
    size: int = 0
    """Documents, as published; 0 where nobody said."""
    description: str = ""
    licence: str = "unknown"
    format: str = ""
    """Name of its format; "" is the first of its kind."""
    media_root: str = ""
    """Where the files that rows name lie; "" is beside the rows."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """What its rows call the keys of the format."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"data set `{self.name}` has the kind `{self.kind}`\n{suggest(self.kind, among=KINDS)}")
        if not self.format:
            object.__setattr__(self, "format", KINDS[self.kind][0])
        format_named(self.format)

    def place(self, root: str | Path | None = None) -> str:
        """Where the files belong: below `root`, or $LIMNER_DATA. Raises ValueError when neither is given."""
        return f"{data_root(root, wanted_by=self.name)}/{self.files}"

    def is_there(self, root: str | Path | None = None) -> bool:
        """Whether there is a file at the place."""
        try:
            return bool(storage.expand(self.place(root)))
        except ValueError:
            return False

    def source(self, *, root: str | Path | None = None, format: str | None = None) -> Source:
        """Its documents, by its own format or another. Raises ValueError with the place when the files are missing."""
        place = self.place(root)
        if not self.is_there(root):
            raise ValueError(
                f"data set `{self.name}` is not at `{place}`\nhint: put its files there, or set {ROOT_VARIABLE}"
            )
        media_root = f"{data_root(root, wanted_by=self.name)}/{self.media_root}" if self.media_root else None
        return open_source(place, format=format or self.format, root=media_root, columns=self.columns)


def data_root(root: str | Path | None = None, *, wanted_by: str = "a data set") -> str:
    """The folder below which data sets lie: `root`, or else $LIMNER_DATA. Raises ValueError when there is neither."""
    given = root or os.environ.get(ROOT_VARIABLE)
    if not given:
        raise ValueError(
            f"`{wanted_by}` needs a data root\nhint: set {ROOT_VARIABLE} to the folder that holds the data"
        )
    return storage.canonical(given).rstrip("/")


class Registry:
    """Data sets by name, in the order in which they came."""

    def __init__(self) -> None:
        self._known: dict[str, Dataset] = {}

    def register(self, name: str, *, kind: str, files: str, size: str | int = 0, **details: Any) -> Dataset:
        """Add a data set: register("mine", kind="image-text pair", files="mine/*.tar", size="12K"). `details` are the
        other fields of `Dataset`. Raises ValueError for a name that is taken and for what no field takes."""
        known = [item.name for item in fields(Dataset)]
        for key in details:
            if key not in known:
                raise ValueError(f"data set `{name}` has no field `{key}`\n{suggest(key, among=known)}")
        if name in self._known:
            raise ValueError(f"a data set named `{name}` is registered already\nhint: choose another name")
        self._known[name] = Dataset(name, kind, files, parse_size(size), **details)
        return self._known[name]

    def all(self, root: str | Path | None = None) -> dict[str, Dataset]:
        """Every data set by name, those of the data root's own file after the registered ones. Raises ValueError for a
        line of that file that registers nothing, or a name that is taken."""
        found = Registry()
        found._known = dict(self._known)
        _register_own(found, root)
        return found._known

    def get(self, name: str, *, root: str | Path | None = None) -> Dataset:
        """A data set by name. Raises ValueError with the closest name for an unknown one."""
        found = self.all(root)
        if name not in found:
            raise ValueError(f"no data set named `{name}`\n{suggest(name, among=found)}")
        return found[name]


def _register_own(registry: Registry, root: str | Path | None) -> None:
    """Register what the lines of the data root's own file say."""
    if not (root or os.environ.get(ROOT_VARIABLE)):
        return
    system, path = storage.filesystem(f"{data_root(root)}/{OWN_FILE}")
    if not system.exists(path):
        return
    for number, line in enumerate(system.cat_file(path).decode("utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            registry.register(**json.loads(line))
        except (TypeError, json.JSONDecodeError) as error:
            example = '{"name": "mine", "kind": "image-text pair", "files": "mine/*.tar"}'
            raise ValueError(
                f"line {number} of `{OWN_FILE}` is no data set ({error})\nhint: write {example}"
            ) from error
        except ValueError as error:
            error.add_note(f"line {number} of `{OWN_FILE}`")
            raise
