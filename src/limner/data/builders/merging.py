"""One data set of several: rows in an order that belongs to the seed, paths from one folder, text-only rows kept.

Sources are data sets that were built here, files of rows, or folders that `save_to_disk` wrote (the original's). Keys
without items are left out, so sets with other columns go together. What cannot be taken over is named and counted.
"""

import base64
import json
import mimetypes
import os
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from limner.data.builders.building import MANIFEST, ROWS, Left, Row, media_of, write_rows
from limner.data.builders.records import records
from limner.data.formats.conversations import KEYED_MEDIA, PICTURE_ENDINGS

_LISTS = {key for key, _ in KEYED_MEDIA.values()}


def merge(paths: Sequence[Path], *, output: Path, seed: int = 0, limit: int | None = None) -> dict[str, Any]:
    """Write the rows of all sources in one order below `output`. Returns the manifest.

    Raises ValueError for a source that is none, and for two of one name.
    """
    if not paths:
        raise ValueError("nothing to merge\nhint: give folders of `limner data build`, or files of rows")
    names = [path.resolve().name for path in paths]
    if len(set(names)) < len(names):
        raise ValueError(f"two sources have one name: {', '.join(sorted(names))}\nhint: rename one: ids begin with it")
    folders = [_media(path) for path in paths]
    common = Path(os.path.commonpath([folder.resolve() for folder in folders]))
    # As text, because rows as dictionaries take several times the room.
    taken = [
        row if isinstance(row, Left) else json.dumps(row, ensure_ascii=False)
        for row in _all(paths, names, folders, common)
    ]
    # The order in which sources are given, and their files lie, is not to matter.
    taken.sort(key=lambda item: f"{item.key}\n{item.reason}\n{item.detail}" if isinstance(item, Left) else item)
    random.Random(seed).shuffle(taken)
    sources = [{"name": name, "version": "", "licence": "that of its source"} for name in names]
    rows = (item if isinstance(item, Left) else json.loads(item) for item in taken)
    return write_rows(rows, output=output, name=output.name, media=common, seed=seed, sources=sources, limit=limit)


def _all(paths: Sequence[Path], names: Sequence[str], folders: Sequence[Path], common: Path) -> Iterator[Row | Left]:
    for path, name, folder in zip(paths, names, folders, strict=True):
        for key, record in records([_rows(path)]):
            yield _taken(record, key=key, name=name, folder=folder, common=common)


def _rows(path: Path) -> Path:
    return path / ROWS if (path / ROWS).is_file() else path


def _media(path: Path) -> Path:
    """Where the items of a source lie: as its manifest says, or beside its rows."""
    if (path / MANIFEST).is_file():
        return media_of(path)
    return path if path.is_dir() else path.parent


def _taken(record: Mapping[str, Any], *, key: str, name: str, folder: Path, common: Path) -> Row | Left:
    known = f"{name}/{record.get('id') or key}"
    messages = record.get("messages")
    if not isinstance(messages, list) or not all(_is_message(message) for message in messages):
        return Left(known, "no messages")
    row: Row = {"id": known, "messages": [{"role": m["role"], "content": m["content"]} for m in messages]}
    try:
        for column in record:
            if column in _LISTS and record[column]:
                row[column] = [_item(item, column, folder=folder, common=common) for item in record[column]]
    except ValueError as error:
        return Left(known, "no local file", str(error).partition("\n")[0])
    return row


def _is_message(message: Any) -> bool:
    return isinstance(message, Mapping) and all(isinstance(message.get(key), str) for key in ("role", "content"))


def _item(item: Any, column: str, *, folder: Path, common: Path) -> Any:
    """An item as its row keeps it: a path from the common folder; texts, numbers and bytes inside the row."""
    if isinstance(item, Mapping) and isinstance(item.get("bytes"), bytes):
        kind = mimetypes.guess_type(str(item.get("path") or ""))[0] or "application/octet-stream"
        return f"data:{kind};base64,{base64.b64encode(item['bytes']).decode('ascii')}"
    if isinstance(item, Mapping) and item.get("array") is not None:
        return {"array": item["array"], "sampling_rate": item.get("sampling_rate")}
    path = item.get("path") if isinstance(item, Mapping) else item
    if isinstance(path, str) and (path.startswith("data:") or _is_text(path, column)):
        return path
    if not isinstance(path, str) or "://" in path:
        raise ValueError(f"an item of `{column}` is {item!r:.80}; expected a local file")
    # Not resolved further: pictures that are links lie where the links do.
    place = Path(os.path.normpath(folder.resolve() / path))
    if not place.is_relative_to(common):
        raise ValueError(f"`{path}` lies outside of `{common.name}/`")
    return place.relative_to(common).as_posix()


def _is_text(item: str, column: str) -> bool:
    return column == "documents" or (column == "imagebinds" and not item.lower().endswith((*PICTURE_ENDINGS, ".wav")))
