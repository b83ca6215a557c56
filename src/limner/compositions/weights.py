"""Weights of imported originals: tensor files in, named tensors out, refused by name where they do not fit.

Owns the file forms (one safetensors file, shards, one pickle, shards of pickles) and the refusals. Pickles are read
with `weights_only=True`: they hold tensors or are refused.
"""

import json
import pickle
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

FORMS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
"""Where a language model's weights may lie; the first that is there is read."""


def read_tensors(directory: Path) -> tuple[dict[str, Tensor], Path]:
    """All tensors of a directory in the transformers layout, and the file that was read (an index, for shards).

    Raises ValueError for a directory without weights, a shard that is missing or lacks what the index promises.
    """
    file = _weights_file(directory)
    if file.suffix != ".json":
        return read_tensor_file(file), file
    places: dict[str, str] = json.loads(file.read_text(encoding="utf-8"))["weight_map"]
    state: dict[str, Tensor] = {}
    for name in sorted(set(places.values())):
        shard = directory / name
        if not shard.is_file():
            raise ValueError(f"`{directory}` lacks the shard `{name}`, which {file.name} names\nhint: copy it too")
        found = read_tensor_file(shard)
        if absent := [key for key, place in places.items() if place == name and key not in found]:
            raise ValueError(
                f"`{shard}` lacks {_listed(absent)}\nhint: {file.name} says they are in it; fetch it again"
            )
        state |= found
    return state, file


def tensor_ending(directory: Path, ending: str) -> Tensor | None:
    """A tensor of such a directory whose name ends so, None where there is none; others are not read.

    Raises ValueError as `read_tensors` does.
    """
    file = _weights_file(directory)
    if file.suffix == ".json":
        places: dict[str, str] = json.loads(file.read_text(encoding="utf-8"))["weight_map"]
        shard = next((place for name, place in places.items() if name.endswith(ending)), None)
        if shard is None:
            return None
        file = directory / shard
    if file.suffix != ".safetensors":
        return next((value for name, value in read_tensor_file(file).items() if name.endswith(ending)), None)
    with _opened(file) as tensors:
        found = next((name for name in tensors.keys() if name.endswith(ending)), None)  # noqa: SIM118 - no mapping
        return None if found is None else tensors.get_tensor(found)


def share_modes(folder: Path, *, like: str) -> None:
    """Give the files of a folder the permissions of one of them: some writers leave theirs private."""
    mode = (folder / like).stat().st_mode
    for file in folder.iterdir():
        file.chmod(mode)


def _weights_file(directory: Path) -> Path:
    file = next((directory / name for name in FORMS if (directory / name).is_file()), None)
    if file is None:
        raise ValueError(f"`{directory}` has no weights: none of {', '.join(FORMS)}\nhint: copy the whole directory")
    return file


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    try:
        with safe_open(file, framework="pt") as tensors:
            yield tensors
    except (SafetensorError, FileNotFoundError) as error:
        raise ValueError(f"`{file}` is missing or damaged ({error})\nhint: fetch it again") from error


def read_tensor_file(file: Path) -> dict[str, Tensor]:
    """The tensors of one safetensors or pickle file. Raises ValueError for a damaged file or other contents."""
    if file.suffix == ".safetensors":
        try:
            return load_file(file)
        except SafetensorError as error:
            raise ValueError(f"`{file}` is damaged ({error})\nhint: fetch it again") from error
    found = read_pickle(file)
    if not isinstance(found, Mapping) or not all(isinstance(value, Tensor) for value in found.values()):
        raise ValueError(f"`{file}` holds a {type(found).__name__}, not tensors by name\nhint: it is no weight file")
    return dict(found)


def read_pickle(file: Path) -> object:
    """What a torch file holds, tensors and plain containers only. Raises ValueError for anything else."""
    try:
        return torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except (pickle.UnpicklingError, RuntimeError, EOFError, zipfile.BadZipFile) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(
            f"`{file}` is damaged or holds more than tensors ({reason})\nhint: fetch it again; pickled code is not run"
        ) from error


def check_tensors(found: Mapping[str, Tensor], *, expected: Mapping[str, torch.Size], source: Path) -> None:
    """Raise ValueError that names what of `expected` is missing, surplus or mis-shaped in `source`."""
    if absent := [name for name in expected if name not in found]:
        raise ValueError(f"`{source}` lacks {_listed(absent)}\nhint: it is incomplete, or config.json another's")
    if surplus := [name for name in found if name not in expected]:
        raise ValueError(f"`{source}` holds unknown {_listed(surplus)}\nhint: config.json describes a smaller model")
    other = [name for name in found if found[name].shape != expected[name]]
    if other:
        name = other[0]
        got, wanted = tuple(found[name].shape), tuple(expected[name])
        more = f" ({len(other)} such tensors)" if len(other) > 1 else ""
        raise ValueError(f"`{source}`: {name} has the shape {got}; expected {wanted}{more}\nhint: see config.json")


def _listed(names: list[str]) -> str:
    shown = ", ".join(sorted(names)[:4]) + (" ..." if len(names) > 4 else "")
    return f"{len(names)} tensor{'s' if len(names) > 1 else ''}: {shown}"
