"""Losses of a step: means over all targets, and of each source that has any."""

import pytest
import torch

from limner.modalities.base import LossTerm
from limner.train.terms import StepLosses


def _term(total: float, count: float, **sources: tuple[float, float]) -> LossTerm:
    by_source = {name: (torch.tensor(a), torch.tensor(b)) for name, (a, b) in sources.items()}
    return LossTerm(torch.tensor(total), torch.tensor(count), by_source)


def test_a_term_is_the_mean_over_all_targets_of_the_step() -> None:
    losses = StepLosses({"text": 4.0})
    for term, count in ((_term(6.0, 3.0, web=(6.0, 3.0)), 3.0), (_term(2.0, 1.0, web=(2.0, 1.0)), 1.0)):
        losses.add({"text": term}, shares=losses.shares({"text": count}))
    means, sources = losses.read()
    assert means == {"text": pytest.approx(2.0)}
    assert sources == {("text", "web"): pytest.approx(2.0)}


def test_a_source_without_targets_has_no_loss() -> None:
    losses = StepLosses({"image": 2.0})
    losses.add({"image": _term(3.0, 2.0, pages=(3.0, 2.0), words=(0.0, 0.0))}, shares={"image": 1.0})
    assert losses.read()[1] == {("image", "pages"): pytest.approx(1.5)}


def test_a_rank_without_batches_has_nothing_to_add() -> None:
    assert StepLosses({"text": 0.0}).read() == ({}, {})
