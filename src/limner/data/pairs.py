"""Pairs in both directions: one source of pictures with their texts, read from either side.

    comprehension   the picture, then its text, which is learned
    creation        the text, then its picture, which is made; that a picture begins there is learned too
    joint           either, at even odds, drawn anew at every position of a mixture

Owns nothing else: which files there are, and what a row of them says, sources and formats know.
"""

from typing import Literal, get_args

from limner.data.mixture import Source, uniform
from limner.data.scene_grammar import SceneGrammar, text_of
from limner.document.document import Direction, Document, Media, Text

Mode = Literal["comprehension", "creation", "joint"]


class Pairs:
    """The documents of a source of pairs (pages of one picture and a text, in any order), as `mode` says.

    A picture whose height and width are not both above `min_size` pixels makes a bad document.
    """

    def __init__(self, source: Source, *, mode: Mode, min_size: int = 0) -> None:
        if mode not in get_args(Mode):
            raise ValueError(f"mode is `{mode}`; expected one of {', '.join(get_args(Mode))}\nhint: joint is both")
        self.source = source
        self.mode: Mode = mode
        self.min_size = min_size

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Document:
        return self.document(index, choice=uniform("pair", index))

    def document(self, index: int, *, choice: float) -> Document:
        """The pair at `index`; under `joint` a `choice` in [0, 1) of a half or more makes the picture.

        Raises ValueError where the source has no pair there.
        """
        document = self.source[index]
        picture, words = _pair(document)
        if min(picture.content.size) <= self.min_size:
            raise ValueError(
                f"a picture of {picture.content.size} pixels (h, w); expected more than {self.min_size} each way\n"
                "hint: lower min_size"
            )
        if self.mode == "creation" or (self.mode == "joint" and choice >= 0.5):
            made = Media(picture.payload, modality=picture.modality, alt=picture.alt, directions=(Direction.OUT,))
            return Document.page([Text(words, train=False), made], meta=document.meta)
        read = Media(picture.payload, modality=picture.modality, alt=picture.alt, directions=(Direction.IN,))
        return Document.page([read, words], meta=document.meta)


def _pair(document: Document) -> tuple[Media, str]:
    media = [part for _, part in document.media()]
    words = "".join(message.text for message in document.messages)
    if len(media) != 1 or len(document.messages) != 1 or not words.strip():
        raise ValueError(
            f"a pair has {len(document.messages)} messages, {len(media)} media parts and {len(words)} characters; "
            "expected one page of one picture and a text\nhint: read the data set by its format `caption`"
        )
    return media[0], words


class ScenePairs:
    """Pairs without files: scenes of a grammar with their full texts, as data sets of pairs are read."""

    def __init__(
        self, *, length: int, split: str = "train", seed: int = 0, grammar: SceneGrammar | None = None
    ) -> None:
        self.length = length
        self.split = split
        self.seed = seed
        self.grammar = grammar or SceneGrammar()

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Document:
        scene = self.grammar.scene(index, seed=self.seed, split=self.split)
        return Document.page([self.grammar.picture(scene), text_of(scene) + "."])
