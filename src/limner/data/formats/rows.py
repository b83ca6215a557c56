"""What every format asks of a row: its text, its pictures, its other files. A row that does not fit: ValueError.

A row is a dictionary. A file in it is a name (`read(name)` gives its bytes, wherever it lies: a folder, the row's tar
sample), a data URL, bytes, or a `{"bytes", "path"}` pair as `datasets` stores it. Only the header of a picture is read
here; its pixels are decoded when they are asked for.
"""

from collections.abc import Callable, Mapping
from typing import Any

from limner.document.document import Document
from limner.document.media import File, Image, Kind

Row = Mapping[str, Any]
Read = Callable[[str], bytes]
Format = Callable[[Row, Read], Document]

_HINT = "hint: check that the file has the format named in the recipe, or rename its columns"


def value(row: Any, key: str, *, kind: type, where: str = "row") -> Any:
    """`row[key]`, which must be there, of `kind` and not empty."""
    found = row.get(key) if isinstance(row, Mapping) else None
    if not isinstance(found, kind) or not found:
        raise ValueError(f"{where} key `{key}` is {found!r:.60}; expected a non-empty {kind.__name__}\n{_HINT}")
    return found


def text(row: Any, key: str, *, where: str = "row") -> str:
    """`row[key]` as text without white space around it; there must be some."""
    found = value(row, key, kind=str, where=where).strip()
    if not found:
        raise ValueError(f"{where} key `{key}` is blank; expected text\n{_HINT}")
    return found


def picture(item: Any, *, key: str, read: Read) -> Image:
    """The picture that a row's item names or holds."""
    if isinstance(item, str) and item.startswith("data:"):
        return Image.from_data_url(item, name=key)
    data, name = _content(item, key=key, read=read)
    return Image.from_bytes(data, name=name)


def file(item: Any, *, key: str, read: Read, kind: type[Kind] = File) -> Kind:
    """The sound, moving picture or other file that a row's item names or holds, as a payload of `kind`."""
    if isinstance(item, str) and item.startswith("data:"):
        return kind.from_data_url(item, name=key)
    data, name = _content(item, key=key, read=read)
    return kind.from_bytes(data, name=name)


def _content(item: Any, *, key: str, read: Read) -> tuple[bytes, str]:
    """(bytes, name) of a file."""
    if isinstance(item, Mapping):
        name, data = item.get("path"), item.get("bytes")
        if isinstance(data, bytes) and data:
            return data, name if isinstance(name, str) and name else key
        item = name
    if isinstance(item, bytes) and item:
        return item, key
    if isinstance(item, str) and item.strip():
        return read(item.strip()), item.strip()
    raise ValueError(f"row key `{key}` is {item!r:.60}; expected a file's name or its bytes\n{_HINT}")
