"""Flow matching on raw pixels: for very small pictures, without an autoencoder and its stage.

Owns `PixelSpace`, the "autoencoder" that only shifts and scales, `GridTransformer`, and `PixelFlowDecoder` over both.
The transformer predicts the clean picture: a patch of pixels has far more numbers than a token of a small transformer
can carry of noise, but what pictures look like fits into it (Li & He 2025). Condition row k belongs to
patch k, in raster order, so there are as many queries as patches; where things stand need not be learned by attention.

Data flow: condition + noisy pixels + time -> transformer -> clean pixels -> velocity (x_t - x_0) / t.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from limner.document.document import Media
from limner.modalities.decoders.autoencoder import Autoencoder
from limner.modalities.decoders.flow import TIME_SCALE, FlowMatching
from limner.modalities.decoders.latent import pixels_of

LEAST_TIME = 0.1
"""The velocity divides by the time; below this the loss would look at the last grains of noise alone."""


class PixelSpace(Autoencoder):
    """Pixels themselves, white at zero. Nothing is learned and nothing is lost."""

    def __init__(self, *, size: int) -> None:
        super().__init__()
        self.size = size
        self.latent_shape = (3, size, size)

    def encode(self, pixels: Float[Tensor, "items 3 height width_px"]) -> Float[Tensor, "items 3 height width_px"]:
        """Pixels in [-2, 0]."""
        return pixels - 1.0

    def decode(self, latents: Float[Tensor, "items 3 height width_px"]) -> Float[Tensor, "items 3 height width_px"]:
        """Pictures, RGB in [-1, 1]."""
        return (latents + 1.0).clamp(-1.0, 1.0)


class GridTransformer(nn.Module):
    """Tokens are patches; each begins as its noisy pixels, its place, its own condition row and the time, all added."""

    frequencies: Tensor

    def __init__(
        self, *, size: int, patch_size: int, condition_width: int, width: int, num_layers: int, num_heads: int
    ) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.grid = size // patch_size
        self.pixels = nn.Linear(3 * patch_size**2, width)
        self.condition = nn.Linear(condition_width, width)
        self.time = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))
        self.positions = nn.Parameter(torch.randn(self.grid**2, width) * 0.5)
        self.register_buffer(
            "frequencies", torch.exp(torch.linspace(0.0, math.log(1000.0), width // 2)), persistent=False
        )
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, num_heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
            )
            for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(width)
        self.output = nn.Linear(width, 3 * patch_size**2)
        # The first prediction is a white page.
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(
        self,
        noisy: Float[Tensor, "rows 3 height width_px"],
        times: Float[Tensor, " rows"],
        condition: Float[Tensor, "rows queries width"],
    ) -> Float[Tensor, "rows 3 height width_px"]:
        """Clean pixels; times in [0, 1]."""
        patches = functional.unfold(noisy, self.patch_size, stride=self.patch_size).transpose(1, 2)
        angles = times[:, None] * self.frequencies
        time = self.time(torch.cat([angles.sin(), angles.cos()], dim=-1))
        tokens = self.pixels(patches) + self.positions + self.condition(condition) + time[:, None]
        for block in self.blocks:
            tokens = block(tokens)
        patches = self.output(self.norm(tokens)).transpose(1, 2)
        return functional.fold(patches, noisy.shape[-2:], self.patch_size, stride=self.patch_size)


class PixelFlowDecoder(FlowMatching):
    """Flow matching on pixels: the transformer predicts x_0, loss and samplers see the velocity that follows from it.

    Args:
        size: edge of a picture in pixels; a multiple of `patch_size`.
        condition_width: width of one condition row; there are (size / patch_size) ** 2 of them.
        width: width of the transformer; a multiple of `num_heads`.
        num_layers, num_heads: of the transformer.
        draws_per_item: (time, noise) pairs per item and step.
        time_mean, time_std: location and scale of the logit-normal times; towards noise (time 1) only the condition
            tells what to draw, so a high mean teaches to follow it.

    Raises ValueError when the size does not divide by the patches.
    """

    def __init__(
        self,
        *,
        size: int,
        condition_width: int = 128,
        width: int = 128,
        num_layers: int = 3,
        num_heads: int = 4,
        patch_size: int = 16,
        draws_per_item: int = 4,
        time_mean: float = 1.5,
        time_std: float = 1.0,
    ) -> None:
        if size % patch_size:
            raise ValueError(
                f"size is {size}; expected a multiple of patch_size, {patch_size}\nhint: change size or patch_size"
            )
        super().__init__(
            PixelSpace(size=size),
            GridTransformer(
                size=size,
                patch_size=patch_size,
                condition_width=condition_width,
                width=width,
                num_layers=num_layers,
                num_heads=num_heads,
            ),
            condition_width=condition_width,
            draws_per_item=draws_per_item,
            time_mean=time_mean,
            time_std=time_std,
            scheduler={},
        )
        self.size_multiple = size  # its positions are those of one size

    def preprocess(self, media: Media) -> Float[Tensor, "3 height width_px"]:
        """The picture resized to `target_size`, RGB in [-1, 1]."""
        picture, (height, width) = media.content.pil(), self.target_size
        return pixels_of(picture if picture.size == (width, height) else picture.resize((width, height)))

    def predict(
        self,
        noisy: Float[Tensor, "rows channels latent_height latent_width"],
        timesteps: Float[Tensor, " rows"],
        condition: Float[Tensor, "rows queries width"],
    ) -> Float[Tensor, "rows channels latent_height latent_width"]:
        """The velocity, in float32, at times 0..1000: (x_t - x_0) / t of the predicted x_0."""
        times = timesteps.float() / TIME_SCALE
        clean = self.transformer(noisy.float(), times, condition.float()).float()
        return (noisy.float() - clean) / times.clamp(min=LEAST_TIME)[:, None, None, None]
