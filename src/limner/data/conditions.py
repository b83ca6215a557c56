"""Conditions of a frozen language model, cached: what a decoder trains on when everything before it stands still.

Where backbone, queries and encoders are frozen, the hidden states at an `out` span are constants of the document.
They are computed once, kept under the hash of what they depend on, and decoder training then costs the decoder alone.
Same gradients for the decoder, a fraction of the work.

Exact: a document is run alone, up to the end of its last made picture, in eval mode, and its states are kept in the
type that the model computes. So they are a function of the document, and a resumed run, which fills its cache in
another order, has the same bits. A group of documents would be a cheaper forward, but in no group that is a function of
the position: content that was met before would have to be run again in each.
"""

import hashlib
from typing import NamedTuple

import torch
from torch import Tensor

from limner.data.collate import Collator
from limner.data.features import FeatureCache
from limner.data.item_order import ItemLoader, ItemOrder
from limner.data.mixture import Draw, Mixture
from limner.data.packing import NextFit, Size
from limner.data.windows import BadDocument, TooLong, Windows
from limner.document.document import Direction, Media
from limner.model.multimodal import MultimodalLM
from limner.tokens.batch import Batch, SpanBatch
from limner.tokens.sequence import Sequence, Span


class _Made(NamedTuple):
    """Picture `number` among those that a document makes."""

    sequence: Sequence
    number: int


class ConditionLoader(ItemLoader[_Made]):
    """Batches of `num_items` pictures of one modality with cached hidden states and latents; no ids.

    Every made picture of a document is an item, in the order of documents and of pictures within them. A document of
    which a picture cannot be decoded leaves its batch, which is then smaller.

    row_length:      most tokens of a document; None for the context of the language model.
    too_long:        "error" | "skip" | "cut" for a longer one.
    rank, num_ranks: whose items these are. Each rank makes its loader and loads the same state.
    """

    def __init__(
        self,
        mixture: Mixture,
        *,
        model: MultimodalLM,
        name: str,
        num_items: int,
        row_length: int | None = None,
        too_long: TooLong = "cut",
        rank: int = 0,
        num_ranks: int = 1,
    ) -> None:
        self.model = model
        self.name = name
        self.cache = FeatureCache(model)
        self.collate = Collator(model, cache=self.cache)
        self.hidden: dict[bytes, Tensor] = {}
        self._check_frozen()
        limit = row_length or model.backbone.context_length
        self.windows = Windows(
            mixture,
            render=model.render,
            packing=NextFit(),
            room=Size(limit, limit),
            window=1,
            too_long=too_long,
            num_kept=0,
        )
        self.mixture = self.windows.mixture
        self.order = ItemOrder(
            self.mixture, items_at=self._items_at, what=name, num_items=num_items, rank=rank, num_ranks=num_ranks
        )

    def next_batch(self) -> Batch:
        """This rank's batch at the current place; moves the place on for all."""
        hidden: list[Tensor] = []
        media: list[Media] = []
        latents: list[Tensor] = []
        keys: list[str] = []
        bad: dict[Draw, ValueError] = {}
        for draw, (sequence, number) in self.order.take():
            if draw in bad:
                continue
            span = self._made(sequence)[number]
            try:
                states = self._states(sequence)[number]
                latents += self.cache.features([sequence.media[span.item]], direction=Direction.OUT)
            except ValueError as error:
                bad[draw] = error
                continue
            hidden.append(states)
            media.append(sequence.media[span.item])
            keys.append(f"{sequence.key}:{span.item}")
        for draw, error in bad.items():
            self.order.skip(draw, error)
        if not media:
            raise ValueError(
                f"none of {len(bad)} documents of a batch could be used; the last is {next(reversed(bad)).key}\n"
                "hint: the warnings above name them all"
            )
        empty = torch.zeros(0, 0, dtype=torch.long)
        lengths = torch.full((len(media),), hidden[0].shape[0])
        states, targets = torch.stack(hidden).float(), torch.stack(latents)
        spans = SpanBatch(empty.flatten(), lengths, targets, tuple(keys), encoded=True, hidden=states)
        sides = {(self.name, Direction.OUT): spans}
        return Batch(empty, empty, empty, empty, sides, sources=tuple(self.mixture.sources))

    def _items_at(self, position: int) -> list[_Made]:
        try:
            sequence = self.windows.sequence(position)
        except BadDocument as bad:
            if bad.reason == "too_long" and self.windows.too_long == "error":
                raise ValueError(f"{bad}\nhint: raise the limit, or say too_long='skip' or 'cut'") from bad
            raise
        return [_Made(sequence, number) for number in range(len(self._made(sequence)))]

    def _made(self, sequence: Sequence) -> list[Span]:
        side = (self.name, Direction.OUT)
        return [span for span in sequence.spans if (span.modality, span.direction) == side]

    @torch.no_grad()
    def _states(self, sequence: Sequence) -> Tensor:
        """Hidden states [pictures queries d_model] of all that a document makes, on the CPU."""
        spans = self._made(sequence)
        beginning = sequence.cut(spans[-1].outer[1])
        key = _content_key(beginning)
        if key not in self.hidden:
            self._stand_still()
            batch = self.collate([[beginning]]).to(self.model.device)
            states = self.model.hidden_states(batch)[0]
            found = torch.stack([states[span.start : span.start + span.length] for span in spans])
            self.hidden[key] = found.to("cpu")
        return self.hidden[key]

    def _stand_still(self) -> None:
        """Eval mode for all that the states come from: dropout would make them one draw of many."""
        self.model.backbone.eval()
        for name in self.model.modalities:
            modality = self.model.modality(name)
            for part in (modality.encoder, modality.input_projector, modality.queries):
                if part is not None:
                    part.eval()

    def _check_frozen(self) -> None:
        """Raise ValueError where what is cached would change."""
        self.cache.require(self.name, Direction.OUT)
        behind = (f"modalities.{self.name}.output_projector.", f"modalities.{self.name}.decoder.")
        trained = [
            name
            for name, parameter in self.model.named_parameters()
            if parameter.requires_grad and not name.startswith(behind)
        ]
        if trained:
            raise ValueError(
                f"cached conditions of `{self.name}` would go stale: {trained[0]} and {len(trained) - 1} more are "
                "trained\nhint: use packed batches, or train only the output projector and the decoder"
            )
        for name in self.model.modalities:
            if self.model.modality(name).encoder is not None:
                self.cache.require(name, Direction.IN)


def _content_key(sequence: Sequence) -> bytes:
    """A hash over all that hidden states depend on: the ids, and the pictures that are read."""
    digest = hashlib.blake2b(repr(sequence.ids).encode(), digest_size=16)
    for span in sequence.spans:
        if span.direction is Direction.IN:
            payload = sequence.media[span.item].payload
            digest.update(f"{span.start} {payload.digest if payload else ''}".encode())
    return digest.digest()
