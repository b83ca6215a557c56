"""Video payloads: a moving picture as encoded bytes; frames are decoded when they are asked for.

Assumes PyAV (the `video` extra); without it videos can be carried, not decoded.

Data flow: path | bytes | data URL -> `Video` -> `.frames(indices)` -> an encoder's `preprocess`.
"""

import functools
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from limner.document.media import File


@dataclass(frozen=True, eq=False)
class Video(File):
    """A moving picture. Two are equal when their bytes are."""

    default_name = "video.mp4"

    @functools.cached_property
    def num_frames(self) -> int:
        """Frames of the first video stream, counted by decoding: what containers say of themselves is often wrong."""
        return sum(1 for _ in self._decode())

    def frames(self, indices: Sequence[int]) -> Any:
        """uint8 RGB frames [frames, height, width, 3] at the given indices, in their order.

        Raises ValueError for an index beyond the end.
        """
        import numpy as np

        wanted = set(indices)
        found: dict[int, Any] = {}
        for index, frame in enumerate(self._decode()):
            if index in wanted:
                found[index] = frame.to_ndarray(format="rgb24")
            if len(found) == len(wanted):
                break
        if len(found) < len(wanted):
            raise ValueError(
                f"`{self.name}` ends before frame {max(wanted)}\nhint: ask for frames below {self.num_frames}"
            )
        return np.stack([found[index] for index in indices])

    def _decode(self) -> Iterator[Any]:
        try:
            import av
            from av.error import FFmpegError
        except ImportError as error:
            raise ValueError(
                'decoding videos needs PyAV, which is not installed\nhint: pip install "limner[video]"'
            ) from error
        try:
            with av.open(io.BytesIO(self.data), mode="r") as container:
                yield from container.decode(video=0)
        except (FFmpegError, IndexError) as error:
            raise ValueError(
                f"`{self.name}` is not a video that can be read ({error})\nhint: MP4, WebM, AVI and MKV are understood"
            ) from error
