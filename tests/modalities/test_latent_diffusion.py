"""Latent diffusion against recorded moments, predictions, losses, trajectories and pictures; and its randomness."""

import json
from pathlib import Path

import numpy
import PIL.Image
import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from safetensors.torch import load_file

from limner.document.document import Media
from limner.document.media import Image
from limner.modalities.decoders.latent_diffusion import DenoisingLoss, LatentDiffusion
from limner.modalities.decoders.variational import VariationalAutoencoder
from limner.modalities.guidance import ClassifierFreeGuidance, NoGuidance, guidance_for
from limner.modalities.noise import keyed_generator

GOLDEN = Path(__file__).parents[1] / "golden/dreamllm"


def read_json(path: str) -> dict:
    return json.loads((GOLDEN / path).read_text())


def tensors(section: str) -> dict[str, torch.Tensor]:
    return load_file(GOLDEN / f"cases/{section}.safetensors")


CASES = read_json("cases/cases.json")
LOSSES = [case for case in CASES["forward"]["list"] if "cond_projected" in case["tensors"]]
PICTURES = CASES["text_to_image"]["list"]


def head_weights() -> dict[str, torch.Tensor]:
    return torch.load(GOLDEN / "checkpoint/stable_diffusion_head.bin", weights_only=True)


def part_of(weights: dict[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    return {key.removeprefix(f"{name}."): value for key, value in weights.items() if key.startswith(f"{name}.")}


def recorded_decoder(*, scheduler: dict | None = None, **settings) -> LatentDiffusion:
    weights = head_weights()
    unet = UNet2DConditionModel.from_config(read_json("sd-tiny/unet/config.json"))
    vae = AutoencoderKL.from_config(read_json("sd-tiny/vae/config.json"))
    unet.load_state_dict(part_of(weights, "unet"))
    vae.load_state_dict(part_of(weights, "vae"))
    config = read_json("sd-tiny/scheduler/scheduler_config.json") | (scheduler or {})
    loss = DenoisingLoss(**settings)
    return LatentDiffusion(VariationalAutoencoder(vae, size=64), unet, config, denoising=loss).eval()


def projected(condition: torch.Tensor) -> torch.Tensor:
    return condition @ head_weights()["projector.projector.weight"].T


def generators(*items: int) -> list[torch.Generator]:
    return [keyed_generator("diffusion", item) for item in items]


@pytest.mark.parametrize("name", CASES["vision"]["images"])
def test_a_picture_is_scaled_and_cropped_to_the_recorded_pixels(name: str):
    path = next((GOLDEN / "images").glob(f"{name}.*"))
    pixels = recorded_decoder().preprocess(Media(Image.from_path(path)))
    torch.testing.assert_close(pixels, tensors("pixels")[f"sd.{name}"], atol=1e-5, rtol=0)


def test_moments_decoding_and_prediction_are_the_recorded_ones():
    decoder, values, pixels = recorded_decoder(), tensors("vision"), tensors("pixels")
    names = CASES["vision"]["vae_images"]
    moments = decoder.encode(torch.stack([pixels[f"sd.{name}"] for name in names]))
    mean = torch.stack([values[f"vae_mean.{name}"] for name in names])
    log_variance = torch.stack([values[f"vae_logvar.{name}"] for name in names])
    torch.testing.assert_close(moments, torch.cat([mean, log_variance], dim=1), atol=5e-5, rtol=0)
    decoded = decoder.autoencoder.decode(mean * CASES["model"]["vae_scaling_factor"])
    expected = torch.stack([values[f"vae_decode_of_mean.{name}"] for name in names]).clamp(-1, 1)
    torch.testing.assert_close(decoded, expected, atol=5e-5, rtol=0)
    with torch.no_grad():
        predicted = decoder.predict(
            values["unet.sample"], values["unet.timesteps"], values["unet.encoder_hidden_states"]
        )
    torch.testing.assert_close(predicted, values["unet.output"], atol=5e-5, rtol=0)


@pytest.mark.parametrize("case", LOSSES, ids=lambda case: case["name"])
@torch.no_grad()
def test_a_loss_with_recorded_draws_is_the_recorded_loss(case: dict):
    overrides = case["overrides"]
    scheduler = {key: overrides[key] for key in ("prediction_type",) if key in overrides}
    settings = {key: overrides[key] for key in ("noise_offset", "input_perturbation", "snr_gamma") if key in overrides}
    decoder = recorded_decoder(scheduler=scheduler, **settings)
    values = {
        key.removeprefix(f"{case['name']}."): value
        for key, value in tensors("forward").items()
        if key.startswith(f"{case['name']}.")
    }
    per_item = decoder.loss_of(
        values["cond_projected"],
        values["latents"],
        noise=values["draw.noise"],
        timesteps=values["draw.timesteps"],
        offset_noise=values.get("draw.offset_noise"),
        perturbation=values.get("draw.perturb_noise"),
    )
    torch.testing.assert_close(per_item.mean().item(), case["vm_loss"], rtol=1e-5, atol=0)


def test_latents_of_moments_with_recorded_noise_are_the_recorded_ones():
    decoder, values, pixels = recorded_decoder(), tensors("forward"), tensors("pixels")
    batch = next(batch for batch in CASES["batches"]["list"] if batch["name"] == "crea_pairs")
    names = batch["sd_images"]
    moments = decoder.encode(torch.stack([pixels[f"sd.{name}"] for name in names]))
    latents = decoder.autoencoder.latents_of(moments, noise=values["crea_pairs.draw.vae_noise"])
    torch.testing.assert_close(latents, values["crea_pairs.latents"], atol=5e-5, rtol=0)


@pytest.mark.parametrize("case", PICTURES, ids=lambda case: case["name"])
def test_a_trajectory_with_recorded_noise_is_the_recorded_one(case: dict):
    values = {name: tensors("text_to_image")[f"{case['name']}.{name}"] for name in case["tensors"]}
    decoder = recorded_decoder(scheduler=case.get("scheduler_overrides"))
    guidance = guidance_for(case["guidance_scale"], rescale=case["guidance_rescale"])
    branches = [values["prompt_embeds"], values["negative_embeds"]][: guidance.num_branches]
    sampler = decoder.make_sampler("ddpm", num_inference_steps=case["num_inference_steps"])
    steps: list[torch.Tensor] = []
    latents = decoder.denoise(
        values["initial_latents"],
        projected(torch.stack(branches)),
        guidance=guidance,
        sampler=sampler,
        step_noise=values["step_noise"],
        on_step=lambda step, num_steps, latents: steps.append(latents),
    )
    assert sampler.timesteps.tolist() == case["timesteps"]
    torch.testing.assert_close(torch.stack(steps), values["latents_after_step"], atol=2e-4, rtol=0)
    torch.testing.assert_close(latents, values["final_latents"], atol=2e-4, rtol=0)
    image = (decoder.autoencoder.decode(latents) + 1.0) / 2.0
    torch.testing.assert_close(image, values["image"], atol=2e-4, rtol=0)
    for picture, path in zip(image, case["png"], strict=True):
        levels = (picture.permute(1, 2, 0) * 255).round().int()
        assert (levels - torch.from_numpy(numpy.array(PIL.Image.open(GOLDEN / path))).int()).abs().max() <= 1


def test_one_seeded_generator_gives_the_start_and_the_noise_of_every_step():
    case = next(case for case in PICTURES if "generator_seed" in case)
    values = {name: tensors("text_to_image")[f"{case['name']}.{name}"] for name in case["tensors"]}
    picture = recorded_decoder().sample(
        projected(torch.stack([values["prompt_embeds"], values["negative_embeds"]])),
        guidance=ClassifierFreeGuidance(case["guidance_scale"]),
        generators=[torch.Generator().manual_seed(case["generator_seed"])],
        num_inference_steps=case["num_inference_steps"],
        size=(case["height"], case["width"]),
    )
    torch.testing.assert_close((picture + 1.0) / 2.0, values["image"], atol=2e-4, rtol=0)


def condition_of(items: int, *, branches: int = 1) -> torch.Tensor:
    return torch.randn(branches, items, 6, 24, generator=keyed_generator("condition"))


@pytest.mark.parametrize("name", ["ddpm", "ddim", "dpm++", "euler", "euler-ancestral", "unipc"])
def test_a_picture_of_any_sampler_is_the_same_alone_and_in_a_batch(name: str):
    decoder, condition = recorded_decoder(), condition_of(3, branches=2)
    together = decoder.sample(
        condition,
        guidance=ClassifierFreeGuidance(2.0),
        generators=generators(0, 1, 2),
        num_inference_steps=4,
        sampler=name,
        size=(32, 64),
    )
    alone = decoder.sample(
        condition[:, 1:2],
        guidance=ClassifierFreeGuidance(2.0),
        generators=generators(1),
        num_inference_steps=4,
        sampler=name,
        size=(32, 64),
    )
    assert together.shape == (3, 3, 32, 64)
    assert together.abs().max() <= 1.0
    torch.testing.assert_close(together[1:2], alone, atol=1e-4, rtol=0)
    assert (together[0] - together[1]).abs().max() > 1e-2


def test_kept_keys_and_values_change_nothing():
    decoder, condition = recorded_decoder(), condition_of(2, branches=2)
    kept = decoder.sample(
        condition, guidance=ClassifierFreeGuidance(3.0), generators=generators(0, 1), num_inference_steps=5
    )
    for module in decoder.unet.modules():
        if hasattr(module, "processor") and hasattr(module.processor, "usual"):
            module.processor = module.processor.usual
    plain = decoder.sample(
        condition, guidance=ClassifierFreeGuidance(3.0), generators=generators(0, 1), num_inference_steps=5
    )
    torch.testing.assert_close(kept, plain, atol=1e-5, rtol=0)


def test_guidance_of_scale_one_is_no_guidance():
    decoder, condition = recorded_decoder(), condition_of(1, branches=2)
    one = decoder.sample(
        condition, guidance=ClassifierFreeGuidance(1.0), generators=generators(0), num_inference_steps=3
    )
    none = decoder.sample(condition[:1], guidance=NoGuidance(), generators=generators(0), num_inference_steps=3)
    torch.testing.assert_close(one, none, atol=1e-4, rtol=0)


def test_the_loss_of_an_item_depends_on_its_generator_alone():
    decoder = recorded_decoder(draws_per_item=2, noise_offset=0.1, input_perturbation=0.1)
    condition = condition_of(2)[0]
    moments = decoder.encode(torch.stack([tensors("pixels")["sd.noise"], tensors("pixels")["sd.red_disc"]]))
    both = decoder.loss(condition, moments, generators=generators(0, 1))
    alone = [decoder.loss(condition[i : i + 1], moments[i : i + 1], generators=generators(i)) for i in range(2)]
    assert both.count == 4
    assert both.per_item is not None
    torch.testing.assert_close(both.per_item, torch.stack([term.sum for term in alone]), rtol=1e-5, atol=0)
    assert both.sum != decoder.loss(condition, moments, generators=generators(2, 3)).sum


def test_parts_are_frozen_until_a_recipe_trains_the_unet():
    decoder = recorded_decoder()
    assert not any(parameter.requires_grad for parameter in decoder.parameters())
    decoder.unet.requires_grad_(True)
    condition = condition_of(1)[0].requires_grad_(True)
    moments = decoder.encode(tensors("pixels")["sd.red_disc"][None])
    decoder.loss(condition, moments, generators=generators(0)).mean.backward()
    assert condition.grad is not None
    assert condition.grad.abs().sum() > 0
    assert all(parameter.grad is not None for parameter in decoder.unet.parameters())


def test_what_does_not_suit_is_refused_with_the_numbers():
    decoder, condition = recorded_decoder(), condition_of(1)
    ask = {"guidance": NoGuidance(), "generators": generators(0), "num_inference_steps": 2}
    with pytest.raises(ValueError, match=r"no sampler `heun` for this decoder\nhint: there is ddpm, ddim"):
        decoder.sample(condition, **ask, sampler="heun")
    with pytest.raises(ValueError, match="size is 60x64; expected multiples of 8"):
        decoder.sample(condition, **ask, size=(60, 64))
    with pytest.raises(ValueError, match="num_inference_steps is 0; expected 1 to 1000"):
        decoder.sample(condition, **ask | {"num_inference_steps": 0})
    with pytest.raises(ValueError, match="prediction_type is 'sample'"):
        recorded_decoder(scheduler={"prediction_type": "sample"})
    with pytest.raises(ValueError, match="guidance_rescale is 2"):
        guidance_for(3.0, rescale=2.0)
