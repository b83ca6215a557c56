"""Whisper's encoder as rows in order of time, and the reader of CTranslate2's file of it."""

import struct
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor
from transformers import WhisperConfig, WhisperModel

from limner.document.audio import Audio
from limner.document.document import Media
from limner.modalities.encoders.ctranslate2 import read_model, save_whisper, whisper_state
from limner.modalities.encoders.whisper import WhisperFrames

TYPES = {torch.float32: 0, torch.int8: 1, torch.float16: 4}


def text(value: str) -> bytes:
    data = value.encode() + b"\0"
    return struct.pack("<H", len(data)) + data


def written(variables: dict[str, Tensor], *, aliases: dict[str, str] | None = None, version: int = 6) -> bytes:
    """A model.bin, by CTranslate2's own description of it."""
    data = struct.pack("<I", version) + text("WhisperSpec") + struct.pack("<II", 3, len(variables))
    for name, value in variables.items():
        content = value.contiguous().numpy().tobytes()
        data += text(name) + struct.pack(f"<B{value.ndim}I", value.ndim, *value.shape)
        data += struct.pack("<BI", TYPES[value.dtype], len(content)) + content
    data += struct.pack("<I", len(aliases or {}))
    return data + b"".join(text(name) + text(target) for name, target in (aliases or {}).items())


def tiny_whisper(*, width: int = 64, positions: int = 50) -> Any:
    options: dict[str, Any] = {
        f"{side}_{key}": value for side in ("encoder", "decoder") for key, value in SIZES.items()
    }
    ids = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id"), 0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return WhisperModel(
            WhisperConfig(
                vocab_size=20,
                num_mel_bins=80,
                d_model=width,
                max_source_positions=positions,
                max_target_positions=8,
                **options,
                **ids,
            )
        ).eval()


SIZES = {"layers": 2, "attention_heads": 1, "ffn_dim": 16}


def fused(model: Any) -> dict[str, Tensor]:
    """The names and fused matrices of CTranslate2."""
    state = model.state_dict()
    found: dict[str, Tensor] = {"decoder/projection/weight": state["decoder.embed_tokens.weight"]}
    norms = {"weight": "gamma", "bias": "beta"}
    for key in state:
        side, _, rest = key.partition(".")
        leaf = rest.rpartition(".")[2]
        if rest.startswith("conv"):
            found[f"{side}/{rest.replace('.', '/')}"] = state[key]
        elif rest.startswith("layer_norm"):
            found[f"{side}/layer_norm/{norms[leaf]}"] = state[key]
    for side in ("encoder", "decoder"):
        found[f"{side}/position_encodings/encodings"] = state[f"{side}.embed_positions.weight"]
        for number in range(SIZES["layers"]):
            found |= _layer(state, f"{side}.layers.{number}.", f"{side}/layer_{number}/", is_decoder=side == "decoder")
    found["decoder/embeddings/weight"] = state["decoder.embed_tokens.weight"]
    found["encoder/num_heads"] = torch.tensor(1, dtype=torch.int8)
    return found


def _layer(state: dict[str, Tensor], source: str, target: str, *, is_decoder: bool) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    blocks = {"self_attn": "self_attention"} | ({"encoder_attn": "attention"} if is_decoder else {})
    for ours, theirs in blocks.items():
        weight = {part: state[f"{source}{ours}.{part}_proj.weight"] for part in ("q", "k", "v", "out")}
        bias = {part: state[f"{source}{ours}.{part}_proj.bias"] for part in ("q", "v", "out")}
        bias["k"] = torch.zeros_like(bias["q"])
        groups = ("qkv", ("out",)) if ours == "self_attn" else ("q", "kv", ("out",))
        for number, group in enumerate(groups):
            found[f"{target}{theirs}/linear_{number}/weight"] = torch.cat([weight[part] for part in group])
            found[f"{target}{theirs}/linear_{number}/bias"] = torch.cat([bias[part] for part in group])
        for leaf, name in (("weight", "gamma"), ("bias", "beta")):
            found[f"{target}{theirs}/layer_norm/{name}"] = state[f"{source}{ours}_layer_norm.{leaf}"]
    for leaf, name in (("weight", "gamma"), ("bias", "beta")):
        found[f"{target}ffn/layer_norm/{name}"] = state[f"{source}final_layer_norm.{leaf}"]
        for number in (0, 1):
            found[f"{target}ffn/linear_{number}/{leaf}"] = state[f"{source}fc{number + 1}.{leaf}"]
    return found


def sound(seconds: float = 0.4, *, rate: int = 24_000) -> Media:
    time = numpy.arange(int(seconds * rate)) / rate
    return Media(Audio.from_samples(numpy.sin(440 * 2 * numpy.pi * time) * 0.3, rate=rate), modality="speech")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("whisper")
    save_whisper(written(fused(tiny_whisper())), path)
    return path


def test_a_converted_file_computes_what_the_model_did_that_it_was_made_of(folder: Path) -> None:
    original, read = tiny_whisper(), WhisperModel.from_pretrained(folder).eval()
    mel, start = torch.randn(2, 80, 100), torch.zeros(2, 1, dtype=torch.long)
    with torch.no_grad():
        expected = original(mel, decoder_input_ids=start).last_hidden_state
        found: Any = read(mel, decoder_input_ids=start)
    assert torch.equal(found.last_hidden_state, expected)


def test_half_precision_becomes_float32_and_aliases_are_followed() -> None:
    variables = {"encoder/conv1/weight": torch.ones(4, 3, 3, dtype=torch.float16)}
    read = read_model(written(variables, aliases={"encoder/conv2/weight": "encoder/conv1/weight"}))
    state = whisper_state(read)
    assert set(state) == {"encoder.conv1.weight", "encoder.conv2.weight"}
    assert {value.dtype for value in state.values()} == {torch.float32}


def test_what_is_no_whole_unquantized_whisper_is_refused(tmp_path: Path) -> None:
    data = written(fused(tiny_whisper()))
    with pytest.raises(ValueError, match="begins with version 3"):
        read_model(written({}, version=3))
    with pytest.raises(ValueError, match="in the middle of a field"):
        read_model(data[: len(data) // 2])
    with pytest.raises(ValueError, match="is quantized"):
        whisper_state(read_model(written({"encoder/conv1/weight": torch.ones(2, 2, dtype=torch.int8)})))
    some = fused(tiny_whisper())
    del some["encoder/layer_norm/beta"]
    with pytest.raises(ValueError, match="1 weights of Whisper are missing"):
        save_whisper(written(some), tmp_path)


def test_rows_are_stacked_frames_of_the_encoder_in_order(folder: Path) -> None:
    encoder = WhisperFrames(folder, seconds=1.0, stack=10)
    items = torch.stack([encoder.preprocess(sound(0.4)), encoder.preprocess(sound(3.0))])
    assert items.shape == (2, 80, 100)
    with torch.no_grad():
        found = encoder(items)
        network: Any = WhisperModel.from_pretrained(folder).eval().get_encoder()
        expected = network(items).last_hidden_state
    assert found.lengths.tolist() == [encoder.measure(sound())] * 2 == [5, 5]
    assert found.values.shape == (10, encoder.width) == (10, 640)
    torch.testing.assert_close(found.values.unflatten(0, (2, 5)).flatten(1).view_as(expected), expected)


def test_a_shorter_window_leaves_later_positions_out(folder: Path) -> None:
    encoder = WhisperFrames(folder, seconds=0.4, stack=5)
    assert encoder.preprocess(sound()).shape == (80, 40)
    assert encoder(encoder.preprocess(sound())[None]).values.shape == (4, 320)
    assert not any(parameter.requires_grad for parameter in encoder.parameters())


@pytest.mark.parametrize("window", [{"seconds": 2.0}, {"seconds": 0.5, "stack": 10}, {"seconds": 0.1}])
def test_a_window_that_does_not_suit_is_refused(folder: Path, window: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="a window of"):
        WhisperFrames(folder, **window)
