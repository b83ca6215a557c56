"""Autoencoders: the protocol, and the small one whose latent space a generator trained from scratch works in.

Owns `Autoencoder` (what is cached of a picture, what is drawn anew at every step), the way pixels -> latents -> pixels
over diffusers' `AutoencoderDC`, and the scale of the latents. Assumes square pictures of one size, RGB in [-1, 1].
Pixels are first folded into channels (`pixel_unshuffle`), because a convolution at full resolution is where a CPU would
spend nearly all of its time.

Data flow: pixels -> fold -> AutoencoderDC encoder -> bounded latents -> (x - mean) / std -> latents
of unit variance, and back. The loss adds noise to the latents: a generator's small errors then
decode to nearly the same picture.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from diffusers.models.autoencoders.autoencoder_dc import AutoencoderDC
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from limner.modalities.base import LossTerm

LATENT_BOUND = 3.0
"""Latents before scaling lie in (-3, 3): unbounded, the encoder would outgrow the loss's noise."""


class Autoencoder(nn.Module, ABC):
    """Pictures of `size` x `size` pixels <-> latents of `latent_shape` (channels, h, w).

    `encode` is a function of the picture, so a feature cache may keep what it gives. What is random comes after it, in
    `draw`, which a decoder's loss calls at every step with the generator of (seed, step, item): a variational
    autoencoder encodes to moments and draws latents from them; any other encodes to latents and draws nothing.
    """

    size: int
    latent_shape: tuple[int, int, int]

    @property
    def downsampling(self) -> int:
        """Pixels per latent, along an edge."""
        return self.size // self.latent_shape[1]

    def pixel_size(self, latents: Float[Tensor, "items channels latent_height latent_width"]) -> tuple[int, int]:
        """The size (h, w), in pixels, of the pictures of latents."""
        height, width = latents.shape[-2:]
        return height * self.downsampling, width * self.downsampling

    @abstractmethod
    def encode(
        self, pixels: Float[Tensor, "items 3 height width_px"]
    ) -> Float[Tensor, "items encoded latent_height latent_width"]:
        """What is cached of pictures, RGB in [-1, 1]; deterministic."""

    def draw(
        self,
        encoded: Float[Tensor, "items encoded latent_height latent_width"],
        *,
        generators: Sequence[torch.Generator],
    ) -> Float[Tensor, "items channels latent_height latent_width"]:
        """Latents from what `encode` gave, one CPU generator per item. Here: the same, nothing is drawn."""
        return encoded

    @abstractmethod
    def decode(
        self, latents: Float[Tensor, "items channels latent_height latent_width"]
    ) -> Float[Tensor, "items 3 height width_px"]:
        """Pictures, RGB in [-1, 1], of latents."""


class PictureAutoencoder(Autoencoder):
    """Pictures [items 3 size size] <-> latents [items latent_channels h w].

    Latents have zero mean and unit variance per channel.
    The grid has h = w = size / (`fold` * 2 ** (len(channels) - 1)).

    Args:
        size: edge of a picture in pixels.
        fold: pixels per edge that are folded into channels before the first convolution.
        channels: width per resolution, finest first; the last a multiple of `latent_channels`.
        latent_channels: channels of the latents.
        encoder_blocks: residual blocks per resolution, finest first.
        decoder_blocks: residual blocks per resolution, finest first.
        latent_noise: standard deviation of the noise on the bounded latents in
            `reconstruction_loss`.
        edge_weight: weight of the image-gradient part of `reconstruction_loss`.

    Raises ValueError when `size` does not divide by the downsampling, the last of `channels` does
    not divide by `latent_channels`, or the three differ in resolutions.
    """

    latent_mean: Tensor
    latent_std: Tensor

    def __init__(
        self,
        *,
        size: int = 64,
        fold: int = 4,
        channels: Sequence[int] = (96, 192),
        latent_channels: int = 16,
        encoder_blocks: Sequence[int] = (1, 2),
        decoder_blocks: Sequence[int] = (2, 2),
        latent_noise: float = 0.1,
        edge_weight: float = 1.0,
    ) -> None:
        super().__init__()
        if not len(channels) == len(encoder_blocks) == len(decoder_blocks):
            raise ValueError(
                "channels, encoder_blocks and decoder_blocks have "
                f"{len(channels)}, {len(encoder_blocks)} and {len(decoder_blocks)} resolutions; "
                "expected as many of each\nhint: give all three the same length"
            )
        if channels[-1] % latent_channels:
            raise ValueError(
                f"the last of channels is {channels[-1]}; "
                f"expected a multiple of latent_channels, {latent_channels}\n"
                "hint: the shortcut into the latents averages groups of channels"
            )
        downsampling = fold * 2 ** (len(channels) - 1)
        if size % downsampling:
            raise ValueError(
                f"size is {size}; expected a multiple of {downsampling}, the downsampling\n"
                "hint: change size, fold or the number of resolutions"
            )
        self.size = size
        self.fold = fold
        self.latent_noise = latent_noise
        self.edge_weight = edge_weight
        self.latent_shape = (latent_channels, size // downsampling, size // downsampling)
        # Shortcuts and norms let it learn from the first steps. AutoencoderTiny, without norms,
        # ended in a constant picture in our one He-initialized trial at learning rate 1e-3.
        self.network = AutoencoderDC(
            in_channels=3 * fold**2,
            latent_channels=latent_channels,
            encoder_block_out_channels=tuple(channels),
            decoder_block_out_channels=tuple(channels),
            encoder_layers_per_block=tuple(encoder_blocks),
            decoder_layers_per_block=tuple(decoder_blocks),
            encoder_qkv_multiscales=((),) * len(channels),
            decoder_qkv_multiscales=((),) * len(channels),
            decoder_conv_act_fn="silu",
        )
        self.register_buffer("latent_mean", torch.zeros(latent_channels))
        self.register_buffer("latent_std", torch.ones(latent_channels))

    def encode(
        self, pixels: Float[Tensor, "items 3 height width_px"]
    ) -> Float[Tensor, "items channels latent_height latent_width"]:
        """Latents of pictures, RGB in [-1, 1]; deterministic, unit variance after `calibrate`."""
        if tuple(pixels.shape[-2:]) != (self.size, self.size):
            raise ValueError(
                f"pictures are {pixels.shape[-2]}x{pixels.shape[-1]}; "
                f"expected {self.size}x{self.size}\n"
                "hint: resize in preprocess"
            )
        mean, std = self._scale()
        return (self._bounded_latents(pixels) - mean) / std

    def decode(
        self, latents: Float[Tensor, "items channels latent_height latent_width"]
    ) -> Float[Tensor, "items 3 height width_px"]:
        """Pictures, RGB in [-1, 1], of latents."""
        mean, std = self._scale()
        return self._pixels(latents * std + mean).clamp(-1.0, 1.0)

    def reconstruction_loss(
        self,
        pixels: Float[Tensor, "items 3 height width_px"],
        *,
        generators: Sequence[torch.Generator],
    ) -> LossTerm:
        """Mean absolute error of pixels and of their differences, summed over items.

        The differences are those to the next row and to the next column. This second part
        keeps edges: on flat drawings an L1 loss alone is satisfied long before
        outlines are sharp. Noise of `latent_noise` from each item's own generator makes the decoder
        smooth in the latents.
        """
        latents = self._bounded_latents(pixels)
        noise = torch.stack([torch.randn(self.latent_shape, generator=generator) for generator in generators])
        restored = self._pixels(latents + self.latent_noise * noise.to(latents))
        error = restored.float() - pixels.float()
        per_item = (
            error.abs().mean(dim=(1, 2, 3))
            + self.edge_weight * error.diff(dim=2).abs().mean(dim=(1, 2, 3))
            + self.edge_weight * error.diff(dim=3).abs().mean(dim=(1, 2, 3))
        )
        return LossTerm(per_item.sum(), per_item.new_tensor(float(len(pixels))))

    @torch.no_grad()
    def calibrate(self, pixels: Float[Tensor, "items 3 height width_px"]) -> None:
        """Measure the mean and standard deviation of each latent channel on `pixels`.

        They are saved with the weights. Run once after training and before any latents are
        cached: it moves the latents.
        """
        latents = torch.cat([self._bounded_latents(chunk).float() for chunk in pixels.split(64)])
        self.latent_mean.copy_(latents.mean(dim=(0, 2, 3)))
        self.latent_std.copy_(latents.std(dim=(0, 2, 3)).clamp(min=1e-4))

    def _bounded_latents(self, pixels: Tensor) -> Tensor:
        folded = functional.pixel_unshuffle(pixels, self.fold)
        # The layout in which convolutions are fastest on a CPU, above all in bfloat16.
        raw = self.network.encoder(folded.contiguous(memory_format=torch.channels_last))
        return torch.tanh(raw / LATENT_BOUND) * LATENT_BOUND

    def _pixels(self, bounded: Tensor) -> Tensor:
        folded = self.network.decoder(bounded.contiguous(memory_format=torch.channels_last))
        return functional.pixel_shuffle(folded.contiguous(), self.fold)

    def _scale(self) -> tuple[Tensor, Tensor]:
        return self.latent_mean[:, None, None], self.latent_std[:, None, None]
