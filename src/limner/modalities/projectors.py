"""Projectors: rows of one width -> rows of another.

`LinearProjector` and `MLPProjector` map each row by itself and serve both directions; `Rowwise` makes an input
projector of them. `WhitenedProjector` is for encoders of a fixed grid and little data: it looks at all rows of an
item at once.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
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
    """`depth` linear layers with GELU between (LLaVA 1.5 has depth 2).

    A LayerNorm in front makes it robust to the scale of features and hidden states, which differs by orders of
    magnitude between encoders and LLMs.
    """

    def __init__(self, *, width_in: int, width_out: int, depth: int = 2, normalise: bool = True) -> None:
        super().__init__()
        if depth < 2:
            raise ValueError(
                f"an MLP projector has depth {depth}; expected at least 2\nhint: use LinearProjector for one layer"
            )
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


class WhitenedProjector(nn.Module):
    """Hidden states at a span's slots -> condition, through whitened components and an MLP.

    Final hidden states share one large direction (of length 54 where prompts differ by 13, in SmolLM2) and a few
    outlying channels hold most of what is left; a decoder then needs thousands of steps before it sees the prompt.
    Taking the mean of each slot out and scaling principal components to unit variance, shrunk by `shrinkage` of their
    mean variance, puts prompts apart from the first step on. `calibrate` measures both once.
    """

    mean: Tensor
    components: Tensor

    def __init__(
        self, *, num_rows: int, width_in: int, width_out: int, num_components: int = 256, shrinkage: float = 0.05
    ) -> None:
        super().__init__()
        self.shrinkage = shrinkage
        self.register_buffer("mean", torch.zeros(num_rows, width_in))
        self.register_buffer("components", torch.eye(width_in, num_components))
        self.layers = nn.Sequential(nn.Linear(num_components, width_out), nn.GELU(), nn.Linear(width_out, width_out))

    def forward(self, rows: Float[Tensor, "*items rows width_in"]) -> Float[Tensor, "*items rows width_out"]:
        """The condition rows of each item."""
        return self.layers((rows - self.mean) @ self.components)

    @torch.no_grad()
    def calibrate(self, rows: Float[Tensor, "items rows width_in"]) -> None:
        """Measure mean and components on the hidden states of many prompts."""
        self.mean.copy_(rows.mean(dim=0))
        self.components.copy_(
            whitening((rows - self.mean).flatten(0, 1), like=self.components, shrinkage=self.shrinkage)
        )


def whitening(
    deviations: Float[Tensor, "samples width"], *, like: Float[Tensor, "width components"], shrinkage: float
) -> Float[Tensor, "width components"]:
    """Principal directions scaled to unit variance, with `shrinkage` of the mean variance added to each."""
    _, scales, directions = torch.linalg.svd(deviations, full_matrices=False)
    variances = scales.square() / len(deviations)
    found = min(like.shape[1], len(variances))
    components = torch.zeros_like(like)
    spread = (variances[:found] + shrinkage * variances.mean()).rsqrt()
    components[:, :found] = directions[:found].T * spread
    return components


class MemoryProjector(InputProjector):
    """Rows of an item are compared with remembered ones; what was remembered of the nearest becomes the input rows.

    A key-value memory, as in Tip-Adapter (Zhang et al. 2022, eq. 3-4): keys are whitened mean features of what has
    one name, values are `num_words` input rows each, at first the embeddings of the name's words. From a thousand
    drawings an MLP learns which style a picture has before it learns what it shows; comparing in the whitened space
    does not, so it holds up in styles never seen (dev/LOG.md has the numbers). Keys stay; values go on learning
    through the language model.

    Args:
        num_rows, width_in: rows per item and their width; all rows of an item are looked at together.
        width_out: width of the language model's input.
        num_slots: capacity of the memory.
        num_words: input rows per item.
        num_components: principal components kept.
        temperature: of the softmax over cosines with the keys.
        shrinkage: share of the mean variance added to each component's before whitening.
    """

    mean: Tensor
    components: Tensor
    keys: Tensor
    filled: Tensor

    def __init__(
        self,
        *,
        num_rows: int,
        width_in: int,
        width_out: int,
        num_slots: int,
        num_words: int,
        num_components: int = 512,
        temperature: float = 0.015,
        shrinkage: float = 0.1,
    ) -> None:
        super().__init__()
        self.num_rows = num_rows
        self.num_words = num_words
        self.temperature = temperature
        self.shrinkage = shrinkage
        self.register_buffer("mean", torch.zeros(num_rows * width_in))
        self.register_buffer("components", torch.eye(num_rows * width_in, num_components))
        self.register_buffer("keys", torch.zeros(num_slots, num_components))
        self.register_buffer("filled", torch.zeros(num_slots, dtype=torch.bool))
        self.values = nn.Parameter(torch.randn(num_slots, num_words, width_out) * 0.02)

    def measure(self, num_rows: int) -> int:
        """Always `num_words`. Raises ValueError for an encoder with another grid."""
        if num_rows != self.num_rows:
            raise ValueError(
                f"an item has {num_rows} feature rows; this projector takes {self.num_rows}\n"
                "hint: give encoder and projector the same grid"
            )
        return self.num_words

    def forward(self, features: Features) -> Features:
        """`num_words` rows per item: the values, weighted by how near their keys are."""
        white = self.whiten(features.values.reshape(len(features.lengths), -1))
        nearness = (white @ self.keys.T / self.temperature).masked_fill(~self.filled, -torch.inf)
        weights = nearness.softmax(dim=-1) if bool(self.filled.any()) else torch.zeros_like(nearness)
        rows = torch.einsum("is,swd->iwd", weights, self.values)
        return Features(rows.flatten(0, 1), torch.full_like(features.lengths, self.num_words))

    def whiten(self, vectors: Float[Tensor, "items width"]) -> Float[Tensor, "items components"]:
        """Whitened components of flattened items, of unit length."""
        return F.normalize((vectors - self.mean) @ self.components, dim=-1)

    @torch.no_grad()
    def remember(
        self,
        vectors: Float[Tensor, "items width"],
        *,
        owners: Int[Tensor, " items"],
        values: Float[Tensor, "slots words d_model"],
    ) -> None:
        """Measure the whitening on flattened items and fill the memory.

        Slot s holds the mean of the items whose owner is s, and `values[s]`. Raises ValueError when the memory is too
        small.
        """
        num_slots = len(values)
        if num_slots > len(self.keys):
            raise ValueError(
                f"{num_slots} things are to be remembered; the memory has {len(self.keys)} slots\nhint: raise num_slots"
            )
        self.mean.copy_(vectors.mean(dim=0))
        self.components.copy_(whitening(vectors - self.mean, like=self.components, shrinkage=self.shrinkage))
        sums = torch.zeros_like(self.keys).index_add_(0, owners, self.whiten(vectors))
        self.keys.copy_(F.normalize(sums, dim=-1))
        self.filled.copy_(torch.arange(len(self.keys), device=self.filled.device) < num_slots)
        self.values[:num_slots] = values
