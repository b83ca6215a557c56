"""Two models on the same items: how much better is one, and could that be luck?"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy

from limner.evaluate.intervals import Interval, bootstrap

NUM_FLIPS, BLOCK = 10_000, 100


@dataclass(frozen=True)
class Comparison:
    """`difference` is the second minus the first, mean over items; `p_value` that of a sign-flip test over clusters."""

    benchmark: str
    num_items: int
    first: float
    second: float
    difference: Interval
    p_value: float


def compare(first: Path, second: Path) -> list[Comparison]:
    """Benchmarks that both results files (or the folders that hold a results.json) have items with scores of.

    Raises ValueError where a file is none, or where both have nothing in common.
    """
    ours, theirs = _scores(first), _scores(second)
    found = [
        _compared(name, ours[name], theirs[name])
        for name in ours
        if name in theirs and ours[name].keys() & theirs[name].keys()
    ]
    if not found:
        raise ValueError(
            f"`{first}` and `{second}` have no scored item in common\nhint: evaluate both with the same tasks and seed"
        )
    return found


def _compared(name: str, ours: Mapping[str, tuple[float, str]], theirs: Mapping[str, tuple[float, str]]) -> Comparison:
    keys = [key for key in ours if key in theirs]
    clusters = [ours[key][1] for key in keys]
    first, second = (numpy.array([side[key][0] for key in keys]) for side in (ours, theirs))
    return Comparison(
        name,
        len(keys),
        float(first.mean()),
        float(second.mean()),
        bootstrap(second - first, clusters=clusters),
        sign_flip(second - first, clusters=clusters),
    )


def sign_flip(differences: numpy.ndarray, *, clusters: Sequence[str], seed: int = 0) -> float:
    """Share of random changes of sign, whole clusters at once, whose sum is as far from 0 as the one seen (two-sided,
    the one seen counted): what a difference of nothing would give."""
    numbers = {cluster: number for number, cluster in enumerate(dict.fromkeys(clusters))}
    sums = numpy.bincount([numbers[cluster] for cluster in clusters], weights=differences)
    generator = numpy.random.default_rng(seed)
    as_far = 0
    for _ in range(NUM_FLIPS // BLOCK):
        flips = 2.0 * generator.integers(0, 2, size=(BLOCK, len(sums)), dtype=numpy.int8) - 1.0
        as_far += int((numpy.abs(flips @ sums) >= abs(sums.sum()) - 1e-12).sum())
    return float((as_far + 1) / (NUM_FLIPS + 1))


def _scores(path: Path) -> dict[str, dict[str, tuple[float, str]]]:
    """Score and cluster of every item, by benchmark and key."""
    file = path / "results.json" if path.is_dir() else path
    try:
        benchmarks: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))["benchmarks"]
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"`{file}` holds no results ({error})\nhint: give what `limner evaluate` wrote") from error
    return {
        one["name"]: {
            item["key"]: (float(item["score"]), str(item.get("cluster", item["key"])))
            for item in one["items"]
            if "score" in item and "key" in item
        }
        for one in benchmarks
    }
