"""Audio payloads: a sound as encoded bytes, decoded once, when its samples are first asked for.

Owns the way from a file, bytes or samples to a waveform at a wanted rate. Assumes soundfile (WAV, FLAC, OGG, MP3) and
soxr (resampling), both in the `audio` extra; without them sounds can be carried, not decoded.

Data flow: path | bytes | samples | data URL -> `Audio` -> `.mono(rate)` -> an encoder's `preprocess`.
"""

import functools
import importlib
import io
import struct
from dataclasses import dataclass
from typing import Any

from limner.document.media import File

_FLOAT_FORMAT = 3
"""The WAVE format tag of IEEE floating point."""

_HINT = "hint: WAV, FLAC, OGG and MP3 are understood"


@dataclass(frozen=True, eq=False)
class Audio(File):
    """A sound. Two are equal when their bytes are."""

    default_name = "sound.wav"

    @staticmethod
    def from_samples(samples: Any, *, rate: int, name: str = "sound.wav") -> "Audio":
        """Take samples in [-1, 1], [samples] or [samples, channels], at `rate` Hz. Kept as 32-bit floats."""
        import numpy as np

        values = np.asarray(samples, dtype="<f4")
        if values.ndim not in (1, 2) or not values.size or rate < 1:
            raise ValueError(
                f"`{name}` has the shape {values.shape} at {rate} Hz; expected [samples] or [samples, channels]\n"
                "hint: transpose what has its channels first"
            )
        channels = 1 if values.ndim == 1 else values.shape[1]
        body = values.tobytes()
        header = struct.pack("<HHIIHH", _FLOAT_FORMAT, channels, rate, rate * channels * 4, channels * 4, 32)
        chunks = b"fmt " + struct.pack("<I", len(header)) + header + b"data" + struct.pack("<I", len(body)) + body
        return Audio(b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks, name=name)

    @functools.cached_property
    def _decoded(self) -> tuple[Any, int]:
        soundfile = _library("soundfile")
        try:
            return soundfile.read(io.BytesIO(self.data), dtype="float32", always_2d=True)
        except soundfile.SoundFileError as error:
            raise ValueError(f"`{self.name}` is not a sound that can be read ({error})\n{_HINT}") from error

    @property
    def rate(self) -> int:
        """Samples per second as stored."""
        return int(self._decoded[1])

    @property
    def seconds(self) -> float:
        """Duration, as the file's head says: nothing is decoded for it."""
        soundfile = _library("soundfile")
        try:
            return float(soundfile.info(io.BytesIO(self.data)).duration)
        except soundfile.SoundFileError as error:
            raise ValueError(f"`{self.name}` is not a sound that can be read ({error})\n{_HINT}") from error

    def samples(self) -> Any:
        """A float32 array [samples, channels] in [-1, 1], as stored."""
        return self._decoded[0]

    def mono(self, rate: int) -> Any:
        """A float32 array [samples] at `rate` Hz: the mean of the channels, resampled by soxr at high quality."""
        import numpy as np

        samples, stored = self._decoded
        wave = samples.mean(axis=1)
        if stored == rate:
            return wave
        length = -(-len(wave) * rate // stored)
        found = _library("soxr").resample(wave, stored, rate, quality="HQ")[:length]
        return np.pad(found, (0, length - len(found)))


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ValueError(
            f'decoding sounds needs {name}, which is not installed\nhint: pip install "limner[audio]"'
        ) from error
