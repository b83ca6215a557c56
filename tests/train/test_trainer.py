"""One stage: accumulation changes nothing, schedules and averages do what their formulas say."""

import math
from pathlib import Path

import plans
import pytest
import torch
from tiny import tiny_model

from limner.config.call import Call, build, call
from limner.data.mixture import Mixture
from limner.train.objectives import Multimodal, WordAlignment
from limner.train.optim import MovingAverage, build_optimizer, set_learning_rate
from limner.train.stage import Packed, Schedule, Stage, Trainable, select_trainable
from limner.train.trainer import Trainer


def _stage(**changes) -> Stage:
    return build(plans.together(**({"num_steps": 1, "ema_decay": None, "sample_every": 0} | changes)))


def _trained(directory: Path, **changes) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
    model = tiny_model()
    trainer = Trainer(model, stage=_stage(**changes), directory=directory, seed=0)
    metrics = trainer._step(0)
    return metrics, {name: p.grad.clone() for name, p in trainer.parameters.items()}


def test_accumulation_gives_the_step_of_one_large_batch(tmp_path: Path) -> None:
    # Rows that hold one page each: two batches of two rows are the four rows of one.
    small = call_batching(num_rows=2)
    large = call_batching(num_rows=4)
    one, whole = _trained(tmp_path / "1", batching=large, accumulation=1)
    two, split = _trained(tmp_path / "2", batching=small, accumulation=2)
    assert one["tokens"] == two["tokens"]
    for name in ("loss", "loss/text", "loss/image", "gradient_norm"):
        assert two[name] == pytest.approx(one[name], rel=1e-4)
    for name, gradient in whole.items():
        torch.testing.assert_close(split[name], gradient, atol=1e-5, rtol=1e-3, msg=name)


@pytest.mark.parametrize("objective", [call(Multimodal, made=[]), call(WordAlignment, modality="image")])
def test_accumulation_weighs_batches_by_what_the_objective_counts(tmp_path: Path, objective: Call) -> None:
    # Each row has other numbers of targets and of matched words, but the same kinds of words to tell apart.
    changes = {
        "mixture": call(Mixture, sources={"spellings": call(plans.Spellings)}),
        "objective": objective,
        "loss_weights": {"text": 1.0},
        "trainable": [call(Trainable, glob="modalities.image.input_projector.*", learning_rate=1e-3)],
    }
    large = call(Packed, row_length=40, num_rows=4)
    small = call(Packed, row_length=40, num_rows=1)
    one, whole = _trained(tmp_path / "1", batching=large, accumulation=1, **changes)
    four, split = _trained(tmp_path / "4", batching=small, accumulation=4, **changes)
    assert one["tokens"] == four["tokens"]
    for name in ("loss", "gradient_norm"):
        assert four[name] == pytest.approx(one[name], rel=1e-4)
    for name, gradient in whole.items():
        torch.testing.assert_close(split[name], gradient, atol=1e-6, rtol=1e-3, msg=name)


def test_a_parameter_that_the_objective_never_reaches_is_refused_at_the_first_step(tmp_path: Path) -> None:
    queries = call(Trainable, glob="modalities.image.queries.*", learning_rate=1e-3)
    backbone = call(Trainable, glob="backbone.*", learning_rate=1e-3)
    changes = {"objective": call(Multimodal, made=[]), "loss_weights": {"text": 1.0}, "trainable": [queries, backbone]}
    assert _trained(tmp_path / "reached", **changes)
    flow = call(Trainable, glob="modalities.image.decoder.transformer.*", learning_rate=1e-3)
    changes["trainable"] = [flow, backbone]
    with pytest.raises(ValueError, match=r"trains \d+ tensors .* never reaches: .*transformer.*\nhint: "):
        _trained(tmp_path / "lost", **changes)


def call_batching(*, num_rows: int):
    return call(Packed, row_length=42, num_rows=num_rows)


def test_a_term_of_weight_zero_is_measured_and_not_trained(tmp_path: Path) -> None:
    trainable = [call(Trainable, glob="backbone.*", learning_rate=0.0)]
    both = {"loss_weights": {"text": 1.0, "image": 0.0}, "trainable": trainable}
    metrics, gradients = _trained(tmp_path / "both", **both)
    assert metrics["loss/image"] > 0
    assert metrics["loss"] == pytest.approx(metrics["loss/text"])
    alone = {"objective": call(Multimodal, made=[]), "loss_weights": {"text": 1.0}, "trainable": trainable}
    _, expected = _trained(tmp_path / "alone", **alone)
    for name, gradient in expected.items():
        torch.testing.assert_close(gradients[name], gradient, msg=name)


def test_frozen_parts_are_in_evaluation_mode_while_the_rest_trains(tmp_path: Path) -> None:
    model = tiny_model()
    trainer = Trainer(model, stage=_stage(), directory=tmp_path, seed=0)
    modes: list[tuple[bool, bool]] = []
    image = model.modalities["image"]
    image.decoder.transformer.register_forward_hook(
        lambda *arguments: modes.append((image.encoder.training, image.decoder.transformer.training))
    )
    trainer.run()
    assert set(modes) == {(False, True)}
    assert not model.training


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_parameters(tmp_path: Path) -> None:
    model = tiny_model()
    trainer = Trainer(model, stage=_stage(), directory=tmp_path, seed=0)
    with torch.no_grad():
        model.backbone.added_input.fill_(math.nan)
    before = model.backbone.language_model.lm_head.weight.detach().clone()
    with pytest.raises(ValueError, match=r"is nan at step 0.*\nhint: "):
        trainer.run()
    assert torch.equal(model.backbone.language_model.lm_head.weight, before)


def test_a_published_part_is_not_trained_where_no_checkpoint_would_hold_it(tmp_path: Path) -> None:
    model = tiny_model()
    model.external["backbone.language_model"] = "somewhere@abc"
    with pytest.raises(ValueError, match=r"published part.*\nhint: "):
        Trainer(model, stage=_stage(), directory=tmp_path, seed=0)


def test_the_schedule_warms_up_and_falls_along_a_half_cosine() -> None:
    schedule = Schedule(warmup_steps=4, final=0.1)
    factors = [schedule.factor(step, 14) for step in range(14)]
    assert factors[:4] == [0.25, 0.5, 0.75, 1.0]
    assert factors[4] == 1.0
    assert factors[9] == pytest.approx(0.1 + 0.9 * 0.5)
    assert factors[4:] == sorted(factors[4:], reverse=True)
    assert schedule.factor(14, 14) == pytest.approx(0.1)
    assert Schedule().factor(0, 1) == 1.0


def test_each_parameter_belongs_to_the_first_glob_that_matches() -> None:
    model = tiny_model()
    narrow = Trainable("modalities.image.queries.*", learning_rate=0.5)
    wide = Trainable("modalities.image.*", learning_rate=0.1, weight_decay=0.2)
    groups = select_trainable(model, [narrow, wide])
    assert list(groups[narrow]) == ["modalities.image.queries.rows"]
    assert "modalities.image.queries.rows" not in groups[wide]
    assert not any(p.requires_grad for p in model.backbone.parameters())
    optimizer = build_optimizer(groups, stage=_stage())
    assert {(g["lr"], g["weight_decay"], g["params"][0].ndim >= 2) for g in optimizer.param_groups} == {
        (0.5, 0.0, True), (0.1, 0.2, True), (0.1, 0.0, False)
    }  # fmt: skip
    set_learning_rate(optimizer, factor=0.5)
    set_learning_rate(optimizer, factor=0.5)
    assert optimizer.param_groups[0]["lr"] == 0.25


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
    again = MovingAverage({"p": parameter}, decay=0.9)
    again.load_state_dict(average.state_dict())
    assert again.num_updates == 39
    assert torch.equal(again.values["p"], average.values["p"])
