"""Projectors: feature rows of one width -> rows of another. Flat rows in, flat rows out; the caller keeps the lengths."""

from jaxtyping import Float
from torch import Tensor, nn


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
