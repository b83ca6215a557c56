"""Conditions of a frozen language model, cached: what a decoder trains on when everything before it stands still.

Where backbone, queries and encoders are frozen, the hidden states at an `out` span are constants of the document.
They are computed once, kept under the hash of everything that precedes the span, and decoder training then costs the
decoder alone. Same gradients for the decoder, a fraction of the work.
"""

import hashlib
from collections import Counter
from typing import Any

import torch
from torch import Tensor

from limner.data.collate import Collator
from limner.data.features import FeatureCache
from limner.data.mixture import Mixture
from limner.document.document import Direction, Media
from limner.model.multimodal import MultimodalLM
from limner.tokens.batch import Batch, SpanBatch
from limner.tokens.sequence import Sequence, Span

_MAX_SEARCHED = 1000
"""So many documents without a picture to make mean that the mixture has none."""

_PREFILL_ROWS = 16
"""Documents per forward when missing conditions are computed."""


class ConditionLoader:
    """Batches of `num_items` pictures of one modality with cached hidden states and latents; no ids.

    Every made picture of a document is an item, in the order of documents and of pictures within them. `offset` counts
    the pictures of the document at `position` that are drawn already.
    """

    def __init__(self, mixture: Mixture, *, model: MultimodalLM, name: str, num_items: int, position: int = 0) -> None:
        self.mixture = mixture
        self.model = model
        self.name = name
        self.num_items = num_items
        self.position = position
        self.offset = 0
        self.cache = FeatureCache(model)
        self.collate = Collator(model, cache=self.cache)
        self.hidden: dict[bytes, Tensor] = {}
        self.drawn: Counter[str] = Counter()
        if not self.cache.covers(name, Direction.OUT):
            raise ValueError(
                f"the autoencoder of `{name}` is trained in this stage, so its latents cannot be cached\n"
                "hint: use packed batches, or leave the autoencoder out of the trainable parts"
            )
        trained = [
            parameter_name
            for parameter_name, parameter in model.named_parameters()
            if parameter.requires_grad and not parameter_name.startswith(_behind(name))
        ]
        if trained:
            raise ValueError(
                f"cached conditions of `{name}` would go stale: {trained[0]} and {len(trained) - 1} more are trained\n"
                "hint: use packed batches, or train only the output projector and the decoder"
            )

    def next_batch(self) -> Batch:
        """The batch at the current position; moves the position on."""
        items: list[tuple[Sequence, Span]] = []
        start = self.position
        while len(items) < self.num_items:
            if not items and self.position - start >= _MAX_SEARCHED:
                raise ValueError(
                    f"the mixture makes no `{self.name}` in {_MAX_SEARCHED} documents from position {start}\n"
                    "hint: train this stage on documents whose pictures are made"
                )
            document, draw = self.mixture.document(self.position)
            sequence = self.model.render(document, key=draw.key)
            made = [span for span in sequence.spans if self._is_made(span)]
            taken = made[self.offset :][: self.num_items - len(items)]
            items += [(sequence, span) for span in taken]
            self.drawn[draw.source] += len(taken)
            self.offset += len(taken)
            if self.offset == len(made):
                self.position, self.offset = self.position + 1, 0
        keys = [_prefix_key(sequence, span) for sequence, span in items]
        self._fill([sequence for (sequence, _), key in zip(items, keys, strict=True) if key not in self.hidden])
        media = [sequence.media[span.item] for sequence, span in items]
        return self._batch(media, keys, tuple(f"{sequence.key}:{span.item}" for sequence, span in items))

    def _is_made(self, span: Span) -> bool:
        return (span.modality, span.direction) == (self.name, Direction.OUT)

    def _batch(self, media: list[Media], keys: list[bytes], item_keys: tuple[str, ...]) -> Batch:
        hidden = torch.stack([self.hidden[key] for key in keys]).float()
        latents = torch.stack(self.cache.features(media, direction=Direction.OUT))
        empty = torch.zeros(0, 0, dtype=torch.long)
        lengths = torch.full((len(media),), hidden.shape[1])
        spans = SpanBatch(empty.flatten(), lengths, latents, item_keys, encoded=True, hidden=hidden)
        return Batch(empty, empty, empty, empty, {(self.name, Direction.OUT): spans})

    @torch.no_grad()
    def _fill(self, sequences: list[Sequence]) -> None:
        """One forward per document gives the hidden states of all its pictures."""
        missing = sorted({sequence.key: sequence for sequence in sequences}.values(), key=len)
        for start in range(0, len(missing), _PREFILL_ROWS):
            chunk = missing[start : start + _PREFILL_ROWS]
            batch = self.collate([[sequence] for sequence in chunk]).to(self.model.device)
            hidden = self.model.hidden_states(batch)
            for row, sequence in enumerate(chunk):
                for span in filter(self._is_made, sequence.spans):
                    states = hidden[row, span.start : span.start + span.length]
                    self.hidden[_prefix_key(sequence, span)] = states.to("cpu", torch.float16)

    def state_dict(self) -> dict[str, Any]:
        """A few integers; the cache fills itself again."""
        return {"position": self.position, "offset": self.offset, "drawn": dict(self.drawn)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""
        self.position = int(state["position"])
        self.offset = int(state["offset"])
        self.drawn = Counter(state["drawn"])


def _behind(name: str) -> tuple[str, str]:
    """Prefixes of the parameters that come after the hidden states."""
    return f"modalities.{name}.output_projector.", f"modalities.{name}.decoder."


def _prefix_key(sequence: Sequence, span: Span) -> bytes:
    """A hash over all that the hidden states at `span` depend on: the ids before it and the pictures read there."""
    digest = hashlib.blake2b(digest_size=16)
    digest.update(repr(sequence.ids[: span.start + span.length]).encode())
    for other in sequence.spans:
        if other.direction is Direction.IN and other.start < span.start:
            digest.update(sequence.media[other.item].content.digest.encode())
    return digest.digest()
