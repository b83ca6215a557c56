"""What a directory of recorded LaVIT cases holds, and how what was found is compared with it.

sizes.json              numbers of heads, and what the checkpoint's own files say too
cases/cases.json        cases in groups; each names inputs, injected noise, outputs and how near they must be
cases/<name>.safetensors, cases/png/..., inputs/..., checkpoint/...

Every listed output, value and picture is one check. What a case lists and nobody computes is a failed check.
"""

import json
import math
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy
import PIL.Image
import torch
from safetensors.torch import load_file
from torch import Tensor

from limner.compositions.lavit import Heads, Lavit, read_lavit
from limner.evaluate.golden.check import Check, close, exact

Found = Mapping[str, Any]
"""What was computed: tensors under the names of outputs, plain values under those of `expected_json`."""


class Case:
    """One entry of the list, with its tensors."""

    def __init__(self, cases: "Cases", entry: Mapping[str, Any]) -> None:
        self.cases = cases
        self.entry = entry
        self.inputs: Mapping[str, Any] = entry["inputs"]
        self.outputs: Mapping[str, Mapping[str, Any]] = entry["outputs"]
        self.expected: Mapping[str, Any] = entry["expected_json"]
        self.settings: Mapping[str, Any] = self.inputs.get("settings", {})

    @property
    def lavit(self) -> Lavit:
        """The checkpoint."""
        return self.cases.lavit

    @cached_property
    def name(self) -> str:
        """ "section/name"."""
        return f"{section_of(self.entry)}/{self.entry['name']}"

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """Inputs, noise and outputs by name."""
        file = self.entry["file"]
        return load_file(self.cases.directory / file) if file else {}

    def input(self, name: str) -> Tensor:
        """An input: a tensor of this case, or one of another case, or rows of it."""
        given = self.inputs[name]
        if "from_case" not in given:
            return self.tensors[given["tensor"]]
        tensor = self.cases.named(given["from_case"]).tensors[given["tensor"]]
        return tensor[given["rows"]] if "rows" in given else tensor

    def numbered(self, prefix: str) -> list[Tensor]:
        """Tensors "prefix0", "prefix1", ... in that order."""
        found = {name: tensor for name, tensor in self.tensors.items() if name.startswith(prefix)}
        return [found[name] for name in sorted(found, key=lambda name: int(name.removeprefix(prefix)))]

    @property
    def gumbel(self) -> list[Tensor]:
        """Noise of the selector, call by call."""
        return self.numbered("noise.gumbel.")

    def exponential(self, *, num_ids: int) -> list[Tensor]:
        """Exp(1) numbers of every step over all ids. Ids that cannot be drawn have the number 1."""
        steps = []
        for drawn in self.numbered("noise.sample."):
            spread = torch.ones(len(drawn), num_ids)
            spread[:, self.tensors["index.candidate_ids"]] = drawn
            steps.append(spread)
        return steps

    def compared(self, found: Found) -> Iterator[Check]:
        """Every output, expected value and picture of the case against what was found."""
        for name, rule in self.outputs.items():
            yield _compared(f"{self.name}/{name}", found.get(name), self.tensors[name], rule=rule)
        for name, expected in self.expected.items():
            case = f"{self.name}/{name}"
            yield exact(case, found[name], expected) if name in found else _absent(case)
        for number, file in enumerate(self.entry.get("png", ())):
            case, pixels = f"{self.name}/png_{number}", found.get("out.image_u8")
            if pixels is None:
                yield _absent(case)
                continue
            with PIL.Image.open(self.cases.directory / file) as png:
                stored = torch.from_numpy(numpy.array(png.convert("RGB")))
            yield _compared(case, pixels[number], stored, rule=self.outputs["out.image_u8"])


class Cases:
    """A directory and what of it is wanted (`only`: a glob over "section/case" or over sections)."""

    def __init__(self, directory: Path, *, only: str | None = None) -> None:
        self.directory = directory
        self.only = only
        entries = json.loads((directory / "cases" / "cases.json").read_text(encoding="utf-8"))["cases"]
        self._cases = {entry["name"]: Case(self, entry) for entry in entries}
        self.sizes: Mapping[str, Any] = json.loads((directory / "sizes.json").read_text(encoding="utf-8"))

    def named(self, name: str) -> Case:
        """A case. Raises ValueError for a name that is not listed."""
        if name not in self._cases:
            raise ValueError(f"`{self.directory}` has no case `{name}`\nhint: the directory is incomplete")
        return self._cases[name]

    def wanted(self) -> Iterator[Case]:
        """Cases in the order of the list."""
        for case in self._cases.values():
            section = case.name.split("/")[0]
            if self.only is None or fnmatchcase(case.name, self.only) or fnmatchcase(section, self.only):
                yield case

    @cached_property
    def lavit(self) -> Lavit:
        """The checkpoint, with the heads that the sizes say."""
        sizes = self.sizes
        heads = Heads(
            encoder=sizes["vision"]["heads"],
            merger=sizes["merger"]["heads"],
            feature_decoder=sizes["feature_decoder"]["heads"],
            pool=sizes["feature_decoder"]["attnpool_heads"],
        )
        return read_lavit(self.directory / "checkpoint", heads=heads)


def section_of(entry: Mapping[str, Any]) -> str:
    """The group of a case without its number, in one word: "10 text-to-image ids" is "text-to-image-ids"."""
    number, _, title = entry["group"].partition(" ")
    return (title if number.isdigit() else entry["group"]).replace(" ", "-")


def _compared(case: str, got: Any, expected: Tensor, *, rule: Mapping[str, Any]) -> Check:
    if got is None:
        return _absent(case)
    kind = rule["compare"]
    if kind == "allclose":
        return close(case, got, expected, tolerance=float(rule["atol"]), relative=float(rule["rtol"]))
    if kind == "integer_within":
        return close(case, got, expected, tolerance=float(rule["max_abs"]))
    if kind == "exact":
        if not isinstance(got, Tensor) or got.shape != expected.shape:
            shape = tuple(got.shape) if isinstance(got, Tensor) else type(got).__name__
            return Check(case, math.inf, 0.0, f"shape {shape}, expected {tuple(expected.shape)}")
        return exact(case, got.flatten().long(), expected.flatten().long())
    return Check(case, math.inf, 0.0, f"unknown comparison {kind!r}")


def _absent(case: str) -> Check:
    return Check(case, math.inf, 0.0, "recorded, but nothing computes it")
