"""Objectives: which loss terms a stage has, and what is measured before its first and after its last step."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from limner.document.document import Direction
from limner.modalities.base import Features, LossTerm
from limner.modalities.noise import keyed_generator
from limner.model.multimodal import TEXT, MultimodalLM
from limner.tokens.batch import IGNORED, Batch, SpanBatch

NoiseKey = tuple[int | str, ...]


@runtime_checkable
class Objective(Protocol):
    """Loss terms of a batch by name; `batches` are some of the stage's own."""

    def __call__(self, model: MultimodalLM, batch: Batch, *, noise_key: NoiseKey) -> dict[str, LossTerm]: ...

    def prepare(self, model: MultimodalLM, batches: Iterable[Batch]) -> None:
        """Called once before the first step."""
        ...

    def finish(self, model: MultimodalLM, batches: Iterable[Batch]) -> None:
        """Called once after the last step."""
        ...


@dataclass(frozen=True)
class Multimodal:
    """The model's own terms: text and one per modality that is made (all, or those in `made`)."""

    made: Sequence[str] | None = None

    def __call__(self, model: MultimodalLM, batch: Batch, *, noise_key: NoiseKey) -> dict[str, LossTerm]:
        return model(batch, noise_key=noise_key, made=self.made)

    def prepare(self, model: MultimodalLM, batches: Iterable[Batch]) -> None:
        """Nothing is measured."""

    def finish(self, model: MultimodalLM, batches: Iterable[Batch]) -> None:
        """Nothing is measured."""


@dataclass(frozen=True)
class Reconstruction:
    """The autoencoder of one modality alone: its term is `<modality>.reconstruction`."""

    modality: str

    def __call__(self, model: MultimodalLM, batch: Batch, *, noise_key: NoiseKey) -> dict[str, LossTerm]:
        spans = batch.spans[self.modality, Direction.OUT]
        autoencoder = model.modality(self.modality).decoder.autoencoder
        generators = [keyed_generator(*noise_key, key) for key in spans.keys]
        term = autoencoder.reconstruction_loss(spans.values, generators=generators)
        return {f"{self.modality}.reconstruction": term}

    def prepare(self, model: MultimodalLM, batches: Iterable[Batch]) -> None:
        """Nothing is measured."""

    def finish(self, model: MultimodalLM, batches: Iterable[Batch]) -> None:
        """Measure the latents' mean and spread, so that what the generator learns has unit variance."""
        some = [batch.spans[self.modality, Direction.OUT].values for batch in islice(batches, 8)]
        model.modality(self.modality).decoder.autoencoder.calibrate(torch.cat(some))


@dataclass(frozen=True)
class WordAlignment:
    """Input rows of a picture are pulled to the embeddings of the words after it, without running the language model.

    Row k of a picture is compared with the k-th trained token that follows its span: by its direction against the
    embeddings of all tokens in the batch (cross entropy over cosines / `temperature`, as in contrastive pretraining), and by
    its distance, so that it also has their size. Term `text`, counted in words. The first, cheap half of stage I: the
    language model is met later, with rows that already resemble words.
    """

    modality: str
    temperature: float = 0.07
    distance_weight: float = 0.3
    calibration_batches: int = 8

    def __call__(self, model: MultimodalLM, batch: Batch, *, noise_key: NoiseKey) -> dict[str, LossTerm]:
        spans = batch.spans[self.modality, Direction.IN]
        words = self._words(spans, batch)
        features = _features(model, self.modality, spans)
        rows = model.modality(self.modality).input_projector(features).values.float()
        rows = rows.unflatten(0, words.shape)
        known = words != IGNORED
        candidates, targets = words[known].unique(return_inverse=True)
        embeddings = model.backbone.embed(candidates[None])[0].float()
        rows = rows[known]
        cosines = F.normalize(rows, dim=-1) @ F.normalize(embeddings, dim=-1).T
        direction = F.cross_entropy(cosines / self.temperature, targets, reduction="sum")
        scale = embeddings.square().mean()
        distance = (rows - embeddings[targets]).square().mean(dim=-1).sum() / scale
        total = direction + self.distance_weight * distance
        return {TEXT: LossTerm(total, total.new_tensor(float(len(targets))))}

    def _words(self, spans: SpanBatch, batch: Batch) -> Int[Tensor, "items words"]:
        """The trained ids after each span, in order; IGNORED where its document has no more."""
        ends = spans.slots[spans.lengths.cumsum(0) - 1]  # last slot of each span
        reach = int(spans.lengths[0])
        places = ends[:, None] + 2 + torch.arange(reach, device=ends.device)
        labels, documents = batch.labels.flatten(), batch.documents.flatten()
        inside = places < labels.numel()
        places = places.clamp(max=labels.numel() - 1)
        same = inside & (documents[places] == documents[ends][:, None])
        return torch.where(same, labels[places], IGNORED)

    def prepare(self, model: MultimodalLM, batches: Iterable[Batch]) -> None:
        """Measure the projector's whitening on pictures of the stage."""
        projector = model.modality(self.modality).input_projector
        some = []
        for batch in islice(batches, self.calibration_batches):
            spans = batch.spans[self.modality, Direction.IN]
            features = _features(model, self.modality, spans)
            some.append(features.values.view(len(features.lengths), -1))
        projector.calibrate(torch.cat(some).float())

    def finish(self, model: MultimodalLM, batches: Iterable[Batch]) -> None:
        """Nothing is measured."""


def _features(model: MultimodalLM, name: str, spans: SpanBatch) -> Features:
    """Features of an `in` span batch, from the cache or from the encoder."""
    if spans.encoded:
        return Features(spans.values.float(), spans.value_lengths)
    return model.modality(name).encoder(spans.values)
