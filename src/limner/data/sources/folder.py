"""A folder of pictures with their captions beside them: `cat.jpg` and `cat.txt`, in sub-folders too."""

import logging
from collections.abc import Iterable
from pathlib import Path

import numpy

from limner.data.formats.table import format_named
from limner.data.sources import storage
from limner.data.sources.index import Catalogue, Index, Tables, index_listing
from limner.data.sources.tar_shards import PICTURES
from limner.document.document import Document

logger = logging.getLogger(__name__)


class CaptionedFolder:
    """Every picture below some folders with the text of the .txt file of the same name: rows {"image", "caption"}.

    The list of pictures is kept and made anew when a folder below changed.
    """

    def __init__(self, paths: str | Path | Iterable[str | Path], *, format: str = "caption") -> None:
        self.format = format_named(format)
        self.catalogue = Catalogue(storage.expand(paths), index=_listing)

    def __len__(self) -> int:
        return len(self.catalogue)

    def __getitem__(self, index: int) -> Document:
        url, table, place = self.catalogue.find(index)
        folder = storage.Folder(url)
        start, end = table.table("places", place, place + 1)[0].tolist()
        name = table.table("names", start, end).tobytes().decode()
        try:
            words = folder.read(name.rpartition(".")[0] + ".txt").decode("utf-8", errors="replace")
            return self.format({"image": name, "caption": words}, folder.read)
        except ValueError as error:
            error.add_note(f"picture `{name}`")
            raise


def _listing(url: str) -> Index:
    return index_listing(url, kind="folder", build=scan)


def scan(url: str) -> tuple[int, Tables, list[str]]:
    """Find the pictures below a folder: their number, the tables `places` (begin and end of each name) and `names`
    (paths below the folder, in order), and the folders that were looked into."""
    system, root = storage.filesystem(url)
    if not system.isdir(root):
        raise ValueError(f"no such folder: `{url}`\nhint: give a folder of pictures with .txt files beside them")
    found, folders = [], []
    for path, _, files in system.walk(root):
        folders.append(path)
        below = path[len(root.rstrip("/")) :].strip("/")
        found += [f"{below}/{name}".lstrip("/") for name in files if name.rpartition(".")[2].lower() in PICTURES]
    encoded = [name.encode() for name in sorted(found)]
    ends = numpy.cumsum([len(name) for name in encoded], dtype=numpy.int64)
    places = numpy.stack([ends - [len(name) for name in encoded], ends], axis=1).astype(numpy.int64)
    names = numpy.frombuffer(b"".join(encoded), dtype=numpy.uint8)
    return len(encoded), {"places": places, "names": names}, folders
