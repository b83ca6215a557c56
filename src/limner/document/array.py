"""Array payloads: numbers that are already what an encoder would give, or that an encoder takes as they are.

Owns the way from nested lists or an array to bytes (the .npy format) and back. Precomputed features, time series and
tables travel as these. numpy is imported when values are asked for, not before.

Data flow: lists | array | bytes | data URL -> `Array` -> `.values()` -> an encoder's `preprocess`.
"""

import functools
import io
from dataclasses import dataclass
from typing import Any

from limner.document.media import File


@dataclass(frozen=True, eq=False)
class Array(File):
    """Numbers of any shape as .npy bytes."""

    default_name = "array.npy"

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
