"""Latent diffusion of the SDXL kind: a condition with a pooled vector beside its rows, and the picture's sizes.

Owns how both travel. The pooled vector is one more row of the condition, the last, in whose first channels it lies:
`PooledCondition` makes such a condition from hidden states, and guidance, batches and the LLM's losses need not know.
The sizes (of the original, and where it was cut) are one more row of the pixels and of what `encode` gives, so they
live in the feature cache with the moments; in sampling a picture is its own original, uncut.

Assumes a UNet with `addition_embed_type` "text_time", and an autoencoder that keeps float32
(`VariationalAutoencoder(..., keep_float32=True)`): SDXL's overflows in half precision.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from limner.document.document import Media
from limner.modalities.base import LossTerm
from limner.modalities.decoders.autoencoder import Autoencoder
from limner.modalities.decoders.latent import centre_crop, cut_corner, pixels_of
from limner.modalities.decoders.latent_diffusion import DenoisingLoss, LatentDiffusion

NUM_FACTS = 4
"""Height and width of the original, top and left of the cut, in pixels."""


class PooledCondition(nn.Module):
    """Hidden states of a picture's queries -> condition rows, and the pooled row behind them.

    `rows` maps each hidden state to a condition row, `pooled` maps their mean to the pooled vector, which may not be
    wider than a row.
    """

    def __init__(self, rows: nn.Module, pooled: nn.Module) -> None:
        super().__init__()
        self.rows = rows
        self.pooled = pooled

    def forward(
        self, hidden_states: Float[Tensor, "*items queries d_model"]
    ) -> Float[Tensor, "*items queries_and_pooled width"]:
        """Condition rows, then the pooled vector with zeros behind it."""
        rows = self.rows(hidden_states)
        pooled = self.pooled(hidden_states.mean(dim=-2, keepdim=True))
        if pooled.shape[-1] > rows.shape[-1]:
            raise ValueError(
                f"the pooled vector has width {pooled.shape[-1]}; expected at most {rows.shape[-1]}, that of a row\n"
                "hint: rows end in the UNet's cross_attention_dim, the pooled vector in text_embeds' width"
            )
        return torch.cat([rows, functional.pad(pooled, (0, rows.shape[-1] - pooled.shape[-1]))], dim=-2)


class LatentDiffusionXL(LatentDiffusion):
    """`LatentDiffusion` over a UNet that is also told a pooled vector and sizes (Podell et al. 2023, section 2.2).

    `pooled_width` is that of the pooled vector; the rest as in `LatentDiffusion`. Raises ValueError where the UNet's
    additional embedding is for something else.
    """

    def __init__(
        self,
        autoencoder: Autoencoder,
        unet: UNet2DConditionModel,
        scheduler: Mapping[str, Any],
        *,
        pooled_width: int = 1280,
        denoising: DenoisingLoss | None = None,
    ) -> None:
        super().__init__(autoencoder, unet, scheduler, denoising=denoising)
        config: Any = unet.config
        expected = pooled_width + 6 * (config.addition_time_embed_dim or 0)
        if config.addition_embed_type != "text_time" or config.projection_class_embeddings_input_dim != expected:
            raise ValueError(
                f"the UNet adds an embedding of type {config.addition_embed_type!r}, width "
                f'{config.projection_class_embeddings_input_dim}; expected "text_time", {expected}\n'
                "hint: take an SDXL UNet, or set pooled_width"
            )
        self.pooled_width = pooled_width

    def preprocess(self, media: Media) -> Float[Tensor, "3 rows width_px"]:
        """The picture cut to `target_size`, RGB in [-1, 1], and a row with its facts below."""
        picture = media.content.pil()
        top, left = cut_corner(picture, size=self.target_size)
        facts = torch.tensor([picture.height, picture.width, top, left], dtype=torch.float32)
        return _with_row(pixels_of(centre_crop(picture, size=self.target_size)), facts)

    @torch.no_grad()
    def encode(
        self, pixels: Float[Tensor, "items 3 rows width_px"]
    ) -> Float[Tensor, "items encoded latent_rows latent_width"]:
        """Moments, and a row with the facts below."""
        moments = super().encode(pixels[..., :-1, :])
        return _with_row(moments, pixels[:, 0, -1, :NUM_FACTS])

    def loss(
        self,
        condition: Float[Tensor, "items queries width"],
        latents: Float[Tensor, "items encoded latent_rows latent_width"],
        *,
        generators: Sequence[torch.Generator],
    ) -> LossTerm:
        """As in `LatentDiffusion`, the UNet knowing the facts of each item."""
        told = _with_facts(condition, latents[:, 0, -1, :NUM_FACTS])
        return super().loss(told, latents[..., :-1, :], generators=generators)

    def told(
        self,
        condition: Float[Tensor, "branches items queries width"],
        latents: Float[Tensor, "items channels latent_height latent_width"],
    ) -> Float[Tensor, "branches items told width"]:
        """The condition and a row of facts: a picture is its own original, uncut."""
        facts = latents.new_tensor([*self.autoencoder.pixel_size(latents), 0, 0]).expand(*condition.shape[:2], -1)
        return _with_facts(condition, facts)

    def predict(
        self,
        noisy: Float[Tensor, "rows channels latent_height latent_width"],
        timesteps: Int[Tensor, " rows"] | Float[Tensor, " rows"],
        condition: Float[Tensor, "rows queries width"],
    ) -> Float[Tensor, "rows channels latent_height latent_width"]:
        """The UNet's prediction, in float32; the last two rows of `condition` are the pooled one and the facts."""
        target = noisy.new_tensor(self.autoencoder.pixel_size(noisy)).expand(len(noisy), -1)
        sizes = torch.cat([condition[:, -1, :NUM_FACTS].to(target), target], dim=1)
        pooled = condition[:, -2, : self.pooled_width].to(self.unet.dtype)
        added = {"text_embeds": pooled, "time_ids": sizes}
        return self._predict(noisy, timesteps, condition[:, :-2], added=added)


def _with_facts(condition: Float[Tensor, "*items queries width"], facts: Tensor) -> Float[Tensor, "*items told width"]:
    """A condition with the facts as its last row; in float32, where pixels are exact."""
    row = functional.pad(facts.float(), (0, condition.shape[-1] - facts.shape[-1]))
    return torch.cat([condition.float(), row.unsqueeze(-2)], dim=-2)


def _with_row(grid: Float[Tensor, "*items height width"], facts: Tensor) -> Float[Tensor, "*items rows width"]:
    """A grid with one more row below, in whose first places every channel has the facts."""
    row = grid.new_zeros((*grid.shape[:-2], 1, grid.shape[-1]))
    row[..., 0, : facts.shape[-1]] = facts.unsqueeze(-2)
    return torch.cat([grid, row], dim=-2)
