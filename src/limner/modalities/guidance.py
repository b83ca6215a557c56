"""Guidance: which rows are paired and how their predictions combine. One object for diffusion steps and for logits.

Branch 0 is the conditional row, branch 1 the unconditional one (the null prompt, rendered as a Document like any
other).
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor


@runtime_checkable
class Guidance(Protocol):
    """How predictions of paired rows become one prediction."""

    @property
    def num_branches(self) -> int:
        """Rows per item: 1 without, 2 with an unconditional row."""
        ...

    def combine(self, predictions: Float[Tensor, "branches items *rest"]) -> Float[Tensor, "items *rest"]:
        """Combine the branches of each item."""
        ...


@dataclass(frozen=True)
class NoGuidance:
    """The conditional prediction as it is."""

    num_branches: int = 1

    def combine(self, predictions: Float[Tensor, "branches items *rest"]) -> Float[Tensor, "items *rest"]:
        """Return branch 0."""
        return predictions[0]


@dataclass(frozen=True)
class ClassifierFreeGuidance:
    """`u + scale * (c - u)` (Ho & Salimans 2022, eq. 6 with w = scale - 1).

    `rescale` in [0, 1] pulls the standard deviation of each item back to the conditional one's (Lin et al. 2023, eq.
    15-16).
    """

    scale: float
    rescale: float = 0.0
    num_branches: int = 2

    def combine(self, predictions: Float[Tensor, "branches items *rest"]) -> Float[Tensor, "items *rest"]:
        """Combine conditional (0) and unconditional (1) predictions."""
        conditional, unconditional = predictions[0], predictions[1]
        guided = unconditional + self.scale * (conditional - unconditional)
        if self.rescale == 0.0:
            return guided
        dims = tuple(range(1, guided.ndim))
        ratio = conditional.std(dim=dims, keepdim=True) / guided.std(dim=dims, keepdim=True)
        return self.rescale * guided * ratio + (1.0 - self.rescale) * guided


def guidance_for(scale: float, *, rescale: float = 0.0) -> Guidance:
    """The guidance object for a user's `guidance_scale`; 1 means none, and then there is nothing to rescale.

    Raises ValueError for a scale below 1 and for a rescale outside [0, 1].
    """
    if not 0.0 <= rescale <= 1.0:
        raise ValueError(f"guidance_rescale is {rescale}; expected 0 to 1\nhint: 0 switches it off, 0.7 is usual")
    if scale < 1.0:
        raise ValueError(f"guidance_scale is {scale}; expected at least 1\nhint: 1 switches guidance off, 3 is usual")
    return NoGuidance() if scale == 1.0 else ClassifierFreeGuidance(scale, rescale)
