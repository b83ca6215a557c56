"""Yes-or-no answers about what a picture holds (POPE: Li et al. 2023, section 5)."""

from collections.abc import Sequence
from typing import NamedTuple

_REFUSALS = frozenset({"No", "no", "not"})


class YesNo(NamedTuple):
    """Shares in [0, 1]; "yes" is the positive class. A ratio without a denominator is 0."""

    accuracy: float
    precision: float
    recall: float
    f1: float
    yes_ratio: float


def says_yes(reply: str) -> bool:
    """Whether the first sentence of a reply says anything but "No", "no" or "not"."""
    sentence = reply.partition(".")[0].replace(",", "")
    return not _REFUSALS & set(sentence.split(" "))


def score(replies: Sequence[str], labels: Sequence[bool]) -> YesNo:
    """Scores of replies whose right answers are `labels` (True: yes). Raises ValueError for other lengths."""
    if len(replies) != len(labels) or not labels:
        raise ValueError(
            f"{len(replies)} replies and {len(labels)} labels; expected one reply for each\nhint: pair them"
        )
    said = [says_yes(reply) for reply in replies]
    right_yes = sum(one and label for one, label in zip(said, labels, strict=True))
    precision = right_yes / sum(said) if any(said) else 0.0
    recall = right_yes / sum(labels) if any(labels) else 0.0
    both = precision + recall
    return YesNo(
        accuracy=sum(one == label for one, label in zip(said, labels, strict=True)) / len(labels),
        precision=precision,
        recall=recall,
        f1=2.0 * precision * recall / both if both else 0.0,
        yes_ratio=sum(said) / len(said),
    )
