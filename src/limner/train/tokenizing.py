"""Training a visual tokenizer: a stage's batches and objectives for the quantizer and the detokenizer of a modality.

    picture --quantizer.encode, frozen, kept--> features --rows--> rows [--codebook--> codes] --detokenizer--> features,
                                                                                                               pixels

The phases that the authors of LaVIT advise are stages of a plan: first without the codebook (`quantized=False`: rows
go straight to the detokenizer), then through it, begun by k-means over rows of the stage's first batches. The codebook
learns from no gradient: it follows the rows of each step, after the step (`Stepwise`).

Terms of a modality `image`, means over pictures; those of weight 0 are looked at only:

    image.reconstruction   1 - cos(features, reconstruction), mean over patches, or the mean squared error of pixels
    image.rate             (keep_ratio - share of kept patches of the batch)^2; not where a selector learns from need
    image.need             how well the selector foretells the error of dropped patches, instead of `rate`
    image.commitment       squared distance of rows to their codes (through the codebook only)
    image.kept             share of kept patches, of weight 0
    image.usage, image.perplexity   of the codebook, over its moving average, as the step begins; of weight 0

All but `rate` and `need` are the same however a step is cut into batches and over ranks; so is what the codebook
follows. These two look at the share of a batch, so that a simple picture may keep little and a rich one much; where
need is learned, what is kept, and so its reconstruction, is chosen over a batch too.
"""

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice

import PIL.Image
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from limner.data.feature_store import MemoryStore
from limner.data.mixture import Mixture
from limner.data.pictures import PictureLoader
from limner.document.document import Direction, Media
from limner.modalities.base import LossTerm
from limner.modalities.noise import keyed_generator
from limner.modalities.quantizers.codebook import perplexity
from limner.modalities.quantizers.detokenizer import PixelDetokenizer
from limner.modalities.quantizers.selector import DROP, KEEP, gumbel_noise, share_mask
from limner.modalities.quantizers.visual_tokenizer import PictureQuantizer, TokenRows, VisualTokenizer
from limner.model.multimodal import MultimodalLM
from limner.tokens.batch import Batch
from limner.train.objectives import NoiseKey
from limner.train.tokenizer_sheet import contact_sheet, kept_patches

SHARED_LIMIT = 2**29
"""Bytes of features that the stages of a process share."""


@dataclass(frozen=True)
class TokenizerPictures:
    """Pictures as the quantizer's frozen half sees them, and as the detokenizer is to draw them."""

    modality: str
    num_items: int

    def loader(
        self, mixture: Mixture, *, model: MultimodalLM, rank: int = 0, num_ranks: int = 1, num_workers: int = 0
    ) -> PictureLoader:
        """A picture loader. It reads in this process: what it needs is kept."""
        quantizer, detokenizer = parts(model, self.modality)

        kept = _features(quantizer.features_signature)

        def features(media: Media) -> Tensor:
            found = kept.get(media.content.digest)
            if found is None:
                # One picture at a time: its features do not depend on its neighbours.
                found = quantizer.encode(quantizer.preprocess(media)[None].to(model.device))[0].cpu()
                kept.put(media.content.digest, found)
            return found

        sides = {Direction.IN: features, Direction.OUT: detokenizer.preprocess}
        return PictureLoader(
            mixture, model=model, name=self.modality, num_items=self.num_items, sides=sides, rank=rank,
            num_ranks=num_ranks,
        )  # fmt: skip


@dataclass(frozen=True)
class FeatureTokenization:
    """The encoder's features, made again from what is kept (LaVIT, equation 4).

    quantized:       whether rows go through the codebook.
    drawn:           whether what is kept is drawn, by each picture's generator, or chosen without chance, as in use.
    keep_ratio:      mean share of patches to keep.
    initial_batches: on so many batches the choice without chance is calibrated to `keep_ratio`, and their rows begin
                     the codebook, before the first step; 0 keeps both as they are.
    """

    modality: str
    quantized: bool
    drawn: bool = True
    keep_ratio: float = 1.0 / 3.0
    initial_batches: int = 0

    def __call__(self, model: MultimodalLM, batch: Batch, *, noise_key: NoiseKey) -> dict[str, LossTerm]:
        quantizer, _ = parts(model, self.modality)
        spans = batch.spans[self.modality, Direction.IN]
        generators = [keyed_generator(*noise_key, key) for key in spans.keys] if self.drawn else None
        rows = quantizer.rows(spans.values, generators=generators)
        values, terms = self._quantized(quantizer, rows)
        distances = self._distances(model, batch, values, rows)
        terms |= {"reconstruction": _per_picture(distances.mean(dim=1))} | self._rate(rows)
        return {f"{self.modality}.{name}": term for name, term in terms.items()}

    def _distances(
        self, model: MultimodalLM, batch: Batch, values: Float[Tensor, "tokens code_width"], rows: TokenRows
    ) -> Float[Tensor, "items parts"]:
        """Of each part of each picture, how far what is made of `values` lies from the truth. Here: of patches."""
        _, detokenizer = parts(model, self.modality)
        features = batch.spans[self.modality, Direction.IN].values
        made = detokenizer.features(values, rows.lengths, places=rows.places, weights=_weights(rows))
        return 1.0 - F.cosine_similarity(made.float(), features, dim=-1)

    def _quantized(self, quantizer: PictureQuantizer, rows: TokenRows) -> tuple[Tensor, dict[str, LossTerm]]:
        """What the detokenizer is given, and the terms of the codebook."""
        if not self.quantized:
            return rows.values, {}
        codebook = quantizer.codebook
        found = codebook(rows.values)
        if torch.is_grad_enabled():
            codebook.collect(rows.values.detach(), found.codes)
        # Of the rows of a picture the mean: pictures with many rows weigh no more than others.
        commitment = _means_of_items(found.distances, rows.lengths)
        used = (codebook.usage >= codebook.revive_below).float().mean()
        terms = {
            "commitment": _per_picture(commitment),
            "usage": _per_picture(used.expand(len(rows.lengths))),
            "perplexity": _per_picture(codebook.usage.new_tensor(perplexity(codebook.usage)).expand(len(rows.lengths))),
        }
        return found.values, terms

    def _rate(self, rows: TokenRows) -> dict[str, LossTerm]:
        rate = (self.keep_ratio - rows.keep.mean()).square()
        return {"rate": _per_picture(rate.expand(len(rows.keep))), "kept": _per_picture(rows.keep.detach().mean(dim=1))}

    def count(self, batch: Batch) -> dict[str, float]:
        """Pictures."""
        spans = batch.spans.get((self.modality, Direction.IN))
        names = ["reconstruction", "rate", "kept"] + ["commitment", "usage", "perplexity"] * self.quantized
        return {} if spans is None else {f"{self.modality}.{name}": float(len(spans.lengths)) for name in names}

    @torch.no_grad()
    def prepare(self, model: MultimodalLM, batches: Iterable[Batch]) -> None:
        """Calibrate the choice and begin the codebook by k-means, where that is asked for."""
        quantizer, detokenizer = parts(model, self.modality)
        if self.initial_batches:
            some = [batch.spans[self.modality, Direction.IN].values for batch in islice(batches, self.initial_batches)]
            quantizer.calibrate(torch.cat(some), keep_ratio=self.keep_ratio)
            rows = [quantizer.rows(features).values for features in some]
            quantizer.codebook.initialise(torch.cat(rows), generator=keyed_generator("codebook"))
        detokenizer.adopt(quantizer.codebook)

    def finish(self, model: MultimodalLM, batches: Iterable[Batch]) -> None:
        """Nothing is measured."""

    def sheet(self, model: MultimodalLM, batch: Batch) -> PIL.Image.Image:
        """Pictures, what is kept of them, and what is painted from their codes."""
        return _sheet(model, batch, modality=self.modality)

    def stepped(self, model: MultimodalLM, *, noise_key: NoiseKey, taken: bool) -> None:
        """The codebook follows the rows of a step that was taken; the detokenizer's copy follows the codebook."""
        quantizer, detokenizer = parts(model, self.modality)
        if not self.quantized:
            return
        if not taken:
            quantizer.codebook.forget()
            return
        quantizer.codebook.follow(generator=keyed_generator(*noise_key, "codebook"))
        detokenizer.adopt(quantizer.codebook)


@dataclass(frozen=True)
class NeedTokenization(FeatureTokenization):
    """The same where the selector learns what a patch would lose by being dropped, without a codebook.

    Its probability of keeping a patch is trained, by cross-entropy and on dropped patches alone, to be half of their
    1 - cos. Of each batch the share `keep_ratio` is kept whose odds, with the noise of a draw, are highest: the share
    holds from the first step, and what looks needless is dropped and kept now and then, so that it is found out.
    Later stages rest the selector and choose without chance, as after any first phase.
    """

    quantized: bool = False

    def __call__(self, model: MultimodalLM, batch: Batch, *, noise_key: NoiseKey) -> dict[str, LossTerm]:
        quantizer, _ = parts(model, self.modality)
        if self.quantized or not isinstance(quantizer, VisualTokenizer):
            raise ValueError(
                f"need is learned by {type(quantizer).__name__} with quantized={self.quantized}; expected a "
                "VisualTokenizer and no codebook yet\nhint: train later stages by FeatureTokenization"
            )
        spans = batch.spans[self.modality, Direction.IN]
        odds = quantizer.odds(spans.values)
        noisy = odds.detach()
        if self.drawn:
            generators = [keyed_generator(*noise_key, key) for key in spans.keys]
            noise = gumbel_noise(generators, num_patches=quantizer.num_patches).to(noisy)
            noisy = noisy + noise[..., KEEP] - noise[..., DROP]
        rows = quantizer.rows(spans.values, keep=share_mask(noisy, keep_ratio=self.keep_ratio))
        distances = self._distances(model, batch, rows.values, rows)
        lost = (distances.detach() / 2.0).clamp(0.0, 1.0)
        surprise = F.binary_cross_entropy_with_logits(odds, lost, reduction="none") * (1.0 - rows.keep)
        terms = {
            "reconstruction": _per_picture(distances.mean(dim=1)),
            "need": _per_picture(surprise.mean(dim=1)),
            "kept": _per_picture(rows.keep.mean(dim=1)),
        }
        return {f"{self.modality}.{name}": term for name, term in terms.items()}

    def count(self, batch: Batch) -> dict[str, float]:
        """Pictures."""
        spans = batch.spans.get((self.modality, Direction.IN))
        names = ["reconstruction", "need", "kept"]
        return {} if spans is None else {f"{self.modality}.{name}": float(len(spans.lengths)) for name in names}


@dataclass(frozen=True)
class PixelTokenization(FeatureTokenization):
    """The same with pixels for features: the whole way from picture to picture."""

    def _distances(
        self, model: MultimodalLM, batch: Batch, values: Float[Tensor, "tokens code_width"], rows: TokenRows
    ) -> Float[Tensor, "items parts"]:
        """Squared error of pixels in [-1, 1]."""
        _, detokenizer = parts(model, self.modality)
        features = detokenizer.features(values, rows.lengths, places=rows.places, weights=_weights(rows))
        made = detokenizer.painter(features)
        return (made.float() - batch.spans[self.modality, Direction.OUT].values).square().flatten(1)


@dataclass(frozen=True)
class Painting:
    """Pixels from the codes of a tokenizer that stands still: `image.pixels`, mean squared error. Trains the
    detokenizer's painter, or all of it."""

    modality: str

    def __call__(self, model: MultimodalLM, batch: Batch, *, noise_key: NoiseKey) -> dict[str, LossTerm]:
        quantizer, detokenizer = parts(model, self.modality)
        with torch.no_grad():
            rows = quantizer.rows(batch.spans[self.modality, Direction.IN].values)
            values = quantizer.codebook.vectors[quantizer.codebook(rows.values).codes]
        made = detokenizer.painter(detokenizer.features(values, rows.lengths, places=rows.places))
        targets = batch.spans[self.modality, Direction.OUT].values
        distances = (made.float() - targets).square().flatten(1).mean(dim=1)
        return {f"{self.modality}.pixels": _per_picture(distances)}

    def count(self, batch: Batch) -> dict[str, float]:
        """Pictures."""
        spans = batch.spans.get((self.modality, Direction.OUT))
        return {} if spans is None else {f"{self.modality}.pixels": float(len(spans.lengths))}

    def prepare(self, model: MultimodalLM, batches: Iterable[Batch]) -> None:
        """The detokenizer takes the codebook as it is."""
        quantizer, detokenizer = parts(model, self.modality)
        detokenizer.adopt(quantizer.codebook)

    def sheet(self, model: MultimodalLM, batch: Batch) -> PIL.Image.Image:
        """Pictures, what is kept of them, and what is painted from their codes."""
        return _sheet(model, batch, modality=self.modality)

    def finish(self, model: MultimodalLM, batches: Iterable[Batch]) -> None:
        """Nothing is measured."""


@functools.cache
def _stores(signature: str) -> MemoryStore:
    return MemoryStore(limit=SHARED_LIMIT)


def _features(signature: str) -> MemoryStore:
    """Features by digest, shared by all stages of a process where their encoder can be told by a signature."""
    return _stores(signature) if signature else MemoryStore(limit=0)


def parts(model: MultimodalLM, modality: str) -> tuple[PictureQuantizer, PixelDetokenizer]:
    """What a stage trains. Raises ValueError for parts that no stage can train."""
    quantizer, detokenizer = model.speller(modality)
    if not isinstance(quantizer, PictureQuantizer) or not isinstance(detokenizer, PixelDetokenizer):
        raise ValueError(
            f"`{modality}` is said by {type(quantizer).__name__} and {type(detokenizer).__name__}; a tokenizer is "
            "trained as PictureQuantizer and PixelDetokenizer\nhint: build the model with these"
        )
    return quantizer, detokenizer


@torch.no_grad()
def _sheet(model: MultimodalLM, batch: Batch, *, modality: str, most: int = 12) -> PIL.Image.Image:
    quantizer, detokenizer = parts(model, modality)
    rows = quantizer.rows(batch.spans[modality, Direction.IN].values[:most])
    values = quantizer.codebook.vectors[quantizer.codebook(rows.values).codes]
    pixels = batch.spans[modality, Direction.OUT].values[:most]
    painted = detokenizer.painter(detokenizer.features(values, rows.lengths, places=rows.places))
    labels = [f"{length} codes" for length in rows.lengths.tolist()]
    return contact_sheet([pixels, kept_patches(pixels, rows.keep), painted], labels=labels)


def _weights(rows: TokenRows) -> Float[Tensor, " tokens"]:
    """1 for each row, with the gradient of having kept it."""
    return rows.keep[rows.keep.detach() > 0.5]


def _per_picture(values: Float[Tensor, " items"]) -> LossTerm:
    count = values.new_tensor(float(len(values)))
    return LossTerm(values.sum(), count, per_item=values.detach())


def _means_of_items(values: Float[Tensor, " tokens"], lengths: Int[Tensor, " items"]) -> Float[Tensor, " items"]:
    owners = torch.arange(len(lengths), device=values.device).repeat_interleave(lengths)
    sums = values.new_zeros(len(lengths)).index_add(0, owners, values)
    return sums / lengths.clamp(min=1)
