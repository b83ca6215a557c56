"""Fingerprints of frozen parts: what their features depend on besides the item.

A part with a published `signature` (name and digest of its weights, transform in words) is identified by that. Any
other is identified by its weights, byte by byte, and its description: the classes of its modules, their plain public
attributes (sizes, strides, the fields of a processor), and the source text of its own classes. So a trained part of
ours is covered like a published one, and a changed weight, size or line of `preprocess` is another part.

Not in it, on purpose: the device and the versions of libraries. They move last bits, not meaning.
"""

import dataclasses
import functools
import hashlib
import inspect
from collections.abc import Mapping
from enum import Enum
from typing import Any

import torch
from torch import Tensor, nn

FORMAT = "1"
"""Part of every fingerprint: another number makes every cached feature a stranger."""


def weights_stamp(part: nn.Module) -> tuple[tuple[int, int, torch.dtype], ...]:
    """Changes when a weight or buffer of `part` is replaced or written to; costs no look at the values."""
    tensors = [*part.parameters(), *part.buffers()]
    return tuple((id(tensor), tensor._version, tensor.dtype) for tensor in tensors)


def fingerprint(part: nn.Module, *, transform: nn.Module) -> str:
    """Hex digest of `part` (what computes) and `transform` (whose `preprocess` feeds it; often the part itself)."""
    digest = hashlib.sha256(FORMAT.encode())
    for line in description(part, transform=transform):
        digest.update(line.encode() + b"\n")
    if not getattr(part, "signature", ""):
        for name, tensor in [*part.named_parameters(), *part.named_buffers()]:
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(_raw(tensor))
    return digest.hexdigest()[:32]


def description(part: nn.Module, *, transform: nn.Module) -> list[str]:
    """Everything but the weights, a line each: for the fingerprint, and for people who wonder what a folder holds."""
    lines = [f"transform {_name(type(transform))}", *_sources(type(transform))]
    if transform is not part:
        lines += [*_attributes("transform", transform), *_sources(type(part))]
    signature = getattr(part, "signature", "")
    if signature:
        return [*lines, f"signature {_name(type(part))} {signature} {_dtypes(part)}"]
    for path, module in part.named_modules():
        lines += [f"module {path} {_name(type(module))}", *_attributes(path, module)]
        if hasattr(module, "preprocess"):  # what `transform` may hand its work to
            lines += _sources(type(module))
    return lines


def _raw(tensor: Tensor) -> memoryview:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data


def _dtypes(part: nn.Module) -> str:
    return " ".join(sorted({str(parameter.dtype) for parameter in part.parameters()}))


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _sources(kind: type) -> list[str]:
    """Digests of the source texts of a class and its bases, as far as they are ours or the user's."""
    lines = []
    for base in kind.__mro__:
        if base.__module__.split(".")[0] in ("builtins", "abc", "torch", "typing"):
            continue
        lines.append(f"source {_name(base)} {_source_digest(base)}")
    return lines


@functools.cache  # a network has hundreds of modules whose configs share a class, and finding its text parses a file
def _source_digest(kind: type) -> str:
    try:
        text = inspect.getsource(kind)
    except (OSError, TypeError):  # made in a shell, or installed without sources
        text = ""
    return hashlib.sha256(text.encode()).hexdigest()


def _attributes(path: str, module: nn.Module) -> list[str]:
    """Plain public attributes of a module, sorted by name."""
    return [
        f"attribute {path}.{name} = {text}"
        for name, value in sorted(vars(module).items())
        if not name.startswith("_") and name != "training" and (text := _plain(value)) is not None
    ]


def _plain(value: Any) -> str | None:
    """The value as text that is the same in every process; None for what is no plain value."""
    if value is None or isinstance(value, bool | int | float | str | bytes | torch.dtype | Enum):
        return repr(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return f"{_sources(type(value))} {_plain(fields)}"
    if isinstance(value, Mapping):
        return str([(str(key), _plain(item)) for key, item in sorted(value.items(), key=lambda pair: str(pair[0]))])
    if isinstance(value, list | tuple):
        return str([_plain(item) for item in value])
    return None
