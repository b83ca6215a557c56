"""Pictures from conditions against a plain diffusers loop: pictures per second at equal pixels, in one run.

    python -m benchmarks text_to_image --threads 2

Both make the same pictures with the same weights: a UNet and a VAE, random and frozen, float32, ancestral DDPM,
guidance, the same noise. The plain loop is the one of diffusers' documentation: latents twice, the UNet, guidance, the
scheduler's step with a generator per picture, the VAE's decoder. Both run in eager mode, under `torch.no_grad`.

Two shapes of DreamLLM's, at a small width: `sd`, the UNet of Stable Diffusion 2.1 with 64 condition rows of 1024, and
`sdxl`, that of SDXL (most of its cross-attentions stand at the coarsest level) with 196 rows of 2048.

What Limner does not compute again at every step are the keys and values of the cross-attentions. Their share depends
on the picture's size and the width: the condition has its rows whatever the latent grid, and they keep their width
when the network is made narrower. So the ratio is large for small pictures and for `sdxl`, and near 1 for `sd` at its
published size. Hence a line per shape and size. Times cover everything from condition to pixels. Runs of the two
alternate, so that a machine that is busy at times is busy for both; the figure is the ratio of medians.
"""

import argparse
import logging
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from torch import Tensor

from limner.evaluate.report import environment
from limner.modalities.decoders.latent_diffusion import LatentDiffusion
from limner.modalities.decoders.variational import VariationalAutoencoder
from limner.modalities.guidance import ClassifierFreeGuidance
from limner.modalities.noise import keyed_generator

TARGET = 1.5
TOLERANCE = 1e-5
SCHEDULER = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "steps_offset": 1,
    "prediction_type": "epsilon",
}


class Shape(NamedTuple):
    """A UNet's levels, finest first: width (times the first one), whether it attends, transformer layers."""

    widths: tuple[int, ...]
    attends: tuple[bool, ...]
    layers: tuple[int, ...]
    queries: int
    condition: int


SHAPES = {
    "sd": Shape((1, 2, 4, 4), (True, True, True, False), (1, 1, 1, 1), queries=64, condition=1024),
    "sdxl": Shape((1, 2, 4), (False, True, True), (1, 2, 10), queries=196, condition=2048),
}


def main(arguments: list[str]) -> None:
    """Make pictures in turns, size by size, and print seconds, the ratio and the largest difference of a pixel."""
    options = _options(arguments)
    logging.disable(logging.WARNING)
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    print(f"{options.pictures} pictures a call, {options.steps} steps, guidance {options.guidance}")
    for name in options.shapes:
        shape = SHAPES[name]
        vae, unet = _vae(options).eval(), _unet(shape, options).eval()
        plain_unet = UNet2DConditionModel.from_config(unet.config).eval()
        plain_unet.load_state_dict(unet.state_dict())
        print(f"\n{name}: UNet {_millions(unet)}, VAE {_millions(vae)}; {shape.queries} rows of {shape.condition}")
        condition = _condition(shape, options)
        for size in options.sizes:
            ours = _limner(vae, unet, condition, size=size, options=options)
            _compare(name, size, ours, _plain(vae, plain_unet, condition, size=size, options=options), options)
    print(", ".join(f"{key}: {value}" for key, value in environment().items()))


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks text_to_image")
    parser.add_argument("--shapes", nargs="+", default=[*SHAPES], choices=[*SHAPES])
    parser.add_argument("--sizes", type=int, nargs="+", default=[128, 256], help="edges of pictures, in pixels")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pictures", type=int, default=1, help="per call")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--guidance", type=float, default=7.5)
    parser.add_argument("--width", type=int, default=64, help="channels of the UNet's first level; published: 320")
    parser.add_argument("--threads", type=int, default=None, help="default: torch's own choice")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(arguments)


def _unet(shape: Shape, options: argparse.Namespace) -> UNet2DConditionModel:
    """The published blocks, two residual layers each; heads of 32 channels."""
    widths = tuple(options.width * factor for factor in shape.widths)
    down = tuple("CrossAttnDownBlock2D" if attends else "DownBlock2D" for attends in shape.attends)
    up = tuple("CrossAttnUpBlock2D" if attends else "UpBlock2D" for attends in reversed(shape.attends))
    return UNet2DConditionModel(
        block_out_channels=widths,
        down_block_types=down,
        up_block_types=up,
        transformer_layers_per_block=shape.layers,
        attention_head_dim=tuple(max(1, width // 32) for width in widths),
        cross_attention_dim=shape.condition,
        use_linear_projection=True,
    )


def _vae(options: argparse.Namespace) -> AutoencoderKL:
    widths = tuple(options.width // 2 * factor for factor in (1, 2, 4, 4))
    return AutoencoderKL(
        block_out_channels=widths,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4,
        norm_num_groups=16,
    )


def _condition(shape: Shape, options: argparse.Namespace) -> Tensor:
    size = (2, options.pictures, shape.queries, shape.condition)
    return torch.randn(size, generator=keyed_generator("condition", options.seed))


def _generators(options: argparse.Namespace) -> list[torch.Generator]:
    return [keyed_generator("picture", options.seed, number) for number in range(options.pictures)]


def _limner(
    vae: AutoencoderKL, unet: UNet2DConditionModel, condition: Tensor, *, size: int, options: argparse.Namespace
) -> Callable[[], Tensor]:
    decoder = LatentDiffusion(VariationalAutoencoder(vae, size=size), unet, SCHEDULER)

    def make() -> Tensor:
        return decoder.sample(
            condition,
            guidance=ClassifierFreeGuidance(options.guidance),
            generators=_generators(options),
            num_inference_steps=options.steps,
        )

    return make


def _plain(
    vae: AutoencoderKL, unet: UNet2DConditionModel, condition: Tensor, *, size: int, options: argparse.Namespace
) -> Callable[[], Tensor]:
    rows = condition.flatten(0, 1)
    scheduler = DDPMScheduler(**SCHEDULER)
    config: Any = vae.config

    @torch.no_grad()
    def make() -> Tensor:
        generators = _generators(options)
        scheduler.set_timesteps(options.steps)
        latents = torch.stack([torch.randn(4, size // 8, size // 8, generator=generator) for generator in generators])
        for timestep in scheduler.timesteps:
            noise = unet(torch.cat([latents] * 2), timestep, encoder_hidden_states=rows).sample
            conditional, unconditional = noise.chunk(2)
            guided = unconditional + options.guidance * (conditional - unconditional)
            latents = scheduler.step(guided, timestep, latents, generator=generators).prev_sample
        return vae.decode(latents / config.scaling_factor).sample.clamp(-1, 1)

    return make


def _compare(
    name: str, size: int, ours: Callable[[], Tensor], plain: Callable[[], Tensor], options: argparse.Namespace
) -> None:
    difference = (ours() - plain()).abs().max().item()
    seconds: dict[Callable[[], Tensor], list[float]] = {ours: [], plain: []}
    for number in range(options.rounds):
        # Whoever goes first finds the caches as the other left them: so each does in turn.
        for make in (ours, plain) if number % 2 else (plain, ours):
            started = time.perf_counter()
            make()
            seconds[make].append(time.perf_counter() - started)
    medians = [statistics.median(seconds[make]) for make in (ours, plain)]
    print(f"{name}, {size}x{size} pixels, largest difference {difference:.1e} (at most {TOLERANCE:.0e})")
    for who, make, median in zip(("Limner", "plain loop"), (ours, plain), medians, strict=True):
        between = f"{min(seconds[make]):.2f}-{max(seconds[make]):.2f}"
        print(f"{who}: {median:.3f} s a call ({between} over {options.rounds})")
    print(f"ratio, {name}, {size} pixels: {medians[1] / medians[0]:.2f} (target: {TARGET})")


def _millions(network: torch.nn.Module) -> str:
    return f"{sum(parameter.numel() for parameter in network.parameters()) / 1e6:.1f}M"
