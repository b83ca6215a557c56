"""Latent diffusion that also follows a control picture (edges, depth, a pose), by a ControlNet beside the UNet.

Owns how the control picture reaches every step: `following` takes it from the document that a picture answers,
`with_control` as a tensor; both give a decoder that shares all weights and knows the picture, and whose `sample` is
called like any other. Without a control picture it is plain `LatentDiffusion`, in the loss too. Assumes a
`ControlNetModel` made for the UNet; it is frozen as the UNet is.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers.models.controlnets.controlnet import ControlNetModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from jaxtyping import Float, Int
from torch import Tensor

from limner.document.document import Document, control_picture
from limner.modalities.decoders.autoencoder import Autoencoder
from limner.modalities.decoders.cross_attention import keep_conditions
from limner.modalities.decoders.latent import centre_crop, pixels_of
from limner.modalities.decoders.latent_diffusion import DenoisingLoss, LatentDiffusion


class ControlledDiffusion(LatentDiffusion):
    """`LatentDiffusion` with a ControlNet (Zhang et al. 2023, section 3); further settings as there.

    `control_scale` says how far pictures follow the control picture of their document; 1 is as the ControlNet was
    trained. Raises ValueError where it is for other latents than the UNet's or for another width of the condition.
    """

    def __init__(
        self,
        autoencoder: Autoencoder,
        unet: UNet2DConditionModel,
        scheduler: Mapping[str, Any],
        *,
        controlnet: ControlNetModel,
        control_scale: float = 1.0,
        denoising: DenoisingLoss | None = None,
    ) -> None:
        super().__init__(autoencoder, unet, scheduler, denoising=denoising)
        made_for, config = _sizes(controlnet), _sizes(unet)
        if made_for != config:
            raise ValueError(
                f"the ControlNet is for {made_for}; expected {config}, the UNet's\n"
                "hint: take one that was trained for this generator"
            )
        self.controlnet = controlnet.requires_grad_(False)
        keep_conditions(self.controlnet)
        self.control_scale = control_scale
        self._control: Tensor | None = None
        self._scales = torch.ones(0)

    def following(self, documents: Sequence[Document], *, size: tuple[int, int] | None = None) -> "ControlledDiffusion":
        """This decoder for items that answer `documents`: each follows the control picture of its document, cut to
        `size` (h, w) in pixels as a target is; those whose document shows none are drawn freely."""
        pictures = [control_picture(document) for document in documents]
        if not any(pictures):
            return self
        size = size or self.target_size
        blank = torch.zeros(3, *size)
        controls = [
            blank if picture is None else (pixels_of(centre_crop(picture.pil(), size=size)) + 1.0) / 2.0
            for picture in pictures
        ]
        scales = [0.0 if picture is None else self.control_scale for picture in pictures]
        return self._steered(torch.stack(controls), torch.tensor(scales))

    def with_control(
        self, control: Float[Tensor, "items 3 height width_px"], *, scale: float = 1.0
    ) -> "ControlledDiffusion":
        """This decoder for one call: an item's picture follows its control picture, RGB in [0, 1], as far as `scale`.

        The size of the control pictures is that of the pictures; `sample` must be asked for it.
        """
        return self._steered(control, torch.full((len(control),), scale))

    def _steered(self, control: Tensor, scales: Tensor) -> "ControlledDiffusion":
        steered = copy.copy(self)
        steered._control, steered._scales = control, scales
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
        rows, branches = condition.to(dtype), len(noisy) // len(control)
        scales: Any = self._scales.to(noisy.device, dtype).repeat(branches)[:, None, None, None]
        down, middle = self.controlnet(
            noisy.to(dtype),
            timesteps,
            encoder_hidden_states=rows,
            controlnet_cond=control.to(noisy.device, dtype).repeat(branches, 1, 1, 1),
            conditioning_scale=scales,
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
        height, width = self.autoencoder.pixel_size(noisy)
        if len(noisy) % len(control) or tuple(control.shape[-2:]) != (height, width):
            raise ValueError(
                f"{len(control)} control pictures of {control.shape[-2]}x{control.shape[-1]} for {len(noisy)} rows of "
                f"{height}x{width}\nhint: give one per picture, and ask `sample` for their size"
            )


def _sizes(network: ControlNetModel | UNet2DConditionModel) -> str:
    config: Any = network.config
    return (
        f"{config.in_channels} channels, levels of {list(config.block_out_channels)} and a condition of "
        f"{config.cross_attention_dim}"
    )
