"""Feature store: tensors by key in a folder of append-only files, shared by any number of processes.

    <folder>/about.txt          what the features belong to, for people
    <folder>/<writer>.data      raw bytes of the tensors, one after another
    <folder>/<writer>.index     one record of 64 bytes per tensor: key, place, shape, type, checksums

Every writing process has files of its own, so nothing is locked. A tensor's bytes are written before its record, and a
record is found only when it is whole and its checksum fits; so a process that dies at any byte loses at most the tensor
that it was writing. Readers map the data and read the rest of the journals again when they miss a key.

Assumes that a folder holds values of one part only (`fingerprint`): a key names the same bytes for ever. What all
folders may take together is limited where `$LIMNER_FEATURES_LIMIT` says so; nothing is deleted to make room.
"""

import errno
import hashlib
import logging
import math
import mmap
import os
import re
import secrets
import struct
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from limner import zoo

logger = logging.getLogger(__name__)

ROOT_VARIABLE = "LIMNER_FEATURES"
LIMIT_VARIABLE = "LIMNER_FEATURES_LIMIT"

MEMORY_LIMIT = 2**31
"""Bytes that a `MemoryStore` keeps; what comes later is computed each time."""

SLICE = 2**26
"""Bytes that a process writes before it measures again how much room is left: so far may each exceed the limit."""

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}

_RECORD = struct.Struct("<16sQ6IBBxxI")
_CHECKSUM = struct.Struct("<I")
RECORD_SIZE = 64
_PADDING = bytes(RECORD_SIZE - _RECORD.size - _CHECKSUM.size)
_MAX_DIMENSIONS = 6
_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.int32, torch.uint8)
"""A record names a type by its place here: add at the end only."""


def features_root() -> Path:
    """`$LIMNER_FEATURES`, or else `features` in the cache of weights. Not created here."""
    given = os.environ.get(ROOT_VARIABLE)
    return Path(given).expanduser() if given else zoo.cache_root() / "features"


def features_limit() -> int | None:
    """Bytes that all features together may take, `$LIMNER_FEATURES_LIMIT` such as "200G"; None for no limit."""
    given = os.environ.get(LIMIT_VARIABLE, "")
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)B?", given.strip().upper())
    if given and not found:
        raise ValueError(f"{LIMIT_VARIABLE} is `{given}`; expected bytes such as 500M or 200G\nhint: write it so")
    return round(float(found[1]) * _UNITS[found[2]]) if found else None


def bytes_below(folder: Path) -> int:
    """What the features in the folders of `folder` take."""
    return sum(path.stat().st_size for ending in ("data", "index") for path in folder.glob(f"*/*.{ending}"))


@runtime_checkable
class Store(Protocol):
    """Tensors by text keys."""

    def holds(self, key: str) -> bool: ...

    def get(self, key: str) -> Tensor | None: ...

    def put(self, key: str, value: Tensor) -> None: ...


class NoStore:
    """Keeps nothing: what the cached path costs, and gives, without a cache."""

    def holds(self, key: str) -> bool:
        """Never."""
        return False

    def get(self, key: str) -> Tensor | None:
        """Nothing."""
        return None

    def put(self, key: str, value: Tensor) -> None:
        """Forgotten."""


class MemoryStore:
    """Keeps tensors in this process, up to `limit` bytes."""

    def __init__(self, *, limit: int = MEMORY_LIMIT) -> None:
        self.limit = limit
        self.num_bytes = 0
        self._values: dict[str, Tensor] = {}

    def holds(self, key: str) -> bool:
        """Whether `get` would find it."""
        return key in self._values

    def get(self, key: str) -> Tensor | None:
        """The tensor, None where it is not held."""
        return self._values.get(key)

    def put(self, key: str, value: Tensor) -> None:
        """Keep a tensor while there is room."""
        size = value.nbytes
        if key in self._values or self.num_bytes + size > self.limit:
            return
        self.num_bytes += size
        self._values[key] = value


@dataclass(frozen=True)
class _Record:
    writer: str
    offset: int
    shape: tuple[int, ...]
    dtype: torch.dtype
    checksum: int

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


class DiskStore:
    """The store of one folder. Where it cannot be written (no rights, disk full), new tensors are kept in memory.

    `limit` is how many bytes this folder and those beside it may take; None for no limit. May be used in forked
    processes: a child that writes begins files of its own.
    """

    def __init__(self, folder: Path, *, about: Sequence[str] = (), limit: int | None = None) -> None:
        self.folder = folder
        self.about = about
        self.limit = limit
        self._room = 0
        self._records: dict[bytes, _Record] = {}
        self._read: dict[str, int] = {}
        self._maps: dict[str, mmap.mmap] = {}
        self._checked: set[bytes] = set()
        self._writer: _Writer | None = None
        self._overflow: MemoryStore | None = None
        self._refresh()

    def __len__(self) -> int:
        return len(self._records)

    def holds(self, key: str) -> bool:
        """Whether the tensor is there, written by whichever process."""
        hashed = _hashed(key)
        if hashed not in self._records:
            self._refresh()
        return hashed in self._records or (self._overflow is not None and self._overflow.holds(key))

    def get(self, key: str) -> Tensor | None:
        """A copy of the tensor on the CPU; None where it is missing or its bytes are damaged."""
        if not self.holds(key):
            return None
        hashed = _hashed(key)
        record = self._records.get(hashed)
        if record is None:
            return self._overflow.get(key) if self._overflow is not None else None
        raw = self._bytes(record)
        if raw is None or (hashed not in self._checked and zlib.crc32(raw) != record.checksum):
            logger.warning("features in %s are damaged and are computed again", record.writer)
            del self._records[hashed]
            return None
        self._checked.add(hashed)
        if not raw:
            return torch.empty(record.shape, dtype=record.dtype)
        return torch.frombuffer(raw, dtype=record.dtype).view(record.shape)

    def put(self, key: str, value: Tensor) -> None:
        """Append a CPU tensor of at most six dimensions. A key that is held already is left as it is."""
        hashed = _hashed(key)
        if hashed in self._records:
            return
        if self._overflow is None:
            try:
                self._take_room(value.nbytes + RECORD_SIZE)
                self._records[hashed] = self._own_writer().append(hashed, value)
            except OSError as error:
                logger.warning("features cannot be written to %s (%s); new ones stay in memory", self.folder, error)
                self._overflow = MemoryStore()
        if self._overflow is not None:
            self._overflow.put(key, value)

    def _take_room(self, size: int) -> None:
        """Raises OSError where the limit leaves no room for so many bytes."""
        if self.limit is None:
            return
        if self._room < size:
            self._room = min(max(size, SLICE), self.limit - bytes_below(self.folder.parent))
        if self._room < size:
            raise OSError(errno.EDQUOT, f"{LIMIT_VARIABLE} allows {self.limit} bytes; see `limner data cache`")
        self._room -= size

    def _is_own(self, writer: str) -> bool:
        """Whether these are the files that this process writes: it knows what is in them."""
        own = self._writer
        return own is not None and own.name == writer and own.process == os.getpid()

    def _own_writer(self) -> "_Writer":
        if self._writer is None or self._writer.process != os.getpid():
            self.folder.mkdir(parents=True, exist_ok=True)
            about = self.folder / "about.txt"
            if self.about and not about.exists():
                about.write_text("\n".join(self.about) + "\n", encoding="utf-8")
            self._writer = _Writer(self.folder)
        return self._writer

    def _refresh(self) -> None:
        """Take in what was added to the journals. Later writers win: theirs replaces what was found damaged."""
        if not self.folder.is_dir():
            return
        for path in sorted(self.folder.glob("*.index")):
            known = self._read.get(path.stem, 0)
            if self._is_own(path.stem) or path.stat().st_size - known < RECORD_SIZE:
                continue
            with path.open("rb") as stream:
                stream.seek(known)
                tail = stream.read()
            whole = len(tail) - len(tail) % RECORD_SIZE
            self._read[path.stem] = known + whole
            for start in range(0, whole, RECORD_SIZE):
                found = _unpack(tail[start : start + RECORD_SIZE], writer=path.stem)
                if found is not None:
                    self._records[found[0]] = found[1]

    def _bytes(self, record: _Record) -> bytearray | None:
        end = record.offset + record.num_bytes
        mapped = self._maps.get(record.writer)
        if mapped is None or len(mapped) < end:
            path = self.folder / f"{record.writer}.data"
            if not path.is_file() or path.stat().st_size < end:
                return None
            if not end:
                return bytearray()
            with path.open("rb") as stream:
                mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
            self._maps[record.writer] = mapped
        return bytearray(memoryview(mapped)[record.offset : end])


class _Writer:
    """The two files of one process. They are opened for each tensor: that costs nothing beside computing it."""

    def __init__(self, folder: Path) -> None:
        self.process = os.getpid()
        # Names sort by the time of their beginning.
        self.name = f"{time.time_ns():020d}-{secrets.token_hex(4)}"
        self._files = (folder / f"{self.name}.data", folder / f"{self.name}.index")
        self._offset = 0

    def append(self, hashed: bytes, value: Tensor) -> _Record:
        """Write a tensor, then its record. After an OSError this writer must not be used again."""
        assert value.ndim <= _MAX_DIMENSIONS, f"a record has room for {_MAX_DIMENSIONS} dimensions"
        raw = value.contiguous().reshape(-1).view(torch.uint8).numpy().data
        record = _Record(self.name, self._offset, tuple(value.shape), value.dtype, zlib.crc32(raw))
        for path, content in zip(self._files, (raw, _pack(hashed, record)), strict=True):
            with FileIO(path, "ab") as stream:
                _write(stream, content)
        self._offset += len(raw)
        return record


def _hashed(key: str) -> bytes:
    return hashlib.blake2b(key.encode(), digest_size=16).digest()


def _write(stream: FileIO, raw: bytes | memoryview) -> None:
    """All of it: an unbuffered write may take less."""
    view = memoryview(raw)
    while view:
        view = view[stream.write(view) :]


def _pack(hashed: bytes, record: _Record) -> bytes:
    shape = (*record.shape, *[0] * (_MAX_DIMENSIONS - len(record.shape)))
    kind = _DTYPES.index(record.dtype)
    body = _RECORD.pack(hashed, record.offset, *shape, len(record.shape), kind, record.checksum) + _PADDING
    return body + _CHECKSUM.pack(zlib.crc32(body))


def _unpack(raw: bytes, *, writer: str) -> tuple[bytes, _Record] | None:
    body, (checksum,) = raw[: -_CHECKSUM.size], _CHECKSUM.unpack(raw[-_CHECKSUM.size :])
    if zlib.crc32(body) != checksum:
        return None
    hashed, offset, *shape, num_dimensions, kind, of_data = _RECORD.unpack(body[: _RECORD.size])
    return hashed, _Record(writer, offset, tuple(shape[:num_dimensions]), _DTYPES[kind], of_data)
