"""Tables through `datasets`: parquet and arrow files, and folders that `save_to_disk` wrote. Memory-mapped.

Assumes that the extra `data` is installed. Parquet has no random access to a row, so `datasets` writes it once as arrow
below `index/` of the cache; arrow files are mapped where they lie; files of other places are fetched into the cache
first. Pictures and sounds are taken as the bytes that are stored; `datasets` decodes nothing.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from limner import zoo
from limner.data.formats.table import format_named
from limner.data.sources import storage
from limner.data.sources.columns import Columns, renamed
from limner.document.document import Document


class ArrowRows:
    """Rows of .parquet files, of .arrow files, or of one `save_to_disk` folder (with `split` where it has several).

    A row's files lie below `root` (by default the folder itself); `columns` says what the table calls the keys of the
    format.
    """

    def __init__(
        self,
        paths: str | Path | Iterable[str | Path],
        *,
        format: str,
        root: str | Path | None = None,
        split: str | None = None,
        columns: Columns | None = None,
    ) -> None:
        self.format = format_named(format)
        self.columns = columns or {}
        self.urls = storage.expand(paths)
        if not self.urls:
            raise ValueError("a source without files\nhint: give .parquet or .arrow files, or a save_to_disk folder")
        is_file = self.urls[0].endswith((".parquet", ".arrow"))
        self.folder = storage.Folder(root or (storage.parent(self.urls[0]) if is_file else self.urls[0]))
        # As arrow, a row is what is stored: nothing is decoded behind our back.
        self.table = (_open_files(self.urls) if is_file else _open_folder(self.urls, split=split)).with_format("arrow")

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: int) -> Document:
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        row = self.table[index % len(self)].to_pylist()[0]
        try:
            return self.format(renamed(row, self.columns), self.folder.read)
        except ValueError as error:
            error.add_note(f"row {index} of `{self.urls[0].rpartition('/')[2]}`")
            raise


def saved_table(path: Path) -> Any:
    """The table of an arrow file, or of a folder that `save_to_disk` wrote, its rows as they are stored."""
    url = storage.canonical(path)
    return (_open_folder([url], split=None) if path.is_dir() else _open_files([url])).with_format("arrow")


def _datasets() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise ValueError(
            "parquet and arrow files are read by the package `datasets`, which is not installed\n"
            "hint: pip install 'limner[data]'"
        ) from error
    return datasets


def _open_files(urls: list[str]) -> Any:
    datasets = _datasets()
    kind = urls[0].rpartition(".")[2]
    if any(not url.endswith("." + kind) for url in urls):
        raise ValueError(f"`{urls[0]}` stands beside files of another kind\nhint: give each kind a source of its own")
    kept = zoo.cache_root() / "index"
    try:
        # `datasets` would ask its own settings whether a remote place may be read; that is fsspec's business.
        paths = [storage.local_copy(url, folder=kept / "copies") for url in urls]
        if kind == "arrow":
            return datasets.concatenate_datasets([datasets.Dataset.from_file(path) for path in paths])
        return datasets.load_dataset(kind, data_files=paths, split="train", cache_dir=str(kept / "datasets"))
    except (OSError, ValueError, RuntimeError) as error:
        raise _damaged(urls[0], error) from error


def _open_folder(urls: list[str], *, split: str | None) -> Any:
    datasets = _datasets()
    if len(urls) > 1:
        raise ValueError(f"{len(urls)} folders are given; expected one\nhint: give each folder a source of its own")
    try:
        found = datasets.load_from_disk(urls[0])
    except (OSError, ValueError, RuntimeError) as error:
        raise _damaged(urls[0], error) from error
    if not isinstance(found, datasets.DatasetDict):
        return found
    if split not in found:
        raise ValueError(
            f"`{urls[0]}` has the splits {', '.join(found)}; got {split}\nhint: give one of them as `split`"
        )
    return found[split]


def _damaged(url: str, error: Exception) -> ValueError:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return ValueError(
        f"`{url}` cannot be read as a table ({reason})\nhint: give .parquet or .arrow files, or a save_to_disk folder"
    )
