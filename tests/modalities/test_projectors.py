"""Projectors: shapes, rows by themselves, and a memory that answers with what is nearest."""

import pytest
import torch

from limner.modalities.base import Features
from limner.modalities.projectors import (
    ConvProjector,
    DiscriminantProjector,
    LinearProjector,
    MemoryProjector,
    MLPProjector,
    NormalisedProjector,
    Rowwise,
)


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


def test_a_convolution_sees_the_neighbours_of_its_own_item_only() -> None:
    projector = ConvProjector(width_in=3, width_out=5)
    values = torch.randn(13, 3, generator=torch.Generator().manual_seed(0))
    both = projector(Features(values, torch.tensor([4, 9])))
    assert both.lengths.tolist() == [4, 9]
    alone = projector(Features(values[4:], torch.tensor([9])))
    torch.testing.assert_close(both.values[4:], alone.values)
    grid = values[4:].T.reshape(1, 3, 3, 3)
    torch.testing.assert_close(alone.values[4], projector.conv(grid)[0, :, 1, 1])
    assert projector.measure(9) == 9
    with pytest.raises(ValueError, match=r"8 feature rows; a convolution takes a square grid\nhint: "):
        projector.measure(8)


def test_a_norm_may_stand_behind_a_projector() -> None:
    inner = Rowwise(LinearProjector(width_in=3, width_out=5))
    projector = NormalisedProjector(inner, width=5)
    values = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    found = projector(Features(values, torch.tensor([2, 4])))
    torch.testing.assert_close(found.values, torch.nn.functional.layer_norm(inner.rows(values), (5,)))
    assert projector.measure(7) == 7


def test_an_mlp_may_be_without_bias() -> None:
    assert [
        name for name, _ in MLPProjector(width_in=3, width_out=5, normalise=False, bias=False).named_parameters()
    ] == [
        "layers.0.weight",
        "layers.2.weight",
    ]


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


def _asked(*, num_things: int, wordings: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Hidden states [items 2 8] of things in wordings: what tells things apart is a tenth of what wordings change."""
    generator = torch.Generator().manual_seed(0)
    things = torch.randn(num_things, 1, 2, 3, generator=generator)
    changes = torch.randn(num_things, wordings, 2, 5, generator=generator)
    mixing = torch.linalg.qr(torch.randn(8, 8, generator=generator))[0]
    hidden = torch.cat([things.expand(-1, wordings, -1, -1), 10.0 * changes], dim=-1) @ mixing + 50.0
    return hidden.flatten(0, 1), torch.arange(num_things).repeat_interleave(wordings)


def test_a_discriminant_projector_sees_what_is_asked_for_and_not_how() -> None:
    torch.manual_seed(0)
    hidden, owners = _asked(num_things=40, wordings=8)
    projector = DiscriminantProjector(
        num_rows=2, width_in=8, num_conditions=3, width_out=5, num_things=40, num_components=6, shrinkage=1e-4
    )
    half = torch.arange(len(hidden)) % 8 < 4
    projector.calibrate(hidden[half], owners=owners[half])
    asked = projector.asked(hidden[~half])  # new wordings
    assert (torch.cdist(asked, projector.things).argmin(dim=1) == owners[~half]).float().mean() > 0.95
    # Not only nearer to the right one: the wording is gone.
    assert torch.cdist(asked, projector.things).amin(dim=1).median() < 0.01 * torch.pdist(projector.things).median()
    raw = hidden.flatten(1)
    plain = torch.cdist(raw[~half], torch.stack([raw[half & (owners == thing)].mean(dim=0) for thing in range(40)]))
    assert (plain.argmin(dim=1) == owners[~half]).float().mean() < 0.3
    assert projector(hidden[None, :2]).shape == (1, 2, 3, 5)


_SMALL = {"num_rows": 2, "width_in": 8, "num_conditions": 1, "width_out": 5, "num_components": 2}


def test_the_null_prompt_is_a_thing_of_its_own_and_things_need_room() -> None:
    hidden, owners = _asked(num_things=3, wordings=4)
    null = torch.full((2, 2, 8), 200.0)
    projector = DiscriminantProjector(**_SMALL, num_things=4)
    projector.calibrate(hidden, owners=owners, null=null)
    assert projector.known.all()
    torch.testing.assert_close(projector.asked(null)[0], projector.things[3])
    with pytest.raises(ValueError, match=r"4 things are asked for; the projector has room for 3\nhint: "):
        DiscriminantProjector(**_SMALL, num_things=3).calibrate(hidden, owners=owners, null=null)


def test_discriminants_need_a_thing_that_was_asked_for_twice() -> None:
    hidden, _ = _asked(num_things=3, wordings=1)
    projector = DiscriminantProjector(**_SMALL, num_things=3)
    with pytest.raises(ValueError, match=r"none of 3 things was asked for twice.*\nhint: "):
        projector.calibrate(hidden, owners=torch.arange(3))
