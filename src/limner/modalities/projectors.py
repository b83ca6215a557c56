"""Projectors: rows of one width -> rows of another.

`LinearProjector` and `MLPProjector` map each row by itself and serve both directions; `Rowwise` makes an input
projector of them. `MemoryProjector` (in) and `DiscriminantProjector` (out) are for fixed numbers of rows and little
data: they look at all rows of an item at once, and measure before they learn.
"""

import math

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

    def __init__(
        self, *, width_in: int, width_out: int, depth: int = 2, normalise: bool = True, bias: bool = True
    ) -> None:
        super().__init__()
        if depth < 2:
            raise ValueError(
                f"an MLP projector has depth {depth}; expected at least 2\nhint: use LinearProjector for one layer"
            )
        layers: list[nn.Module] = [nn.LayerNorm(width_in)] if normalise else []
        layers.append(nn.Linear(width_in, width_out, bias=bias))
        for _ in range(depth - 1):
            layers += [nn.GELU(), nn.Linear(width_out, width_out, bias=bias)]
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


class ConvProjector(InputProjector):
    """A 3 x 3 convolution over the square grid of an item's rows; their number stays."""

    def __init__(self, *, width_in: int, width_out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width_in, width_out, kernel_size=3, padding=1)

    def measure(self, num_rows: int) -> int:
        """As many as there are. Raises ValueError for rows that are no square."""
        if math.isqrt(num_rows) ** 2 != num_rows:
            raise ValueError(
                f"an item has {num_rows} feature rows; a convolution takes a square grid\nhint: use another projector"
            )
        return num_rows

    def forward(self, features: Features) -> Features:
        """Convolve each item."""
        rows = [self._convolved(grid) for grid in features.values.split(features.lengths.tolist())]
        return Features(torch.cat(rows), features.lengths)

    def _convolved(self, rows: Float[Tensor, "rows width_in"]) -> Float[Tensor, "rows width_out"]:
        side = math.isqrt(self.measure(len(rows)))
        return self.conv(rows.T.unflatten(1, (side, side))).flatten(1).T


class NormalisedProjector(InputProjector):
    """Another input projector, and a LayerNorm behind it."""

    def __init__(self, projector: InputProjector, *, width: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.projector = projector
        self.norm = nn.LayerNorm(width, eps=eps)

    def measure(self, num_rows: int) -> int:
        """As the projector inside."""
        return self.projector.measure(num_rows)

    def forward(self, features: Features) -> Features:
        """Project, then normalise each row."""
        values, lengths = self.projector(features)
        return Features(self.norm(values), lengths)


class DiscriminantProjector(nn.Module):
    """Hidden states at a span's slots -> condition: what is asked for, freed from how, then an MLP.

    Prompts for the same thing differ by their wording, or by the story around them, far more than things differ from
    one another; a decoder then sees a prompt late, and a new wording hardly at all (dev/LOG.md has the numbers).
    Linear discriminant analysis (Fisher 1936; Rao 1948) finds the directions in which the means of things differ most,
    measured by the spread within a thing. In them a prompt is replaced by the mean to be expected given it, under the
    model that the analysis itself assumes: each thing a Gaussian around its mean, all of one spread and as likely. So
    what is drawn is a thing that was calibrated on, or a mixture of such. All slots of an item are looked at together.
    `calibrate` measures everything once; the MLP is trained.

    Args:
        num_rows, width_in: slots of an item and the width of their hidden states.
        num_conditions, width_out: condition rows of an item and their width.
        num_things: capacity for means, the one of the null prompt included.
        num_components: discriminants kept.
        hidden_width: of the MLP behind them.
        shrinkage: share of the mean variance within things that is added to each direction's.
    """

    mean: Tensor
    components: Tensor
    spread: Tensor
    things: Tensor
    known: Tensor

    def __init__(
        self,
        *,
        num_rows: int,
        width_in: int,
        num_conditions: int,
        width_out: int,
        num_things: int,
        num_components: int = 304,
        hidden_width: int = 512,
        shrinkage: float = 0.02,
    ) -> None:
        super().__init__()
        self.num_conditions = num_conditions
        self.shrinkage = shrinkage
        self.register_buffer("mean", torch.zeros(num_rows * width_in))
        self.register_buffer("components", torch.eye(num_rows * width_in, num_components))
        self.register_buffer("spread", torch.ones(num_components))
        self.register_buffer("things", torch.zeros(num_things, num_components))
        self.register_buffer("known", torch.zeros(num_things, dtype=torch.bool))
        self.layers = nn.Sequential(
            nn.Linear(num_components, hidden_width), nn.GELU(), nn.Linear(hidden_width, num_conditions * width_out)
        )

    def forward(self, rows: Float[Tensor, "*items rows width_in"]) -> Float[Tensor, "*items conditions width_out"]:
        """The condition rows of each item."""
        return self.layers(self.asked(rows)).unflatten(-1, (self.num_conditions, -1))

    def asked(self, rows: Float[Tensor, "*items rows width_in"]) -> Float[Tensor, "*items components"]:
        """The expected mean of what each item asks for; the discriminants themselves before calibration."""
        seen = (rows.flatten(-2) - self.mean) @ self.components
        if not bool(self.known.any()):
            return seen
        distances = torch.cdist(seen / self.spread, self.things / self.spread).square()
        return (-0.5 * distances).masked_fill(~self.known, -torch.inf).softmax(dim=-1) @ self.things

    @torch.no_grad()
    def calibrate(
        self,
        rows: Float[Tensor, "items rows width_in"],
        *,
        owners: Int[Tensor, " items"],
        null: Float[Tensor, "nulls rows width_in"] | None = None,
    ) -> None:
        """Measure everything on the hidden states of many prompts.

        `owners` numbers the thing that each asks for; `null` are prompts that ask for nothing, a thing of its own.
        Raises ValueError when there are more things than room.
        """
        vectors = rows.flatten(1).float()
        self.mean.copy_(vectors.mean(dim=0))
        self.components.copy_(
            discriminants(vectors - self.mean, owners=owners, like=self.components, shrinkage=self.shrinkage)
        )
        seen = (vectors - self.mean) @ self.components
        means, order = _means(seen, owners)
        self.spread.copy_((seen - means[order]).std(dim=0).clamp(min=1e-4))
        if null is not None and len(null):
            means = torch.cat([means, ((null.flatten(1).float() - self.mean) @ self.components).mean(dim=0)[None]])
        if len(means) > len(self.things):
            raise ValueError(
                f"{len(means)} things are asked for; the projector has room for {len(self.things)}\n"
                "hint: raise num_things"
            )
        self.things[: len(means)] = means
        self.known.copy_(torch.arange(len(self.known), device=self.known.device) < len(means))


def _means(
    values: Float[Tensor, "samples width"], owners: Int[Tensor, " samples"]
) -> tuple[Float[Tensor, "owners width"], Int[Tensor, " samples"]]:
    """The mean of each owner that has samples, and the place of each sample's owner among them."""
    present, order, counts = owners.unique(return_inverse=True, return_counts=True)
    sums = values.new_zeros(len(present), values.shape[1]).index_add_(0, order, values)
    return sums / counts[:, None], order


def discriminants(
    deviations: Float[Tensor, "samples width"],
    *,
    owners: Int[Tensor, " samples"],
    like: Float[Tensor, "width components"],
    shrinkage: float,
) -> Float[Tensor, "width components"]:
    """Directions in which the owners' means differ most, for a spread of one within an owner.

    With lambda the ratio of the variance between owners to the one within, a component is scaled to unit variance and
    by lambda / (1 + lambda), the share of it that says something about the owner (Wiener's factor). Raises ValueError
    when no owner has two samples.
    """
    means, order = _means(deviations, owners)
    residuals = (deviations - means[order])[order.bincount()[order] > 1]
    if not len(residuals):
        raise ValueError(
            f"none of {len(means)} things was asked for twice, so the spread within a thing is unknown\n"
            "hint: calibrate on more prompts"
        )
    within = residuals.T @ residuals / len(residuals)
    variances, directions = torch.linalg.eigh(within)
    whiten = directions * (variances.clamp(min=0.0) + shrinkage * variances.mean()).rsqrt()
    _, scales, axes = torch.linalg.svd(means @ whiten, full_matrices=False)
    found = min(like.shape[1], len(scales))
    ratios = scales[:found].square() / len(means)
    components = torch.zeros_like(like)
    components[:, :found] = whiten @ axes[:found].T * ((1.0 + ratios).rsqrt() * ratios / (1.0 + ratios))
    return components


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
