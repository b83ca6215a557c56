"""Questions about several pictures at once, from pictures with their texts: no other model writes them.

    which     "Which picture shows this: a red disc?"    "Picture 2."
    what      "What does picture 2 show?"                "A red disc."
    all       "Describe each picture."                   "Picture 1: ... Picture 2: ..."

Pictures stand all before or all behind the question, each with its number. Everything is a pure function of the seed,
the index and the source.
"""

from collections.abc import Sequence

from limner.data.mixture import Source, uniform
from limner.document.document import Direction, Document, Media, Part


class SeveralPictures:
    """`length` conversations over 2 to `max_pictures` pictures of a source of pairs, none twice in one of them.

    Pairs are pages of one picture and its text, as format `caption` reads them. A text that two of the pictures share
    is never asked for by `which`.
    """

    def __init__(self, source: Source, *, length: int, max_pictures: int = 6, seed: int = 0) -> None:
        if not 2 <= max_pictures <= len(source):
            raise ValueError(
                f"max_pictures is {max_pictures} over {len(source)} pairs; expected 2 or more, and no more than pairs\n"
                "hint: give a larger source"
            )
        self.source = source
        self.length = length
        self.max_pictures = max_pictures
        self.seed = seed

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Document:
        """The conversation at `index`. Raises ValueError where the source has no pair."""

        def drawn(what: str, below: int) -> int:
            return int(uniform("several", self.seed, index, what) * below)

        count = 2 + drawn("count", self.max_pictures - 1)
        chosen: dict[int, None] = {}
        attempt = 0
        while len(chosen) < count:
            chosen[drawn(f"pair {attempt}", len(self.source))] = None
            attempt += 1
        pairs = [_pair(self.source[place]) for place in chosen]
        texts = [text for _, text in pairs]
        question, answer = _asked(texts, number=drawn("number", count), kind=drawn("kind", 3))
        shown: list[Part | str] = []
        for number, (picture, _) in enumerate(pairs):
            shown += [f"Picture {number + 1}: ", picture, "\n"]
        asked = [*shown, question] if drawn("order", 2) else [f"{question}\n", *shown]
        return Document.chat([("user", asked), ("assistant", answer)])


def _asked(texts: Sequence[str], *, number: int, kind: int) -> tuple[str, str]:
    """(question, answer) about one of the pictures, or all."""
    if kind == 0 and texts.count(texts[number]) == 1:
        return f"Which picture shows this: {texts[number]}", f"Picture {number + 1}."
    if kind == 2:
        return "Describe each picture.", " ".join(f"Picture {i + 1}: {text}" for i, text in enumerate(texts))
    return f"What does picture {number + 1} show?", texts[number]


def _pair(document: Document) -> tuple[Media, str]:
    media = [part for _, part in document.media()]
    words = "".join(message.text for message in document.messages).strip()
    if len(media) != 1 or not words:
        raise ValueError(
            f"a pair has {len(media)} media parts and {len(words)} characters; expected one picture and a text\n"
            "hint: read the data set by its format `caption`"
        )
    picture = media[0]
    return Media(picture.payload, modality=picture.modality, alt=picture.alt, directions=(Direction.IN,)), words
