"""How far two sets of pictures are apart, given features of each: Fréchet and kernel distance.

Named after the network that gave the features: with Inception-v3's pool3 these are FID (Heusel et al. 2017, equation 6)
and KID (Binkowski et al. 2018, section 3); with any other network they are not, and must not be called so.
"""

import numpy
import torch
from jaxtyping import Float
from torch import Tensor

from limner.evaluate.intervals import Interval


def frechet_distance(one: Float[Tensor, "items width"], other: Float[Tensor, "others width"]) -> float:
    """Distance of the Gaussians fitted to two sets: `|m - m'|^2 + tr(C + C' - 2 (C C')^(1/2))`, covariances unbiased.

    Raises ValueError for sets of less than two items.
    """
    _check(one, other)
    first, second = one.double(), other.double()
    mean = (first.mean(dim=0) - second.mean(dim=0)).square().sum()
    # Covariances are A^T A and B^T B of these rows; their traces are sums of squares.
    rows, others = ((part - part.mean(dim=0)) / (len(part) - 1) ** 0.5 for part in (first, second))
    if max(len(rows), len(others)) <= rows.shape[1]:
        # Eigenvalues of A^T A B^T B, but for zeros, are squared singular values of A B^T, which is smaller.
        roots = torch.linalg.svdvals(rows @ others.T).sum()
    else:
        # Real and not negative, but for rounding.
        roots = torch.linalg.eigvals((rows.T @ rows) @ (others.T @ others)).sqrt().real.sum()
    return float(mean + rows.square().sum() + others.square().sum() - 2.0 * roots)


def kernel_distance(
    one: Float[Tensor, "items width"],
    other: Float[Tensor, "others width"],
    *,
    num_subsets: int = 100,
    subset_size: int = 1000,
    seed: int = 2020,
) -> Interval:
    """Unbiased squared maximum mean discrepancy under `(x y / width + 1)^3`, mean over subsets with the 95 % range."""
    _check(one, other)
    size = min(subset_size, len(one), len(other))
    generator = numpy.random.RandomState(seed)  # torch-fidelity's, so that the subsets are the same
    found = []
    for _ in range(num_subsets):
        first = one[torch.from_numpy(generator.choice(len(one), size, replace=False))].double()
        second = other[torch.from_numpy(generator.choice(len(other), size, replace=False))].double()
        found.append(_discrepancy(first, second))
    low, high = numpy.percentile(found, [2.5, 97.5])
    return Interval(float(numpy.mean(found)), float(low), float(high))


def _discrepancy(one: Tensor, other: Tensor) -> float:
    size = len(one)
    within = sum(
        (kernel.sum() - kernel.trace()) / (size * (size - 1)) for kernel in (_kernel(one, one), _kernel(other, other))
    )
    return float(within - 2.0 * _kernel(one, other).mean())


def _kernel(one: Tensor, other: Tensor) -> Tensor:
    return (one @ other.T / one.shape[1] + 1.0) ** 3


def _check(one: Tensor, other: Tensor) -> None:
    if min(len(one), len(other)) < 2:
        raise ValueError(
            f"features of shape {tuple(one.shape)} and {tuple(other.shape)}; expected two items or more\n"
            "hint: take more pictures"
        )
