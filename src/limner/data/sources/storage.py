"""Storage: files of any place by one code. A path, or an address that fsspec knows (s3://, gs://, memory://, ...).

Owns what a list of paths stands for, ranges of bytes, and the stamp that tells a changed file. Assumes that the package
of a remote place (s3fs, gcsfs, ...) is installed by whoever names one. Holds no connection: worker processes that are
forked open their own. Local files that were read last stay open.
"""

import functools
import hashlib
import os
import posixpath
import re
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

# Not among our own requirements: torch requires fsspec.
from fsspec.core import url_to_fs

_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_MAGIC = re.compile(r"[*?\[]")


def canonical(path: str | Path) -> str:
    """A local path made absolute, or an address as it is; `file://` is the path itself."""
    text = str(path)
    if text.startswith("file://"):
        text = text.removeprefix("file://")
    return text if "://" in text else str(Path(text).expanduser().absolute())


def is_local(url: str) -> bool:
    """Whether a canonical address is a path of this machine."""
    return "://" not in url


def filesystem(url: str) -> tuple[Any, str]:
    """(fsspec file system, path in it) of a canonical address. Raises ValueError for a protocol that is not there."""
    return _filesystem(url, os.getpid())


@functools.lru_cache(maxsize=4096)
def _filesystem(url: str, process: int) -> tuple[Any, str]:
    try:
        return url_to_fs(url)
    except (ImportError, ValueError) as error:
        protocol = url.split("://")[0]
        raise ValueError(
            f"cannot open `{url}` ({str(error).splitlines()[0]})\n"
            f"hint: install the fsspec package for `{protocol}`, or give a local path"
        ) from error


def expand(paths: str | Path | Iterable[str | Path]) -> list[str]:
    """Canonical addresses of files: "{000..012}" counts, "*" matches (sorted), the rest stands for itself.

    Raises ValueError for what names no file.
    """
    given = [paths] if isinstance(paths, str | Path) else list(paths)
    counted = [url for path in given for url in _count(str(path))]
    found: list[str] = []
    for url in map(canonical, counted):
        system, inside = filesystem(url)
        if is_local(url) and Path(url).exists():
            found.append(url)
        elif _MAGIC.search(url):
            matches = sorted(system.glob(inside))
            found += [match if is_local(url) else system.unstrip_protocol(match) for match in matches]
            if not matches:
                raise ValueError(f"no file matches `{url}`\nhint: check the path and the pattern")
        elif is_local(url) or not system.exists(inside):
            raise ValueError(f"no such data file: `{url}`\nhint: check the path")
        else:
            found.append(url)
    return found


def _count(path: str) -> list[str]:
    """Write out the first "{first..last}" of a path, and what is left in turn."""
    found = _RANGE.search(path)
    if not found:
        return [path]
    first, last = found.groups()
    numbers = range(int(first), int(last) + 1)
    return [url for n in numbers for url in _count(f"{path[: found.start()]}{n:0{len(first)}d}{path[found.end() :]}")]


def read_range(url: str, start: int, end: int) -> bytes:
    """Bytes [start, end) of a file. Raises ValueError when it is gone or shorter."""
    try:
        if is_local(url):  # a file system object costs more here than the read, and so does opening the file
            data = os.pread(_opened(url).descriptor, end - start, start)
        else:
            system, path = filesystem(url)
            data = system.cat_file(path, start=start, end=end)
    except OSError as error:
        raise ValueError(
            f"cannot read `{url}` ({error.strerror or error})\nhint: check that the file is there"
        ) from error
    if len(data) != end - start:
        raise ValueError(
            f"`{url}` ends before byte {end}; it was longer when it was indexed\nhint: restore the file, or start again"
        )
    return data


class _OpenFile:
    """A file kept open. It is read by place (`os.pread`), which moves nothing that forked processes would share."""

    def __init__(self, path: str) -> None:
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)


@functools.lru_cache(maxsize=64)
def _opened(path: str) -> _OpenFile:
    return _OpenFile(path)


def stamp(url: str) -> str:
    """What changes when a file does: its size with its tag or its time, as a short text. Raises ValueError."""
    system, path = filesystem(url)
    try:
        info = system.info(path)
    except OSError as error:
        raise ValueError(f"no such data file: `{url}`\nhint: check the path") from error
    keys = ("ETag", "etag", "mtime", "LastModified", "last_modified", "updated", "created")
    changed = next((info[key] for key in keys if info.get(key) is not None), "")
    return f"{info.get('size')}/{changed}"


def local_copy(url: str, *, folder: Path) -> str:
    """A file of another place, fetched once into `folder` and again when it changed; a local path as it is."""
    if is_local(url):
        return url
    ending = url.rpartition(".")[2]
    copy = folder / f"{digest(url, stamp(url))}.{ending}"
    if not copy.is_file():
        system, path = filesystem(url)
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            system.get_file(path, f"{temporary}/{copy.name}")
            Path(temporary, copy.name).replace(copy)
    return str(copy)


def digest(*parts: str) -> str:
    """A short name for what the parts say."""
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()[:32]


class Folder:
    """Where the files lie that rows name: `read(name)` gives a file's bytes.

    Rows may come from anywhere, so no name leads out of the root; links that lie in it are followed.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = canonical(root)

    def read(self, name: str) -> bytes:
        """The bytes of a file below the root; an absolute path may name it too. An ending in the other case is taken as
        well. Raises ValueError when there is no such file, and when `name` is an address or leads out of the root."""
        if "://" in name:
            raise ValueError(
                f"`{name[:80]}` is an address; a row's files are read below `{self.root}` only\n"
                "hint: download the files and name them by their paths"
            )
        system, base = filesystem(self.root)
        inside = _below(base, name)
        if inside is None:
            raise ValueError(
                f"row names `{name[:80]}`, which lies outside of `{self.root}`\n"
                "hint: give the source a `root` that all its files lie below"
            )
        stem, dot, ending = inside.rpartition(".")
        problem = "no such file"
        for variant in dict.fromkeys((inside, stem + dot + ending.lower(), stem + dot + ending.upper())):
            try:
                return system.cat_file(f"{base.rstrip('/')}/{variant}")
            except FileNotFoundError:
                continue
            except (OSError, ValueError) as error:
                problem = str(getattr(error, "strerror", None) or error)
                break
        raise ValueError(
            f"row names `{name[:80]}`, which cannot be read below `{self.root}` ({problem})\n"
            "hint: fetch the file, or give the source another `root`"
        )


def _below(base: str, name: str) -> str | None:
    """The path of a file below `base`, None where it is not below."""
    inside = posixpath.relpath(name, f"/{base.lstrip('/')}") if name.startswith("/") else posixpath.normpath(name)
    return None if inside.split("/")[0] == ".." else inside


def parent(url: str) -> str:
    """The folder that a file lies in."""
    return url.rpartition("/")[0] or "/"
