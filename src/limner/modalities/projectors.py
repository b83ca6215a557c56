"""Projectors: rows of one width -> rows of another.

`LinearProjector` and `MLPProjector` map each row by itself and serve both directions; `Rowwise` makes an input projector of
them. `WhitenedProjector` is for encoders of a fixed grid and little data: it looks at all rows of an item at once.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from limner.modalities.base import Features, InputProjector


class LinearProjector(nn.Module):
    """One affine map (the bias-free case maps hidden states to conditions)."""

    def __init__(self, *, width_in: int, width_out: int, bias: bool = True) -> None:
        super().__init__()
        self.linear = nn.Linear(width_in, width_out, bias=bias)

    def forward(self, rows: Float[Tensor, "*rows width_in"]) -> Float[Tensor, "*rows width_out"]:
        """Project each row."""
        return self.linear(rows)


class MLPProjector(nn.Module):
    """`depth` linear layers with GELU between (LLaVA 1.5 has depth 2). A LayerNorm in front makes it robust to the scale
    of features and hidden states, which differs by orders of magnitude between encoders and LLMs."""

    def __init__(self, *, width_in: int, width_out: int, depth: int = 2, normalise: bool = True) -> None:
        super().__init__()
        if depth < 2:
            raise ValueError(f"an MLP projector has depth {depth}; expected at least 2\nhint: use LinearProjector for one layer")
        layers: list[nn.Module] = [nn.LayerNorm(width_in)] if normalise else []
        layers.append(nn.Linear(width_in, width_out))
        for _ in range(depth - 1):
            layers += [nn.GELU(), nn.Linear(width_out, width_out)]
        self.layers = nn.Sequential(*layers)

    def forward(self, rows: Float[Tensor, "*rows width_in"]) -> Float[Tensor, "*rows width_out"]:
        """Project each row."""
        return self.layers(rows)


class Rowwise(InputProjector):
    """Each feature row becomes one input row, through `rows`."""

    def __init__(self, rows: nn.Module) -> None:
        super().__init__()
        self.rows = rows

    def measure(self, num_rows: int) -> int:
        """As many as there are."""
        return num_rows

    def forward(self, features: Features) -> Features:
        """Project each row; lengths stay."""
        return Features(self.rows(features.values), features.lengths)


class WhitenedProjector(InputProjector):
    """All `num_rows` rows of an item, whitened together, become `num_words` input rows.

    From a thousand drawings a network learns which style a picture has before it learns what it shows. Whitening
    (principal components scaled to unit variance, shrunk by `shrinkage` of the mean variance) takes the directions that all
    pictures share out first; `dropout` on the components keeps the rest from being memorised. `calibrate` measures it once.
    """

    mean: Tensor
    components: Tensor

    def __init__(
        self,
        *,
        num_rows: int,
        width_in: int,
        width_out: int,
        num_words: int,
        num_components: int = 256,
        hidden: int = 1024,
        dropout: float = 0.3,
        shrinkage: float = 0.1,
    ) -> None:
        super().__init__()
        self.num_rows = num_rows
        self.num_words = num_words
        self.shrinkage = shrinkage
        self.register_buffer("mean", torch.zeros(num_rows * width_in))
        self.register_buffer("components", torch.eye(num_rows * width_in, num_components))
        self.layers = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(num_components, hidden),
            nn.GELU(),
            nn.Linear(hidden, num_words * width_out),
        )

    def measure(self, num_rows: int) -> int:
        """Always `num_words`. Raises ValueError for an encoder with another grid."""
        if num_rows != self.num_rows:
            raise ValueError(
                f"an item has {num_rows} feature rows; this projector takes {self.num_rows}\n"
                "hint: give encoder and projector the same grid"
            )
        return self.num_words

    def forward(self, features: Features) -> Features:
        """`num_words` rows per item."""
        words = self.layers(self.whiten(features.values.view(len(features.lengths), -1)))
        rows = words.unflatten(1, (self.num_words, -1)).flatten(0, 1)
        return Features(rows, torch.full_like(features.lengths, self.num_words))

    def whiten(self, vectors: Float[Tensor, "items width"]) -> Float[Tensor, "items components"]:
        """Components of flattened items, scaled so that their squares average 1."""
        white = (vectors - self.mean) @ self.components
        return white * white.square().mean(dim=1, keepdim=True).clamp(min=1e-8).rsqrt()

    @torch.no_grad()
    def calibrate(self, vectors: Float[Tensor, "items width"]) -> None:
        """Measure mean and whitened principal components of flattened items."""
        self.mean.copy_(vectors.mean(dim=0))
        _, scales, directions = torch.linalg.svd(vectors - self.mean, full_matrices=False)
        variances = scales.square() / len(vectors)
        floor = self.shrinkage * variances.mean()
        kept = self.components.shape[1]
        self.components.zero_()
        found = min(kept, len(variances))
        self.components[:, :found] = directions[:found].T * (variances[:found] + floor).rsqrt()
