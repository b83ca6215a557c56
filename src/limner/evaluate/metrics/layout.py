"""Where the pictures of a page stand, against where they should: precision, recall and F1 over places.

A place is the number of words of the page before the picture. Two pictures at one place count twice. A page that should
have no picture and has none counts for nothing in the sums: there is no place to be right or wrong about.
"""

from collections import Counter
from collections.abc import Sequence

import numpy

from limner.document.document import Media, Part
from limner.evaluate.intervals import Interval, bootstrap

Places = tuple[int, ...]


def places(parts: Sequence[Part]) -> Places:
    """The place of every picture of a page, in order."""
    found, num_words = [], 0
    for part in parts:
        if isinstance(part, Media):
            found.append(num_words)
        else:
            num_words += len(part.text.split())
    return tuple(found)


def matched(found: Places, wanted: Places) -> int:
    """How many pictures stand where one was wanted."""
    return (Counter(found) & Counter(wanted)).total()


def precision(found: Sequence[Places], wanted: Sequence[Places]) -> float:
    """Share of the pictures of all pages that stand where one was wanted; 1 where there is none."""
    total = sum(map(len, found))
    return sum(map(matched, found, wanted)) / total if total else 1.0


def recall(found: Sequence[Places], wanted: Sequence[Places]) -> float:
    """Share of the wanted pictures of all pages that are there; 1 where none was wanted."""
    return precision(wanted, found)


def f1(found: Sequence[Places], wanted: Sequence[Places]) -> float:
    """2 matched / (found + wanted) over all pages, the harmonic mean of precision and recall; 1 where there is none."""
    total = sum(map(len, found)) + sum(map(len, wanted))
    return 2 * sum(map(matched, found, wanted)) / total if total else 1.0


def f1_interval(found: Sequence[Places], wanted: Sequence[Places], *, seed: int = 0) -> Interval:
    """`f1` with its 95 % interval over pages.

    Every picture that is there and every one that is wanted is right or wrong, and F1 is the mean of these marks.
    Raises ValueError where there is neither.
    """
    marks, pages = [], []
    for page, (ours, theirs) in enumerate(zip(found, wanted, strict=True)):
        right, total = 2 * matched(ours, theirs), len(ours) + len(theirs)
        marks += [1.0] * right + [0.0] * (total - right)
        pages += [page] * total
    if not marks:
        raise ValueError("no page has or wants a picture\nhint: score pages that want some")
    return bootstrap(marks, clusters=pages, seed=seed)


def shuffled_f1(
    found: Sequence[Places], wanted: Sequence[Places], *, num_permutations: int = 200, seed: int = 0
) -> Interval:
    """What luck gives: `f1` of pages against the wanted places of other pages, with its 95 % range."""
    generator = numpy.random.default_rng(seed)
    orders = [generator.permutation(len(wanted)) for _ in range(num_permutations)]
    values = [f1(found, [wanted[place] for place in order]) for order in orders]
    low, high = numpy.percentile(values, [2.5, 97.5])
    return Interval(float(numpy.mean(values)), float(low), float(high))
