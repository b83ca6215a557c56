"""Rows for an encoder that puts pictures, sounds and texts into one space: LLaVA's, in the words of one of the three.

The encoder sees the picture; the words speak of a picture, a sound or a text. So the language model learns to take an
item for what the question calls it. Whole words are exchanged, never parts of words.
"""

import re
from collections.abc import Iterator, Mapping

from limner.data.builders.building import Given, Left, Outcome
from limner.data.builders.pictures import placed

WORDINGS: Mapping[str, Mapping[str, str]] = {
    "picture": {},
    "sound": {
        "image": "sound", "images": "sounds", "picture": "sound", "pictures": "sounds", "photo": "recording",
        "photos": "recordings", "photograph": "recording", "see": "hear", "sees": "hears", "seen": "heard",
        "saw": "heard", "seeing": "hearing", "look": "listen", "looks": "sounds", "looking": "listening",
        "visible": "audible", "visual": "audible", "visually": "audibly", "view": "hear", "viewed": "heard",
        "scene": "scene", "depicted": "heard", "depicts": "lets hear", "shown": "heard", "shows": "lets hear",
    },
    "text": {
        "image": "text", "images": "texts", "picture": "text", "pictures": "texts", "photo": "text",
        "photos": "texts", "photograph": "text", "see": "read", "sees": "reads", "seen": "described", "saw": "read",
        "seeing": "reading", "look": "read", "looking": "reading", "visible": "mentioned", "visual": "described",
        "visually": "in words", "view": "read", "viewed": "read", "depicted": "described", "depicts": "describes",
        "shown": "described", "shows": "describes",
    },
}  # fmt: skip
"""Wording -> what stands for the words of seeing."""

UNHEARD = frozenset({"region", "regions", "ocr", "color", "colors", "colour", "colours", "right", "left"})
"""Words of questions that one row for the whole picture cannot answer."""

_WORD = re.compile(r"[A-Za-z]+")


def conversations(given: Given) -> Iterator[Outcome]:
    """Every conversation about a picture, in one of the wordings."""
    return _rows(given, without=frozenset())


def answerable(given: Given) -> Iterator[Outcome]:
    """As `conversations`, without those that ask for places, colours or writing."""
    return _rows(given, without=UNHEARD)


def _rows(given: Given, *, without: frozenset[str]) -> Iterator[Outcome]:
    for found in placed(given):
        if isinstance(found, Left):
            yield found
            continue
        key, row, asked, place = found
        said = {word.lower() for message in row["messages"] for word in _WORD.findall(message["content"])}
        if not asked:
            # Text-only conversations teach nothing about the encoder, but keep the language model what it was.
            yield row
        elif place is None:
            yield Left(key, "missing file", asked)
        elif words := sorted(said & without):
            yield Left(key, "of places or colours", words[0])
        else:
            wording = given.draws(f"wording/{key}").choice(list(WORDINGS))
            messages = [
                {**message, "content": reworded(message["content"], WORDINGS[wording])} for message in row["messages"]
            ]
            yield {**row, "messages": messages, "imagebinds": [place]}


def reworded(text: str, words: Mapping[str, str]) -> str:
    """A text with whole words exchanged, capitals kept, and its picture's placeholder exchanged for <imagebind>."""

    def exchanged(match: re.Match[str]) -> str:
        word = match[0]
        other = words.get(word.lower(), word)
        return other[0].upper() + other[1:] if word[0].isupper() and other is not word else other

    pieces = text.split("<image>")
    return "<imagebind>".join(_WORD.sub(exchanged, piece) for piece in pieces)
