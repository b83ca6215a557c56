"""Projectors: shapes, rows by themselves, and a memory that answers with what is nearest."""

import pytest
import torch

from limner.modalities.base import Features
from limner.modalities.projectors import LinearProjector, MemoryProjector, MLPProjector, Rowwise, WhitenedProjector


def _memory(**changes) -> MemoryProjector:
    options = {"num_rows": 2, "width_in": 3, "width_out": 5, "num_slots": 4, "num_words": 2, "num_components": 6}
    torch.manual_seed(0)
    return MemoryProjector(**(options | changes))


@pytest.mark.parametrize(
    "rows",
    [
        LinearProjector(width_in=3, width_out=5),
        LinearProjector(width_in=3, width_out=5, bias=False),
        MLPProjector(width_in=3, width_out=5),
        MLPProjector(width_in=3, width_out=5, depth=4, normalise=False),
    ],
)
def test_rowwise_projects_each_row_by_itself_and_keeps_lengths(rows: torch.nn.Module) -> None:
    projector = Rowwise(rows)
    values = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    features = projector(Features(values, torch.tensor([2, 4])))
    assert features.lengths.tolist() == [2, 4]
    assert features.values.shape == (6, 5)
    torch.testing.assert_close(features.values[3:4], rows(values[3:4]))
    assert projector.measure(7) == 7


def test_an_mlp_of_one_layer_is_refused() -> None:
    with pytest.raises(ValueError, match=r"depth 1; expected at least 2\nhint: use LinearProjector"):
        MLPProjector(width_in=3, width_out=5, depth=1)


def test_remembering_whitens() -> None:
    projector = _memory(shrinkage=0.0)
    generator = torch.Generator().manual_seed(1)
    # Components of very different spread, mixed and moved.
    vectors = torch.randn(500, 6, generator=generator) * torch.tensor([9.0, 5.0, 2.0, 1.0, 0.5, 0.1])
    vectors = vectors @ torch.linalg.qr(torch.randn(6, 6, generator=generator))[0] + 3.0
    owners = torch.arange(500) % 4
    projector.remember(vectors, owners=owners, values=torch.zeros(4, 2, 5))
    white = (vectors - projector.mean) @ projector.components
    torch.testing.assert_close(white.T @ white / 500, torch.eye(6), atol=1e-3, rtol=0)
    torch.testing.assert_close(white.mean(dim=0), torch.zeros(6), atol=1e-4, rtol=0)
    torch.testing.assert_close(projector.whiten(vectors).norm(dim=1), torch.ones(500))


def test_what_was_remembered_is_answered_with_its_values() -> None:
    projector = _memory()
    vectors = torch.randn(3, 6, generator=torch.Generator().manual_seed(2))
    values = torch.randn(3, 2, 5, generator=torch.Generator().manual_seed(3))
    projector.remember(vectors, owners=torch.arange(3), values=values)
    found = projector(Features(vectors[[2, 0]].reshape(4, 3), torch.tensor([2, 2])))
    assert found.lengths.tolist() == [2, 2]
    torch.testing.assert_close(found.values, values[[2, 0]].flatten(0, 1), atol=1e-3, rtol=0)
    assert projector.filled.tolist() == [True, True, True, False]


def test_an_empty_memory_answers_nothing() -> None:
    found = _memory()(Features(torch.randn(4, 3), torch.tensor([2, 2])))
    assert found.values.shape == (4, 5)
    assert not found.values.any()


def test_a_memory_takes_one_grid_and_no_more_than_its_slots() -> None:
    projector = _memory()
    assert projector.measure(2) == 2
    with pytest.raises(ValueError, match=r"an item has 3 feature rows; this projector takes 2\nhint: "):
        projector.measure(3)
    with pytest.raises(ValueError, match=r"5 things are to be remembered; the memory has 4 slots\nhint: "):
        projector.remember(torch.randn(5, 6), owners=torch.arange(5), values=torch.zeros(5, 2, 5))


def test_a_whitened_projector_sees_rows_of_unit_variance_and_no_shared_direction() -> None:
    torch.manual_seed(0)
    # A large shared direction per slot, and channels of very different spread.
    hidden = 50.0 + torch.randn(400, 3, 8) * torch.tensor([9.0, 3.0, 1.0, 1.0, 0.5, 0.5, 0.1, 0.1])
    hidden = hidden + torch.arange(3.0)[None, :, None]
    projector = WhitenedProjector(num_rows=3, width_in=8, width_out=5, num_components=8, shrinkage=0.0)
    projector.calibrate(hidden)
    white = (hidden - projector.mean) @ projector.components
    assert white.mean(dim=0).abs().max() < 1e-4
    torch.testing.assert_close(white.flatten(0, 1).T.cov(), torch.eye(8), atol=0.02, rtol=0.0)
    assert projector(hidden[None, :2]).shape == (1, 2, 3, 5)
