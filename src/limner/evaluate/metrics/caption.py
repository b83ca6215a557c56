"""Captions held against those of several people: CIDEr-D (Vedantam et al. 2015, section 4).

Words are found by those rules of the Penn Treebank that captions need: lower case, punctuation dropped, "don't" as two
words, brackets by their names. n-grams of one to four words are weighted by how rare they are among the references of
all pictures.
"""

import math
import re
from collections import Counter
from collections.abc import Sequence

MAX_WORDS = 4
SIGMA = 6.0
"""Width, in words, of the Gaussian penalty on other lengths."""
SCALE = 10.0

_BRACKETS = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
_TWO_WORDS = {"cannot": "can not", "gonna": "gon na", "gotta": "got ta", "wanna": "wan na", "gimme": "gim me"}
_TOKEN = re.compile(
    r"(?:mr|mrs|ms|dr|st|jr|sr|prof|vs|inc|co|corp|ave|no)\.(?!\w)"  # abbreviations keep their period
    r"|(?:[^\W\d_]\.){2,}"
    r"|\d+(?:[.,:]\d+)+"
    r"|'n'|o'clock"
    r"|\w+?(?=n't\b)|n't\b|'(?:s|re|ve|ll|d|m)\b"
    r"|\w+(?:[-./]\w+)*"
    r"|[$%&#@*+=<>/()\[\]{}]"
)
"""What is no token is dropped: marks of punctuation, quotes, dashes."""


def words(caption: str) -> list[str]:
    """The words of a caption."""
    text = caption.lower().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
    found = (match.group() for match in _TOKEN.finditer(text))
    return [word for token in found for word in _TWO_WORDS.get(token, _BRACKETS.get(token, token)).split()]


def cider(captions: Sequence[Sequence[str]], references: Sequence[Sequence[Sequence[str]]]) -> list[float]:
    """CIDEr-D of each picture's caption, given as words, against its references; usually shown times 100.

    0 to 10; what a score means depends on all pictures of the set, through the weights. Raises ValueError for other
    lengths and for a picture without references.
    """
    if len(captions) != len(references) or not all(references):
        raise ValueError(
            f"{len(captions)} captions and {len(references)} lists of references; expected references for each\n"
            "hint: leave pictures without references out"
        )
    counted = [[_ngrams(reference) for reference in group] for group in references]
    seen = Counter(gram for group in counted for gram in set().union(*group))
    num_documents = math.log(max(1, len(references)))
    vectors = [[_Weighted(grams, seen=seen, log_size=num_documents) for grams in group] for group in counted]
    found = []
    for caption, group in zip(captions, vectors, strict=True):
        said = _Weighted(_ngrams(caption), seen=seen, log_size=num_documents)
        found.append(SCALE * sum(said.similarity(reference) for reference in group) / len(group))
    return found


def _ngrams(sentence: Sequence[str]) -> Counter[tuple[str, ...]]:
    return Counter(
        tuple(sentence[start : start + size])
        for size in range(1, MAX_WORDS + 1)
        for start in range(len(sentence) - size + 1)
    )


class _Weighted:
    """n-grams of a sentence, by their number times their rarity."""

    def __init__(self, grams: Counter[tuple[str, ...]], *, seen: Counter, log_size: float) -> None:
        self.weights: list[dict[tuple[str, ...], float]] = [{} for _ in range(MAX_WORDS)]
        for gram, count in grams.items():
            self.weights[len(gram) - 1][gram] = count * (log_size - math.log(max(1.0, seen[gram])))
        self.norms = [math.sqrt(sum(weight**2 for weight in one.values())) for one in self.weights]
        # The official length is that of the pairs of words, not of the words.
        self.length = sum(count for gram, count in grams.items() if len(gram) == 2)

    def similarity(self, reference: "_Weighted") -> float:
        """Mean over sizes of the clipped cosine, less for another length (equation 4 of CIDEr-D)."""
        total = 0.0
        for mine, theirs, norm, other in zip(self.weights, reference.weights, self.norms, reference.norms, strict=True):
            product = sum(min(weight, theirs.get(gram, 0.0)) * theirs.get(gram, 0.0) for gram, weight in mine.items())
            total += product / (norm * other) if norm and other else product
        penalty = math.exp(-((self.length - reference.length) ** 2) / (2.0 * SIGMA**2))
        return penalty * total / MAX_WORDS
