"""The codebook: rows -> codes (Esser et al. 2021; moving averages of van den Oord et al. 2017, appendix A.1).

Rows are brought to unit length; a code is the nearest of the codebook's vectors, whose own lengths count (published
codebooks are stored in bfloat16 and are not quite of unit length). The codebook is not trained by gradients: it
follows the moving mean of what it is used for, starts from k-means, and codes that nobody uses are put where rows are
far from any code.

A step of training may see several batches on several ranks: each batch is collected, and the codebook follows once,
after the step. Sums and counts are those of the whole step, however it was cut; codes are revived from the rows of its
first batch.
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


class _Collected(NamedTuple):
    """Of a step so far: sums of rows and their counts by code; rows of its first batch, and how far from their codes
    they are."""

    sums: Float[Tensor, "codes code_width"]
    counts: Float[Tensor, " codes"]
    rows: Float[Tensor, "rows code_width"]
    distances: Float[Tensor, " rows"]


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
        self._collected: _Collected | None = None

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
        """argmin |z - e|^2 = argmax z e - |e|^2 / 2, in float32: training and use must find the same code."""
        with torch.autocast(unit.device.type, enabled=False):
            return (unit @ self.vectors.T - self.vectors.square().sum(dim=-1) / 2.0).argmax(dim=-1)

    @torch.no_grad()
    def initialise(
        self, rows: Float[Tensor, "rows code_width"], *, generator: torch.Generator, steps: int = 10
    ) -> None:
        """k-means by cosine over `rows`, begun as k-means++ (Arthur & Vassilvitskii 2007): each next code is a row
        drawn by its squared distance from those before. Raises ValueError for fewer rows than codes."""
        if len(rows) < self.num_codes:
            raise ValueError(
                f"{len(rows)} rows to begin {self.num_codes} codes with; expected at least as many\n"
                "hint: collect rows of more pictures"
            )
        unit = F.normalize(rows.float(), dim=-1)
        weights = torch.ones(len(unit), device=unit.device)
        for number in range(self.num_codes):
            self.vectors[number] = unit[_drawn(weights, 1, generator=generator)[0]]
            distances = (unit - self.vectors[number]).square().sum(dim=-1)
            weights = distances if number == 0 else torch.minimum(weights, distances)
        for _ in range(steps):
            sums, counts = self._totals(unit, self.nearest(unit))
            used = counts > 0
            self.vectors[used] = F.normalize(sums[used], dim=-1)
        self.usage.fill_(1.0)

    @torch.no_grad()
    def update(
        self, rows: Float[Tensor, "rows code_width"], codes: Int[Tensor, " rows"], *, generator: torch.Generator
    ) -> None:
        """Follow the rows of a step that has one batch."""
        self.collect(rows, codes)
        self.follow(generator=generator)

    @torch.no_grad()
    def collect(self, rows: Float[Tensor, "rows code_width"], codes: Int[Tensor, " rows"]) -> None:
        """Take in a batch of the step."""
        unit = F.normalize(rows.float(), dim=-1)
        totals = self._totals(unit, codes)
        if self._collected is None:
            distances = (unit - self.vectors[codes]).square().sum(dim=-1)
            self._collected = _Collected(*totals, unit.detach(), distances)
        else:
            self._collected.sums.add_(totals[0])
            self._collected.counts.add_(totals[1])

    def forget(self) -> None:
        """Drop what was collected: the step is not taken."""
        self._collected = None

    @torch.no_grad()
    def follow(self, *, generator: torch.Generator) -> None:
        """Move towards what was collected since the last call, on all ranks; all of them call this together, with
        equal generators."""
        found = self._collected or _Collected(
            torch.zeros_like(self.vectors), torch.zeros_like(self.usage), self.vectors[:0], self.usage[:0]
        )
        self._collected = None
        if _several_ranks():
            torch.distributed.all_reduce(found.sums)
            torch.distributed.all_reduce(found.counts)
        self.usage.lerp_(found.counts, 1.0 - self.decay)
        used = found.counts > 0
        direction = F.normalize(found.sums[used], dim=-1)
        self.vectors[used] = F.normalize(self.vectors[used].lerp(direction, 1.0 - self.decay), dim=-1)
        if self.revive_below > 0.0:
            self._revive(found, generator=generator)

    def _revive(self, found: "_Collected", *, generator: torch.Generator) -> None:
        """Put dead codes where rows are, far ones more likely: those of the first rank that has any, the same on all
        ranks."""
        dead = (self.usage < self.revive_below).nonzero().flatten()
        if not len(dead):
            return
        has_rows = len(found.rows) > 0
        fresh = self.vectors.new_zeros(len(dead), self.vectors.shape[1])
        if has_rows:
            fresh = found.rows[_drawn(found.distances, len(dead), generator=generator)]
        if _several_ranks():
            size = torch.distributed.get_world_size()
            source = torch.tensor(torch.distributed.get_rank() if has_rows else size, device=fresh.device)
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


def _drawn(weights: Float[Tensor, " rows"], count: int, *, generator: torch.Generator) -> Int[Tensor, " count"]:
    """Numbers of rows, drawn by their weights, on the generator's device and back."""
    # A little for each: rows that lie on codes exactly may be all there are.
    drawn = torch.multinomial(weights.cpu() + 1e-8, count, replacement=True, generator=generator)
    return drawn.to(weights.device)


def _several_ranks() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def perplexity(counts: Float[Tensor, " codes"]) -> float:
    """exp of the entropy of code usage: `num_codes` where all are used alike, 1 where one is."""
    shares = counts / counts.sum().clamp(min=1.0)
    return float(torch.special.entr(shares).sum().exp())
