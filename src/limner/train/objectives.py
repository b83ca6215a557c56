"""Objectives: which loss terms a stage has, and what is measured before its first and after its last step."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol, runtime_checkable

import PIL.Image
import torch
import torch.nn.functional as F
from jaxtyping import Int
from torch import Tensor

from limner.document.document import Direction
from limner.modalities.base import LossTerm
from limner.modalities.noise import keyed_generator
from limner.modalities.projectors import DiscriminantProjector, MemoryProjector
from limner.model.multimodal import TEXT, MultimodalLM
from limner.tokens.batch import IGNORED, Batch, SpanBatch

NoiseKey = tuple[int | str, ...]


@runtime_checkable
class Objective(Protocol):
    """Loss terms of a batch by name; `batches` are some of the stage's own."""

    def __call__(self, model: MultimodalLM, batch: Batch, *, noise_key: NoiseKey) -> dict[str, LossTerm]: ...

    def count(self, batch: Batch) -> dict[str, float]:
        """Counts of the terms, known before any forward; a term that the batch does not have may be left out."""
        ...

    def prepare(self, model: MultimodalLM, batches: Iterable[Batch]) -> None:
        """Called once before the first step."""
        ...

    def finish(self, model: MultimodalLM, batches: Iterable[Batch]) -> None:
        """Called once after the last step."""
        ...


@runtime_checkable
class Stepwise(Protocol):
    """An objective with parts that follow what they saw instead of a gradient (a codebook, say)."""

    def stepped(self, model: MultimodalLM, *, noise_key: NoiseKey, taken: bool) -> None:
        """Called on every rank after each step. `taken`: whether its loss and gradient were finite."""
        ...


@runtime_checkable
class Illustrated(Protocol):
    """An objective that draws its own samples, in place of the run's."""

    def sheet(self, model: MultimodalLM, batch: Batch) -> PIL.Image.Image:
        """What to look at, of a batch of the stage, held-out where the stage has such."""
        ...


@dataclass(frozen=True)
class Multimodal:
    """The model's own terms: text and one per modality that is made (all, or those in `made`)."""

    made: Sequence[str] | None = None

    def __call__(self, model: MultimodalLM, batch: Batch, *, noise_key: NoiseKey) -> dict[str, LossTerm]:
        return model(batch, noise_key=noise_key, made=self.made)

    def count(self, batch: Batch) -> dict[str, float]:
        """Words of the text, codes or made items of each modality."""
        counts = {TEXT: float(batch.words()[:, 1:].sum())} if batch.labels.numel() else {}
        for name in batch.codes if self.made is None else set(batch.codes) & set(self.made):
            counts[name] = float(batch.codes_of(name)[:, 1:].sum())
        for (name, direction), spans in batch.spans.items():
            if direction is Direction.OUT and (self.made is None or name in self.made):
                counts[name] = float(len(spans.lengths))
        return counts

    def prepare(self, model: MultimodalLM, batches: Iterable[Batch]) -> None:
        """Nothing is measured."""

    def finish(self, model: MultimodalLM, batches: Iterable[Batch]) -> None:
        """Nothing is measured."""


@dataclass(frozen=True)
class Creation(Multimodal):
    """The decoder's term alone, on cached conditions; before the first step the output projector's discriminants are
    measured on `calibration_batches` of them. Prompts with the same target picture ask for the same thing."""

    calibration_batches: int = 80

    @torch.no_grad()
    def prepare(self, model: MultimodalLM, batches: Iterable[Batch]) -> None:
        """Calibrate the output projector of each modality in `made`."""
        names = [name for name in self.made or () if self._is_measured(model, name)]
        if not names:
            return
        some = list(islice(batches, self.calibration_batches))
        for name in names:
            spans = [batch.spans[name, Direction.OUT] for batch in some]
            hidden = torch.cat([states for one in spans if (states := one.hidden) is not None])
            targets = torch.cat([one.values for one in spans if one.hidden is not None]).flatten(1)
            owners = targets.unique(dim=0, return_inverse=True)[1]
            telling = _telling(hidden, owners)
            projector = model.maker(name).output_projector
            assert isinstance(projector, DiscriminantProjector)
            projector.calibrate(hidden[telling], owners=owners[telling], null=hidden[~telling])

    @staticmethod
    def _is_measured(model: MultimodalLM, name: str) -> bool:
        return isinstance(model.maker(name).output_projector, DiscriminantProjector)


def _telling(hidden: Tensor, owners: Tensor) -> Tensor:
    """Which hidden states belong to one target only; those of the null prompt belong to any."""
    prompts = hidden.flatten(1).unique(dim=0, return_inverse=True)[1]
    pairs = torch.stack([prompts, owners], dim=1).unique(dim=0)
    return (torch.bincount(pairs[:, 0]) == 1)[prompts]


@dataclass(frozen=True)
class Reconstruction:
    """The autoencoder of one modality alone: its term is `<modality>.reconstruction`."""

    modality: str

    def __call__(self, model: MultimodalLM, batch: Batch, *, noise_key: NoiseKey) -> dict[str, LossTerm]:
        spans = batch.spans[self.modality, Direction.OUT]
        autoencoder = _autoencoder(model, self.modality)
        generators = [keyed_generator(*noise_key, key) for key in spans.keys]
        term = autoencoder.reconstruction_loss(spans.values, generators=generators)
        return {f"{self.modality}.reconstruction": term}

    def count(self, batch: Batch) -> dict[str, float]:
        """Pictures."""
        spans = batch.spans.get((self.modality, Direction.OUT))
        return {} if spans is None else {f"{self.modality}.reconstruction": float(len(spans.lengths))}

    def prepare(self, model: MultimodalLM, batches: Iterable[Batch]) -> None:
        """Nothing is measured."""

    def finish(self, model: MultimodalLM, batches: Iterable[Batch]) -> None:
        """Measure the latents' mean and spread, so that what the generator learns has unit variance."""
        some = [batch.spans[self.modality, Direction.OUT].values for batch in islice(batches, 8)]
        _autoencoder(model, self.modality).calibrate(torch.cat(some))


@dataclass(frozen=True)
class WordAlignment:
    """Input rows of a picture are pulled to the embeddings of the words after it, without running the language model.

    Row k of a picture is compared with the k-th trained token that follows its span: by its direction against the
    embeddings of all tokens in the batch (cross entropy over cosines / `temperature`, as in contrastive pretraining),
    and by its distance, so that it also has their size. Term `text`, counted in words. The first, cheap half of stage
    I: the language model is met later, with rows that already resemble words. The words it is told apart from are those
    of the batch, so (alone of all terms) it also depends on how a step is cut into batches.
    """

    modality: str
    temperature: float = 0.07
    distance_weight: float = 0.3
    remembered_batches: int = 40

    def __call__(self, model: MultimodalLM, batch: Batch, *, noise_key: NoiseKey) -> dict[str, LossTerm]:
        spans = batch.spans[self.modality, Direction.IN]
        words = self._words(spans, batch)
        features = model.features(self.modality, spans)
        rows = model.reader(self.modality).input_projector(features).values.float()
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

    def count(self, batch: Batch) -> dict[str, float]:
        """Words that have a row."""
        spans = batch.spans.get((self.modality, Direction.IN))
        return {} if spans is None else {TEXT: float((self._words(spans, batch) != IGNORED).sum())}

    def _words(self, spans: SpanBatch, batch: Batch) -> Int[Tensor, "items words"]:
        """The trained ids after each span, in order; IGNORED where its document has no more."""
        ends = spans.slots[spans.lengths.cumsum(0) - 1]  # last slot of each span
        reach = int(spans.lengths[0])
        places = ends[:, None] + 2 + torch.arange(reach, device=ends.device)
        labels, documents = batch.labels.flatten(), batch.documents.flatten()
        # Documents are numbered within their row: the next row has one of the same number.
        inside = places // batch.labels.shape[1] == ends[:, None] // batch.labels.shape[1]
        places = places.clamp(max=labels.numel() - 1)
        same = inside & (documents[places] == documents[ends][:, None])
        return torch.where(same, labels[places], IGNORED)

    @torch.no_grad()
    def prepare(self, model: MultimodalLM, batches: Iterable[Batch]) -> None:
        """Fill the projector's memory, where it has one, with the pictures of the first batches: a slot per name."""
        projector = model.reader(self.modality).input_projector
        if not isinstance(projector, MemoryProjector):
            return
        vectors: list[Tensor] = []
        words: list[Tensor] = []
        for batch in islice(batches, self.remembered_batches):
            spans = batch.spans[self.modality, Direction.IN]
            features = model.features(self.modality, spans)
            vectors.append(features.values.reshape(len(features.lengths), -1).float())
            words.append(self._words(spans, batch))
        slots, owners = torch.cat(words).unique(dim=0, return_inverse=True)
        values = model.backbone.embed(slots.clamp(min=0)).float() * (slots != IGNORED)[..., None]
        projector.remember(torch.cat(vectors), owners=owners, values=values)

    def finish(self, model: MultimodalLM, batches: Iterable[Batch]) -> None:
        """Nothing is measured."""


@runtime_checkable
class _Autoencoder(Protocol):
    def reconstruction_loss(self, pixels: Tensor, *, generators: Sequence[torch.Generator]) -> LossTerm: ...

    def calibrate(self, pixels: Tensor) -> None: ...


def _autoencoder(model: MultimodalLM, name: str) -> _Autoencoder:
    """The autoencoder inside a modality's decoder. Raises ValueError where it has none."""
    found = getattr(model.maker(name).decoder, "autoencoder", None)
    if found is None:
        raise ValueError(
            f"the decoder of `{name}` has no autoencoder to train\nhint: leave the stage out, or wire a latent decoder"
        )
    return found
