"""The codebook: rows -> codes (Esser et al. 2021; moving averages of van den Oord et al. 2017, appendix A.1).

Rows are brought to unit length; a code is the nearest of the codebook's vectors, whose own lengths count (published
codebooks are stored in bfloat16 and are not quite of unit length). The codebook is not trained by gradients: it
follows the moving mean of what it is used for, starts from k-means, and codes that nobody uses are put where rows are.
"""

from typing import NamedTuple

import torch
import torch.distributed
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn


class Quantized(NamedTuple):
    """`values` are the codes' vectors with the gradient of the rows that they stand for (straight-through)."""

    codes: Int[Tensor, " rows"]
    values: Float[Tensor, "rows code_width"]
    distances: Float[Tensor, " rows"]
    """Squared distance of each row to its code, mean over the width: the commitment loss of van den Oord et al."""


class Codebook(nn.Module):
    """`num_codes` vectors. `decay` of the moving averages; a code used less than `revive_below` times per update, on
    the moving average, is replaced by a row of the batch (0 switches it off)."""

    vectors: Tensor
    usage: Tensor

    def __init__(self, num_codes: int, *, width: int, decay: float = 0.99, revive_below: float = 0.01) -> None:
        super().__init__()
        self.decay = decay
        self.revive_below = revive_below
        self.register_buffer("vectors", F.normalize(torch.randn(num_codes, width), dim=-1))
        self.register_buffer("usage", torch.ones(num_codes))

    @property
    def num_codes(self) -> int:
        """Size of the codebook."""
        return len(self.vectors)

    def forward(self, rows: Float[Tensor, "rows code_width"]) -> Quantized:
        """The nearest code of each row, brought to unit length, in float32 whatever the model computes in."""
        unit = F.normalize(rows.float(), dim=-1)
        codes = self.nearest(unit)
        values = self.vectors[codes]
        distances = (values.detach() - unit).square().mean(dim=-1)
        return Quantized(codes, unit + (values - unit).detach(), distances)

    def nearest(self, unit: Float[Tensor, "rows code_width"]) -> Int[Tensor, " rows"]:
        """argmin |z - e|^2 = argmax z e - |e|^2 / 2."""
        return (unit @ self.vectors.T - self.vectors.square().sum(dim=-1) / 2.0).argmax(dim=-1)

    @torch.no_grad()
    def initialise(
        self, rows: Float[Tensor, "rows code_width"], *, generator: torch.Generator, steps: int = 10
    ) -> None:
        """k-means by cosine over `rows`. Raises ValueError for fewer rows than codes."""
        if len(rows) < self.num_codes:
            raise ValueError(
                f"{len(rows)} rows to begin {self.num_codes} codes with; expected at least as many\n"
                "hint: collect rows of more pictures"
            )
        unit = F.normalize(rows.float(), dim=-1)
        chosen = torch.randperm(len(unit), generator=generator)[: self.num_codes]
        self.vectors.copy_(unit[chosen.to(unit.device)])
        for _ in range(steps):
            codes = self.nearest(unit)
            sums, counts = self._totals(unit, codes)
            used = counts > 0
            self.vectors[used] = F.normalize(sums[used], dim=-1)
        self.usage.fill_(len(rows) / self.num_codes)

    @torch.no_grad()
    def update(
        self, rows: Float[Tensor, "rows code_width"], codes: Int[Tensor, " rows"], *, generator: torch.Generator
    ) -> None:
        """Follow the rows of a step. Sums and counts are those of all ranks."""
        unit = F.normalize(rows.float(), dim=-1)
        sums, counts = self._totals(unit, codes)
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(sums)
            torch.distributed.all_reduce(counts)
        self.usage.lerp_(counts, 1.0 - self.decay)
        used = counts > 0
        direction = F.normalize(sums[used], dim=-1)
        self.vectors[used] = F.normalize(self.vectors[used].lerp(direction, 1.0 - self.decay), dim=-1)
        if self.revive_below > 0.0:
            self._revive(unit, generator=generator)

    def _revive(self, unit: Tensor, *, generator: torch.Generator) -> None:
        """Put dead codes where rows are: those of the first rank that has any, the same on all ranks."""
        dead = (self.usage < self.revive_below).nonzero().flatten()
        if not len(dead):
            return
        fresh = unit.new_zeros(len(dead), unit.shape[1])
        if len(unit):
            fresh = unit[torch.randint(len(unit), (len(dead),), generator=generator).to(unit.device)]
        has_rows = len(unit) > 0
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            size = torch.distributed.get_world_size()
            source = torch.tensor(torch.distributed.get_rank() if has_rows else size, device=unit.device)
            torch.distributed.all_reduce(source, op=torch.distributed.ReduceOp.MIN)
            has_rows = int(source) < size
            if has_rows:
                torch.distributed.broadcast(fresh, src=int(source))
        if has_rows:
            self.vectors[dead] = fresh
            self.usage[dead] = 1.0

    def _totals(self, unit: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
        sums = torch.zeros_like(self.vectors).index_add_(0, codes, unit)
        counts = torch.zeros_like(self.usage).index_add_(0, codes, torch.ones_like(codes, dtype=self.usage.dtype))
        return sums, counts


def perplexity(counts: Float[Tensor, " codes"]) -> float:
    """exp of the entropy of code usage: `num_codes` where all are used alike, 1 where one is."""
    shares = counts / counts.sum().clamp(min=1.0)
    return float(torch.special.entr(shares).sum().exp())
