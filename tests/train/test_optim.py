"""Optimisers are torch's, by name and checked; groups, peaks and averages do what their formulas say."""

import pytest
import torch
from tiny import tiny_model
from torch import nn

from limner.config.call import call
from limner.config.overrides import apply_overrides
from limner.train.optim import MovingAverage, TorchOptimizer, build_optimizer
from limner.train.stage import Trainable, select_trainable


def _groups(*groups: Trainable) -> dict[Trainable, dict[str, nn.Parameter]]:
    """A matrix and a vector in each group."""
    generator = torch.Generator().manual_seed(0)
    return {
        group: {
            f"{index}.matrix": nn.Parameter(torch.randn(4, 4, generator=generator)),
            f"{index}.vector": nn.Parameter(torch.randn(4, generator=generator)),
        }
        for index, group in enumerate(groups)
    }


def test_each_parameter_belongs_to_the_first_glob_that_matches() -> None:
    model = tiny_model()
    narrow = Trainable("modalities.image.queries.*", learning_rate=0.5)
    wide = Trainable("modalities.image.*", learning_rate=0.1, weight_decay=0.2)
    groups = select_trainable(model, [narrow, wide])
    assert list(groups[narrow]) == ["modalities.image.queries.rows"]
    assert "modalities.image.queries.rows" not in groups[wide]
    assert not any(p.requires_grad for p in model.backbone.parameters())
    optimizer = build_optimizer(groups, optimizer=TorchOptimizer())
    assert {(g["lr"], g["weight_decay"], g["params"][0].ndim >= 2) for g in optimizer.param_groups} == {
        (0.5, 0.0, True), (0.1, 0.2, True), (0.1, 0.0, False)
    }  # fmt: skip
    optimizer.set_learning_rate(factor=0.5)
    optimizer.set_learning_rate(factor=0.5)
    assert optimizer.param_groups[0]["lr"] == 0.25


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("AdamW", {"betas": (0.8, 0.9)}),
        ("Adafactor", {}),
        ("SGD", {"momentum": 0.9, "nesterov": True}),
        ("NAdam", {}),
        ("RMSprop", {}),
    ],
)
def test_steps_are_those_of_the_class_itself(name: str, options: dict) -> None:
    trainable = Trainable("*", learning_rate=0.1)
    groups, twins = _groups(trainable)[trainable], _groups(trainable)[trainable]
    ours = build_optimizer({trainable: groups}, optimizer=TorchOptimizer(name, options))
    expected = getattr(torch.optim, name)(list(twins.values()), lr=0.05, weight_decay=0.0, **options)
    for _ in range(3):
        ours.set_learning_rate(factor=0.5)
        ours.zero_grad()
        for parameters in (groups, twins):
            torch.stack([p.square().sum() for p in parameters.values()]).sum().backward()
        ours.step()
        expected.step()
        expected.zero_grad()
    for parameter in groups:
        torch.testing.assert_close(groups[parameter], twins[parameter])


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon")
def test_matrices_and_the_rest_may_have_different_optimisers_that_share_one_state() -> None:
    matrices = Trainable("*.matrix", learning_rate=0.1, optimizer=TorchOptimizer("Muon"))
    rest = Trainable("*", learning_rate=0.1)
    matrix, vector = nn.Parameter(torch.ones(4, 4)), nn.Parameter(torch.ones(4))
    optimizer = build_optimizer({matrices: {"m": matrix}, rest: {"v": vector}}, optimizer=TorchOptimizer())
    (matrix.sum() + vector.sum()).backward()
    optimizer.step()
    assert [type(part).__name__ for part in optimizer.parts] == ["Muon", "AdamW"]
    assert set(optimizer.state[matrix]) == {"momentum_buffer"}
    assert set(optimizer.state[vector]) >= {"exp_avg", "exp_avg_sq"}
    assert not torch.equal(matrix, torch.ones(4, 4))
    # What a run state puts there is what the parts use.
    optimizer.state[vector] = {key: value.clone() for key, value in optimizer.state[vector].items()}
    optimizer.step()
    assert float(optimizer.state[vector]["step"]) == 2.0
    with pytest.raises(ValueError, match=r"Muon refuses .*\nhint: .*Trainable"):
        build_optimizer({rest: {"v": vector}}, optimizer=TorchOptimizer("Muon"))


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("AdamX", {}, "no optimiser `AdamX`"),
        ("LBFGS", {}, "no optimiser `LBFGS`"),
        ("AdamW", {"beta": 0.9}, "no setting `beta`"),
        ("AdamW", {"lr": 0.1}, "no setting `lr`"),
        ("AdamW", {"betas": (2.0, 0.9)}, "AdamW refuses"),
        ("SGD", {"nesterov": True}, "SGD refuses"),
    ],
)
def test_a_description_that_cannot_be_meant_is_refused(name: str, options: dict, says: str) -> None:
    with pytest.raises(ValueError, match=says + r"[\s\S]*\nhint: "):
        TorchOptimizer(name, options)


def test_a_description_can_be_changed_from_the_command_line() -> None:
    tree = call(TorchOptimizer, name="SGD", options={"momentum": 0.9})
    assert apply_overrides(tree, ["options.momentum=0.5"]).options == {"momentum": 0.5}


def test_a_moving_average_follows_its_formula_and_swaps_back() -> None:
    parameter = torch.nn.Parameter(torch.zeros(2))
    average = MovingAverage({"p": parameter}, decay=0.9)
    expected = 0.0
    for number in range(1, 40):
        with torch.no_grad():
            parameter.fill_(float(number))
        average.update({"p": parameter})
        decay = min(0.9, (1 + number) / (10 + number))
        expected = decay * expected + (1 - decay) * number
    assert float(average.values["p"][0]) == pytest.approx(expected, rel=1e-5)
    average.swap({"p": parameter})
    assert float(parameter.detach()[0]) == pytest.approx(expected, rel=1e-5)
    average.swap({"p": parameter})
    assert float(parameter.detach()[0]) == 39.0
