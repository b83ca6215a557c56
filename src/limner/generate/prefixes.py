"""Beginnings of rows that are kept by what they hold, so that a prompt which begins alike need not be run there.

    contents of a prompt -> the kept row with the longest common beginning -> copied into the new row's place

A place's content is its id, or for a slot of a media span the item's digest and the place within it. So a shared
system prompt, few-shot examples and the turns of a conversation are found without anybody naming them. What is kept
belongs to one model's weights; `Prefixes.check_weights` forgets everything once these have changed.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Iterable

import numpy
from torch import Tensor, nn

from limner.backbone.cache import RowCache
from limner.document.document import Direction, Media
from limner.tokens.sequence import Sequence, Span

Contents = list[int]
SHORTEST = 16
"""A common beginning of fewer places is run again: copying is not cheaper."""


def contents_of(sequence: Sequence) -> Contents:
    """What each place of a rendered document holds; what is written in codes holds these."""
    contents = list(sequence.ids)
    for span in sequence.spans:
        if span.coded:
            continue
        contents[span.start : span.start + span.length] = span_contents(span, sequence.media[span.item])
    return contents


def span_contents(span: Span, media: Media) -> Contents:
    """What the slots of a span hold: queries are constants of the weights, features belong to the item."""
    digest = "" if span.direction is Direction.OUT or media.payload is None else media.payload.digest
    return slot_contents(span.modality, span.direction, digest, length=span.length)


def slot_contents(modality: str, direction: Direction, digest: str, *, length: int) -> Contents:
    """Numbers below -2**40, which no id is: ids may be negative too."""
    key = hashlib.blake2b("\x1f".join((modality, direction, digest)).encode(), digest_size=8).digest()
    first = -(1 << 40) - (int.from_bytes(key, "little") >> 2)
    return [first - place for place in range(length)]


def common_length(one: Contents, other: Contents) -> int:
    """Places at the beginning that hold the same."""
    shorter = min(len(one), len(other))
    differ = numpy.flatnonzero(numpy.array(one[:shorter]) != numpy.array(other[:shorter]))
    return int(differ[0]) if len(differ) else shorter


def whole_spans(sequence: Sequence, length: int) -> int:
    """The longest beginning of at most `length` places that ends within no span."""
    for span in sequence.spans:
        if span.start < length < span.start + span.length:
            return span.start
    return length


class Prefixes:
    """Kept rows, at most `max_bytes` of keys and values; what was used longest ago goes first."""

    def __init__(self, *, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.num_bytes = 0
        self._kept: OrderedDict[tuple[int, ...], list[tuple[Tensor, Tensor]]] = OrderedDict()
        self._version: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self._kept)

    def check_weights(self, model: nn.Module) -> bool:
        """Whether the weights have changed since the last call; then all is forgotten."""
        version = tuple(parameter._version for parameter in model.parameters() if not parameter.is_inference())
        changed, self._version = version != self._version, version
        if changed:
            self.clear()
        return changed

    def clear(self) -> None:
        """Forget all."""
        self._kept.clear()
        self.num_bytes = 0

    def longest(self, contents: Contents) -> tuple[int, list[tuple[Tensor, Tensor]]]:
        """The most places that a kept row shares with `contents`, and its keys and values; 0 and none."""
        best, found = 0, None
        for kept in self._kept:
            if kept[0] == contents[0] and (length := common_length(list(kept), contents)) > best:
                best, found = length, kept
        if found is None:
            return 0, []
        self._kept.move_to_end(found)
        return best, self._kept[found]

    def keep(self, contents: Contents, cache: RowCache, row: int) -> None:
        """Keep a row, unless it is too short, too large or the beginning of one that is kept."""
        key = tuple(contents)
        if len(key) < SHORTEST or len(key) > cache.lengths[row]:
            return
        for kept in list(self._kept):
            common = common_length(list(kept), contents)
            if common == len(key):
                self._kept.move_to_end(kept)
                return
            if common == len(kept):
                self._forget(kept)
        size = _size(cache.views(row, len(key)))
        if size > self.max_bytes:
            return
        while self.num_bytes + size > self.max_bytes:
            self._forget(next(iter(self._kept)))
        self._kept[key] = [(keys.clone(), values.clone()) for keys, values in cache.views(row, len(key))]
        self.num_bytes += size

    def _forget(self, key: tuple[int, ...]) -> None:
        self.num_bytes -= _size(self._kept.pop(key))


def _size(layers: Iterable[tuple[Tensor, Tensor]]) -> int:
    return sum(store.numel() * store.element_size() for layer in layers for store in layer)
