"""Variational autoencoders: a published latent space (Stable Diffusion's and its like) behind our protocol.

Owns the way pixels -> moments -> latents -> pixels over diffusers' `AutoencoderKL`. Assumes pictures, RGB in [-1, 1],
whose edges divide by the downsampling, and frozen weights.

Data flow: pixels -> network -> moments (mean, then log-variance, along the channels; cached) -> one draw per step from
the item's generator -> (x - shift) * scale -> latents that a generator works on, and back.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from jaxtyping import Float
from torch import Tensor

from limner.modalities.decoders.autoencoder import Autoencoder

LOG_VARIANCE_RANGE = (-30.0, 20.0)
"""Log-variances are clamped to it before their exponential is taken, as where such networks are trained."""


class VariationalAutoencoder(Autoencoder):
    """A frozen `AutoencoderKL`; `size` is the edge of a target picture in pixels. It makes pictures of other sizes too.

    `keep_float32` holds its weights in float32 when the model around it is cast, and computes in it: SDXL's overflows
    in half precision.

    Raises ValueError when `size` does not divide by the network's downsampling.
    """

    def __init__(self, network: AutoencoderKL, *, size: int, keep_float32: bool = False) -> None:
        super().__init__()
        self.keep_float32 = keep_float32
        # Untyped: diffusers keeps its configuration in a dict.
        config: Any = network.config
        downsampling = 2 ** (len(config.block_out_channels) - 1)
        if size % downsampling:
            raise ValueError(
                f"size is {size}; expected a multiple of {downsampling}, the downsampling\nhint: change size"
            )
        self.size = size
        self.latent_shape = (config.latent_channels, size // downsampling, size // downsampling)
        self.scale = float(config.scaling_factor)
        self.shift = float(config.shift_factor or 0.0)
        self.network = network
        self.requires_grad_(False)

    @staticmethod
    def from_pretrained(path: str | Path, *, size: int) -> "VariationalAutoencoder":
        """Load a local directory in the diffusers layout."""
        network = AutoencoderKL.from_pretrained(str(path), local_files_only=True)
        return VariationalAutoencoder(network, size=size)

    @torch.no_grad()
    def encode(
        self, pixels: Float[Tensor, "items 3 height width_px"]
    ) -> Float[Tensor, "items moments latent_height latent_width"]:
        """Moments: twice as many channels as latents, the means before the log-variances."""
        with self._precision(pixels):
            encoded: Any = self.network.encode(pixels.to(self.network.dtype))
        return encoded.latent_dist.parameters

    def draw(
        self,
        encoded: Float[Tensor, "items moments latent_height latent_width"],
        *,
        generators: Sequence[torch.Generator],
    ) -> Float[Tensor, "items channels latent_height latent_width"]:
        """One latent per item, its noise from the item's generator."""
        mean = encoded.chunk(2, dim=1)[0]
        noise = torch.stack([torch.randn(mean.shape[1:], generator=generator) for generator in generators])
        return self.latents_of(encoded, noise=noise)

    def latents_of(
        self,
        encoded: Float[Tensor, "items moments latent_height latent_width"],
        *,
        noise: Float[Tensor, "items channels latent_height latent_width"],
    ) -> Float[Tensor, "items channels latent_height latent_width"]:
        """mean + exp(log-variance / 2) * noise (Kingma & Welling 2014, section 2.4), shifted and scaled."""
        mean, log_variance = encoded.chunk(2, dim=1)
        deviation = (0.5 * log_variance.clamp(*LOG_VARIANCE_RANGE)).exp()
        return (mean + deviation * noise.to(mean) - self.shift) * self.scale

    def decode(
        self, latents: Float[Tensor, "items channels latent_height latent_width"]
    ) -> Float[Tensor, "items 3 height width_px"]:
        """Pictures, RGB in [-1, 1], of latents."""
        # diffusers annotates tensors as torch.FloatTensor, which no tensor is statically.
        scaled = (latents / self.scale + self.shift).to(self.network.dtype)
        with self._precision(latents):
            decoded: Any = self.network.decode(scaled)  # pyright: ignore
        return decoded.sample.clamp(-1.0, 1.0)

    def _precision(self, like: Tensor) -> AbstractContextManager[Any]:
        """Without autocast, where float32 is to be kept."""
        if not self.keep_float32:
            return nullcontext()
        return torch.autocast(like.device.type, enabled=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "VariationalAutoencoder":
        if not self.keep_float32:
            return super()._apply(fn, recurse)

        def moved(tensor: Tensor) -> Tensor:
            given = fn(tensor)
            return given if given.dtype == tensor.dtype else tensor.to(given.device)

        return super()._apply(moved, recurse)
