"""Records of public sources as they are published: JSON, JSON lines, CSV, TSV, parquet, arrow, `save_to_disk` folders.

A source is gone through once, from its beginning; a record is a dictionary. Assumes the extra `data` for tables.
"""

import csv
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from limner.data.sources.opening import SAVED

Record = Mapping[str, Any]

ENDINGS = (".json", ".jsonl", ".csv", ".tsv", ".parquet", ".arrow")
_BATCH = 256
_LONGEST_FIELD = 1 << 30


def records(paths: Iterable[Path]) -> Iterator[tuple[str, Record]]:
    """(name, record) of every record of the files in order; a name is the file's and the record's number.

    A folder stands for the files in it that can be read, sorted. Raises ValueError for what no reader takes, and for a
    file that is damaged.
    """
    for path in paths:
        for file in _files(path):
            for number, record in enumerate(_read(file)):
                if not isinstance(record, Mapping):
                    raise ValueError(
                        f"record {number} of `{file.name}` is {record!r:.40}; expected an object\n"
                        "hint: give the file as it was published"
                    )
                yield f"{file.name}:{number}", record


def _files(path: Path) -> list[Path]:
    if path.is_dir() and not _is_saved(path):
        found = sorted(file for file in path.rglob("*") if file.suffix.lower() in ENDINGS)
        if not found:
            raise ValueError(f"`{path}` holds no {', '.join(ENDINGS)} file\nhint: unpack the source there")
        return found
    if not path.exists():
        raise ValueError(f"no such source: `{path}`\nhint: download it first: nothing is fetched here")
    return [path]


def _is_saved(path: Path) -> bool:
    return any((path / name).is_file() for name in SAVED)


def _read(path: Path) -> Iterator[Any]:
    ending = path.suffix.lower()
    if path.is_dir() or ending == ".arrow":
        return _saved(path)
    if ending == ".parquet":
        return _parquet(path)
    if ending in (".csv", ".tsv"):
        return _separated(path, delimiter="\t" if ending == ".tsv" else ",")
    if ending in (".json", ".jsonl"):
        return _json(path)
    raise ValueError(f"`{path.name}` is of no kind that is read here\nhint: give {', '.join(ENDINGS)} files")


def _json(path: Path) -> Iterator[Any]:
    with path.open(encoding="utf-8-sig") as stream:
        start = stream.read(1024).lstrip()[:1]
        stream.seek(0)
        if start == "[":
            yield from _parsed(path, 0, stream.read())
            return
        for number, line in enumerate(stream):
            if line.strip():
                yield _parsed(path, number, line)


def _parsed(path: Path, number: int, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f"line {number + 1} of `{path.name}` is no JSON ({error})\nhint: fetch it again") from error


def _separated(path: Path, *, delimiter: str) -> Iterator[Any]:
    csv.field_size_limit(_LONGEST_FIELD)
    # Published TSV files quote nothing: a quotation mark there is one that somebody spoke.
    quoting = csv.QUOTE_NONE if delimiter == "\t" else csv.QUOTE_MINIMAL
    with path.open(encoding="utf-8-sig", newline="") as stream:
        yield from csv.DictReader(stream, delimiter=delimiter, quoting=quoting)


def _parquet(path: Path) -> Iterator[Any]:
    try:
        from pyarrow import ArrowInvalid, parquet
    except ImportError as error:
        raise ValueError(
            "parquet files are read by pyarrow, which is not installed\nhint: pip install 'limner[data]'"
        ) from error
    try:
        for batch in parquet.ParquetFile(path).iter_batches(_BATCH):
            yield from batch.to_pylist()
    except ArrowInvalid as error:
        raise ValueError(f"`{path.name}` is no parquet file ({error})\nhint: fetch it again") from error


def _saved(path: Path) -> Iterator[Any]:
    from limner.data.sources.arrow_rows import saved_table

    table = saved_table(path)
    for start in range(0, len(table), _BATCH):
        yield from table[start : start + _BATCH].to_pylist()
