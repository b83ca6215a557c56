"""Projectors of fixed positions: sizes, order, and names of their weights."""

import pytest
import torch

from limner.modalities.base import Features
from limner.modalities.position_projectors import PatchProjector, VectorProjector


def test_each_position_of_a_vector_has_an_mlp_of_its_own() -> None:
    projector = VectorProjector(num_positions=3, width_in=4, width_out=5)
    rows = torch.randn(2, 4)
    found = projector(Features(rows, torch.tensor([1, 1])))
    assert found.lengths.tolist() == [3, 3]
    assert projector.measure(1) == 3
    for item in range(2):
        for position in range(3):
            expected = projector.mlps[position](rows[item])
            assert torch.allclose(found.values[item * 3 + position], expected, atol=1e-6)


def test_all_patches_share_one_mlp() -> None:
    projector = PatchProjector(width_in=4, width_out=5)
    rows = torch.randn(6, 4)
    found = projector(Features(rows, torch.tensor([2, 4])))
    assert found.values.shape == (6, 5)
    assert found.lengths.tolist() == [2, 4]
    assert projector.measure(7) == 7


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_weights_are_named_as_in_the_originals_files(depth: int) -> None:
    numbers = range(0, 2 * depth, 2)
    patch = PatchProjector(width_in=4, width_out=5, depth=depth)
    assert set(patch.state_dict()) == {f"layers.{i}.{kind}" for i in numbers for kind in ("weight", "bias")}
    vector = VectorProjector(num_positions=2, width_in=4, width_out=5, depth=depth)
    assert set(vector.state_dict()) == {
        f"mlps.{j}.{i}.{kind}" for j in range(2) for i in numbers for kind in ("weight", "bias")
    }
