"""Short answers held against those of several people (VQA v2: Goyal et al. 2017; metric of Antol et al. 2015).

The rules are those of the challenge's official evaluation, its oddities included, because scores are only worth
comparing where they are the same: answers are normalised only where people disagree, thirty-two periods at most are
dropped, a comma between digits changes how every other mark is treated.
"""

import re
from collections.abc import Sequence

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
ARTICLES = frozenset({"a", "an", "the"})
MARKS = tuple(';/[]"{}()=+\\_-><@`,?!')
_CONTRACTED = (
    "ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd "
    "he'd've he's how'd how'll how's I'd've I'm I've isn't it'd it'd've it'll ma'am mightn't mightn't've might've "
    "mustn't must've needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've "
    "somebody'd've somebody'll somebody's someone'd someone'd've someone'll someone's something'd something'd've "
    "something'll that's there'd there'd've there're there's they'd they'd've they'll they're they've 'twas wasn't "
    "we'd've we've weren't what'll what're what's what've when's where'd where's where've who'd who'd've who'll who's "
    "who've why'll why're why's won't would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll "
    "you're you've"
)
_COMMA_IN_NUMBER = re.compile(r"\d,\d")
_PERIOD = re.compile(r"(?!<=\d)\.(?!\d)")
MOST_PERIODS = int(re.UNICODE)
"""The official evaluation passes a flag where a count belongs."""


def _contractions() -> dict[str, str]:
    """Each contraction under its spellings that lack one apostrophe."""
    table = {
        word[:place] + word[place + 1 :]: word
        for word in _CONTRACTED.split()
        for place, letter in enumerate(word)
        if letter == "'"
    }
    # The official table has one entry the wrong way round.
    return table | {"somebody'd": "somebodyd"}


CONTRACTIONS = _contractions()
_DIGITS = {"none": "0", **{word: str(number) for number, word in enumerate(NUMBERS)}}


def normalised(answer: str) -> str:
    """Punctuation, number words, articles and contractions brought to one form, lower case."""
    return without_articles(without_punctuation(answer))


def without_punctuation(answer: str) -> str:
    """A mark goes where it stands beside a space anywhere in the answer, and becomes a space elsewhere."""
    text = answer
    in_number = _COMMA_IN_NUMBER.search(answer) is not None
    for mark in MARKS:
        beside_space = f"{mark} " in answer or f" {mark}" in answer
        text = text.replace(mark, "" if beside_space or in_number else " ")
    return _PERIOD.sub("", text, count=MOST_PERIODS)


def without_articles(answer: str) -> str:
    """Lower case, number words as digits, no articles, apostrophes of contractions put back."""
    words = (_DIGITS.get(word, word) for word in answer.lower().split())
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def accuracy(prediction: str, answers: Sequence[str]) -> float:
    """Mean over people of min(1, others who agree / 3), in [0, 1]. Raises ValueError without answers."""
    if not answers:
        raise ValueError("a question without answers\nhint: leave it out, or give the answers of the people asked")
    said, given = _one_line(prediction), [_one_line(answer) for answer in answers]
    if len(set(given)) > 1:
        said, given = normalised(said), [normalised(answer) for answer in given]
    agreeing = sum(answer == said for answer in given)
    return sum(min(1.0, (agreeing - (answer == said)) / 3.0) for answer in given) / len(given)


def _one_line(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()
