"""Encoding ahead: the feature cache filled for a mixture's documents, without training anything.

Goes through every source once, in order, or through the first documents that a mixture draws. What is held already
costs a look into the cache, so an encoding that was broken off goes on where it was; several processes share the
documents and find what the others have written.
"""

import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from functools import partial

from limner.data.features import FeatureCache
from limner.data.mixture import Mixture
from limner.document.document import Direction, Document, Media

logger = logging.getLogger(__name__)


def encode_documents(
    mixture: Mixture,
    *,
    max_documents: int | None = None,
    cache: FeatureCache,
    left_out: Collection[tuple[str, Direction]] = (),
    part: int = 0,
    num_parts: int = 1,
    on_document: Callable[[], None] | None = None,
) -> Counter[str]:
    """Compute what the cache covers and does not hold, for every `num_parts`-th document from `part` on.

    `max_documents` takes the first so many of the mixture's order, None every document of every source once.

    `left_out` are (modality, direction) that are not computed although they are covered.

    Returns counts: "encoded <modality> <direction>", "held <modality> <direction>" of items, "skipped" documents
    (unreadable, or with a picture that cannot be decoded; each is named in the log).
    """
    counts: Counter[str] = Counter()
    for name, read in _documents(mixture, max_documents, part=part, num_parts=num_parts):
        try:
            for item, direction in _items(read(), cache, left_out):
                counts[f"{_known_or_encoded(item, direction, cache)} {item.modality} {direction}"] += 1
        except ValueError as error:
            counts["skipped"] += 1
            logger.warning("skipped %s: %s", name, str(error).splitlines()[0])
        if on_document is not None:
            on_document()
    return counts


def num_documents(mixture: Mixture, *, max_documents: int | None) -> int:
    """How many documents `encode_documents` goes through."""
    if max_documents is None:
        return sum(len(source) for source in mixture.sources.values())
    return min(max_documents, mixture.num_documents or max_documents)


def _documents(
    mixture: Mixture, max_documents: int | None, *, part: int, num_parts: int
) -> Iterator[tuple[str, Callable[[], Document]]]:
    """(name, what reads it) of every document of a part."""
    if max_documents is None:
        for name, source in mixture.sources.items():
            for index in range(part, len(source), num_parts):
                yield f"{name}/{index}", partial(source.__getitem__, index)
        return
    for position in range(part, num_documents(mixture, max_documents=max_documents), num_parts):
        yield mixture.draw(position).key, partial(_drawn, mixture, position)


def _drawn(mixture: Mixture, position: int) -> Document:
    return mixture.document(position)[0]


def _items(
    document: Document, cache: FeatureCache, left_out: Collection[tuple[str, Direction]]
) -> list[tuple[Media, Direction]]:
    return [
        (media, direction)
        for message, media in document.media()
        for direction in cache.wanted(media, message.directions(media))
        if (media.modality, direction) not in left_out and media.payload is not None
    ]


def _known_or_encoded(media: Media, direction: Direction, cache: FeatureCache) -> str:
    if cache.holds(media, direction):
        return "held"
    cache.features([media], direction=direction)
    return "encoded"
