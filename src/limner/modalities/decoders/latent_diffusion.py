"""Latent diffusion: hidden states -> picture, over a UNet in the latent space of a variational autoencoder.

Owns the denoising loss (noise or velocity prediction) and the choice of samplers over diffusers'
`UNet2DConditionModel`; schedules come from the scheduler json that lies beside published weights. Assumes a condition
that a projector brought to the UNet's cross-attention width. Autoencoder and UNet are frozen; a recipe may train the
UNet.

Data flow: condition + noisy latents + timestep -> UNet -> noise (or velocity); in training compared with what was
added, in sampling followed from noise to latents, then decoded to pixels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from jaxtyping import Float, Int
from torch import Tensor

from limner.document.document import Media
from limner.modalities.base import LossTerm
from limner.modalities.decoders.autoencoder import Autoencoder
from limner.modalities.decoders.cross_attention import keep_conditions
from limner.modalities.decoders.latent import LatentDecoder, centre_crop, pixels_of
from limner.modalities.samplers import Sampler, accepted, diffusion_sampler


@dataclass(frozen=True, kw_only=True)
class DenoisingLoss:
    """How a decoder is trained; what it draws does not depend on it.

    Args:
        noise_offset: standard deviation of noise that is one number per channel, added to the noise.
        input_perturbation: standard deviation of noise in the noisy latents that the target knows nothing of
            (Ning et al. 2023).
        snr_gamma: bound of the signal-to-noise weights (Hang et al. 2023, section 3.4); None weighs timesteps alike.
        draws_per_item: (timestep, noise) pairs per item and step.
    """

    noise_offset: float = 0.0
    input_perturbation: float = 0.0
    snr_gamma: float | None = None
    draws_per_item: int = 1


class LatentDiffusion(LatentDecoder):
    """Denoising diffusion (Ho et al. 2020) in a latent space (Rombach et al. 2022).

    Args:
        autoencoder: the latent space; a `VariationalAutoencoder` for published weights.
        unet: the network; its `cross_attention_dim` is the condition's width.
        scheduler: the scheduler json, of whichever class: betas, prediction_type ("epsilon" or "v_prediction"),
            clip_sample, spacing of timesteps. What it does not say is diffusers' default.
        denoising: what its loss adds and how it weighs; None is the plain one.

    Raises ValueError when the UNet is for other latents than the autoencoder's, or the prediction_type is unknown.
    """

    default_sampler = "ddpm"

    def __init__(
        self,
        autoencoder: Autoencoder,
        unet: UNet2DConditionModel,
        scheduler: Mapping[str, Any],
        *,
        denoising: DenoisingLoss | None = None,
    ) -> None:
        config: Any = unet.config
        self.denoising = denoising or DenoisingLoss()
        super().__init__(
            autoencoder, condition_width=config.cross_attention_dim, draws_per_item=self.denoising.draws_per_item
        )
        if config.in_channels != autoencoder.latent_shape[0]:
            raise ValueError(
                f"the UNet takes {config.in_channels} channels; expected {autoencoder.latent_shape[0]}, the "
                "autoencoder's\nhint: take both from one published model"
            )
        self.scheduler = dict(scheduler)
        self.unet = unet.requires_grad_(False)
        keep_conditions(self.unet)
        if self.prediction_type not in ("epsilon", "v_prediction"):
            raise ValueError(
                f'prediction_type is {self.prediction_type!r}; expected "epsilon" or "v_prediction"\n'
                "hint: look into the scheduler json"
            )

    @property
    def prediction_type(self) -> str:
        """What the UNet predicts: "epsilon" (the noise) or "v_prediction" (Salimans & Ho 2022, section 4)."""
        return self.scheduler.get("prediction_type", "epsilon")

    def preprocess(self, media: Media) -> Float[Tensor, "3 height width_px"]:
        """The picture scaled to cover `target_size`, its middle, RGB in [-1, 1]."""
        return pixels_of(centre_crop(media.content.pil(), size=self.target_size))

    def loss(
        self,
        condition: Float[Tensor, "items queries width"],
        latents: Float[Tensor, "items encoded latent_height latent_width"],
        *,
        generators: Sequence[torch.Generator],
    ) -> LossTerm:
        """Squared error of the prediction, mean over a latent's elements, summed over items and draws.

        `latents` is what `encode` gave. An item's generator draws, in this order: the latent (of moments), timesteps,
        noise, and where wanted the offset and the perturbation.
        """
        self._check(condition, num_rows=len(generators))
        clean = self.autoencoder.draw(latents, generators=generators)
        repeated = clean.repeat_interleave(self.draws_per_item, dim=0)
        draws, shape = self.draws_per_item, tuple(clean.shape[1:])
        steps = self._schedule().config["num_train_timesteps"]

        def normal(*sizes: int) -> Tensor:
            return torch.cat([torch.randn(draws, *sizes, generator=generator) for generator in generators]).to(clean)

        timesteps = torch.cat([torch.randint(0, steps, (draws,), generator=generator) for generator in generators])
        per_draw = self.loss_of(
            condition.repeat_interleave(draws, dim=0),
            repeated,
            noise=normal(*shape),
            timesteps=timesteps.to(clean.device),
            offset_noise=normal(shape[0], 1, 1) if self.denoising.noise_offset else None,
            perturbation=normal(*shape) if self.denoising.input_perturbation else None,
        )
        per_item = per_draw.detach().unflatten(0, (-1, draws)).sum(dim=1)
        return LossTerm(per_draw.sum(), per_draw.new_tensor(float(len(per_draw))), per_item=per_item)

    def loss_of(
        self,
        condition: Float[Tensor, "items queries width"],
        latents: Float[Tensor, "items channels latent_height latent_width"],
        *,
        noise: Float[Tensor, "items channels latent_height latent_width"],
        timesteps: Int[Tensor, " items"],
        offset_noise: Float[Tensor, "items channels 1 1"] | None = None,
        perturbation: Float[Tensor, "items channels latent_height latent_width"] | None = None,
    ) -> Float[Tensor, " items"]:
        """The loss of each item, every draw being an argument; all of them are of unit variance.

        The target knows the offset, but not the perturbation.
        """
        if offset_noise is not None:
            noise = noise + self.denoising.noise_offset * offset_noise
        disturbed = noise if perturbation is None else noise + self.denoising.input_perturbation * perturbation
        # alpha-bar of each item's timestep
        kept = self._schedule().alphas_cumprod.to(latents)[timesteps][:, None, None, None]
        prediction = self.predict(kept.sqrt() * latents + (1.0 - kept).sqrt() * disturbed, timesteps, condition)
        target = self.target(latents, noise=noise, timesteps=timesteps)
        error = (prediction - target.float()).square().mean(dim=(1, 2, 3))
        return error if self.denoising.snr_gamma is None else error * self._snr_weight(kept.flatten())

    def target(
        self,
        latents: Float[Tensor, "items channels latent_height latent_width"],
        *,
        noise: Float[Tensor, "items channels latent_height latent_width"],
        timesteps: Int[Tensor, " items"],
    ) -> Float[Tensor, "items channels latent_height latent_width"]:
        """What the prediction is compared with: the noise, offset included, or the velocity."""
        if self.prediction_type == "epsilon":
            return noise
        kept = self._schedule().alphas_cumprod.to(latents)[timesteps][:, None, None, None]
        return kept.sqrt() * noise - (1.0 - kept).sqrt() * latents

    def predict(
        self,
        noisy: Float[Tensor, "rows channels latent_height latent_width"],
        timesteps: Int[Tensor, " rows"] | Float[Tensor, " rows"],
        condition: Float[Tensor, "rows queries width"],
    ) -> Float[Tensor, "rows channels latent_height latent_width"]:
        """The UNet's prediction, in float32."""
        return self._predict(noisy, timesteps, condition)

    def _predict(
        self, noisy: Tensor, timesteps: Tensor, condition: Tensor, *, added: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        dtype = self.unet.dtype
        # diffusers annotates tensors as torch.FloatTensor, which no tensor is statically.
        predicted = self.unet(
            noisy.to(dtype),
            timesteps,
            encoder_hidden_states=condition.to(dtype),
            added_cond_kwargs=added,  # pyright: ignore[reportArgumentType]
            return_dict=False,
        )
        return predicted[0].float()

    def make_sampler(self, name: str, *, num_inference_steps: int) -> Sampler:
        """ "ddpm" (ancestral), "ddim", "dpm++" (2M), "euler", "euler-ancestral" or "unipc"."""
        return diffusion_sampler(name, self.scheduler, num_inference_steps=num_inference_steps)

    def _schedule(self) -> DDPMScheduler:
        return DDPMScheduler(**accepted(DDPMScheduler, self.scheduler))

    def _snr_weight(self, kept: Float[Tensor, " items"]) -> Float[Tensor, " items"]:
        """min(snr, gamma) / snr, where snr = kept / (1 - kept).

        For velocity, snr + 1 stands in both places, as the weights that this must reproduce were trained; the paper
        has it in the denominator alone.
        """
        snr = kept / (1.0 - kept)
        if self.prediction_type == "v_prediction":
            snr = snr + 1.0
        return snr.clamp(max=self.denoising.snr_gamma) / snr
