"""ImageBind as an optional encoder: pictures, sounds and texts into one space, a row each.

The weights and the package of ImageBind are licensed CC-BY-NC 4.0: not for commercial use. So neither is a dependency
of this library, nothing downloads them, and whoever installs the package says so by that.
"""

import importlib
import logging
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from limner.document.audio import Audio
from limner.document.document import Media
from limner.document.media import File, Image
from limner.document.rows import kind_of
from limner.document.text_file import TextFile
from limner.modalities.base import Encoder, Features

logger = logging.getLogger(__name__)

LICENCE = "CC-BY-NC 4.0"
Kind = Literal["vision", "audio", "text"]
_KINDS: tuple[Kind, ...] = ("vision", "audio", "text")


class ImageBindEncoder(Encoder):
    """One row per item. Frozen, in float32. Items of several kinds may share a batch."""

    width = 1024

    def __init__(self, weights: str | Path) -> None:
        """Load a checkpoint of the huge model. Raises ValueError where the package or the file is missing."""
        super().__init__()
        self.data = _library("imagebind.data")
        model = _library("imagebind.models.imagebind_model")
        if not Path(weights).is_file():
            raise ValueError(f"no such file: `{weights}`\nhint: fetch imagebind_huge.pth ({LICENCE}) yourself")
        logger.warning("ImageBind's weights are licensed %s: not for commercial use", LICENCE)
        self.network = model.imagebind_huge(pretrained=False)
        self.network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
        self.requires_grad_(False)
        self.eval()

    def preprocess(self, media: Media) -> Float[Tensor, " values"]:
        """The kind's number, its size, its values; zeros up to the size of a picture, so that kinds can be stacked."""
        kind = _kind_of_payload(media.payload)
        values = self._values(kind, media.payload)
        room = torch.zeros(2 + 8 + 3 * 224 * 224)
        room[0], room[1] = _KINDS.index(kind), values.ndim
        room[2 : 2 + values.ndim] = torch.tensor(values.shape, dtype=torch.float32)
        room[10 : 10 + values.numel()] = values.flatten().float()
        return room

    def measure(self, media: Media) -> int:
        """Always one."""
        return 1

    def forward(self, items: Float[Tensor, "items values"]) -> Features:
        """Joint embeddings, item by item."""
        rows = items.new_zeros(len(items), self.width)
        for number, kind in enumerate(_KINDS):
            places = torch.nonzero(items[:, 0] == number).flatten()
            if len(places):
                values = torch.stack([_unpacked(item) for item in items[places]])
                inputs = values.long() if kind == "text" else values
                rows[places] = self.network({kind: inputs})[kind]
        return Features(rows, torch.ones(len(items), dtype=torch.long, device=items.device))

    def _values(self, kind: Kind, payload: Any) -> Tensor:
        """The package's own transforms, which read files: bytes are written into a temporary one."""
        import tempfile

        if kind == "text":
            return self.data.load_and_transform_text([payload.text], "cpu")[0]
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / ("item.wav" if kind == "audio" else "item.png")
            file.write_bytes(payload.data)
            load = getattr(self.data, f"load_and_transform_{kind}_data")
            return load([str(file)], "cpu")[0]


def _kind_of_payload(payload: Any) -> Kind:
    if isinstance(payload, Image):
        return "vision"
    if isinstance(payload, Audio):
        return "audio"
    if isinstance(payload, TextFile):
        return "text"
    if isinstance(payload, File):
        return kind_of(payload.name) if kind_of(payload.name) != "vision" else "text"
    raise ValueError(f"{type(payload).__name__} is nothing ImageBind reads\nhint: give an Image, Audio or TextFile")


def _unpacked(item: Tensor) -> Tensor:
    shape = [int(size) for size in item[2 : 2 + int(item[1])]]
    return item[10 : 10 + torch.Size(shape).numel()].view(shape)


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ValueError(
            f"the encoder `imagebind` needs the package of that name, which is not installed ({LICENCE}: not for "
            "commercial use)\nhint: install it from its authors' repository, or take clap, xclip or clip encoders"
        ) from error
