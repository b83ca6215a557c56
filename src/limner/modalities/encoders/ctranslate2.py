"""CTranslate2's file of weights, and the way from its Whisper to transformers' `WhisperModel`.

Owns the layout of `model.bin` (versions 5 and 6) and a table of names. Assumes weights that are not quantized to
integers. CTranslate2 holds queries, keys and values of self-attention as one matrix, keys and values of attention to
the encoder as one, and may leave the bias of the keys (which Whisper does not have) as zeros.

Data flow: model.bin -> {name: tensor} -> transformers' names -> a directory that `from_pretrained` reads.
"""

import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

TYPES = {0: torch.float32, 1: torch.int8, 2: torch.int16, 3: torch.int32, 4: torch.float16, 5: torch.bfloat16}
"""Ids of element types."""

VERSIONS = (5, 6)

_SIDES = ("encoder", "decoder")


class _Reader:
    """Little-endian fields, one after another. Raises ValueError at the end of the bytes."""

    def __init__(self, data: bytes, *, name: str) -> None:
        self.data = memoryview(data)
        self.name = name
        self.place = 0

    def take(self, count: int) -> memoryview:
        if self.place + count > len(self.data):
            raise ValueError(
                f"`{self.name}` ends at byte {len(self.data)} in the middle of a field\n"
                "hint: put all its parts together, in order"
            )
        self.place += count
        return self.data[self.place - count : self.place]

    def number(self, code: str) -> int:
        return struct.unpack(f"<{code}", self.take(struct.calcsize(code)))[0]

    def text(self) -> str:
        return bytes(self.take(self.number("H"))).rstrip(b"\0").decode()


def read_model(data: bytes, *, name: str = "model.bin") -> dict[str, Tensor]:
    """All variables by name, aliases among them. Raises ValueError for a file of another kind or version."""
    reader = _Reader(data, name=name)
    version = reader.number("I")
    if version not in VERSIONS:
        raise ValueError(
            f"`{name}` begins with version {version}; expected one of {VERSIONS}\n"
            "hint: this is CTranslate2's model.bin, all parts in order"
        )
    reader.text()  # the specification's name
    reader.number("I")  # and its revision
    found: dict[str, Tensor] = {}
    for _ in range(reader.number("I")):
        variable = reader.text()
        shape = [reader.number("I") for _ in range(reader.number("B"))]
        kind = reader.number("B")
        if kind not in TYPES:
            raise ValueError(
                f"`{variable}` of `{name}` has the element type {kind}; expected one of {sorted(TYPES)}\n"
                "hint: convert the model without quantization"
            )
        content = bytearray(reader.take(reader.number("I")))
        found[variable] = torch.frombuffer(content, dtype=TYPES[kind]).reshape(shape)
    for _ in range(reader.number("I")):
        alias = reader.text()
        found[alias] = found[reader.text()]
    return found


def whisper_state(variables: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state of a `WhisperModel` in float32. Raises ValueError for quantized weights."""
    state: dict[str, Tensor] = {}
    for name, value in variables.items():
        side, _, rest = name.partition("/")
        if side not in ("encoder", "decoder") or name == "decoder/projection/weight" or value.ndim == 0:
            continue  # settings, and the output matrix, which is the embedding's
        if not value.is_floating_point():
            raise ValueError(f"`{name}` is quantized ({value.dtype})\nhint: take the float16 or float32 model")
        for target, tensor in _renamed(side, rest, value.float()):
            state[target] = tensor.contiguous()
    return state


def _renamed(side: str, name: str, value: Tensor) -> Iterator[tuple[str, Tensor]]:
    """A variable of one side under transformers' names; fused matrices are cut."""
    outer = {
        "conv1": "conv1",
        "conv2": "conv2",
        "position_encodings/encodings": "embed_positions.weight",
        "embeddings/weight": "embed_tokens.weight",
        "layer_norm": "layer_norm",
    }
    if not name.startswith("layer_") or name.startswith("layer_norm"):
        head, _, leaf = name.rpartition("/")
        target = outer.get(name) or f"{outer[head]}.{_leaf(head, leaf)}"
        yield f"{side}.{target}", value
        return
    number, block, *rest = name.removeprefix("layer_").split("/")
    prefix = f"{side}.layers.{number}."
    if block == "ffn":
        yield prefix + _feed_forward(*rest), value
        return
    ours = "self_attn" if block == "self_attention" else "encoder_attn"
    if rest[0] == "layer_norm":
        yield f"{prefix}{ours}_layer_norm.{_leaf('layer_norm', rest[1])}", value
        return
    yield from ((f"{prefix}{ours}.{part}", tensor) for part, tensor in _attention(ours, *rest, value=value))


def _leaf(parent: str, leaf: str) -> str:
    return {"gamma": "weight", "beta": "bias"}[leaf] if parent.endswith("layer_norm") else leaf


def _feed_forward(part: str, leaf: str) -> str:
    return {
        "layer_norm": f"final_layer_norm.{_leaf(part, leaf)}",
        "linear_0": f"fc1.{leaf}",
        "linear_1": f"fc2.{leaf}",
    }[part]


def _attention(kind: str, linear: str, leaf: str, *, value: Tensor) -> Iterator[tuple[str, Tensor]]:
    """`linear_0` is queries, keys and values together for attention to oneself; to the encoder it is the queries, and
    `linear_1` keys and values. The last one is the output."""
    names = {
        ("self_attn", "linear_0"): ("q_proj", "k_proj", "v_proj"),
        ("self_attn", "linear_1"): ("out_proj",),
        ("encoder_attn", "linear_0"): ("q_proj",),
        ("encoder_attn", "linear_1"): ("k_proj", "v_proj"),
        ("encoder_attn", "linear_2"): ("out_proj",),
    }[kind, linear]
    for name, part in zip(names, value.chunk(len(names)), strict=True):
        if (name, leaf) != ("k_proj", "bias"):
            yield f"{name}.{leaf}", part


def save_whisper(data: bytes, target: Path, *, num_heads: int | None = None) -> None:
    """Write `model.bin` as a directory for `WhisperModel.from_pretrained`: weights, config, feature extractor.

    `num_heads` None is a head per 64 channels, as all of OpenAI's models have. Raises ValueError where the weights do
    not make a whole model.
    """
    from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperModel

    state = whisper_state(read_model(data))
    width, num_bins = state["encoder.conv1.weight"].shape[:2]
    layers = {side: len({key for key in state if key.endswith("fc1.bias") and key.startswith(side)}) for side in _SIDES}
    # Untyped: keys of a config are not declared.
    options: dict[str, Any] = {
        "vocab_size": len(state["decoder.embed_tokens.weight"]),
        "num_mel_bins": num_bins,
        "d_model": width,
        "max_source_positions": len(state["encoder.embed_positions.weight"]),
        "max_target_positions": len(state["decoder.embed_positions.weight"]),
    }
    for side in _SIDES:
        options[f"{side}_layers"] = layers[side]
        options[f"{side}_attention_heads"] = num_heads or width // 64
        options[f"{side}_ffn_dim"] = len(state[f"{side}.layers.0.fc1.bias"])
    vocabulary = options["vocab_size"]
    if vocabulary < 50257:  # a small model of one's own has no room for the published ids
        options |= dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id"), 0)
    model = WhisperModel(WhisperConfig(**options))
    found = model.load_state_dict(state, strict=False)
    if found.missing_keys or found.unexpected_keys:
        wrong = [*found.missing_keys, *found.unexpected_keys]
        raise ValueError(
            f"{len(wrong)} weights of Whisper are missing or too many, first `{wrong[0]}`\n"
            "hint: is this a Whisper model, and are all its parts there?"
        )
    model.save_pretrained(target)
    # Window of 2 positions per frame at 100 frames a second.
    WhisperFeatureExtractor(
        feature_size=num_bins, chunk_length=max(1, options["max_source_positions"] // 50)
    ).save_pretrained(target)
