"""Recorded pictures, encoders, autoencoder, UNet and projectors of DreamLLM, and the other forms of its checkpoint."""

import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from torch import Tensor

from limner.compositions.dreamllm_checkpoint import parameters_by_original_name, read_dreamllm
from limner.compositions.dreamllm_legacy import IMAGE, latent_decoder, latent_space
from limner.compositions.dreamllm_model import projector_of
from limner.compositions.dreamllm_settings import CLIP, HEAD, QUERIES
from limner.document.document import Media
from limner.document.media import Image
from limner.evaluate.golden.check import Check, close, exact
from limner.evaluate.golden.dreamllm_cases import Case, Cases
from limner.modalities.base import Features, InputProjector
from limner.modalities.decoders.latent_diffusion import LatentDiffusion
from limner.modalities.samplers import accepted
from limner.model.multimodal import MultimodalLM

PIXELS, FEATURES, LATENTS = 1e-5, 1e-4, 5e-5
"""Tolerances: preprocessed pictures; features of the encoder; autoencoder, UNet and projectors."""
PLUGINS = (CLIP, QUERIES, HEAD)
LEGACY_FILES = "legacy_plugin_files"
MONOLITH = "checkpoint_fsdp"


def images(cases: Cases) -> Iterator[Check]:
    """Pictures as both views see them, from their files."""
    section = cases.section("images")
    for case in section.get("list", ()):
        name = f"images/{case['name']}"
        if cases.wants(name):
            yield from _picture(cases, case, name)


def _picture(cases: Cases, case: Case, name: str) -> Iterator[Check]:
    model, tensors = cases.checkpoint.model, cases.tensors("images")
    media = Media(Image.from_path(cases.directory / case["file"]))
    picture = media.content.pil()
    yield exact(f"{name}/loaded_size", list(picture.size), case["loaded_size"])
    if f"rgb.{case['name']}" in tensors:
        found = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).view(picture.height, picture.width, 3)
        yield exact(f"{name}/rgb", found.flatten(), tensors[f"rgb.{case['name']}"].flatten())
    clip = model.reader(IMAGE).encoder.preprocess(media)
    yield close(f"{name}/clip", clip, tensors[f"clip.{case['name']}"], tolerance=PIXELS)
    if f"sd.{case['name']}" in tensors:
        drawn = latent_decoder(model).preprocess(media)
        yield close(f"{name}/sd", drawn, tensors[f"sd.{case['name']}"], tolerance=PIXELS)
        if f"sd_flipped.{case['name']}" in tensors:
            expected = tensors[f"sd_flipped.{case['name']}"]
            yield close(f"{name}/sd_flipped", drawn.flip(-1), expected, tolerance=PIXELS)


def vision(cases: Cases) -> Iterator[Check]:
    """Features and projected features, autoencoder, one UNet call, noise schedule, queries."""
    section = cases.section("vision")
    if not section:
        return
    for name in section["images"]:
        if cases.wants(f"vision/{name}"):
            yield from _features(cases, name)
    for name in section["vae_images"]:
        if cases.wants(f"vision/vae_{name}"):
            yield from _autoencoder(cases, name)
    model, tensors = cases.checkpoint.model, cases.tensors("vision")
    decoder = latent_decoder(model)
    if cases.wants("vision/unet"):
        unet: Any = decoder.unet
        inputs = [tensors[f"unet.{key}"] for key in ("sample", "timesteps", "encoder_hidden_states")]
        with torch.no_grad():
            found = unet(*inputs).sample
        yield close("vision/unet/output", found, tensors["unet.output"], tolerance=LATENTS)
    if cases.wants("vision/scheduler"):
        schedule = DDPMScheduler(**accepted(DDPMScheduler, decoder.scheduler))
        found, expected = schedule.alphas_cumprod, tensors["scheduler.alphas_cumprod"]
        yield close("vision/scheduler/alphas_cumprod", found, expected, tolerance=PIXELS)
    if cases.wants("vision/dream_queries"):
        found = model.maker(IMAGE).queries(1)
        yield close("vision/dream_queries/rows", found, tensors["dream_queries"], tolerance=0.0)


def _features(cases: Cases, name: str) -> Iterator[Check]:
    model, tensors = cases.checkpoint.model, cases.tensors("vision")
    reader = model.reader(IMAGE)
    pixels = cases.pixels([name], view="clip")
    with torch.no_grad():
        features = reader.encoder(pixels)
        projected = reader.input_projector(features).values
    case = f"vision/{name}"
    yield close(f"{case}/penultimate", features.values, tensors[f"penultimate.{name}"], tolerance=FEATURES)
    yield close(f"{case}/projected", projected, tensors[f"projected.{name}"], tolerance=FEATURES)
    if f"all_hidden_states.{name}" in tensors:
        encoder: Any = reader.encoder
        with torch.no_grad():
            states = encoder.network(pixels, output_hidden_states=True).hidden_states
        expected = tensors[f"all_hidden_states.{name}"]
        yield close(f"{case}/all_hidden_states", torch.cat(list(states)), expected, tolerance=FEATURES)


def _autoencoder(cases: Cases, name: str) -> Iterator[Check]:
    tensors = cases.tensors("vision")
    decoder = latent_decoder(cases.checkpoint.model)
    mean, log_variance = decoder.encode(cases.pixels([name], view="sd")).chunk(2, dim=1)
    found = {"vae_mean": mean, "vae_logvar": log_variance, "vae_decode_of_mean": decoded(decoder, mean)}
    for key, value in found.items():
        yield close(f"vision/vae_{name}/{key}", value[0], tensors[f"{key}.{name}"], tolerance=LATENTS)


def projectors(cases: Cases) -> Iterator[Check]:
    """Stand-alone projectors of every type, with their weights."""
    for name, case in cases.listed("projectors"):
        tensors = cases.tensors("projectors")
        weights = dict(tensors.below(f"{case['name']}.weights."))
        yield exact(f"{name}/state_keys", sorted(weights), sorted(case["state_keys"]))
        with torch.no_grad():
            found = _projected(case, weights, tensors[f"{case['name']}.input"])
        yield close(f"{name}/output", found, tensors[f"{case['name']}.output"], tolerance=LATENTS)


def _projected(case: Case, weights: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
    """What a projector of a recorded type makes of feature rows."""
    widths = {"width_in": case["in_features"], "width_out": case["out_features"]}
    module = projector_of(case["type"], depth=case["depth"], bias=case["bias"], **widths)
    (layers,) = module.children()
    layers.load_state_dict({name.removeprefix("projector."): value for name, value in weights.items()})
    if not isinstance(module, InputProjector):
        return module(inputs)
    lengths = torch.full((len(inputs),), inputs.shape[1])
    return module(Features(inputs.flatten(0, 1), lengths)).values.view(len(inputs), -1, case["out_features"])


def checkpoints(cases: Cases) -> Iterator[Check]:
    """The monolith and the oldest plugin files, against the checkpoint: exact."""
    directory = cases.directory
    if (directory / MONOLITH).is_dir() and cases.wants(f"checkpoints/{MONOLITH}"):
        parts = cases.checkpoint.parts
        found = read_dreamllm(directory / MONOLITH, parts=parts)
        yield from _same(f"checkpoints/{MONOLITH}", found, cases.checkpoint.model)
    if (directory / LEGACY_FILES).is_dir() and cases.wants(f"checkpoints/{LEGACY_FILES}"):
        yield from _legacy_files(directory / LEGACY_FILES, cases.checkpoint.model, cases=cases)


def _same(name: str, found: MultimodalLM, expected: MultimodalLM) -> Iterator[Check]:
    one, other = parameters_by_original_name(found), parameters_by_original_name(expected)
    yield exact(f"{name}/keys", sorted(one), sorted(other))
    for key in sorted(set(one) & set(other)):
        yield close(f"{name}/{key}", one[key], other[key], tolerance=0.0)


def _legacy_files(folder: Path, model: MultimodalLM, *, cases: Cases) -> Iterator[Check]:
    """The oldest files hold what was trained; the rest is that of the published parts, here the checkpoint's own."""
    with tempfile.TemporaryDirectory() as name:
        encoder: Any = model.reader(IMAGE).encoder
        decoder = latent_decoder(model)
        networks = {
            "clip": encoder.network,
            "diffusion/unet": decoder.unet,
            "diffusion/vae": latent_space(decoder).network,
        }
        for part, network in networks.items():
            network.save_pretrained(Path(name) / part)
        (Path(name) / "diffusion/scheduler").mkdir()
        (Path(name) / "diffusion/scheduler/scheduler_config.json").write_text(json.dumps(decoder.scheduler))
        parts = {"clip": Path(name) / "clip", "diffusion": Path(name) / "diffusion"}
        found = read_dreamllm(cases.checkpoint.path, parts={**parts, **dict.fromkeys(PLUGINS, folder)})
    yield from _same(f"checkpoints/{LEGACY_FILES}", found, model)


@torch.no_grad()
def decoded(decoder: LatentDiffusion, latents: Tensor) -> Tensor:
    """Pixels of unscaled latents, unclamped."""
    network: Any = latent_space(decoder).network
    return network.decode(latents).sample
