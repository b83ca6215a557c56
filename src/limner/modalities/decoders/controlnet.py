"""Latent diffusion that also follows a control picture (edges, depth, a pose), by a ControlNet beside the UNet.

Owns how the control picture reaches every step: `with_control` gives a decoder that shares all weights and knows the
picture; its `sample` is called like any other. Without a control picture it is plain `LatentDiffusion`, in the loss
too. Assumes a `ControlNetModel` made for the UNet; it is frozen as the UNet is.
"""

import copy
from collections.abc import Mapping
from typing import Any

from diffusers.models.controlnets.controlnet import ControlNetModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from jaxtyping import Float, Int
from torch import Tensor

from limner.modalities.decoders.autoencoder import Autoencoder
from limner.modalities.decoders.cross_attention import keep_conditions
from limner.modalities.decoders.latent_diffusion import LatentDiffusion


class ControlledDiffusion(LatentDiffusion):
    """`LatentDiffusion` with a ControlNet (Zhang et al. 2023, section 3); further settings as there."""

    def __init__(
        self,
        autoencoder: Autoencoder,
        unet: UNet2DConditionModel,
        scheduler: Mapping[str, Any],
        *,
        controlnet: ControlNetModel,
        noise_offset: float = 0.0,
        input_perturbation: float = 0.0,
        snr_gamma: float | None = None,
        draws_per_item: int = 1,
    ) -> None:
        super().__init__(
            autoencoder,
            unet,
            scheduler,
            noise_offset=noise_offset,
            input_perturbation=input_perturbation,
            snr_gamma=snr_gamma,
            draws_per_item=draws_per_item,
        )
        self.controlnet = controlnet.requires_grad_(False)
        keep_conditions(self.controlnet)
        self._control: Tensor | None = None
        self._scale = 1.0

    def with_control(
        self, control: Float[Tensor, "items 3 height width_px"], *, scale: float = 1.0
    ) -> "ControlledDiffusion":
        """This decoder for one call: an item's picture follows its control picture, RGB in [0, 1], as far as `scale`.

        The size of the control pictures is that of the pictures; `sample` must be asked for it.
        """
        steered = copy.copy(self)
        steered._control = control
        steered._scale = scale
        return steered

    def predict(
        self,
        noisy: Float[Tensor, "rows channels latent_height latent_width"],
        timesteps: Int[Tensor, " rows"] | Float[Tensor, " rows"],
        condition: Float[Tensor, "rows queries width"],
    ) -> Float[Tensor, "rows channels latent_height latent_width"]:
        """The UNet's prediction, in float32, the ControlNet's residuals added where there is a control picture."""
        control, dtype = self._control, self.unet.dtype
        if control is None:
            return super().predict(noisy, timesteps, condition)
        self._check_control(control, noisy)
        rows = condition.to(dtype)
        down, middle = self.controlnet(
            noisy.to(dtype),
            timesteps,
            encoder_hidden_states=rows,
            controlnet_cond=control.to(noisy.device, dtype).repeat(len(noisy) // len(control), 1, 1, 1),
            conditioning_scale=self._scale,
            return_dict=False,
        )
        predicted = self.unet(
            noisy.to(dtype),
            timesteps,
            encoder_hidden_states=rows,
            down_block_additional_residuals=down,
            mid_block_additional_residual=middle,
            return_dict=False,
        )
        return predicted[0].float()

    def _check_control(self, control: Tensor, noisy: Tensor) -> None:
        downsampling = self.target_size[0] // self.autoencoder.latent_shape[1]
        height, width = (edge * downsampling for edge in noisy.shape[-2:])
        if len(noisy) % len(control) or tuple(control.shape[-2:]) != (height, width):
            raise ValueError(
                f"{len(control)} control pictures of {control.shape[-2]}x{control.shape[-1]} for {len(noisy)} rows of "
                f"{height}x{width}\nhint: give one per picture, and ask `sample` for their size"
            )
