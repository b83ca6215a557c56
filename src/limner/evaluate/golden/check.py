"""One comparison with a recorded value: what was compared, how far apart it is, how far apart it may be.

A family's module (`dreamllm`, `multi_token`, `lavit`) has `recognises(directory) -> bool` and
`checks(directory, *, only=None) -> Iterator[Check]`. Everything else is in the directory: sizes, ids, inputs, the
randomness that was drawn, expected values. Nothing about a case is written down in code.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Check:
    """`difference` is the largest one found, on the scale of `tolerance`: absolute, or relative where `note` says so.

    Exact comparisons have the tolerance 0 and count the elements that differ.
    """

    case: str
    difference: float
    tolerance: float
    note: str = ""

    @property
    def passed(self) -> bool:
        """Whether the difference is within the tolerance. A NaN never is."""
        return self.difference <= self.tolerance


def exact(case: str, got: object, expected: object) -> Check:
    """Equality of ids, texts, counts. Sequences are compared element by element."""
    got, expected = _plain(got), _plain(expected)
    if got == expected:
        return Check(case, 0.0, 0.0)
    if isinstance(got, list) and isinstance(expected, list) and len(got) == len(expected):
        places = [place for place, (one, other) in enumerate(zip(got, expected, strict=True)) if one != other]
        first = places[0]
        note = f"first at {first}: {_shown(got[first])}, expected {_shown(expected[first])}"
        return Check(case, float(len(places)), 0.0, note)
    return Check(case, 1.0, 0.0, f"{_shown(got)}, expected {_shown(expected)}")


def close(case: str, got: Tensor, expected: Tensor, *, tolerance: float, relative: float = 0.0) -> Check:
    """The largest |got - expected| beyond `relative` x |expected|; other shapes differ infinitely."""
    if got.shape != expected.shape:
        return Check(case, float("inf"), tolerance, f"shape {tuple(got.shape)}, expected {tuple(expected.shape)}")
    if not got.numel():
        return Check(case, 0.0, tolerance)
    got, expected = got.detach().double(), expected.detach().double()
    beyond = (got - expected).abs() - relative * expected.abs()
    return Check(case, max(0.0, beyond.max().item()) if not beyond.isnan().any() else float("nan"), tolerance)


def close_relative(case: str, got: Tensor, expected: Tensor, *, tolerance: float) -> Check:
    """The largest |got - expected| over the largest |expected|: for losses, norms and gradients."""
    scale = expected.detach().double().abs().max().clamp(min=1e-30) if expected.numel() else torch.tensor(1.0)
    found = close(case, got.detach().double() / scale, expected.detach().double() / scale, tolerance=tolerance)
    return Check(case, found.difference, tolerance, found.note or "relative")


def _plain(value: object) -> object:
    if isinstance(value, Tensor):
        return value.tolist()
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [_plain(item) for item in value]
    return value


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
