"""Samplers: timestep tables, and that what we wrote out is what diffusers does."""

import json
from pathlib import Path

import pytest
import torch
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from diffusers.schedulers.scheduling_euler_ancestral_discrete import EulerAncestralDiscreteScheduler

from limner.modalities.noise import keyed_generator
from limner.modalities.samplers import Sampler, accepted, diffusion_sampler, flow_sampler

GOLDEN = Path(__file__).parents[1] / "golden/dreamllm"
CONFIG = json.loads((GOLDEN / "sd-tiny/scheduler/scheduler_config.json").read_text())
TABLES = json.loads((GOLDEN / "cases/cases.json").read_text())["text_to_image"]["timestep_tables"]
SHAPE = (2, 4, 4, 4)


@pytest.mark.parametrize("steps", TABLES)
def test_the_ancestral_timesteps_are_the_recorded_ones(steps: str):
    assert diffusion_sampler("ddpm", CONFIG, num_inference_steps=int(steps)).timesteps.tolist() == TABLES[steps]


@pytest.mark.filterwarnings("ignore:__array__ implementation")
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize(
    ("name", "kind"), [("ddpm", DDPMScheduler), ("euler-ancestral", EulerAncestralDiscreteScheduler)]
)
@pytest.mark.parametrize("clip_sample", [False, True])
def test_a_sampler_that_is_given_noise_steps_like_the_scheduler_that_draws_it(
    name: str, kind: type, prediction_type: str, clip_sample: bool
):
    config = CONFIG | {"prediction_type": prediction_type, "clip_sample": clip_sample}
    ours = diffusion_sampler(name, config, num_inference_steps=5)
    theirs = Sampler(kind(**accepted(kind, config)), num_inference_steps=5)
    assert ours.timesteps.tolist() == theirs.timesteps.tolist()
    latents = torch.randn(SHAPE, generator=keyed_generator("start")) * ours.initial_scale
    expected = latents
    for step, time in enumerate(ours.timesteps):
        prediction = torch.randn(SHAPE, generator=keyed_generator("prediction", step))
        noise = torch.randn(SHAPE, generator=keyed_generator("noise", step))
        scaled = theirs.scheduler.scale_model_input(expected, time)
        torch.testing.assert_close(ours.scale_input(latents, step=step), scaled, atol=1e-5, rtol=1e-5)
        latents = ours.step(prediction, latents, step=step, noise=noise)
        drawing = keyed_generator("noise", step)
        expected = theirs.scheduler.step(prediction, time, expected, generator=drawing, return_dict=False)[0]
        torch.testing.assert_close(latents, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["ddpm", "ddim", "dpm++", "euler", "euler-ancestral", "unipc"])
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_every_sampler_finds_the_latents_of_a_network_that_knows_them(name: str, prediction_type: str):
    target = torch.randn(SHAPE, generator=keyed_generator("target"))
    config = CONFIG | {"prediction_type": prediction_type}
    sampler = diffusion_sampler(name, config, num_inference_steps=12)
    kept = DDPMScheduler(**accepted(DDPMScheduler, config)).alphas_cumprod
    latents = torch.randn(SHAPE, generator=keyed_generator("start")) * sampler.initial_scale
    for step, time in enumerate(sampler.timesteps):
        noisy = sampler.scale_input(latents, step=step)
        # Euler's times lie between the table's; alpha-bar is nearly linear from one to the next.
        low = int(time)
        share = kept[low] + (float(time) - low) * (kept[min(low + 1, 999)] - kept[low])
        noise = (noisy - share.sqrt() * target) / (1.0 - share).sqrt()
        velocity = share.sqrt() * noise - (1.0 - share).sqrt() * target
        prediction = noise if prediction_type == "epsilon" else velocity
        drawn = torch.randn(SHAPE, generator=keyed_generator("noise", step)) if sampler.draws_noise else None
        latents = sampler.step(prediction, latents, step=step, noise=drawn)
    assert (latents - target).abs().mean() < 0.05


@pytest.mark.parametrize("name", ["euler", "dpm++"])
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_a_flow_sampler_follows_an_exact_velocity_to_the_latents(name: str, shift: float):
    target = torch.randn(SHAPE, generator=keyed_generator("target"))
    start = torch.randn(SHAPE, generator=keyed_generator("start"))
    sampler = flow_sampler(name, {"shift": shift}, num_inference_steps=6)
    latents = start
    for step in range(len(sampler)):
        latents = sampler.step(start - target, latents, step=step)
    assert len(sampler) == 6
    # The multistep one starts at time 0.999, where its logarithms are finite.
    torch.testing.assert_close(latents, target, atol=1e-2, rtol=0)


def test_samplers_and_settings_that_do_not_suit_are_refused():
    with pytest.raises(ValueError, match=r"no sampler `ddim` for this decoder\nhint: there is euler, dpm\+\+"):
        flow_sampler("ddim", {}, num_inference_steps=3)
    with pytest.raises(ValueError, match="num_inference_steps is 1001; expected 1 to 1000"):
        diffusion_sampler("ddpm", CONFIG, num_inference_steps=1001)
    with pytest.raises(ValueError, match="variance_type 'learned'"):
        diffusion_sampler("ddpm", CONFIG | {"variance_type": "learned"}, num_inference_steps=2)
