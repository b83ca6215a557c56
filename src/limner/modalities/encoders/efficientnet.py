"""EfficientNet-lite0 as a picture encoder: a grid of convolutional features.

Owns the preprocessing (pad to a square on white, scale, (x - 127) / 128) and the pooling of the
last feature map to `grid` x `grid` rows. The network is the efficientnet-lite-pytorch package's.
Assumes a directory with `model.safetensors` in that package's keys (`limner.zoo` makes one).

Data flow: Media -> [3, image_size, image_size] -> 1280 channels at 1/32 -> grid * grid rows.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import PIL.Image
import torch
import torch.nn.functional as F
from efficientnet_lite_pytorch import EfficientNet
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor

from limner.document.document import Media
from limner.modalities.base import Encoder, Features

WIDTHS = {8: 40, 16: 112, 32: 1280}
"""Channels of lite0's feature maps by stride: the last block before each of the last two halvings, and the head."""


class EfficientNetEncoder(Encoder):
    """`grid` * `grid` rows per picture. Frozen, and always in eval mode: its batch norms keep the
    statistics of ImageNet even where the model around it trains.

    `stride` 32 gives the head's map (1280 channels: what photographs show), 16 the map before (112
    channels: on drawings it finds the same thing in another style more often), 8 the one before that (40 channels,
    which tell little of what stands around them).
    """

    def __init__(
        self,
        path_or_state: str | Path | Mapping[str, Tensor],
        *,
        image_size: int = 224,
        grid: int = 4,
        stride: int = 32,
    ) -> None:
        """Load a directory (or take a state dict). `image_size` in pixels, a multiple of 32.

        Raises ValueError for a size the network cannot take, a missing file and foreign keys.
        """
        super().__init__()
        if image_size % 32 or image_size < 32:
            raise ValueError(
                f"image_size is {image_size}; expected a positive multiple of 32\n"
                "hint: 224 is what the network was trained at"
            )
        if stride not in WIDTHS or not 1 <= grid <= image_size // stride:
            raise ValueError(
                f"stride is {stride} and grid {grid} at image_size {image_size}; expected stride 8, "
                "16 or 32 and a grid of at most image_size / stride\n"
                "hint: the feature map has one cell per stride pixels"
            )
        self.width = WIDTHS[stride]
        self.stride = stride
        self.image_size = image_size
        self.grid = grid
        self.network = EfficientNet.from_name("efficientnet-lite0", image_size=image_size)
        _load(self.network, path_or_state)
        self.requires_grad_(False)
        self.eval()

    @property
    def signature(self) -> str:
        """Published weights, size, grid and stride."""
        return f"{self.source} {self.image_size} {self.grid} {self.stride}" if self.source else ""

    def train(self, mode: bool = True) -> "EfficientNetEncoder":
        """Stay in eval mode."""
        return super().train(False)

    def preprocess(self, media: Media) -> Float[Tensor, "3 height width_px"]:
        """Pad to a square on white, scale to `image_size`, (x - 127) / 128."""
        picture = media.content.pil()
        side = max(picture.size)
        square = PIL.Image.new("RGB", (side, side), "white")
        square.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
        square = square.resize((self.image_size, self.image_size), PIL.Image.Resampling.BICUBIC)
        pixels = torch.frombuffer(bytearray(square.tobytes()), dtype=torch.uint8)
        pixels = pixels.view(self.image_size, self.image_size, 3).permute(2, 0, 1)
        return (pixels.float() - 127.0) / 128.0

    def measure(self, media: Media) -> int:
        """Always grid * grid."""
        return self.grid * self.grid

    def forward(self, items: Float[Tensor, "items 3 height width_px"]) -> Features:
        """Rows in reading order, item after item."""
        maps = self.network.extract_features(items) if self.stride == 32 else self._before_halving(items)
        rows = F.adaptive_avg_pool2d(maps, self.grid).flatten(2).transpose(1, 2)
        lengths = torch.full((len(items),), self.grid * self.grid, device=items.device)
        return Features(values=rows.reshape(-1, self.width), lengths=lengths)

    def _before_halving(self, items: Tensor) -> Tensor:
        """The feature map at `stride`, after the last of its blocks."""
        network = self.network
        blocks: Any = network._blocks  # untyped: a ModuleList tells nothing about its blocks
        maps = network._swish(network._bn0(network._conv_stem(items)))
        halvings = [i for i, block in enumerate(blocks) if 2 in block._depthwise_conv.stride]  # to strides 4, 8, 16, 32
        last = halvings[{8: 2, 16: 3}[self.stride]]
        for block in blocks[:last]:
            maps = block(maps)
        return maps


def _load(network: EfficientNet, path_or_state: str | Path | Mapping[str, Tensor]) -> None:
    if isinstance(path_or_state, Mapping):
        state, origin = dict(path_or_state), "the given state"
    else:
        file = Path(path_or_state) / "model.safetensors"
        if not file.is_file():
            raise ValueError(
                f"no model.safetensors in `{path_or_state}`; expected EfficientNet-lite0 weights\n"
                'hint: pass limner.zoo.locate("efficientnet-lite0")'
            )
        state, origin = load_file(file), f"`{file}`"
    expected = network.state_dict()
    wrong = sorted(
        key
        for key in expected.keys() | state.keys()
        if key not in expected or key not in state or expected[key].shape != state[key].shape
    )
    if wrong:
        raise ValueError(
            f"{origin} does not fit EfficientNet-lite0: {len(wrong)} keys, first `{wrong[0]}`\n"
            'hint: pass limner.zoo.locate("efficientnet-lite0")'
        )
    if torch.get_default_device().type != "meta":  # there a recipe's shapes are checked
        network.load_state_dict(state)
