"""Whether a reply names a thing: whole words, in lower case, without punctuation.

Two measures. `name`: the reply holds the exact name, all its words in order. `hint`: it holds the
name, one of the name's telling words, or one of the CLDR keywords of the emoji. The second is
lenient ("a red fruit" is right for "cherries"), hence it is only worth as much as it exceeds the
shuffled control and the best constant reply.
"""

import re
from collections.abc import Sequence

import numpy

from limner.data.stories import Record

_WORD = re.compile(r"[^\W_]+")
MIN_LETTERS = 3

# fmt: off
NOT_TELLING = frozenset([
    "and", "the", "with", "for", "from", "without", "not", "out", "off", "are", "its", "his", "her",
    "here", "this", "that", "these", "picture", "image", "see", "words", "kind", "thing",
    "face", "person", "people", "man", "men", "woman", "women",
])
"""Words that would be right without looking: grammar, the frame of a reply, and who is shown on
most pictures of people."""
# fmt: on


def normalized(text: str) -> str:
    """The words of a text in lower case, parted by single spaces."""
    return " ".join(_WORD.findall(text.lower()))


def hints(record: Record) -> tuple[str, ...]:
    """The name, its telling words, and the keywords; normalized, each once."""
    single = [*normalized(record.name).split(), *map(normalized, record.keywords)]
    telling = [w for w in single if len(w) >= MIN_LETTERS and w not in NOT_TELLING]
    return tuple(dict.fromkeys([normalized(record.name), *telling]))


def holds(text: str, phrase: str) -> bool:
    """Whether normalized text holds a normalized phrase as whole words."""
    return bool(phrase) and f" {phrase} " in f" {text} "


def hits(replies: Sequence[str], phrases: Sequence[Sequence[str]]) -> numpy.ndarray:
    """Bool [replies, items]: whether reply i holds one of the normalized phrases of item j."""
    texts = [normalized(reply) for reply in replies]
    rows = [[any(holds(text, phrase) for phrase in item) for item in phrases] for text in texts]
    return numpy.array(rows, dtype=bool).reshape(len(texts), len(phrases))


def best_constant(candidates: Sequence[str], phrases: Sequence[Sequence[str]]) -> tuple[str, float]:
    """The one reply that is right most often when given to every item, and its share.

    It is chosen on the items themselves, so it is an upper bound for replies that do not look.
    """
    distinct = list(dict.fromkeys(candidates))
    shares = hits(distinct, phrases).mean(1)
    return distinct[int(shares.argmax())], float(shares.max())
