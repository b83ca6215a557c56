"""Projectors of a fixed number of positions, in the two layouts of multi_token.

`VectorProjector` turns one feature row into several positions, each by an MLP of its own; `PatchProjector` turns every
feature row into one position, all by the same MLP. Parameter names below `mlps` and `layers` are those of the original.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from limner.modalities.base import Features, InputProjector


def _mlp(width_in: int, width_out: int, depth: int) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Linear(width_in, width_out)]
    for _ in range(depth - 1):
        layers += [nn.GELU(), nn.Linear(width_out, width_out)]
    return nn.Sequential(*layers)


class VectorProjector(InputProjector):
    """One row [width_in] -> `num_positions` rows [width_out]; position j is what MLP j gives."""

    def __init__(self, *, num_positions: int, width_in: int, width_out: int, depth: int = 2) -> None:
        super().__init__()
        self.num_positions = num_positions
        self.mlps = nn.ModuleList(_mlp(width_in, width_out, depth) for _ in range(num_positions))

    def measure(self, num_rows: int) -> int:
        """`num_positions` for each feature row."""
        return num_rows * self.num_positions

    def forward(self, features: Features) -> Features:
        """All items at once; the positions of an item stand together."""
        positions: Float[Tensor, "tokens positions width"] = torch.stack(
            [mlp(features.values) for mlp in self.mlps], dim=1
        )
        return Features(positions.flatten(0, 1), features.lengths * self.num_positions)


class PatchProjector(InputProjector):
    """Each row [width_in] -> one row [width_out]."""

    def __init__(self, *, width_in: int, width_out: int, depth: int = 2) -> None:
        super().__init__()
        self.layers = _mlp(width_in, width_out, depth)

    def measure(self, num_rows: int) -> int:
        """As many as there are."""
        return num_rows

    def forward(self, features: Features) -> Features:
        """Project each row; lengths stay."""
        return Features(self.layers(features.values), features.lengths)
