"""The anchor is zero, to the bit, and hangs on every trainable parameter."""

import pytest
import torch
from torch import nn

from limner.model.anchor import anchor

CPU = torch.device("cpu")


def test_the_anchor_is_zero_and_gives_every_trainable_parameter_a_zero_gradient() -> None:
    parts = [nn.Linear(3, 2), nn.LayerNorm(4)]
    parts[1].bias.requires_grad_(False)
    zero = anchor(parts, device=CPU)
    assert float(zero.detach()) == 0.0
    zero.backward()
    for part in parts:
        for parameter in part.parameters():
            if parameter.requires_grad:
                assert torch.equal(parameter.grad, torch.zeros_like(parameter))
    assert parts[1].bias.grad is None


@pytest.mark.parametrize("shape", [(0, 3), (), (1,), (2, 3, 4, 4)])
def test_parameters_of_any_shape_and_type_are_reached(shape: tuple[int, ...]) -> None:
    part = nn.Module()
    part.weight = nn.Parameter(torch.ones(shape, dtype=torch.bfloat16))
    anchor([part], device=CPU).backward()
    assert part.weight.grad is not None
    assert part.weight.grad.shape == shape
    assert not part.weight.grad.any()


def test_a_tensor_of_the_graph_may_be_anchored_besides() -> None:
    before = nn.Parameter(torch.ones(2, 3))
    anchor([], device=CPU, also=before * 2.0).backward()
    assert torch.equal(before.grad, torch.zeros(2, 3))


def test_nothing_to_train_is_zero_without_a_graph() -> None:
    assert not anchor([nn.Linear(2, 2).requires_grad_(False)], device=CPU).requires_grad
