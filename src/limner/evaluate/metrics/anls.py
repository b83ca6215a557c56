"""Average normalised Levenshtein similarity: answers read off documents (Biten et al. 2019, equation 1)."""

from collections.abc import Sequence

THRESHOLD = 0.5
"""Answers that differ in half of their characters or more are wrong, not nearly right."""


def similarity(prediction: str, answers: Sequence[str]) -> float:
    """The best of the answers: 1 - edits / longer length, and 0 below `THRESHOLD`; case and outer space do not count.

    Raises ValueError without answers.
    """
    if not answers:
        raise ValueError("a question without answers\nhint: leave it out, or give the accepted answers")
    said = " ".join(prediction.lower().split())
    return max(_one(said, " ".join(answer.lower().split())) for answer in answers)


def _one(said: str, answer: str) -> float:
    longest = max(len(said), len(answer))
    distance = edits(said, answer) / longest if longest else 0.0
    return 1.0 - distance if distance < THRESHOLD else 0.0


def edits(one: str, other: str) -> int:
    """Insertions, deletions and substitutions between two strings (Levenshtein 1966)."""
    row = list(range(len(other) + 1))
    for number, letter in enumerate(one, start=1):
        above, row[0] = row[0], number
        for place, wanted in enumerate(other, start=1):
            above, row[place] = row[place], min(row[place] + 1, row[place - 1] + 1, above + (letter != wanted))
    return row[-1]
