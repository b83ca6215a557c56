"""Which source reads what, told by the ending: .jsonl, .json, .tar, .parquet, .arrow, or a folder."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from limner.data.mixture import Source
from limner.data.sources import folder, json_rows, storage, tar_shards
from limner.data.sources.arrow_rows import ArrowRows
from limner.data.sources.columns import Columns
from limner.data.sources.folder import CaptionedFolder
from limner.data.sources.index import index_file, index_listing
from limner.data.sources.json_rows import JsonRows
from limner.data.sources.tar_shards import TarShards

SAVED = ("state.json", "dataset_dict.json")
"""Files of a folder that `save_to_disk` wrote."""

NOT_TAKEN = {
    "tar": {"root": "a shard holds its own files"},
    "folder": {
        "root": "pictures and texts of a folder lie in it",
        "columns": "rows of a folder of pictures are always image and caption",
    },
}
"""Kind of files -> the options of `open_source` that mean nothing there, and why."""


def open_source(
    paths: str | Path | Iterable[str | Path],
    *,
    format: str,
    root: str | Path | None = None,
    columns: Columns | None = None,
) -> Source:
    """The source that reads files of that ending. Raises ValueError for an ending that none reads, for files of several
    kinds, and for an option that files of that kind do not have."""
    urls = storage.expand(paths)
    if not urls:
        raise ValueError("a source without files\nhint: check the paths")
    kind = _kind(urls[0])
    for url in urls:
        if _kind(url) != kind:
            raise ValueError(
                f"`{urls[0]}` stands beside `{url}`, which is of another kind\nhint: give each kind a source of its own"
            )
    for name, option in (("root", root), ("columns", columns)):
        if option and name in NOT_TAKEN.get(kind, {}):
            raise ValueError(f"`{name}` is given for `{urls[0]}`: {NOT_TAKEN[kind][name]}\nhint: leave `{name}` out")
    # None is what a source takes for "not said".
    said: dict[str, Any] = {"root": root} if root is not None else {}
    if kind == "json":
        return JsonRows(urls, format=format, columns=columns, **said)
    if kind == "tar":
        return TarShards(urls, format=format, columns=columns)
    if kind == "table":
        return ArrowRows(urls, format=format, columns=columns, **said)
    return CaptionedFolder(urls, format=format)


def index(url: str) -> int:
    """Build or check the index of one file or folder; the number of its rows. Raises ValueError."""
    kind = _kind(url)
    if kind == "json":
        return len(index_file(url, kind="json", build=json_rows.scan))
    if kind == "tar":
        return len(index_file(url, kind="tar", build=tar_shards.scan))
    if kind == "folder":
        return len(index_listing(url, kind="folder", build=folder.scan))
    return len(ArrowRows(url, format="native"))


def _kind(url: str) -> str:
    ending = url.rpartition(".")[2].lower()
    if ending in ("json", "jsonl"):
        return "json"
    if ending == "tar":
        return "tar"
    if ending in ("parquet", "arrow"):
        return "table"
    system, path = storage.filesystem(url)
    if not system.isdir(path):
        raise ValueError(
            f"no source reads `{url.rpartition('/')[2]}`\n"
            "hint: give .json, .jsonl, .tar, .parquet or .arrow files, a save_to_disk folder, or a folder of pictures"
        )
    return "table" if any(system.exists(f"{path.rstrip('/')}/{name}") for name in SAVED) else "folder"
