"""Array payloads: numbers that are already what an encoder would give, or that an encoder takes as they are.

Owns the way from nested lists or an array to bytes (the .npy format) and back. Precomputed features, time series and
tables travel as these. numpy is imported when values are asked for, not before.

Data flow: lists | array | bytes | data URL -> `Array` -> `.values()` -> an encoder's `preprocess`.
"""

import functools
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from limner.document.media import File


@dataclass(frozen=True, eq=False)
class Array(File):
    """Numbers of any shape as .npy bytes."""

    @staticmethod
    def from_values(values: Any, *, name: str = "array.npy") -> "Array":
        """Take nested lists or an array. Raises ValueError for ragged lists and what holds no numbers."""
        import numpy as np

        try:
            array = np.asarray(values)
            if array.dtype.kind not in "bif" or not array.size:
                raise ValueError(f"{array.size} values of type {array.dtype}")
        except ValueError as error:
            raise ValueError(
                f"`{name}` is no array of numbers ({error})\nhint: give nested lists of equal length that hold values"
            ) from error
        stream = io.BytesIO()
        np.save(stream, array, allow_pickle=False)
        return Array(stream.getvalue(), name=name)

    @staticmethod
    def from_path(path: str | Path) -> "Array":
        """Read a .npy file. Raises ValueError when it is missing."""
        return Array(file_bytes(path), name=Path(path).name)

    @staticmethod
    def from_bytes(data: bytes, *, name: str = "array.npy") -> "Array":
        """Take .npy bytes; they are read when values are asked for."""
        return Array(File.from_bytes(data, name=name).data, name=name)

    @staticmethod
    def from_data_url(url: str, *, name: str = "array.npy") -> "Array":
        """Take a `data:application/x-npy;base64,` URL."""
        return Array(File.from_data_url(url, name=name).data, name=name)

    @property
    def media_type(self) -> str:
        """Of the .npy format."""
        return "application/x-npy"

    @functools.cached_property
    def _values(self) -> Any:
        import numpy as np

        try:
            return np.load(io.BytesIO(self.data), allow_pickle=False)
        except (ValueError, OSError, EOFError) as error:
            raise ValueError(
                f"`{self.name}` cannot be read as numbers ({error})\nhint: write it with numpy.save"
            ) from error

    def values(self) -> Any:
        """The numpy array; do not write to it."""
        return self._values


def file_bytes(path: str | Path) -> bytes:
    """The bytes of a local file. Raises ValueError when it is missing; a remote address is refused."""
    text = str(path)
    if "://" in text:
        raise ValueError(
            f"`{text:.80}` is an address; files are read from disk\nhint: download it first: the library never fetches"
        )
    if not Path(path).is_file():
        raise ValueError(f"no such file: `{text}`\nhint: check the path; relative paths start at {Path.cwd().name}/")
    return Path(path).read_bytes()
