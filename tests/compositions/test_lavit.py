"""LaVIT's published folder: read part by part, refused by name if broken, written back unchanged."""

import shutil
from pathlib import Path

import pytest
import torch
from lavit_originals import HEADS, NUM_CODES, write_lavit_original
from torch import Tensor

from limner.compositions.lavit import Lavit, read_lavit
from limner.compositions.lavit_generation import (
    CodeSettings,
    PixelSettings,
    generate,
)
from limner.compositions.lavit_pixels import Framing
from limner.compositions.lavit_understanding import (
    Wording,
    caption,
)
from limner.compositions.lavit_writing import write_lavit
from limner.compositions.weights import read_tensor_file
from limner.generate.sampling import Sampling
from limner.modalities.noise import keyed_generator

GREEDY = CodeSettings(sampling=Sampling(), max_new=12, min_new=4, guidance_scale=3.0)
WEIGHTS = (".bin", ".safetensors")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_lavit_original(tmp_path_factory.mktemp("lavit"))


@pytest.fixture(scope="module")
def lavit(folder: Path) -> Lavit:
    return read_lavit(folder, heads=HEADS)


@pytest.fixture
def copied(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copied"))


@pytest.fixture(scope="module")
def pixels() -> Tensor:
    return torch.randn(2, 3, 28, 28, generator=keyed_generator("pixels"))


def _generators(count: int) -> list[torch.Generator]:
    return [keyed_generator("lavit", number) for number in range(count)]


def _read_parts(lavit: Lavit) -> set[str]:
    return set(vars(lavit)) & {"backbone", "encoder", "codebook", "tokenizer", "reader", "low_res", "high_res"}


# The folder.


def test_ids_follow_the_text_ids(lavit: Lavit) -> None:
    ids = lavit.ids
    assert (ids.image_start, ids.image_end, ids.first_code) == (ids.text_size, ids.text_size + 1, ids.text_size + 2)
    assert ids.num_codes == NUM_CODES
    assert ids.size == lavit.backbone.base_size
    assert (ids.begin, ids.end, ids.first_text) == (1, 2, 3)


def test_opening_reads_no_weights_and_says_their_licence(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        opened = read_lavit(folder, heads=HEADS)
    assert _read_parts(opened) == set()
    assert "LaVIT Community License" in caplog.text


def test_text_to_image_reads_no_encoder_and_understanding_no_decoder(folder: Path, pixels: Tensor) -> None:
    drawing = read_lavit(folder, heads=HEADS)
    settings = PixelSettings(Framing((8, 8)), num_inference_steps=1)
    generate(drawing, ["a cat"], codes=GREEDY, pixels=settings, generators=_generators(1))
    assert _read_parts(drawing) == {"backbone", "codebook", "high_res"}
    reading = read_lavit(folder, heads=HEADS)
    caption(reading, pixels, wording=Wording(max_new=2, min_new=0))
    assert _read_parts(reading) == {"backbone", "encoder", "reader"}


def test_encoder_and_codebook_are_shared(lavit: Lavit) -> None:
    assert lavit.reader.encoder is lavit.tokenizer.encoder
    assert lavit.tokenizer.codebook is lavit.codebook
    ours, others = lavit.reader.merger.norm.weight, lavit.tokenizer.merger.norm.weight
    assert ours is not others


FILES = [
    ("encoder", "visual_tokenizer/eva_vitg_psz14.bin", "blocks.1.mlp.fc1.bias"),
    ("tokenizer", "visual_tokenizer/tokenizer_encoder.bin", "token_predictor.out_conv.4.bias"),
    ("reader", "language_model/visual_weight.bin", "causal_encoder.norm.weight"),
    ("low_res", "visual_tokenizer/tokenizer_decoder.bin", "unet_proj.bias"),
    ("high_res", "visual_tokenizer/highres_tokenizer_decoder.bin", "unet_attnpool.c_proj.bias"),
    ("backbone", "language_model/pytorch_model-00001-of-00002.bin", "model.embed_tokens.weight"),
    ("high_res", "highres_pixel_decoding/unet/diffusion_pytorch_model.bin", "conv_in.bias"),
]


@pytest.mark.parametrize(("part", "file", "name"), FILES)
def test_a_missing_tensor_is_refused_by_name(copied: Path, part: str, file: str, name: str) -> None:
    tensors = read_tensor_file(copied / file)
    torch.save({key: value.clone() for key, value in tensors.items() if key != name}, copied / file)
    with pytest.raises(ValueError, match=r"lacks .*" + name.split(".")[-1]):
        getattr(read_lavit(copied, heads=HEADS), part)


@pytest.mark.parametrize(("part", "file", "name"), FILES[1:4])
def test_surplus_and_misshapen_tensors_are_refused(copied: Path, part: str, file: str, name: str) -> None:
    tensors = {key: value.clone() for key, value in read_tensor_file(copied / file).items()}
    torch.save({**tensors, "somebody.else": torch.zeros(1)}, copied / file)
    with pytest.raises(ValueError, match=r"unknown .*somebody\.else"):
        getattr(read_lavit(copied, heads=HEADS), part)
    tensors[name] = torch.zeros(7, *tensors[name].shape[1:])
    torch.save(tensors, copied / file)
    with pytest.raises(ValueError, match="shape"):
        getattr(read_lavit(copied, heads=HEADS), part)


def test_a_codebook_of_another_language_model_is_refused(copied: Path) -> None:
    file = copied / "visual_tokenizer" / "tokenizer_encoder.bin"
    tensors = {key: value.clone() for key, value in read_tensor_file(file).items()}
    tensors["quantize.embedding.weight"] = tensors["quantize.embedding.weight"][:-1].clone()
    torch.save(tensors, file)
    with pytest.raises(ValueError, match=f"{NUM_CODES - 1} codes; expected {NUM_CODES}"):
        read_lavit(copied, heads=HEADS).codebook  # noqa: B018 - reading refuses


def test_what_was_read_and_not_changed_is_written_the_same(folder: Path, tmp_path: Path) -> None:
    lavit = read_lavit(folder, heads=HEADS)
    for part in ("backbone", "encoder", "codebook", "tokenizer", "reader", "low_res", "high_res"):
        getattr(lavit, part)
    write_lavit(lavit, tmp_path / "written")
    files = sorted(file.relative_to(folder) for file in folder.rglob("*") if file.is_file())
    assert files == sorted(
        f.relative_to(tmp_path / "written") for f in (tmp_path / "written").rglob("*") if f.is_file()
    )
    for file in files:
        if file.suffix not in WEIGHTS or file.name == "uncond_embeddings.bin":
            assert (folder / file).read_bytes() == (tmp_path / "written" / file).read_bytes()
            continue
        before, after = read_tensor_file(folder / file), read_tensor_file(tmp_path / "written" / file)
        assert list(before) == list(after)
        for name, tensor in before.items():
            assert tensor.dtype == after[name].dtype
            assert torch.equal(tensor, after[name]), name


def test_what_was_trained_is_written_and_read_again(folder: Path, tmp_path: Path) -> None:
    lavit = read_lavit(folder, heads=HEADS)
    with torch.no_grad():
        lavit.reader.projection.weight.add_(1.0)  # pyright: ignore
        lavit.encoder.blocks[0].attn.qkv.bias[:3].fill_(0.5)  # pyright: ignore
    write_lavit(lavit, tmp_path / "written")
    again = read_lavit(tmp_path / "written", heads=HEADS)
    expected = lavit.reader.projection.weight.bfloat16().float()  # pyright: ignore
    assert torch.equal(again.reader.projection.weight, expected)  # pyright: ignore
    assert again.encoder.blocks[0].attn.qkv.bias[:3].tolist() == [0.5] * 3  # pyright: ignore


def test_the_folder_that_was_read_is_not_written_over(lavit: Lavit) -> None:
    with pytest.raises(ValueError, match="is the folder that was read"):
        write_lavit(lavit, lavit.path)
