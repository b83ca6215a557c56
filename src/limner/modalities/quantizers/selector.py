"""Which patches of a picture become tokens (LaVIT, section 3.1): a keep-or-drop decision per patch.

The decision is hard in the forward direction and carries the gradient of its probability (Gumbel-softmax,
straight-through; Jang et al. 2017). Whoever calls says where the randomness comes from: a generator per picture,
recorded noise, or none (the more probable of both, the default everywhere). `share_mask` is the other way: of the
patches of a whole batch the share that a selector is surest of.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from limner.modalities.quantizers.blocks import initialise

KEEP, DROP = 0, 1


class TokenSelector(nn.Module):
    """A small network over patch features; half of its channels see the mean over the picture's patches."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.norm = nn.LayerNorm(width)
        self.local = nn.Linear(width, width)
        hidden = (width // 2, width // 4)
        self.out = nn.Sequential(
            nn.Linear(width, hidden[0]), nn.GELU(), nn.Linear(hidden[0], hidden[1]), nn.GELU(), nn.Linear(hidden[1], 2)
        )
        self.apply(initialise)

    def forward(self, features: Float[Tensor, "items patches width"]) -> Float[Tensor, "items patches 2"]:
        """Log-probabilities of keeping and of dropping each patch, in float32."""
        rows = F.gelu(self.local(self.norm(features.float())))
        own, shared = rows.split([self.width // 2, self.width - self.width // 2], dim=-1)
        shared = shared.mean(dim=1, keepdim=True).expand_as(shared)
        return self.out(torch.cat([own, shared], dim=-1)).log_softmax(dim=-1)


class EvenSelector(nn.Module):
    """The same patches of every picture, spread evenly: what a learned selection is measured against.

    Of `grid` x `grid` patches it keeps `kept` x `kept`, each the one nearest to the middle of its share. Nothing is
    learned. Its answer is so sure that noise does not change it.
    """

    scores: Tensor

    def __init__(self, *, grid: int, kept: int) -> None:
        super().__init__()
        if not 1 <= kept <= grid:
            raise ValueError(f"{kept} patches a side of {grid} are to be kept\nhint: give 1 to {grid}")
        places = [int((number + 0.5) * grid / kept) for number in range(kept)]
        chosen = torch.zeros(grid, grid, dtype=torch.bool)
        chosen[torch.tensor(places)[:, None], torch.tensor(places)] = True
        sure = torch.stack([chosen, ~chosen], dim=-1).flatten(0, 1)  # [patches, 2]
        self.register_buffer("scores", torch.where(sure, 0.0, -1e4), persistent=False)

    def forward(self, features: Float[Tensor, "items patches width"]) -> Float[Tensor, "items patches 2"]:
        """Log-probabilities of keeping and of dropping each patch."""
        return self.scores.expand(len(features), -1, -1)


def keep_mask(
    log_probabilities: Float[Tensor, "items patches 2"], *, noise: Float[Tensor, "items patches 2"] | None = None
) -> Float[Tensor, "items patches"]:
    """1 where a patch is kept, 0 where it is dropped, with the gradient of the keeping probability.

    A patch is kept where `log p(keep) + noise[keep] >= log p(drop) + noise[drop]`; without noise, where keeping is
    at least as probable.
    """
    scores = log_probabilities if noise is None else log_probabilities + noise
    soft = scores.softmax(dim=-1)[..., KEEP]
    hard = (scores[..., KEEP] >= scores[..., DROP]).to(soft)
    return hard + (soft - soft.detach())


def share_mask(odds: Float[Tensor, "items patches"], *, keep_ratio: float) -> Float[Tensor, "items patches"]:
    """1 for that share of the patches of all pictures whose odds are highest, and for the best one of each picture; 0
    for the rest. Without gradient."""
    number = max(1, round(keep_ratio * odds.numel()))
    surest = odds.detach().flatten().topk(number).indices
    keep = torch.zeros_like(odds).flatten().index_fill(0, surest, 1.0).view_as(odds)
    return torch.maximum(keep, F.one_hot(odds.argmax(dim=1), odds.shape[1]).to(odds)).detach()


def gumbel_noise(generators: Sequence[torch.Generator], *, num_patches: int) -> Float[Tensor, "items patches 2"]:
    """Gumbel(0, 1) noise, each picture's from its own generator: -log of an Exp(1) number."""
    drawn = [torch.empty(num_patches, 2).exponential_(generator=generator) for generator in generators]
    return -torch.stack(drawn).log()
