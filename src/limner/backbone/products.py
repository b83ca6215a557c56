"""Products of few rows and large matrices on CPU, each number of rows by the routine that is fastest there.

One row is the slowest case of the usual routine: two equal rows, and the matrix on the left, take two thirds of its
time. From four rows on, oneDNN's packed form wins, which costs a second copy of the matrix.
"""

from collections.abc import Sequence
from enum import StrEnum
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

FEW = 4
"""From this many rows on a packed copy is used."""
MANY = 32
"""From this many rows on the usual routine is as fast."""


INT8_STEP = 32
"""Widths that are no multiple of this are read wrongly by torch's eight-bit product; such matrices stay exact."""


class Weights(StrEnum):
    """How matrices are held while tokens are written."""

    EXACT = "exact"
    """In float32, as they are."""
    INT8 = "int8"
    """In eight bits with a scale per output row, inputs in bfloat16. Not exact."""


@runtime_checkable
class Linear(Protocol):
    """What products are made of: a linear layer, or some rows of one."""

    @property
    def weight(self) -> Tensor: ...
    @property
    def bias(self) -> Tensor | None: ...


class Products:
    """x W^T + b for one matrix made of several with the same input; those become views of it. Rows of two matrices
    (`Backbone.output_rows`) are copied: they do not follow later changes of the weights.

    `packed_from` is the number of rows from which on a packed copy is used, MANY for none.
    """

    def __init__(self, layers: Sequence[Linear], *, weights: Weights, packed_from: int = FEW) -> None:
        self.weight = _joined([layer.weight for layer in layers])
        self.bias = _joined_biases(layers)
        self.packed_from = packed_from
        self._packed: Tensor | None = None
        is_eight_bit = weights is Weights.INT8 and self.weight.shape[1] % INT8_STEP == 0
        self._quantized = _quantized(self.weight) if is_eight_bit else None

    def __call__(self, rows: Float[Tensor, "*rows width"]) -> Float[Tensor, "*rows out"]:
        """The products of any number of rows."""
        flat = rows.flatten(0, -2) if rows.ndim > 2 else rows
        found = self._product(flat)
        return found.view(*rows.shape[:-1], -1) if rows.ndim > 2 else found

    def _product(self, rows: Tensor) -> Tensor:
        count = len(rows)
        if self._quantized is not None:
            found = torch.ops.aten._weight_int8pack_mm(rows.bfloat16(), *self._quantized).float()
            return found if self.bias is None else found + self.bias
        if count >= MANY:
            return F.linear(rows, self.weight, self.bias)
        if count >= self.packed_from:
            if self._packed is None:
                self._packed = torch.ops.mkldnn._reorder_linear_weight(self.weight.detach(), 8)
            return torch.ops.mkldnn._linear_pointwise(rows, self._packed, self.bias, "none", [], None)
        if count >= FEW:
            return F.linear(rows, self.weight, self.bias)
        found = self.weight @ (rows.repeat(2, 1) if count == 1 else rows).t()
        found = found[:, :count].t().contiguous()
        return found if self.bias is None else found + self.bias


def _joined(matrices: Sequence[Tensor]) -> Tensor:
    """The matrices one below the other; each becomes a view of its part."""
    if len(matrices) == 1:
        return matrices[0].detach()
    whole = torch.cat([matrix.detach() for matrix in matrices])
    for matrix, part in zip(matrices, whole.split([len(matrix) for matrix in matrices]), strict=True):
        matrix.data = part
    return whole


def _joined_biases(layers: Sequence[Linear]) -> Tensor | None:
    if all(layer.bias is None for layer in layers):
        return None
    parts = [layer.weight.new_zeros(len(layer.weight)) if layer.bias is None else layer.bias for layer in layers]
    return torch.cat([part.detach() for part in parts])


def _quantized(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Eight-bit matrix and scales [out]."""
    scales = (weight.abs().amax(dim=1) / 127.0).clamp(min=1e-12).bfloat16()
    levels = (weight / scales.float()[:, None]).round().clamp(-127, 127)
    return levels.to(torch.int8), scales
