"""Recorded encoders of multi_token: front ends, features, projections; sounds, packed documents, routing of items."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoTokenizer, ClapFeatureExtractor, WhisperFeatureExtractor

from limner.compositions.multi_token import Layout
from limner.compositions.multi_token_builders import encoders
from limner.compositions.multi_token_legacy import encode_messages
from limner.document.audio import Audio
from limner.document.document import Media
from limner.document.rows import row_document
from limner.document.video import Video
from limner.evaluate.golden.check import Check, close, exact
from limner.evaluate.golden.multi_token_files import Files, dataset_rows, encoder_folder, wanted
from limner.modalities.base import Encoder, Features, InputProjector
from limner.modalities.encoders.clap import ClapEncoder
from limner.modalities.encoders.gte import GteEncoder, pack_sentences
from limner.modalities.encoders.imagebind import kind_of
from limner.modalities.encoders.plain_clip import PlainClipEncoder
from limner.modalities.encoders.whisper import WhisperEncoder
from limner.modalities.encoders.xclip import XClipEncoder
from limner.modalities.position_projectors import PatchProjector, VectorProjector

PIXELS, WAVE, MEL, PATCHES, POOLED, FEATURES, PROJECTED = 1e-5, 1e-5, 1e-4, 1e-3, 2e-5, 1e-5, 2e-5


def encoder_checks(files: Files, *, only: str | None) -> Iterator[Check]:
    """Everything below encoder_cases/."""
    for case in files.json("encoder_cases/cases.json")["cases"]:
        if wanted(f"encoder_cases/{case['case']}", only):
            yield from _case_checks(files, case)
    for name, section in _OTHERS.items():
        if wanted(f"encoder_cases/{name}", only) and files.has(f"encoder_cases/{name}.json"):
            yield from section(files)
    if wanted("encoder_cases/stock_frontends", only) and files.has("encoder_cases/stock_frontends.safetensors"):
        yield from _stock(files)


def _case_checks(files: Files, case: Mapping[str, Any]) -> Iterator[Check]:
    name, tensors = f"encoder_cases/{case['case']}", files.tensors(f"encoder_cases/{case['case']}.safetensors")
    projector = _projector({key[10:]: value for key, value in tensors.items() if key.startswith("projector.")})
    encoder = _encoder(files, case["modality_class_builder"], case["name"], layout=_layout(projector))
    placeholder = files.placeholder(case)
    for number, row in enumerate(case["rows"]):
        head, info = f"row{number}", case["row_info"][number]
        inputs = files.tensors(f"encoder_cases/{info['input_in']}.safetensors") if "input_in" in info else tensors
        stored = {key[len(head) + 1 :]: value for key, value in inputs.items() if key.startswith(head + ".")}
        media = [
            Media(placeholder.read(item, files.directory), modality=placeholder.modality)
            for item in row[case["data_key"]]
        ]
        items = front_end(encoder, media, seed=case["numpy_seed"])
        yield from _input_checks(encoder, items, stored, info=info, name=f"{name}/{head}")
        if "frames_used" in case:
            assert isinstance(encoder, XClipEncoder)
            np.random.seed(case["numpy_seed"])
            frames = [encoder.window(Video.of(item.payload)) for item in media][-1]
            yield exact(f"{name}/{head}.frames_used", frames, case["frames_used"])
        yield from _output_checks(encoder, projector, items, tensors, name=name, head=head)


@torch.no_grad()
def _output_checks(
    encoder: Encoder, projector: InputProjector, items: Tensor, stored: Mapping[str, Tensor], *, name: str, head: str
) -> Iterator[Check]:
    features = encoder(items)
    expected = stored[f"{head}.features"]
    yield close(f"{name}/{head}.features", features.values.view(expected.shape), expected, tolerance=_limit(encoder))
    rows = projector(Features(expected.flatten(0, 1), features.lengths)).values.view(
        *expected.shape[:1], -1, _width(projector)
    )
    whole, part = stored.get(f"{head}.projected"), stored.get(f"{head}.projected_every_8th")
    if whole is not None:
        yield close(f"{name}/{head}.projected", rows, whole, tolerance=PROJECTED)
    if part is not None:
        yield close(f"{name}/{head}.projected", rows[:, ::8], part, tolerance=PROJECTED)


def front_end(encoder: Encoder, media: Sequence[Media], *, seed: int | None) -> Tensor:
    """Inputs of a row's items; with a seed, drawn from numpy's global generator as the recording did."""
    if seed is not None:
        np.random.seed(seed)
    if seed is not None and isinstance(encoder, ClapEncoder):
        return torch.stack([encoder.front_end(Audio.of(item.payload)) for item in media])
    if seed is not None and isinstance(encoder, XClipEncoder):
        videos = [Video.of(item.payload) for item in media]
        return torch.stack([encoder.pixels(video, encoder.window(video)) for video in videos])
    return torch.stack([encoder.preprocess(item) for item in media])


def _input_checks(
    encoder: Encoder, items: Tensor, stored: Mapping[str, Tensor], *, info: Mapping[str, Any], name: str
) -> Iterator[Check]:
    limit = MEL if isinstance(encoder, WhisperEncoder | ClapEncoder) else PIXELS
    for key in ("input", "pixel_values"):
        if key in stored:
            yield close(f"{name}.{key}", items.view(stored[key].shape), stored[key], tolerance=limit)
    if "input_sub" in stored:
        step = int(re.findall(r"::(\d+)", info.get("subsample", "::12"))[0])
        yield close(f"{name}.input_sub", items[..., ::step, ::step], stored["input_sub"], tolerance=limit)
        spread = items.double().flatten(2)
        found = torch.stack([spread.mean(-1), spread.std(-1, correction=0)], dim=-1)
        yield close(f"{name}.input_mean_std", found, stored["input_mean_std"], tolerance=limit)
    for number, item in enumerate(items):
        expected = stored.get(f"item{number}.input_features")
        if expected is not None:
            yield close(f"{name}.item{number}.input_features", item[None], expected, tolerance=limit)
    if "input_ids" in stored and isinstance(encoder, GteEncoder):
        mask = items[:, : stored["input_ids"].shape[1]] >= 0
        yield exact(f"{name}.attention_mask", mask.long(), stored["attention_mask"])
        yield exact(f"{name}.input_ids", items[:, : mask.shape[1]][mask], stored["input_ids"][mask])
        yield exact(f"{name}.longest", int((items >= 0).sum(1).max()), mask.shape[1])


def _limit(encoder: Encoder) -> float:
    if isinstance(encoder, PlainClipEncoder):
        return POOLED if encoder.measure(Media(None)) == 1 else PATCHES
    return FEATURES


def _layout(projector: InputProjector) -> Layout:
    return "vector" if isinstance(projector, VectorProjector) else "patch"


def _width(projector: InputProjector) -> int:
    return list(projector.parameters())[-1].shape[0]


def _encoder(files: Files, described: str, name: str, *, layout: Layout) -> Encoder:
    """The encoder that a case describes in words: "builder audio_clap, encoders/clap"."""
    path = files.directory / encoder_folder(described)
    if "pad_non_square_images=true" in described:
        return PlainClipEncoder(path, pads=True)
    return encoders({name: str(path)})[name](layout)


def _projector(state: Mapping[str, Tensor]) -> InputProjector:
    positions = {key.split(".")[1] for key in state if key.startswith("mlps.")}
    width_out, width_in = state["mlps.0.0.weight" if positions else "0.weight"].shape
    projector: InputProjector
    if positions:
        projector = VectorProjector(num_positions=len(positions), width_in=width_in, width_out=width_out)
        projector.load_state_dict(dict(state))
    else:
        projector = PatchProjector(width_in=width_in, width_out=width_out)
        projector.load_state_dict({f"layers.{key}": value for key, value in state.items()})
    return projector


def _embedded(files: Files) -> Iterator[Check]:
    """A dataset whose rows hold pictures, not paths."""
    described, stored = (
        files.json("encoder_cases/embedded_images.json"),
        files.tensors("encoder_cases/embedded_images.safetensors"),
    )
    name = "encoder_cases/embedded_images"
    layout: Layout = "patch" if "patch" in described["modality"] else "vector"
    encoder = _encoder(files, described["encoder"], "vision_clip", layout=layout)
    known = files.placeholders["vision_clip"]
    placeholder = type(known)(**{**known.__dict__, "num_positions": described["token_width"]})
    for number, row in enumerate(dataset_rows(files, described["dataset"])):
        head = f"row{number}"
        document = row_document(row, placeholders=[placeholder], folder=files.directory)
        items = torch.stack([encoder.preprocess(media) for _, media in document.media()])
        yield close(f"{name}/{head}.input", items, stored[f"{head}.input"], tolerance=PIXELS)
        with torch.no_grad():
            found = encoder(items).values.view(stored[f"{head}.features"].shape)
        yield close(f"{name}/{head}.features", found, stored[f"{head}.features"], tolerance=_limit(encoder))
        encoding = encode_messages(row["messages"], placeholders=[placeholder], tokenizer=files.tokenizer)
        yield exact(f"{name}/{head}.input_ids", encoding.input_ids, stored[f"{head}.input_ids"])
        yield exact(f"{name}/{head}.labels", encoding.labels, stored[f"{head}.labels"])


def _sounds(files: Files) -> Iterator[Check]:
    """Waveforms: channels averaged, resampled."""
    stored = files.tensors("encoder_cases/load_audio.safetensors")
    for case in files.json("encoder_cases/load_audio.json"):
        name = f"encoder_cases/load_audio/{case['key']}"
        wave = torch.as_tensor(Audio.from_path(files.directory / case["file"]).mono(case["target_sampling_rate"]))
        step = int(re.findall(r"every (\d+)", case["kept"])[0])
        yield exact(f"{name}.samples", len(wave), case["samples"])
        yield close(name, wave[::step], stored[case["key"]], tolerance=WAVE)


def _documents(files: Files) -> Iterator[Check]:
    """Sentences packed into documents."""
    described = files.json("encoder_cases/document_split.json")
    tokenizer = AutoTokenizer.from_pretrained(files.directory / described["tokenizer"])
    for case in described["cases"]:
        found = pack_sentences(case["sentences"], tokenizer=tokenizer, limit=described["limit"])
        yield exact(f"encoder_cases/document_split/{case['case']}", found, case["documents"])


def _routing(files: Files) -> Iterator[Check]:
    """What ImageBind takes an item for."""
    for case in files.json("encoder_cases/imagebind_routing.json"):
        yield exact(f"encoder_cases/imagebind_routing/{case['item']}", kind_of(case["item"]), case["routed_as"])


_OTHERS = {
    "embedded_images": _embedded,
    "load_audio": _sounds,
    "document_split": _documents,
    "imagebind_routing": _routing,
}


def _stock(files: Files) -> Iterator[Check]:
    """Front ends of the published sizes. Which sound was recorded is not in the files: the nearest one is compared."""
    stored = files.tensors("encoder_cases/stock_frontends.safetensors")
    whisper: Any = WhisperFeatureExtractor()
    clap: Any = ClapFeatureExtractor(frequency_min=50, frequency_max=14000, truncation="fusion", padding="repeatpad")
    for beginning, extractor in (("whisper_", whisper), ("clap_1x", clap)):
        for key in (name for name in stored if name.startswith(beginning)):
            found = [
                _subsampled(extractor, path, stored[key]) for path in sorted((files.directory / "items").glob("*.wav"))
            ]
            checks = [close(f"encoder_cases/stock_frontends/{key}", one, stored[key], tolerance=MEL) for one in found]
            yield min(checks, key=lambda check: check.difference)


def _subsampled(extractor: Any, path: Path, stored: Tensor) -> Tensor:
    rate = extractor.sampling_rate
    found = extractor(Audio.from_path(path).mono(rate), sampling_rate=rate, return_tensors="pt").input_features.float()
    steps = [-(-size // kept) for size, kept in zip(found.shape[-2:], stored.shape[-2:], strict=True)]
    return found[..., :: steps[0], :: steps[1]]
