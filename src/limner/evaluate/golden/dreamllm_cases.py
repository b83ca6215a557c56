"""What a directory of recorded DreamLLM cases holds: one json object, tensors by section, checkpoints, pictures.

cases/cases.json             sections; each names its safetensors file
checkpoint/ ...              the checkpoints that the sections name, beside their architecture folders
images/, cases/pixels...     pictures as files and as the pixels that the original made of them
"""

import copy
import json
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from limner.compositions.dreamllm_checkpoint import read_dreamllm
from limner.compositions.dreamllm_rows import SampleBuilder
from limner.compositions.dreamllm_settings import Settings, read_settings
from limner.compositions.sentencepiece_text import SentencePieceText
from limner.model.multimodal import MultimodalLM

Case = Mapping[str, Any]


class Tensors:
    """The tensors of a section by name, read as they are asked for."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = safe_open(str(path), framework="pt")
        self.names = frozenset(self.file.keys())

    def __contains__(self, name: str) -> bool:
        return name in self.names

    def __getitem__(self, name: str) -> Tensor:
        """Raises ValueError for a tensor that the file has not."""
        if name not in self.names:
            raise ValueError(f"`{self.path}` has no tensor `{name}`\nhint: the directory is incomplete")
        return self.file.get_tensor(name)

    def below(self, prefix: str) -> Iterator[tuple[str, Tensor]]:
        """Name behind the prefix, and tensor, of all whose name begins with it."""
        for name in sorted(self.names):
            if name.startswith(prefix):
                yield name.removeprefix(prefix), self[name]


class Checkpoint:
    """One of a directory's checkpoints: what its files say, its tokenizers and its model."""

    def __init__(self, path: Path, *, parts: Mapping[str, Path] | None = None) -> None:
        self.path = path
        self.parts = parts
        self.settings: Settings = read_settings(path, parts=parts)
        self._tokenizers: dict[bool | None, SentencePieceText] = {}

    def tokenizer(self, *, legacy: bool | None = None) -> SentencePieceText:
        """The tokenizer with the switch as wanted, or as the files say."""
        if legacy not in self._tokenizers:
            self._tokenizers[legacy] = SentencePieceText.from_directory(self.path, legacy=legacy)
        return self._tokenizers[legacy]

    @cached_property
    def model(self) -> MultimodalLM:
        """The model. Cases that change it take `fresh_model`."""
        return read_dreamllm(self.path, parts=self.parts)

    def fresh_model(self) -> MultimodalLM:
        """A copy of the model, for cases that train."""
        return copy.deepcopy(self.model)

    def builder(self, *, legacy: bool | None = None, max_length: int | None = None) -> SampleBuilder:
        """What makes training samples of records."""
        return SampleBuilder(
            self.tokenizer(legacy=legacy),
            num_patches=num_patches(self.model),
            num_queries=self.settings.num_queries,
            max_length=max_length or self.settings.model_max_length,
        )


class Cases:
    """A directory and what of it is wanted (`only`: a glob over "section/case" or over sections)."""

    def __init__(self, directory: Path, *, only: str | None = None) -> None:
        self.directory = directory
        self.only = only
        self.sections: dict[str, Any] = json.loads((directory / "cases" / "cases.json").read_text(encoding="utf-8"))
        self._tensors: dict[str, Tensors] = {}

    def wants(self, case: str) -> bool:
        """Whether "section/name" is to be run."""
        return self.only is None or fnmatchcase(case, self.only) or fnmatchcase(case.split("/")[0], self.only)

    def listed(self, section: str) -> Iterator[tuple[str, Case]]:
        """Name ("section/name") and case of each wanted case of a section; none where the section is missing."""
        for case in self.section(section).get("list", ()):
            name = f"{section}/{case['name']}"
            if self.wants(name):
                yield name, case

    def section(self, name: str) -> dict[str, Any]:
        """A section that is an object; empty where it is missing."""
        return self.sections.get(name, {})

    def tensors(self, section: str) -> Tensors:
        """The tensors of a section."""
        file = self.sections[section]["file"]
        if file not in self._tensors:
            self._tensors[file] = Tensors(self.directory / file)
        return self._tensors[file]

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """The checkpoint that the cases were recorded with."""
        return Checkpoint(self.directory / self.sections["model"].get("checkpoint", "checkpoint"))

    def pixels(self, names: Sequence[str], *, view: str) -> Tensor:
        """Stacked pixels of pictures in a view ("clip", "sd") [items 3 h w]; of no pictures, an empty stack."""
        tensors = self.tensors("images")
        stack = [tensors[f"{view}.{name}"] for name in names]
        return torch.stack(stack) if stack else torch.zeros(0, 3, 1, 1)


def num_patches(model: MultimodalLM) -> int:
    """Slots of a picture that is read."""
    reader = model.reader("image")
    encoder: Any = reader.encoder
    return reader.input_projector.measure(encoder.num_patches)
