"""From codes to pixels, as LaVIT was published: features of the codes are the condition of a latent diffusion model.

    codes --codebook--> vectors --FeatureDecoder--> features --heads--> condition --UNet, DDIM--> latents --> picture

Two of them. "highres" conditions an SDXL UNet on rows and a pooled vector; its unconditional branch is zeros. "lowres"
conditions an SD 1.5 UNet on rows alone; its unconditional branch are recorded rows (the empty prompt's), fewer than a
picture's, and nothing sees the rest. A row of zeros stands for what is not seen.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from jaxtyping import Float, Int
from torch import Tensor, nn

from limner.compositions import lavit_checkpoint as layout
from limner.modalities.decoders.feature_decoder import AttentionPool, FeatureDecoder
from limner.modalities.decoders.latent import LatentDraft
from limner.modalities.decoders.latent_diffusion import LatentDiffusion
from limner.modalities.decoders.latent_diffusion_xl import LatentDiffusionXL
from limner.modalities.decoders.variational import VariationalAutoencoder
from limner.modalities.drafts import OnStep, run_alone
from limner.modalities.guidance import Guidance, guidance_for

HIGH_RES, LOW_RES = "highres", "lowres"
ASPECT_RATIOS = {
    "1:1": (1024, 1024),
    "4:3": (896, 1152),
    "3:2": (832, 1216),
    "16:9": (768, 1344),
    "2:3": (1216, 832),
    "3:4": (1152, 896),
}
"""(h, w) in pixels of what the high-resolution decoder was trained for, by width : height."""

SAMPLER = "ddim"
LOW_RES_FILE, LOW_RES_FOLDER = "visual_tokenizer/tokenizer_decoder.bin", "pixel_decoding"
HIGH_RES_FILE, HIGH_RES_FOLDER = "visual_tokenizer/highres_tokenizer_decoder.bin", "highres_pixel_decoding"


@dataclass(frozen=True)
class Framing:
    """Sizes in pixels, (h, w): of the picture made, of the one it is said to be cut from (None: itself), and where."""

    size: tuple[int, int]
    original_size: tuple[int, int] | None = None
    corner: tuple[int, int] = (0, 0)


class PixelDecoder(nn.Module, ABC):
    """Vectors of codes -> condition -> pictures."""

    def __init__(self, features: FeatureDecoder, diffusion: LatentDiffusion) -> None:
        super().__init__()
        self.features = features
        self.diffusion = diffusion

    @abstractmethod
    def condition(
        self, values: Float[Tensor, "tokens code_width"], lengths: Int[Tensor, " items"]
    ) -> Float[Tensor, "2 items rows width"]:
        """The condition of pictures, and the unconditional branch beside it."""

    @abstractmethod
    def told(
        self, condition: Float[Tensor, "branches items rows width"], framing: Framing
    ) -> Float[Tensor, "branches items told width"]:
        """A condition with what the UNet is told of sizes."""


class PaddedConditionDiffusion(LatentDiffusion):
    """`LatentDiffusion` whose condition may have rows that are not seen: those of zeros."""

    def predict(
        self,
        noisy: Float[Tensor, "rows channels latent_height latent_width"],
        timesteps: Int[Tensor, " rows"] | Float[Tensor, " rows"],
        condition: Float[Tensor, "rows queries width"],
    ) -> Float[Tensor, "rows channels latent_height latent_width"]:
        """The UNet's prediction, in float32."""
        seen = (condition != 0.0).any(dim=-1)
        if bool(seen.all()):
            return super().predict(noisy, timesteps, condition)
        dtype = self.unet.dtype
        # diffusers annotates tensors as torch.FloatTensor, which no tensor is statically.
        predicted: Any = self.unet(
            noisy.to(dtype),
            timesteps,
            encoder_hidden_states=condition.to(dtype),
            encoder_attention_mask=seen,
            return_dict=False,
        )
        return predicted[0].float()


class LowRes(PixelDecoder):
    """Rows of one head; the unconditional branch are `unconditional` rows, and nothing behind them."""

    unconditional: Tensor

    def __init__(
        self, features: FeatureDecoder, *, head: nn.Linear, unconditional: Tensor, diffusion: LatentDiffusion
    ) -> None:
        super().__init__(features, diffusion)
        self.head = head
        self.register_buffer("unconditional", unconditional)

    def condition(
        self, values: Float[Tensor, "tokens code_width"], lengths: Int[Tensor, " items"]
    ) -> Float[Tensor, "2 items rows width"]:
        """Rows of pictures, and the recorded rows with zeros behind them."""
        rows = self.head(self.features(values, lengths))
        padding = rows.shape[1] - self.unconditional.shape[1]
        unconditional = F.pad(self.unconditional, (0, 0, 0, padding)).to(rows)
        return torch.stack([rows, unconditional.expand_as(rows)])

    def told(
        self, condition: Float[Tensor, "branches items rows width"], framing: Framing
    ) -> Float[Tensor, "branches items rows width"]:
        """The condition as it is: this UNet knows of no sizes."""
        return condition


class HighRes(PixelDecoder):
    """Rows of two heads side by side, and behind them a pooled row; the unconditional branch is zeros."""

    def __init__(
        self,
        features: FeatureDecoder,
        *,
        heads: Sequence[nn.Linear],
        pool: AttentionPool,
        diffusion: LatentDiffusionXL,
    ) -> None:
        super().__init__(features, diffusion)
        self.heads = nn.ModuleList(heads)
        self.pool = pool

    def condition(
        self, values: Float[Tensor, "tokens code_width"], lengths: Int[Tensor, " items"]
    ) -> Float[Tensor, "2 items rows_and_pooled width"]:
        """Rows and pooled row of pictures, and zeros."""
        features = self.features(values, lengths)
        rows = torch.cat([head(features) for head in self.heads], dim=-1)
        pooled = self.pool(features)[:, None]
        found = torch.cat([rows, F.pad(pooled, (0, rows.shape[-1] - pooled.shape[-1]))], dim=1)
        return torch.stack([found, torch.zeros_like(found)])

    def told(
        self, condition: Float[Tensor, "branches items rows width"], framing: Framing
    ) -> Float[Tensor, "branches items told width"]:
        """One more row: size of the original, and the corner of what is cut from it."""
        facts = condition.new_tensor([*(framing.original_size or framing.size), *framing.corner])
        row = F.pad(facts, (0, condition.shape[-1] - len(facts))).expand(*condition.shape[:2], 1, -1)
        return torch.cat([condition, row], dim=2)


@torch.inference_mode()
def draw(
    decoder: PixelDecoder,
    condition: Float[Tensor, "2 items rows width"],
    *,
    framing: Framing,
    noise: Float[Tensor, "items channels latent_height latent_width"],
    guidance_scale: float,
    num_inference_steps: int,
    on_step: OnStep | None = None,
) -> Float[Tensor, "items channels latent_height latent_width"]:
    """Latents of pictures from noise of unit variance, by DDIM (Song et al. 2021, eq. 12, eta 0).

    A guidance scale of 1 leaves the unconditional branch out.
    """
    draft = begin_draft(
        decoder,
        condition,
        framing=framing,
        noise=noise,
        guidance=guidance_for(guidance_scale),
        num_inference_steps=num_inference_steps,
    )
    run_alone(decoder.diffusion, draft, on_step=on_step)
    return draft.latents


def begin_draft(
    decoder: PixelDecoder,
    condition: Float[Tensor, "2 items rows width"],
    *,
    framing: Framing,
    noise: Float[Tensor, "items channels latent_height latent_width"],
    guidance: Guidance,
    num_inference_steps: int,
) -> LatentDraft:
    """Pictures under way, which `decoder.diffusion` advances and finishes."""
    sampler = decoder.diffusion.make_sampler(SAMPLER, num_inference_steps=num_inference_steps)
    # Told here, with the framing: `LatentDiffusionXL` would tell each picture that it is its own original.
    told = decoder.told(condition[: guidance.num_branches], framing)
    return LatentDraft(noise.to(condition) * sampler.initial_scale, told, guidance, sampler, iter(()))


def latent_noise(
    decoder: PixelDecoder, framing: Framing, *, generators: Sequence[torch.Generator]
) -> Float[Tensor, "items channels latent_height latent_width"]:
    """Noise to start from, each picture's from its own generator. Raises ValueError for a size that does not divide."""
    diffusion = decoder.diffusion
    diffusion.check_sampling(sampler=SAMPLER, size=framing.size, num_inference_steps=1)
    channels, edge, _ = diffusion.autoencoder.latent_shape
    downsampling = diffusion.target_size[0] // edge
    shape = (channels, framing.size[0] // downsampling, framing.size[1] // downsampling)
    return torch.stack([torch.randn(shape, generator=generator) for generator in generators])


def read_low_res(path: Path, *, heads: int) -> LowRes:
    """The decoder of the SD 1.5 kind. `heads` are those of the feature decoder's attention."""
    source = LOW_RES_FILE
    tensors = layout.read_tensors(path / source)
    layout.refuse_unknown(tensors, [layout.FEATURE_DECODER, layout.LOW_RES_HEAD], source=source)
    folder = path / LOW_RES_FOLDER
    file = folder / "uncond_embeddings.bin"
    if not file.is_file():
        raise ValueError(f"`{file}` is missing\nhint: fetch the whole folder of the published model")
    unconditional: Tensor = torch.load(file, map_location="cpu", weights_only=True)
    autoencoder, unet, scheduler = _diffusion_parts(folder)
    made = LowRes(
        _feature_decoder(tensors, heads=heads, source=source),
        head=layout.linear_of(layout.part(tensors, layout.LOW_RES_HEAD), source=source),
        unconditional=unconditional.float(),
        diffusion=PaddedConditionDiffusion(autoencoder, unet, scheduler),
    )
    return made.eval().requires_grad_(False)


def read_high_res(path: Path, *, heads: int, pool_heads: int) -> HighRes:
    """The decoder of the SDXL kind."""
    source = HIGH_RES_FILE
    tensors = layout.read_tensors(path / source)
    known = [layout.FEATURE_DECODER, *layout.HIGH_RES_HEADS, layout.ATTENTION_POOL]
    layout.refuse_unknown(tensors, known, source=source)
    pool_tensors = layout.part(tensors, layout.ATTENTION_POOL)
    width_out, width = layout.linear_shape(pool_tensors, "out", source=source)
    features = _feature_decoder(tensors, heads=heads, source=source)
    with torch.device("meta"):
        pool = AttentionPool(width, num_rows=features.positions.shape[1], num_heads=pool_heads, width_out=width_out)
    layout.fill(pool, pool_tensors, source=source)
    autoencoder, unet, scheduler = _diffusion_parts(path / HIGH_RES_FOLDER, keep_float32=True)
    made = HighRes(
        features,
        heads=[layout.linear_of(layout.part(tensors, names), source=source) for names in layout.HIGH_RES_HEADS],
        pool=pool,
        diffusion=LatentDiffusionXL(autoencoder, unet, scheduler, pooled_width=width_out),
    )
    return made.eval().requires_grad_(False)


def _feature_decoder(tensors: dict[str, Tensor], *, heads: int, source: str) -> FeatureDecoder:
    found = layout.part(tensors, layout.FEATURE_DECODER)
    sizes = layout.block_sizes(found, source=source)
    _, code_width = layout.linear_shape(found, "in_proj", source=source)
    width_out, _ = layout.linear_shape(found, "out.2", source=source)
    positions = found.get("positions", torch.zeros(0, 0, 0))
    with torch.device("meta"):
        made = FeatureDecoder(
            code_width=code_width,
            width=sizes.width,
            num_patches=positions.shape[1],
            num_layers=sizes.num_layers,
            num_heads=heads,
            hidden=sizes.hidden,
            width_out=width_out,
        )
    layout.fill(made, found, source=source)
    return made


def _diffusion_parts(
    folder: Path, *, keep_float32: bool = False
) -> tuple[VariationalAutoencoder, UNet2DConditionModel, dict[str, Any]]:
    network: Any = _network(folder / "vae", AutoencoderKL)
    unet: Any = _network(folder / "unet", UNet2DConditionModel)
    scheduler = _json(folder / "scheduler" / "scheduler_config.json")
    downsampling = 2 ** (len(network.config.block_out_channels) - 1)
    size = int(unet.config.sample_size) * downsampling
    return VariationalAutoencoder(network, size=size, keep_float32=keep_float32), unet, scheduler


def _network(folder: Path, kind: Any) -> nn.Module:
    """A network of diffusers with the weights beside its config, in float32; names of older releases are known."""
    safe = (folder / "diffusion_pytorch_model.safetensors").is_file()
    try:
        network, info = kind.from_pretrained(
            str(folder),
            local_files_only=True,
            output_loading_info=True,
            torch_dtype=torch.float32,
            use_safetensors=safe,
        )
    except (OSError, RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"`{folder}` cannot be read ({reason})\nhint: fetch the whole folder again") from error
    for title, names in (("lacks", info["missing_keys"]), ("holds unknown", info["unexpected_keys"])):
        if names:
            raise ValueError(f"`{folder}` {title} {layout.shown(names)}\nhint: config.json is of another model")
    return network


def _json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise ValueError(f"`{file}` is missing\nhint: fetch the whole folder of the published model")
    return json.loads(file.read_text(encoding="utf-8"))
