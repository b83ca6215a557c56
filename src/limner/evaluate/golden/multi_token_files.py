"""What a directory of multi_token's recorded cases holds: templates, placeholders, encoders, models.

Sizes, ids and names come from its files. A modality is known by name (`compositions/multi_token_builders.py`) or
described in toy_modalities.json; an encoder's directory is the one that its recorded case names.
"""

import functools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from limner.compositions.multi_token import Layout, load_backbone, placed, wire
from limner.compositions.multi_token_builders import PLACEHOLDERS, encoders
from limner.compositions.multi_token_checkpoint import EncoderOf, folder_parts, read_folder, read_multi_token
from limner.compositions.multi_token_legacy import LegacyRenderer, use_legacy_encoding
from limner.data.collate import Collator
from limner.document.document import Direction, Document
from limner.document.rows import Placeholder, row_document
from limner.modalities.base import Encoder, Features
from limner.modalities.encoders.precomputed import PrecomputedEncoder
from limner.model.multimodal import MultimodalLM
from limner.tokens.batch import Batch
from limner.tokens.template import Template
from limner.tokens.tokenizer import TextTokenizer

_LAYOUTS: Mapping[str, Layout] = {"vector_mlp": "vector", "patch_mlp": "patch"}

_MODEL_TYPES: Mapping[str, tuple[str, ...]] = {
    "vision_clip": ("clip_vision_model", "clip"),
    "audio_whisper": ("whisper",),
    "audio_clap": ("clap",),
    "video_xclip": ("xclip",),
    "document_gte": ("bert",),
}
"""What an encoder's config calls itself, by modality."""


class Files:
    """A directory of recorded cases, read as it is needed."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def has(self, name: str) -> bool:
        """Whether a file or folder is there."""
        return (self.directory / name).exists()

    def json(self, name: str) -> Any:
        """A JSON file's content."""
        return json.loads((self.directory / name).read_text())

    def tensors(self, name: str) -> dict[str, Tensor]:
        """A safetensors file's content."""
        return load_file(self.directory / name)

    @functools.cached_property
    def tokenizer(self) -> TextTokenizer:
        """That of the base model."""
        return TextTokenizer.from_pretrained(self.directory / "base")

    @functools.cached_property
    def pad_id(self) -> int:
        """The padding's id: the tokenizer's own, else its unknown one, as the original sets it."""
        own = self.tokenizer.tokenizer
        return own.pad_token_id if own.pad_token_id is not None else own.unk_token_id

    @functools.cached_property
    def templates(self) -> Mapping[str, str]:
        """Chat templates by name."""
        return self.json("tokenisation/encode_chat.json")["templates"]

    @functools.cached_property
    def toys(self) -> Mapping[str, Mapping[str, Any]]:
        """Modalities whose items are features already, by name."""
        return {toy["name"]: toy for toy in self.json("toy_modalities.json")} if self.has("toy_modalities.json") else {}

    def placeholder(self, described: Mapping[str, Any]) -> Placeholder:
        """A placeholder as a file describes it; how its items are read is known by its name."""
        name = described["name"]
        known = PLACEHOLDERS.get(name)
        return Placeholder(
            name,
            described["token"],
            described["data_key"],
            int(described["token_width"]),
            known.modality if known and name not in self.toys else name,
            known.kind if known and name not in self.toys else "array",
        )

    @functools.cached_property
    def builders(self) -> Mapping[str, list[Placeholder]]:
        """Placeholders of every builder that the files describe."""
        described = self.json("tokenisation/encode_chat.json")["builders"]
        return {name: [self.placeholder(one) for one in found] for name, found in described.items()}

    @functools.cached_property
    def placeholders(self) -> Mapping[str, Placeholder]:
        """Every placeholder by its modality's name; positions are those of any builder that has it."""
        described = {one.name: one for found in self.builders.values() for one in found}
        return {**PLACEHOLDERS, **described, **{name: self.placeholder(toy) for name, toy in self.toys.items()}}

    @functools.cached_property
    def encoders(self) -> Mapping[str, EncoderOf]:
        """How to make each modality's encoder."""
        known = {name: functools.partial(self._encoder, name) for name in _MODEL_TYPES}
        toys = {name: functools.partial(toy_encoder, toy) for name, toy in self.toys.items()}
        return {**known, **toys}

    @functools.cached_property
    def _encoder_folders(self) -> Mapping[tuple[str, str], str]:
        """The encoder that the recorded case of a builder names, by modality and layout."""
        found: dict[tuple[str, str], str] = {}
        cases = self.json("encoder_cases/cases.json")["cases"] if self.has("encoder_cases/cases.json") else []
        for case in cases:
            layout = "vector" if case["row_info"][0]["features"][1] == 1 else "patch"
            if case["modality_class_builder"].startswith("builder "):
                found[case["name"], layout] = encoder_folder(case["modality_class_builder"])
        return found

    def _encoder(self, name: str, layout: Layout) -> Encoder:
        """The encoder of a known modality: the one named by a case, else the only one of its kind."""
        folder = self._encoder_folders.get((name, layout))
        if folder is None:
            configs = sorted((self.directory / "encoders").glob("*/config.json"))
            types = {file.parent.name: json.loads(file.read_text())["model_type"] for file in configs}
            folder = next(f"encoders/{key}" for key, value in types.items() if value in _MODEL_TYPES[name])
        return encoders({name: str(self.directory / folder)})[name](layout)

    def checkpoint(self, name: str) -> MultimodalLM:
        """The model of a checkpoint folder, its adapter unmerged."""
        folder = read_folder(self.directory / name)
        parts = folder_parts(folder, placeholders=self.placeholders, encoders=self.encoders)
        return read_multi_token(self.directory / name, base=self.directory / "base", parts=parts)

    def toy_model(self, *, lora: Any = None) -> MultimodalLM:
        """The base model with new projectors of all toy modalities."""
        parts = [
            placed(
                self.placeholders[name],
                toy_encoder(toy, _LAYOUTS[toy["projector"]]),
                layout=_LAYOUTS[toy["projector"]],
                positions=int(toy["token_width"]),
            )
            for name, toy in self.toys.items()
        ]
        model = wire(
            load_backbone(self.directory / "base", lora=lora),
            tokenizer=self.tokenizer,
            template=Template(roles={}),
            parts=parts,
        )
        return use_legacy_encoding(model, placeholders=[part.placeholder for part in parts]).eval()

    def document(self, row: Mapping[str, Any], model: MultimodalLM) -> Document:
        """A row as a Document for a model; items lie in this directory."""
        return row_document(row, placeholders=placeholders_of(model), folder=self.directory)


def placeholders_of(model: MultimodalLM) -> tuple[Placeholder, ...]:
    """The placeholders of a model with the original's encoding."""
    assert isinstance(model.render, LegacyRenderer)
    return model.render.placeholders


def encoder_folder(described: str) -> str:
    """The folder in a case's words: "builder audio_clap, encoders/clap"."""
    found = re.search(r"encoders/[\w.-]*\w", described)
    assert found, f"the case names no encoder: {described}"
    return found[0]


def toy_encoder(toy: Mapping[str, Any], layout: Layout) -> Encoder:
    """The encoder of items that are features already."""
    rows = 1 if layout == "vector" else int(toy["token_width"])
    return PrecomputedEncoder(width=int(toy["in_dim"]), num_rows=rows)


def recorded_batch(
    model: MultimodalLM,
    documents: Sequence[Document],
    *,
    mask: Tensor,
    features: Mapping[str, Features] | None = None,
) -> Batch:
    """Documents one below another; what the recorded mask leaves out is padding. `features` stand in for encoders."""
    sequences = [model.render(document).cut(mask.shape[1]) for document in documents]
    batch = Collator(model)([[sequence] for sequence in sequences])
    numbers = torch.zeros_like(batch.documents)
    numbers[:, : mask.shape[1]] = mask.long()
    spans = dict(batch.spans)
    for modality, found in (features or {}).items():
        side = (modality, Direction.IN)
        spans[side] = replace(spans[side], values=found.values, encoded=True, value_lengths=found.lengths)
    return replace(batch, documents=numbers, spans=spans)


def wanted(case: str, only: str | None) -> bool:
    """Whether a case ("forward/single") is asked for by a glob over cases or sections."""
    from fnmatch import fnmatchcase

    return only is None or fnmatchcase(case, only) or fnmatchcase(case.split("/")[0], only)


def load_projectors(model: MultimodalLM, state: Mapping[str, Tensor], *, prefix: str = "") -> None:
    """Copy projectors named as in the original's files into a model."""
    own = projector_names(model)
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(state[prefix + name])


def projector_names(model: MultimodalLM) -> dict[str, torch.nn.Parameter]:
    """Projector parameters by the original's names, without its prefix."""
    found: dict[str, torch.nn.Parameter] = {}
    for placeholder in placeholders_of(model):
        projector = model.reader(placeholder.modality).input_projector
        for name, parameter in projector.named_parameters():
            found[f"{placeholder.name}_lmm_projector.{name.removeprefix('layers.')}"] = parameter
    return found


def adapter_names(model: MultimodalLM) -> dict[str, torch.nn.Parameter]:
    """LoRA parameters by the original's names, without its prefix."""
    parameters = model.backbone.language_model.named_parameters()
    return {
        name.replace(".default.weight", ".weight").removeprefix("model."): parameter
        for name, parameter in parameters
        if ".lora_" in name
    }


def without_prefix(state: Mapping[str, Tensor], *, head: str) -> dict[str, Tensor]:
    """Tensors below `head` ("init."), without the prefixes of the original's wrappers."""
    found = {}
    for key, value in state.items():
        if key.startswith(head):
            found[re.sub(r"^(base_model\.model\.)?(model\.)?", "", key[len(head) :])] = value
    return found


def documents_of(files: Files, rows: Sequence[Mapping[str, Any]], model: MultimodalLM) -> list[Document]:
    """Rows as Documents."""
    return [files.document(row, model) for row in rows]


def dataset_rows(files: Files, name: str) -> list[dict[str, Any]]:
    """Rows of a folder that `datasets` wrote, as they are stored."""
    import pyarrow as arrow

    rows: list[dict[str, Any]] = []
    for file in sorted((files.directory / name).glob("*.arrow")):
        with arrow.memory_map(str(file)) as stream:
            rows += arrow.ipc.open_stream(stream).read_all().to_pylist()
    return rows
