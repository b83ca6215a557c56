"""Two ways to say how sure a number is: the bootstrap for a mean, permutations for a control.

Owns no knowledge of models. Items of one cluster (drawings of one concept) are not independent, so
the bootstrap draws clusters, and a permutation never pairs two items of one cluster.
"""

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy

RESAMPLES = 2000


class Interval(NamedTuple):
    """A mean and the 95 % interval around it."""

    mean: float
    low: float
    high: float


def bootstrap(
    values: Sequence[float | int] | numpy.ndarray,
    *,
    clusters: Sequence[Hashable],
    num_resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """The mean of `values` with its percentile interval; whole clusters are drawn with replacement.

    Raises ValueError without values, or when there is not one cluster for each.
    """
    if not len(values) or len(values) != len(clusters):
        raise ValueError(
            f"{len(values)} values and {len(clusters)} clusters; expected one cluster per value\n"
            "hint: leave a score without items out"
        )
    numbers = {cluster: number for number, cluster in enumerate(dict.fromkeys(clusters))}
    place = numpy.array([numbers[cluster] for cluster in clusters])
    sums = numpy.bincount(place, weights=numpy.asarray(values, dtype=float))
    counts = numpy.bincount(place)
    generator = numpy.random.default_rng(seed)
    drawn = generator.integers(0, len(sums), size=(num_resamples, len(sums)))
    means = sums[drawn].sum(1) / counts[drawn].sum(1)
    low, high = numpy.percentile(means, [2.5, 97.5])
    return Interval(float(sums.sum() / counts.sum()), float(low), float(high))


def share(values: Sequence[float | int] | numpy.ndarray, *, clusters: Sequence[Hashable], seed: int = 0) -> Interval:
    """`bootstrap` of right (1) and wrong (0). Where all agree, resampling cannot see any doubt; then
    the far end is the exact binomial one (Clopper and Pearson 1934) for the number of clusters."""
    found = bootstrap(values, clusters=clusters, seed=seed)
    if found.mean not in (0.0, 1.0):
        return found
    reach = 1.0 - 0.025 ** (1.0 / len(set(clusters)))
    return Interval(0.0, 0.0, reach) if found.mean == 0.0 else Interval(1.0, 1.0 - reach, 1.0)


def permuted(
    values: numpy.ndarray,
    *,
    clusters: Sequence[Hashable],
    num_permutations: int = 1000,
    seed: int = 0,
) -> Interval | None:
    """What luck gives: the mean of `values[i, p(i)]` over permutations p, with its 95 % range.

    `values[i, j]` is the score of answer i against the item of question j. Pairs within a cluster
    are no luck and are left out of the mean. None where nothing is left.
    """
    size = len(values)
    if values.shape != (size, size) or size != len(clusters):
        raise ValueError(
            f"values of shape {values.shape} for {len(clusters)} clusters; expected a square\n"
            "hint: rows are answers, columns are the items that were asked about"
        )
    numbers = {cluster: number for number, cluster in enumerate(dict.fromkeys(clusters))}
    place = numpy.array([numbers[cluster] for cluster in clusters], dtype=int)
    if len(numbers) < 2:
        return None
    generator = numpy.random.default_rng(seed)
    orders = numpy.stack([generator.permutation(size) for _ in range(num_permutations)])
    scores = values[numpy.arange(size), orders].astype(float)
    is_luck = place[None] != place[orders]
    kept = is_luck.any(1)
    means = (scores * is_luck)[kept].sum(1) / is_luck[kept].sum(1)
    low, high = numpy.percentile(means, [2.5, 97.5])
    return Interval(float(means.mean()), float(low), float(high))
