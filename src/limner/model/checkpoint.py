"""Checkpoints: a directory that rebuilds the model without the run's config.

    limner.json                  description (recorded calls), vocabulary, external parts, checksums, versions
    backbone.safetensors         added rows, LoRA; the language model itself unless it is external
    <modality>.<part>.safetensors

A part loaded from published weights ("external": name in the zoo and fingerprint of its weights) is not written again
while it is as published. Once a stage trains it, it is the model's own (`own`): checkpoints hold it like any other
part, and what loads one of them is as trained, whatever has become of the published weights. Writes go to a temporary
directory that is renamed at the end: a crash at any byte leaves the last good checkpoint.
"""

import hashlib
import importlib.metadata
import json
import logging
import shutil
from collections.abc import Collection, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from limner.config.call import build
from limner.config.serialize import ALLOWED_PREFIXES, from_json
from limner.model.multimodal import MultimodalLM

logger = logging.getLogger(__name__)

INDEX = "limner.json"
FORMAT = 1
_VERSIONED = ("torch", "transformers", "diffusers", "peft", "safetensors")


def component_of(name: str) -> str:
    """The component a parameter belongs to: `backbone`, `image.queries`, `image.decoder.transformer`, ..."""
    parts = name.split(".")
    if parts[0] != "modalities":
        return parts[0]
    return ".".join(parts[1:4] if parts[2] == "decoder" else parts[1:3])


def owned_state(model: MultimodalLM) -> dict[str, Tensor]:
    """Everything a checkpoint must hold: the state less the published weights of external parts."""
    return {
        name: value
        for name, value in model.state_dict().items()
        if not any(_is_published(name, prefix) for prefix in model.external)
    }


def own(model: MultimodalLM, names: Collection[str]) -> None:
    """Make external parts to which tensors `names` belong the model's own: these are trained, or were.

    Adapters stand beside a part's own weights: to train them leaves it external.
    """
    for prefix in [prefix for prefix in model.external if any(_is_published(name, prefix) for name in names)]:
        source = model.external.pop(prefix)
        logger.info("checkpoints hold %s, which is no longer what %s published", prefix, source)


def _is_published(name: str, prefix: str) -> bool:
    """Whether a tensor is one that the external part `prefix` was published with."""
    return name.startswith(prefix + ".") and "lora_" not in name


def save_checkpoint(
    model: MultimodalLM,
    path: Path,
    *,
    description: Any,
    meta: Mapping[str, Any] | None = None,
    dtype: torch.dtype | None = None,
    state: Mapping[str, Tensor] | None = None,
) -> None:
    """Write `path`, replacing what is there. `description` is the JSON of the call that builds the model.

    `dtype` narrows floating-point tensors (float16 for shipping). `state` is what `owned_state` would be, where the
    model holds but shards of it.
    """
    components: dict[str, dict[str, Tensor]] = {}
    for name, value in (owned_state(model) if state is None else state).items():
        narrow = dtype is not None and value.is_floating_point()
        tensor = value.detach().to("cpu", dtype if narrow else value.dtype).contiguous().clone()
        components.setdefault(component_of(name), {})[name] = tensor
    temporary = path.with_name(f".{path.name}.writing")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    for component, state in components.items():
        file = temporary / f"{component}.safetensors"
        save_file(state, file)
        file.chmod(0o644)  # it is written private; what is saved is an ordinary file
    index = {
        "format": FORMAT,
        "model": description,
        "vocabulary": model.vocabulary.to_json(),
        "external": dict(model.external),
        "components": {component: _sha256(temporary / f"{component}.safetensors") for component in components},
        "versions": {name: importlib.metadata.version(name) for name in _VERSIONED},
        "meta": dict(meta or {}),
    }
    (temporary / INDEX).write_text(json.dumps(index, indent=1, sort_keys=True) + "\n")
    replaced = _replaced(path)
    shutil.rmtree(replaced, ignore_errors=True)
    if path.exists():
        path.replace(replaced)
    temporary.replace(path)
    shutil.rmtree(replaced, ignore_errors=True)


def read_index(path: Path) -> dict[str, Any]:
    """The index of a checkpoint. Raises ValueError when `path` is none."""
    file = _last_good(Path(path)) / INDEX
    if not file.is_file():
        raise ValueError(f"`{path}` is no checkpoint: it has no {INDEX}\nhint: give the directory itself")
    try:
        index = json.loads(file.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"`{file}` is damaged ({error})\nhint: fetch the checkpoint again") from error
    if index.get("format") != FORMAT:
        raise ValueError(
            f"`{file}` has the format {index.get('format')}; this version reads {FORMAT}\n"
            "hint: use the limner version that wrote it"
        )
    return index


def read_components(path: Path, *, index: Mapping[str, Any], pattern: str = "*") -> dict[str, Tensor]:
    """Tensors of the components that match, checksums verified. Raises ValueError for missing or damaged files."""
    state: dict[str, Tensor] = {}
    path = _last_good(Path(path))
    for component, checksum in index["components"].items():
        if not fnmatchcase(component, pattern):
            continue
        file = path / f"{component}.safetensors"
        if not file.is_file():
            raise ValueError(f"`{path}` lacks {file.name}\nhint: copy the whole checkpoint directory")
        if _sha256(file) != checksum:
            raise ValueError(f"`{file}` does not match its checksum\nhint: fetch the checkpoint again")
        try:
            state |= load_file(file)
        except SafetensorError as error:
            raise ValueError(f"`{file}` is damaged ({error})\nhint: fetch it again") from error
    return state


def load_state(model: MultimodalLM, state: Mapping[str, Tensor], *, expected: set[str], source: str) -> None:
    """Load tensors, or none of them: raises ValueError that names what is missing, surplus or mis-shaped."""
    own = dict(model.state_dict())
    for title, names in (
        ("lacks", expected - set(state)),
        ("holds unknown", set(state) - set(own)),
        ("has other shapes for", {n for n in set(state) & set(own) if state[n].shape != own[n].shape}),
    ):
        if names:
            shown = ", ".join(sorted(names)[:4]) + (" ..." if len(names) > 4 else "")
            raise ValueError(
                f"`{source}` {title} {len(names)} tensors: {shown}\n"
                "hint: the checkpoint belongs to another model description"
            )
    with torch.no_grad():
        for name, value in state.items():
            own[name].copy_(value)


def load_checkpoint(path: Path | str, *, modules: Sequence[str] = ()) -> MultimodalLM:
    """Rebuild a model from its directory, in evaluation mode.

    A description names classes and functions of this library, and of `modules`: whose code runs is for the caller to
    say, not for the file.
    """
    index = read_index(Path(path))
    allowed = (*ALLOWED_PREFIXES, *(f"{module}." for module in modules))
    model = build(from_json(index["model"], allowed_prefixes=allowed))
    state = read_components(Path(path), index=index)
    own(model, state)
    if model.vocabulary.to_json() != index["vocabulary"]:
        raise ValueError(
            f"`{path}` was written with another vocabulary than its description gives\n"
            "hint: the published language model it was trained on has changed"
        )
    for prefix, part in index["external"].items():
        if model.external.get(prefix) != part:
            # The same model from another source (a quantised copy, say): close, but not what it was trained on.
            logger.warning("%s was trained on %s and runs on %s", path, part, model.external.get(prefix))
    load_state(model, state, expected=set(owned_state(model)), source=str(path))
    return model.eval()


def _replaced(path: Path) -> Path:
    return path.with_name(f".{path.name}.replaced")


def _last_good(path: Path) -> Path:
    """`path`, or what it replaces when a crash came between the two renames."""
    if path.exists() or not _replaced(path).exists():
        return path
    return _replaced(path)


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
