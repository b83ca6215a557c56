"""Rectified flow in the latent space of a small autoencoder: hidden states -> picture.

Owns the flow-matching loss and the sampler over diffusers' `PixArtTransformer2DModel` and
`FlowMatchEulerDiscreteScheduler`. Assumes a trained, calibrated `Autoencoder` (frozen here)
and a condition that a projector brought to `condition_width`. The transformer reads the condition
by cross-attention at every block.

Data flow: condition + noisy latents + time -> transformer -> velocity; in training compared with
noise - latents, in sampling integrated from noise (time 1) to latents (time 0), then decoded to
pixels.
"""

from collections.abc import Callable, Sequence

import numpy
import torch
from diffusers.models.transformers.pixart_transformer_2d import PixArtTransformer2DModel
from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
    FlowMatchEulerDiscreteScheduler,
)
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

from limner.document.document import Media
from limner.modalities.base import Decoder, LossTerm
from limner.modalities.decoders.autoencoder import Autoencoder
from limner.modalities.guidance import Guidance

TIME_SCALE = 1000.0
"""diffusers' time embeddings are laid out for times 0..1000; ours run 0..1."""


class FlowDecoder(Decoder):
    """Flow matching (Liu et al. 2022; Lipman et al. 2023) with a transformer over patches of the
    latent grid.

    Args:
        autoencoder: the latent space; its weights are frozen, a flow needs a target that stands
            still.
        condition_width: width of one condition row.
        width: width of the transformer; a multiple of `num_heads`.
        num_layers: transformer blocks.
        num_heads: attention heads.
        patch_size: latent cells per edge of a token.
        draws_per_item: (time, noise) pairs per item and step. They share one condition, so the
            LLM's forward, the expensive part, is paid once for all of them.
        time_mean, time_std: location and scale of the logit-normal times (Esser et al. 2024, eq.
            19).

    Raises ValueError when the width does not divide by the heads or the latent grid by the patches.
    """

    def __init__(
        self,
        autoencoder: Autoencoder,
        *,
        condition_width: int = 256,
        width: int = 256,
        num_layers: int = 8,
        num_heads: int = 4,
        patch_size: int = 2,
        draws_per_item: int = 4,
        time_mean: float = 0.0,
        time_std: float = 1.0,
    ) -> None:
        super().__init__()
        channels, grid, _ = autoencoder.latent_shape
        if width % num_heads or grid % patch_size:
            raise ValueError(
                f"width {width} and num_heads {num_heads}, "
                f"latent grid {grid} and patch_size {patch_size}; "
                "expected each first to be a multiple of the second\n"
                "hint: change num_heads or patch_size"
            )
        self.condition_width = condition_width
        self.target_size = (autoencoder.size, autoencoder.size)
        self.draws_per_item = draws_per_item
        self.time_mean = time_mean
        self.time_std = time_std
        self.autoencoder = autoencoder.requires_grad_(False)
        self.transformer = PixArtTransformer2DModel(
            num_attention_heads=num_heads,
            attention_head_dim=width // num_heads,
            in_channels=channels,
            out_channels=channels,
            num_layers=num_layers,
            cross_attention_dim=width,
            sample_size=grid,
            patch_size=patch_size,
            caption_channels=condition_width,
            use_additional_conditions=False,
        )
        # The first prediction is the mean of the targets, 0, instead of noise that has to be
        # unlearned.
        nn.init.zeros_(self.transformer.proj_out.weight)
        nn.init.zeros_(self.transformer.proj_out.bias)

    def preprocess(self, media: Media) -> Float[Tensor, "3 height width_px"]:
        """The picture fitted into `target_size`, proportions kept, on white, RGB in [-1, 1]."""
        height, width = self.target_size
        picture = media.content.pil()
        scale = min(height / picture.height, width / picture.width)
        fitted = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        canvas = Image.new("RGB", (width, height), (255, 255, 255))
        corner = ((width - fitted[0]) // 2, (height - fitted[1]) // 2)
        canvas.paste(picture.resize(fitted, Image.Resampling.LANCZOS), corner)
        pixels = torch.from_numpy(numpy.array(canvas)).permute(2, 0, 1)
        return pixels.float() / 127.5 - 1.0

    @torch.no_grad()
    def encode(
        self, pixels: Float[Tensor, "items 3 height width_px"]
    ) -> Float[Tensor, "items encoded latent_height latent_width"]:
        """What the autoencoder gives: latents of unit variance, or moments that they are drawn from."""
        return self.autoencoder.encode(pixels)

    def loss(
        self,
        condition: Float[Tensor, "items queries width"],
        latents: Float[Tensor, "items encoded latent_height latent_width"],
        *,
        generators: Sequence[torch.Generator],
    ) -> LossTerm:
        """Squared error of the velocity: `|v(x_t, t, c) - (noise - x_0)|^2`.

        `latents` is what `encode` gave; of moments, one x_0 per item is drawn from its generator.

        Here `x_t = (1 - t) x_0 + t noise` (Liu et al. 2022, eq. 1, with time reversed).
        Mean over a latent's elements, summed over items and draws; the count is items x draws.
        """
        self._check(condition, len(generators))
        latents = self.autoencoder.draw(latents, generators=generators)
        drawn = [self._draw(generator) for generator in generators]
        times = torch.cat([times for times, _ in drawn]).to(latents)
        noise = torch.cat([noise for _, noise in drawn]).to(latents)
        clean = latents.repeat_interleave(self.draws_per_item, dim=0)
        weight = times[:, None, None, None]
        noisy = (1.0 - weight) * clean + weight * noise
        velocity = self._velocity(noisy, times, condition.repeat_interleave(self.draws_per_item, dim=0))
        per_draw = (velocity.float() - (noise - clean).float()).square().mean(dim=(1, 2, 3))
        per_item = per_draw.detach().unflatten(0, (-1, self.draws_per_item)).sum(dim=1)
        return LossTerm(per_draw.sum(), per_draw.new_tensor(float(len(per_draw))), per_item=per_item)

    @torch.no_grad()
    def sample(
        self,
        condition: Float[Tensor, "branches items queries width"],
        *,
        guidance: Guidance,
        generators: Sequence[torch.Generator],
        num_inference_steps: int,
        on_step: Callable[[int, int, Tensor], None] | None = None,
    ) -> Float[Tensor, "items 3 height width_px"]:
        """Pictures, RGB in [-1, 1], by Euler steps from noise.

        The branches of guidance run in one transformer call. The starting noise of an item
        comes from its own generator, so an item's picture does not
        depend on its batch. Raises ValueError when the condition has other branches than `guidance`
        combines.
        """
        branches, items = condition.shape[:2]
        if branches != guidance.num_branches:
            raise ValueError(
                f"condition has {branches} branches; "
                f"expected {guidance.num_branches} for {type(guidance).__name__}\n"
                "hint: render the null prompt as a second branch, or use NoGuidance"
            )
        rows = condition.flatten(0, 1)
        self._check(rows, len(generators) * branches)
        # Its state is one trajectory's, so each call has its own.
        scheduler = FlowMatchEulerDiscreteScheduler()
        scheduler.set_timesteps(sigmas=numpy.linspace(1.0, 1.0 / num_inference_steps, num_inference_steps).tolist())
        shape = self.autoencoder.latent_shape
        latents = torch.stack([torch.randn(shape, generator=generator) for generator in generators]).to(condition)
        for step, time in enumerate(torch.as_tensor(scheduler.timesteps)):
            stacked = latents.repeat(branches, 1, 1, 1)
            times = (time / TIME_SCALE).to(latents).expand(len(stacked))
            predictions = self._velocity(stacked, times, rows).unflatten(0, (branches, items))
            guided = guidance.combine(predictions)
            # diffusers annotates tensors as torch.FloatTensor, which no tensor is statically.
            stepped = scheduler.step(guided, time, latents, return_dict=False)  # pyright: ignore
            latents = stepped[0]
            if on_step is not None:
                on_step(step, num_inference_steps, latents)
        return self.autoencoder.decode(latents)

    def _velocity(self, noisy: Tensor, times: Tensor, condition: Tensor) -> Tensor:
        return self.transformer(noisy, encoder_hidden_states=condition, timestep=times * TIME_SCALE, return_dict=False)[
            0
        ]

    def _draw(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Times [draws] and noise [draws, *latent] of one item.

        The draws of an item take one time from each equal share of the distribution: the same
        expectation as independent times, with less variance.
        """
        shares = torch.arange(self.draws_per_item) + torch.rand(self.draws_per_item, generator=generator)
        quantiles = (shares / self.draws_per_item).clamp(1e-4, 1.0 - 1e-4)
        times = torch.sigmoid(self.time_mean + self.time_std * torch.special.ndtri(quantiles))
        noise = torch.randn((self.draws_per_item, *self.autoencoder.latent_shape), generator=generator)
        return times, noise

    def _check(self, condition: Tensor, num_rows: int) -> None:
        if condition.shape[-1] != self.condition_width or len(condition) != num_rows:
            raise ValueError(
                f"condition is {tuple(condition.shape)} for {num_rows} rows of generators; "
                f"expected ({num_rows}, queries, {self.condition_width})\n"
                "hint: one generator per item, and a projector that ends in condition_width"
            )
