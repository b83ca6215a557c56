"""Folders of multi_token as its training leaves them: an adapter, projectors, a config.

    adapter_model.safetensors | .bin      LoRA of the language model, in peft's layout (adapter_config.json beside it)
    non_lora_trainables.safetensors | .bin   projectors; after full fine-tuning the language model too
    model.safetensors                     a checkpoint of full fine-tuning: everything in one
    config.json                           that of the language model, and `model_cls`, `modality_builder`, `modalities`

Everything a folder should hold is asked for by name and shape; nothing is left at random. `.bin` files are read with
weights-only loading. Widths and layouts are read off the weights, never off names.
"""

import json
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from limner.backbone.lora import LoraSpec, merge_lora
from limner.compositions.multi_token import Layout, Part, load_backbone, placed, wire
from limner.compositions.multi_token_builders import BUILDERS, builder
from limner.compositions.multi_token_legacy import LegacyRenderer, multi_token_legacy, use_legacy_encoding
from limner.config.call import Call, call
from limner.document.rows import Placeholder
from limner.modalities.base import Encoder
from limner.modalities.position_projectors import PatchProjector
from limner.model.multimodal import MultimodalLM
from limner.tokens.template import Template
from limner.tokens.tokenizer import TextTokenizer

logger = logging.getLogger(__name__)

_PROJECTOR = re.compile(r"^(?P<name>.+)_lmm_projector\.(?P<key>.+)$")
_PREFIXES = ("base_model.model.model.", "base_model.model.", "model.")


@dataclass(frozen=True)
class ProjectorShape:
    """What a projector's weights say: layout, positions (0 where the encoder decides), widths."""

    layout: Layout
    num_positions: int
    width_in: int
    width_out: int


EncoderOf = Callable[[Layout], Encoder]


@dataclass(frozen=True)
class Folder:
    """A folder's contents, prefixes taken off.

    `projectors` are by modality name, `language_model` is what full fine-tuning wrote, `adapter` None where there is
    none.
    """

    path: Path
    config: Mapping[str, Any]
    projectors: Mapping[str, Mapping[str, Tensor]]
    language_model: Mapping[str, Tensor]
    adapter: Mapping[str, Tensor] | None
    lora: LoraSpec | None

    @property
    def modalities(self) -> list[str]:
        """Names, in the order of the original's builder."""
        return list(self.config["modalities"])

    def shape(self, name: str) -> ProjectorShape:
        """Layout and sizes of a projector. Raises ValueError where its keys are none of the two layouts."""
        weights = self.projectors[name]
        positions = {int(key.split(".")[1]) for key in weights if key.startswith("mlps.")}
        first = weights.get("mlps.0.0.weight" if positions else "0.weight")
        if first is None or (positions and positions != set(range(len(positions)))):
            raise ValueError(
                f"`{self.path.name}` has a projector `{name}` with the keys {', '.join(sorted(weights)[:3])} ...; "
                "expected mlps.N.0.weight or 0.weight\nhint: copy the whole folder again"
            )
        layout: Layout = "vector" if positions else "patch"
        return ProjectorShape(layout, len(positions), first.shape[1], first.shape[0])


def read_folder(path: Path) -> Folder:
    """Read a folder. Raises ValueError for what is no such folder, and for projectors that are missing or surplus."""
    path = Path(path)
    config_file = path / "config.json"
    if not config_file.is_file():
        raise ValueError(f"`{path}` has no config.json\nhint: give the folder that the training wrote")
    config = json.loads(config_file.read_text())
    if not isinstance(config.get("modalities"), list):
        raise ValueError(f"`{config_file}` names no `modalities`\nhint: this is no folder of multi_token")
    state = _non_lora(path)
    projectors: dict[str, dict[str, Tensor]] = {}
    language_model: dict[str, Tensor] = {}
    for key, value in state.items():
        match = _PROJECTOR.match(_without_prefix(key))
        if match:
            projectors.setdefault(match["name"], {})[match["key"]] = value
        elif ".lora_" not in key:
            language_model[key.removeprefix("base_model.model.")] = value
    _same_names(path, "projectors", found=set(projectors), expected=set(config["modalities"]))
    adapter = _tensors(path, "adapter_model")
    return Folder(path, config, projectors, language_model, adapter, _lora_spec(path) if adapter is not None else None)


def read_multi_token(path: Path, *, base: Path, parts: Sequence[Part]) -> MultimodalLM:
    """The model of a folder, its adapter unmerged. `base` is the language model's own directory.

    Raises ValueError where the adapter is missing: `read_projectors_only` does without it.
    """
    folder = read_folder(path)
    if folder.adapter is None and not folder.language_model:
        raise ValueError(
            f"`{path}` has neither adapter_model.safetensors nor .bin: its language model is not whole\n"
            "hint: fetch the adapter, or read the projectors alone with read_projectors_only"
        )
    return _assemble(folder, base=base, parts=parts)


def read_projectors_only(path: Path, *, base: Path, parts: Sequence[Part]) -> MultimodalLM:
    """The projectors of a folder on an untouched language model; says in the log what is left out."""
    folder = read_folder(path)
    missing = "its adapter is lost" if folder.adapter is None else "its adapter is left out"
    logger.warning("%s: projectors only, %s; answers are not those of the trained model", path, missing)
    return _assemble(
        Folder(folder.path, folder.config, folder.projectors, {}, None, None),
        base=base,
        parts=parts,
    )


def merged(model: MultimodalLM) -> MultimodalLM:
    """Fold the adapter into the language model, in place. Returns the same model."""
    merge_lora(model.backbone.language_model)
    return model


def folder_parts(
    folder: Folder, *, placeholders: Mapping[str, Placeholder], encoders: Mapping[str, EncoderOf]
) -> list[Part]:
    """The parts that a folder's projectors were trained with, by the names in its config.

    `encoders` build the encoder of a modality, told the projector's layout. The number of
    positions is the projector's, or the encoder's rows. Raises ValueError for a modality that is unknown here.
    """
    parts = []
    for name in folder.modalities:
        if name not in placeholders or name not in encoders:
            raise ValueError(
                f"`{folder.path.name}` has the modality `{name}`; known are {', '.join(placeholders)}\n"
                "hint: pass its placeholder and encoder"
            )
        shape = folder.shape(name)
        encoder = encoders[name](shape.layout)
        parts.append(placed(placeholders[name], encoder, layout=shape.layout, positions=shape.num_positions))
    return parts


def describe_multi_token(folder: Folder, *, base: str, weights: Mapping[str, str] | None = None) -> Call:
    """The call that builds a folder's model without its weights: what a checkpoint of ours keeps. `fill` loads them.

    `base` and `weights` (of encoders, by the original's names; published ones without) are zoo names or directories.
    Raises ValueError for a modality that no builder has.
    """
    parts = []
    for name in folder.modalities:
        shape = folder.shape(name)
        found = [key for key, recipe in BUILDERS.items() if (recipe.name, recipe.layout) == (name, shape.layout)]
        if not found:
            raise ValueError(
                f"`{folder.path.name}` has the modality `{name}`, which no builder has: {', '.join(BUILDERS)}\n"
                "hint: build its parts and use read_multi_token"
            )
        given = (weights or {}).get(name, "")
        parts.append(call(builder, name=found[0], weights=given, positions=shape.num_positions))
    spec = None
    if folder.lora is not None:
        lora = folder.lora
        spec = call(LoraSpec, rank=lora.rank, alpha=lora.alpha, targets=tuple(lora.targets))
    return call(multi_token_legacy, language_model=base, parts=parts, lora=spec)


def fill(model: MultimodalLM, folder: Folder) -> MultimodalLM:
    """Load all that a folder holds into a model that was built for it. Raises ValueError where anything differs."""
    assert isinstance(model.render, LegacyRenderer)
    placeholders = {placeholder.name: placeholder for placeholder in model.render.placeholders}
    _same_names(folder.path, "modalities", found=set(folder.modalities), expected=set(placeholders))
    for name, placeholder in placeholders.items():
        target = model.reader(placeholder.modality).input_projector
        prefix = "layers." if isinstance(target, PatchProjector) else ""
        _load(
            dict(target.state_dict()),
            {prefix + key: value for key, value in folder.projectors[name].items()},
            source=f"{folder.path.name}: projector of {name}",
        )
    language_model = model.backbone.language_model
    if folder.adapter is not None:
        own = {name: value for name, value in language_model.state_dict().items() if ".lora_" in name}
        _load(own, _adapter_names(folder.adapter), source=f"{folder.path.name}: adapter")
    if folder.language_model:
        # Shared matrices once: a file may hold them under one name or under both.
        own = {name: value for name, value in language_model.named_parameters() if ".lora_" not in name}
        known = language_model.state_dict()
        given = {key: value for key, value in folder.language_model.items() if key in own or key not in known}
        _load(own, given, source=f"{folder.path.name}: language model")
    return model.eval()


def _assemble(folder: Folder, *, base: Path, parts: Sequence[Part]) -> MultimodalLM:
    model = wire(
        load_backbone(base, lora=folder.lora),
        tokenizer=TextTokenizer.from_pretrained(base),
        template=Template(roles={}),
        parts=parts,
        external={"backbone.language_model": str(folder.config.get("_name_or_path", base.name))},
    )
    return fill(use_legacy_encoding(model, placeholders=[part.placeholder for part in parts]), folder)


def _load(own: Mapping[str, Tensor], given: Mapping[str, Tensor], *, source: str) -> None:
    """Copy all of `given` into `own`, or nothing. Raises ValueError that names the first tensor that does not fit."""
    for title, names in (
        ("lacks", set(own) - set(given)),
        ("holds unknown", set(given) - set(own)),
        ("has another shape for", {n for n in set(own) & set(given) if own[n].shape != given[n].shape}),
    ):
        if names:
            first = sorted(names)[0]
            shapes = (
                f" {tuple(given[first].shape)}, expected {tuple(own[first].shape)}" if title.startswith("has") else ""
            )
            raise ValueError(
                f"{source} {title} {len(names)} tensors, first `{first}`{shapes}\n"
                "hint: the folder belongs to another language model, encoder or builder"
            )
    with torch.no_grad():
        for name, value in given.items():
            own[name].copy_(value)


def _non_lora(path: Path) -> dict[str, Tensor]:
    """Everything that is trained and no adapter: the projectors' file, or a checkpoint that holds all."""
    whole = path / "model.safetensors"
    # A whole model may be written empty where the projectors' file is the real one.
    state = load_file(whole) if whole.is_file() else {}
    return state or _tensors(path, "non_lora_trainables") or {}


def _tensors(path: Path, stem: str) -> dict[str, Tensor] | None:
    if (path / f"{stem}.safetensors").is_file():
        return load_file(path / f"{stem}.safetensors")
    file = path / f"{stem}.bin"
    if not file.is_file():
        return None
    found = torch.load(file, map_location="cpu", weights_only=True)
    if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
        raise ValueError(f"`{file}` is no dictionary of tensors\nhint: fetch it again")
    return found


def _lora_spec(path: Path) -> LoraSpec:
    file = path / "adapter_config.json"
    if not file.is_file():
        raise ValueError(f"`{path}` has an adapter without adapter_config.json\nhint: its rank and scale stand there")
    config = json.loads(file.read_text())
    for key, plain in (
        ("bias", ("none",)),
        ("modules_to_save", (None, [])),
        ("rank_pattern", (None, {})),
        ("alpha_pattern", (None, {})),
        ("use_dora", (None, False)),
        ("use_rslora", (None, False)),
        ("fan_in_fan_out", (None, False)),
    ):
        if config.get(key, plain[0]) not in plain:
            raise ValueError(f"`{file}` has {key} = {config[key]}; expected {plain[0]}\nhint: merge it with peft first")
    targets = config["target_modules"]
    return LoraSpec(rank=int(config["r"]), alpha=float(config["lora_alpha"]), targets=tuple(sorted(targets)))


def _adapter_names(adapter: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """peft's saved names -> names inside the language model."""
    return {
        re.sub(
            r"\.(lora_[AB])\.(?:default\.)?weight$", r".\1.default.weight", key.removeprefix("base_model.model.")
        ): value
        for key, value in adapter.items()
    }


def _without_prefix(key: str) -> str:
    for prefix in _PREFIXES:
        if key.startswith(prefix):
            return key[len(prefix) :]
    return key


def _same_names(path: Path, what: str, *, found: set[str], expected: set[str]) -> None:
    if found != expected:
        raise ValueError(
            f"`{path.name}` has {what} {', '.join(sorted(found)) or 'none'}; expected {', '.join(sorted(expected))}\n"
            "hint: all modalities that config.json names, and no others"
        )
