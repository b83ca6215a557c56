"""Feature cache: what frozen encoders and autoencoders give for an item, computed once and kept on disk.

Content-addressed: a value belongs to (digest of the item's bytes, fingerprint of the part: its weights and transform).
Each fingerprint has a folder of its own below `features_root()`, so changed weights never meet old features, and
reading and making, stages, runs and processes share what they have in common.

What is kept, by direction:
    in    the rows of `Encoder.forward` [tokens width]
    out   what `Decoder.encode` gives [*latent]: latents, or for a variational autoencoder the moments (mean and
          log-variance); the random part is drawn in `Decoder.loss` from the generator of (seed, step, item).
          Of what is said in codes the codes [tokens], from `Quantizer.forward`

Exact: a covered part runs only here - one item at a time, in eval mode, without autocast - and its values are kept in
the type it computes. So a value does not depend on its neighbours in a batch, on when it was computed, or on whether it
came from the disk: with `open_store=NoStore`, which keeps nothing, a run has the same losses bit by bit.

An encoder or decoder whose `preprocess`, `forward` or `encode` gives something else at every call says so by its class
attribute `is_random = True`; it is never covered, and asking for its features is refused. Augmentation of documents
needs no such word: another picture has another digest. A part without weights is never covered either.

    cache = FeatureCache(model)
    cache.holds(media, Direction.IN)                       also in forked workers: then nothing has to be decoded
    cache.features(items, direction=Direction.IN)          where the model is
    cache.spell(media)                                     codes, for the renderer: lengths are known before packing
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from limner.data.feature_store import DiskStore, NoStore, Store, features_limit, features_root
from limner.data.fingerprint import description, fingerprint, weights_stamp
from limner.document.document import Direction, Media
from limner.modalities.base import Decoder, Encoder, Modality, Quantizer
from limner.model.codes import quantise
from limner.model.multimodal import MultimodalLM

logger = logging.getLogger(__name__)


@dataclass
class FrozenPart:
    """One side of a modality: `transform` owns `preprocess`, `part` is what computes (and must be frozen)."""

    name: str
    direction: Direction
    transform: Encoder | Decoder | Quantizer
    part: nn.Module
    opened: Store = field(default_factory=NoStore)
    _stamp: tuple | None = None

    @property
    def is_frozen(self) -> bool:
        """No parameter is trained."""
        return not any(parameter.requires_grad for parameter in self.part.parameters())

    @property
    def has_weights(self) -> bool:
        """Whether there is anything to run: what only lays pixels out anew costs less than reading it back."""
        return any(True for _ in self.part.parameters())

    @property
    def is_random(self) -> bool:
        """Whether it says that it gives something else at every call."""
        return self.transform.is_random

    @torch.no_grad()
    def compute(self, media: Media, *, preprocessed: Tensor | None, device: torch.device) -> Tensor:
        """The value of one item, alone: in a stack its last bits would depend on its neighbours."""
        items = self.transform.preprocess(media) if preprocessed is None else preprocessed
        # What is frozen neither drops out nor moves running statistics.
        self.part.eval()
        if isinstance(self.transform, Quantizer):
            return quantise(self.transform, items)
        with torch.autocast(device.type, enabled=False):
            if isinstance(self.transform, Encoder):
                value = self.transform(items[None].to(device)).values
            else:
                value = self.transform.encode(items[None].to(device))[0]
        return value.detach().to("cpu").contiguous()

    def store(self, open_store: "OpenStore") -> Store:
        """The store of the part as it is now: other weights, another store."""
        stamp = weights_stamp(self.part)
        if stamp != self._stamp:
            self.opened, self._stamp = open_store(self), stamp
        return self.opened


OpenStore = Callable[[FrozenPart], Store]


def disk_store(part: FrozenPart) -> Store:
    """The part's folder below `features_root()`."""
    folder = features_root() / fingerprint(part.part, transform=part.transform)
    about = [f"{part.name} {part.direction}", *description(part.part, transform=part.transform)]
    return DiskStore(folder, about=about, limit=features_limit())


class FeatureCache:
    """Encoder features (`in`) and decoder latents (`out`) by item, for the modalities whose parts are frozen.

    `open_store` says where values are kept: `disk_store`, or `lambda part: MemoryStore()`, `lambda part: NoStore()`.
    """

    def __init__(self, model: MultimodalLM, *, open_store: OpenStore = disk_store) -> None:
        self.model = model
        self.open_store = open_store
        sides = [side for name in model.modalities for side in _sides(name, model.modality(name))]
        frozen = {
            (side.name, side.direction): side
            for side in sides
            # Codes are asked for again at every rendering.
            if side.is_frozen and (side.has_weights or isinstance(side.transform, Quantizer))
        }
        self._random = {key for key, side in frozen.items() if side.is_random}
        self._parts = {key: side for key, side in frozen.items() if key not in self._random}
        for name, direction in sorted(self._random):
            logger.info("features of `%s` (%s) are not cached: its transform is random", name, direction)
        # Now, not at the first question: that may come in a forked worker, which may not be able to reach the weights.
        for part in self._parts.values():
            part.store(open_store)

    @property
    def parts(self) -> list[FrozenPart]:
        """What is covered."""
        return list(self._parts.values())

    def covers(self, name: str, direction: Direction) -> bool:
        """Whether that side of a modality is frozen and not random, so that its features may be kept."""
        return (name, direction) in self._parts

    def holds(self, media: Media, direction: Direction) -> bool:
        """Whether the features of an item are there already. Reads only, so it may be asked in forked workers."""
        part = self._parts.get((media.modality, direction))
        if part is None or media.payload is None:
            return False
        return part.opened.holds(media.payload.digest)

    def features(
        self, media: Sequence[Media], *, direction: Direction, values: Sequence[Tensor | None] | None = None
    ) -> list[Tensor]:
        """Features of items of one modality, on the CPU: [tokens width] each for `in`, [*latent] each for `out`.

        `values` are items that were preprocessed elsewhere (in a worker); None for those that were not.
        Raises ValueError for a side that is trained or random, and for a picture that cannot be decoded.
        """
        if not media:
            return []
        part = self._covered(media[0].modality, direction)
        store = part.store(self.open_store)
        found: list[Tensor] = []
        for item, preprocessed in zip(media, values or [None] * len(media), strict=True):
            key = _digest(item)
            value = store.get(key)
            if value is None:
                value = part.compute(item, preprocessed=preprocessed, device=self.model.device)
                store.put(key, value)
            found.append(value)
        return found

    def spell(self, media: Media) -> tuple[int, ...]:
        """Codes of an item of a modality that is said in codes; may be asked in a forked worker where the model is on
        the CPU. Raises RuntimeError in a worker that would need another device for it."""
        is_worker = torch.utils.data.get_worker_info() is not None
        if is_worker and self.model.device.type != "cpu" and not self.holds(media, Direction.OUT):
            raise RuntimeError(
                f"an item of `{media.modality}` has no codes yet, and a worker cannot use {self.model.device}\n"
                "hint: run `limner data encode` first, or read without workers"
            )
        return tuple(self.features([media], direction=Direction.OUT)[0].tolist())

    def wanted(self, media: Media, directions: Sequence[Direction]) -> list[Direction]:
        """Directions of an item in `directions` that are computed, and covered: what is said in codes is not read
        besides, and what is read in codes has those of `out`."""
        wanted = list(directions)
        is_coded = self.model.vocabulary.is_coded
        coded = [direction for direction in wanted if is_coded(media.modality, direction)]
        if coded:
            wanted = [Direction.OUT]
        return [direction for direction in wanted if self.covers(media.modality, direction)]

    def require(self, name: str, direction: Direction) -> None:
        """Raise ValueError where that side cannot be cached, with the reason."""
        self._covered(name, direction)

    def _covered(self, name: str, direction: Direction) -> FrozenPart:
        part = self._parts.get((name, direction))
        if part is not None:
            return part
        what = "encoder" if direction is Direction.IN else "autoencoder"
        if direction is Direction.OUT and self.model.modality(name).quantizer is not None:
            raise ValueError(
                f"the quantizer of `{name}` is trained in this stage: its codes would change while they are learned\n"
                "hint: leave the quantizer out of the trainable parts; it is trained before, in a stage of its own"
            )
        if (name, direction) in self._random:
            raise ValueError(
                f"the {what} of `{name}` has a random transform, so cached features would repeat one draw of it\n"
                "hint: make it a function of the picture, vary the documents instead, or use packed batches"
            )
        raise ValueError(
            f"the {what} of `{name}` is trained in this stage, so its features cannot be cached\n"
            f"hint: leave the {what} out of the trainable parts, or use packed batches"
        )


def _digest(media: Media) -> str:
    return media.payload.digest if media.payload is not None else media.content.digest


def _sides(name: str, modality: Modality) -> list[FrozenPart]:
    """What computes features in each direction."""
    sides = []
    if modality.encoder is not None:
        sides.append(FrozenPart(name, Direction.IN, modality.encoder, modality.encoder))
    if modality.decoder is not None:
        part = getattr(modality.decoder, "autoencoder", modality.decoder)
        sides.append(FrozenPart(name, Direction.OUT, modality.decoder, part))
    if modality.quantizer is not None:
        sides.append(FrozenPart(name, Direction.OUT, modality.quantizer, modality.quantizer))
    return sides
