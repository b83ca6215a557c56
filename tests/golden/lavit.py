"""Recorded values of LaVIT, read where they lie: their licence does not allow a copy here."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

DIRECTORY = Path(__file__).parents[3] / "shared" / "golden" / "lavit"


def required() -> Path:
    """The directory; the test says so and is skipped where it is absent."""
    if not DIRECTORY.is_dir():
        pytest.skip(f"recorded values of LaVIT are not at {DIRECTORY.name}/: their licence does not allow a copy")
    return DIRECTORY


def case(name: str) -> dict[str, Tensor]:
    """The tensors of a case."""
    return load_file(required() / "cases" / f"{name}.safetensors")


def sizes() -> dict[str, Any]:
    """Widths, depths and ids."""
    return json.loads((required() / "sizes.json").read_text())


def close(got: Tensor, expected: Tensor, *, atol: float, rtol: float) -> None:
    """Assert the comparison that the cases ask for."""
    torch.testing.assert_close(got, expected, atol=atol, rtol=rtol)
