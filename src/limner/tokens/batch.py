"""Batch: sequences packed into rows, as tensors. What the model's forward takes.

Several documents may share a row; `documents` tells them apart (0 is padding), `positions` restart with each. Spans
become flat slot indices, so features are placed and hidden states are read by index, once, batched.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from limner.document.document import Direction

IGNORED = -100
"""Label of positions that are no target (the ignore_index of torch's cross entropy)."""


@dataclass(frozen=True)
class SpanBatch:
    """All spans of one modality and direction in a batch, in row order.

    slots:   flat positions row * seq + column of every slot, span after span.
    lengths: slots per span.
    values:  `in`: stacked preprocessed items, or feature rows [tokens width] when `encoded`.
             `out`: target pixels [items 3 h w], or latents when `encoded`.
    value_lengths: `in` and `encoded`: feature rows per item.
    keys:    identity of each item, for noise generators.
    hidden:  `out` only: hidden states at the slots, when a cache holds them and the language model need not run.
    """

    slots: Int[Tensor, " tokens"]
    lengths: Int[Tensor, " items"]
    values: Tensor
    keys: tuple[str, ...]
    encoded: bool = False
    value_lengths: Int[Tensor, " items"] | None = None
    hidden: Float[Tensor, "items queries d_model"] | None = None


@dataclass(frozen=True)
class Batch:
    """Packed rows. `labels[b, i]` is the id at i where it is a target, else IGNORED; it is predicted from i - 1.

    sources:    names of the mixture's sources, the same in every batch.
    source_ids: index into `sources` of the document at each position, -1 for padding; None where nobody named sources.
    keys:       `keys[b][d - 1]` is the key of the document that `documents[b]` numbers d.
    codes:      modality -> (first id, number of ids) of what is said in codes, as in the vocabulary.
    capacity:   tokens that the rows may hold, which is more than they are padded to; 0 where nothing limits them.
    """

    ids: Int[Tensor, "batch seq"]
    positions: Int[Tensor, "batch seq"]
    documents: Int[Tensor, "batch seq"]
    labels: Int[Tensor, "batch seq"]
    spans: dict[tuple[str, Direction], SpanBatch] = field(default_factory=dict)
    sources: tuple[str, ...] = ()
    source_ids: Int[Tensor, "batch seq"] | None = None
    keys: tuple[tuple[str, ...], ...] = ()
    codes: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    capacity: int = 0

    @property
    def num_tokens(self) -> int:
        """Positions that hold a token (padding left out)."""
        return int((self.documents > 0).sum())

    @property
    def pack_efficiency(self) -> float:
        """Share of what the rows may hold that is tokens."""
        return self.num_tokens / max(1, self.capacity or self.ids.numel())

    def words(self) -> Bool[Tensor, "batch seq"]:
        """Where a target stands that is no code."""
        found = self.labels != IGNORED
        for name in self.codes:
            found &= ~self.codes_of(name)
        return found

    def codes_of(self, modality: str) -> Bool[Tensor, "batch seq"]:
        """Where a target stands that is a code of a modality."""
        first, number = self.codes[modality]
        return (self.labels >= first) & (self.labels < first + number)

    def to(self, device: torch.device | str) -> "Batch":
        """The batch on another device."""
        return dataclasses.replace(
            self,
            ids=self.ids.to(device),
            positions=self.positions.to(device),
            documents=self.documents.to(device),
            labels=self.labels.to(device),
            spans={name: _spans_to(spans, device) for name, spans in self.spans.items()},
            source_ids=None if self.source_ids is None else self.source_ids.to(device),
        )


def _spans_to(spans: SpanBatch, device: torch.device | str) -> SpanBatch:
    return dataclasses.replace(
        spans,
        slots=spans.slots.to(device),
        lengths=spans.lengths.to(device),
        values=spans.values.to(device),
        value_lengths=None if spans.value_lengths is None else spans.value_lengths.to(device),
        hidden=None if spans.hidden is None else spans.hidden.to(device),
    )
