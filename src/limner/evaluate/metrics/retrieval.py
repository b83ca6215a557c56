"""What a picture shows, by its neighbours in a gallery with one picture per name.

Frozen features are centred and whitened by the gallery alone, then compared by cosine. A rank
counts the gallery pictures that are nearer, plus half of those as near, plus one: constant features
get the middle rank, not the first. Data flow:

    Image -> Encoder -> [items dims] -> Whitening -> unit rows -> similarity -> ranks
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from limner.document.document import Media
from limner.document.media import Image
from limner.modalities.base import Encoder

NUM_COMPONENTS = 256
SHRINKAGE = 0.1
BATCH_SIZE = 8
"""Activations of larger batches leave a CPU's cache."""


@dataclass(frozen=True)
class Whitening:
    """x -> unit((x - mean) basis)."""

    mean: Float[Tensor, " dims"]
    basis: Float[Tensor, "dims components"]

    def __call__(self, values: Float[Tensor, "items dims"]) -> Float[Tensor, "items components"]:
        """Rows of length 1 (0 for the mean itself)."""
        return torch.nn.functional.normalize((values - self.mean) @ self.basis, dim=-1)


def whitening(values: Float[Tensor, "items dims"], *, num_components: int = NUM_COMPONENTS) -> Whitening:
    """Principal components of the gallery at equal variance, those of little variance shrunk."""
    mean = values.mean(0)
    _, scales, components = torch.linalg.svd(values - mean, full_matrices=False)
    variance = scales.square()[:num_components] / len(values)
    floor = SHRINKAGE * variance.mean() + torch.finfo(values.dtype).tiny
    return Whitening(mean, components[:num_components].T / (variance + floor).sqrt())


def ranks(similarity: Float[Tensor, "queries gallery"]) -> Float[Tensor, "queries gallery"]:
    """The rank of every gallery picture for each query, 1 the nearest; equals share the middle."""
    ordered = similarity.sort(dim=-1).values
    below = torch.searchsorted(ordered, similarity.contiguous(), right=False)
    up_to = torch.searchsorted(ordered, similarity.contiguous(), right=True)
    nearer, equal = similarity.shape[-1] - up_to, up_to - below - 1
    return 1.0 + nearer + equal / 2.0


def best_of_cluster(
    ranked: Float[Tensor, "queries gallery"], *, clusters: Sequence[Hashable]
) -> Float[Tensor, "queries gallery"]:
    """At each gallery picture, the best rank among the pictures of its cluster."""
    numbers = {cluster: number for number, cluster in enumerate(dict.fromkeys(clusters))}
    place = torch.tensor([numbers[cluster] for cluster in clusters]).expand_as(ranked)
    best = ranked.new_full((len(ranked), len(numbers)), float("inf"))
    return best.scatter_reduce(1, place, ranked, reduce="amin").gather(1, place)


class Judge:
    """Ranks a gallery of pictures for each picture asked about."""

    def __init__(self, name: str, encoder: Encoder, *, gallery: Sequence[Image]) -> None:
        self.name = name
        self.encoder = encoder.eval()
        features = self._features(gallery)
        self.whitening = whitening(features)
        self.gallery = self.whitening(features)

    def ranks(self, pictures: Sequence[Image]) -> Float[Tensor, "queries gallery"]:
        """The rank of every gallery picture for each picture."""
        return ranks(self.whitening(self._features(pictures)) @ self.gallery.T)

    @torch.inference_mode()
    def _features(self, pictures: Sequence[Image]) -> Float[Tensor, "items dims"]:
        device = next(self.encoder.parameters()).device
        rows = []
        for start in range(0, len(pictures), BATCH_SIZE):
            part = [Media(picture) for picture in pictures[start : start + BATCH_SIZE]]
            stack = torch.stack([self.encoder.preprocess(item) for item in part]).to(device)
            rows.append(self.encoder(stack).values.reshape(len(part), -1).float().cpu())
        return torch.cat(rows)
