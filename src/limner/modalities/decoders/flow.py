"""Rectified flow in the latent space of an autoencoder: hidden states -> picture.

Owns the flow-matching loss (`FlowMatching`), and two transformers from diffusers that it trains: PixArt's
(`FlowDecoder`, for small latent grids and training from scratch) and Sana's (`SanaDecoder`, linear attention, for
large grids and published weights). Assumes a trained, calibrated `Autoencoder` (frozen here) and a condition that a
projector brought to `condition_width`. The transformers read the condition by cross-attention at every block.

Data flow: condition + noisy latents + time -> transformer -> velocity; in training compared with
noise - latents, in sampling integrated from noise (time 1) to latents (time 0), then decoded to
pixels.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import PIL.Image
import torch
from diffusers.models.transformers.pixart_transformer_2d import PixArtTransformer2DModel
from diffusers.models.transformers.sana_transformer import SanaTransformer2DModel
from jaxtyping import Float, Int
from torch import Tensor, nn

from limner.document.document import Media
from limner.modalities.base import LossTerm
from limner.modalities.decoders.autoencoder import Autoencoder
from limner.modalities.decoders.cross_attention import keep_conditions
from limner.modalities.decoders.latent import LatentDecoder, centre_crop, pixels_of
from limner.modalities.samplers import Sampler, flow_sampler

TIME_SCALE = 1000.0
"""diffusers' time embeddings are laid out for times 0..1000; ours run 0..1."""


class FlowMatching(LatentDecoder):
    """Flow matching (Liu et al. 2022; Lipman et al. 2023) with a transformer over the latent grid.

    Args:
        autoencoder: the latent space; its weights are frozen.
        transformer: one of diffusers', called with latents, the condition and times 0..1000.
        condition_width: width of one condition row.
        draws_per_item: (time, noise) pairs per item and step.
        time_mean, time_std: location and scale of the logit-normal times (Esser et al. 2024, eq. 19).
        scheduler: what the samplers are told; `shift` moves their steps towards noise, as large grids need it.
    """

    default_sampler = "euler"

    def __init__(
        self,
        autoencoder: Autoencoder,
        transformer: nn.Module,
        *,
        condition_width: int,
        draws_per_item: int,
        time_mean: float,
        time_std: float,
        scheduler: Mapping[str, Any],
    ) -> None:
        super().__init__(autoencoder, condition_width=condition_width, draws_per_item=draws_per_item)
        self.time_mean = time_mean
        self.time_std = time_std
        self.scheduler = dict(scheduler)
        self.transformer = transformer
        keep_conditions(self.transformer)

    def loss(
        self,
        condition: Float[Tensor, "items queries width"],
        latents: Float[Tensor, "items encoded latent_height latent_width"],
        *,
        generators: Sequence[torch.Generator],
    ) -> LossTerm:
        """Squared error of the velocity: `|v(x_t, t, c) - (noise - x_0)|^2`.

        `latents` is what `encode` gave; of moments, one x_0 per item is drawn from its generator.
        Mean over a latent's elements, summed over items and draws; the count is items x draws.
        """
        self._check(condition, num_rows=len(generators))
        latents = self.autoencoder.draw(latents, generators=generators)
        drawn = [self._draw(generator) for generator in generators]
        per_draw = self.loss_of(
            condition.repeat_interleave(self.draws_per_item, dim=0),
            latents.repeat_interleave(self.draws_per_item, dim=0),
            noise=torch.cat([noise for _, noise in drawn]).to(latents),
            times=torch.cat([times for times, _ in drawn]).to(latents),
        )
        per_item = per_draw.detach().unflatten(0, (-1, self.draws_per_item)).sum(dim=1)
        return LossTerm(per_draw.sum(), per_draw.new_tensor(float(len(per_draw))), per_item=per_item)

    def loss_of(
        self,
        condition: Float[Tensor, "items queries width"],
        latents: Float[Tensor, "items channels latent_height latent_width"],
        *,
        noise: Float[Tensor, "items channels latent_height latent_width"],
        times: Float[Tensor, " items"],
    ) -> Float[Tensor, " items"]:
        """The loss of each item, every draw being an argument; times in [0, 1].

        Here `x_t = (1 - t) x_0 + t noise` (Liu et al. 2022, eq. 1, with time reversed).
        """
        weight = times[:, None, None, None]
        noisy = (1.0 - weight) * latents + weight * noise
        velocity = self.predict(noisy, times * TIME_SCALE, condition)
        return (velocity - (noise - latents).float()).square().mean(dim=(1, 2, 3))

    def predict(
        self,
        noisy: Float[Tensor, "rows channels latent_height latent_width"],
        timesteps: Int[Tensor, " rows"] | Float[Tensor, " rows"],
        condition: Float[Tensor, "rows queries width"],
    ) -> Float[Tensor, "rows channels latent_height latent_width"]:
        """The transformer's velocity, in float32, at times 0..1000."""
        dtype = next(self.transformer.parameters()).dtype
        return self.transformer(
            noisy.to(dtype), encoder_hidden_states=condition.to(dtype), timestep=timesteps.to(dtype), return_dict=False
        )[0].float()

    def make_sampler(self, name: str, *, num_inference_steps: int) -> Sampler:
        """ "euler" or "dpm++" (2M along the flow)."""
        return flow_sampler(name, self.scheduler, num_inference_steps=num_inference_steps)

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


class FlowDecoder(FlowMatching):
    """A small PixArt transformer, made for training from scratch.

    Args:
        autoencoder: the latent space; its weights are frozen, a flow needs a target that stands
            still.
        condition_width: width of one condition row.
        width: width of the transformer; a multiple of `num_heads`.
        num_layers: transformer blocks.
        num_heads: attention heads.
        patch_size: latent cells per edge of a token.
        draws_per_item: (time, noise) pairs per item and step.
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
        channels, grid, _ = autoencoder.latent_shape
        if width % num_heads or grid % patch_size:
            raise ValueError(
                f"width {width} and num_heads {num_heads}, "
                f"latent grid {grid} and patch_size {patch_size}; "
                "expected each first to be a multiple of the second\n"
                "hint: change num_heads or patch_size"
            )
        transformer = PixArtTransformer2DModel(
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
        nn.init.zeros_(transformer.proj_out.weight)
        nn.init.zeros_(transformer.proj_out.bias)
        super().__init__(
            autoencoder,
            transformer,
            condition_width=condition_width,
            draws_per_item=draws_per_item,
            time_mean=time_mean,
            time_std=time_std,
            scheduler={},
        )
        self.size_multiple *= patch_size

    def preprocess(self, media: Media) -> Float[Tensor, "3 height width_px"]:
        """The picture fitted into `target_size`, proportions kept, on white, RGB in [-1, 1]."""
        height, width = self.target_size
        picture = media.content.pil()
        scale = min(height / picture.height, width / picture.width)
        fitted = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        canvas = PIL.Image.new("RGB", (width, height), (255, 255, 255))
        corner = ((width - fitted[0]) // 2, (height - fitted[1]) // 2)
        canvas.paste(picture.resize(fitted, PIL.Image.Resampling.LANCZOS), corner)
        return pixels_of(canvas)


class SanaDecoder(FlowMatching):
    """A Sana transformer (Xie et al. 2024), built or loaded by the caller; `caption_channels` is the condition's width.

    Args:
        autoencoder: the latent space; its weights are frozen.
        transformer: the network; the recipe says whether it is trained.
        scheduler: the scheduler json of published weights; of it, `shift` or `flow_shift` counts.
        draws_per_item: (time, noise) pairs per item and step.
        time_mean, time_std: location and scale of the logit-normal times.

    Raises ValueError when the transformer is for other latents than the autoencoder's.
    """

    def __init__(
        self,
        autoencoder: Autoencoder,
        transformer: SanaTransformer2DModel,
        scheduler: Mapping[str, Any] | None = None,
        *,
        draws_per_item: int = 1,
        time_mean: float = 0.0,
        time_std: float = 1.0,
    ) -> None:
        config: Any = transformer.config
        if config.in_channels != autoencoder.latent_shape[0]:
            raise ValueError(
                f"the transformer takes {config.in_channels} channels; expected {autoencoder.latent_shape[0]}, the "
                "autoencoder's\nhint: take both from one published model"
            )
        super().__init__(
            autoencoder,
            transformer,
            condition_width=config.caption_channels,
            draws_per_item=draws_per_item,
            time_mean=time_mean,
            time_std=time_std,
            scheduler=scheduler or {},
        )
        self.size_multiple *= config.patch_size

    def preprocess(self, media: Media) -> Float[Tensor, "3 height width_px"]:
        """The picture scaled to cover `target_size`, its middle, RGB in [-1, 1]."""
        return pixels_of(centre_crop(media.content.pil(), size=self.target_size))
