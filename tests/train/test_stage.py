"""Learning-rate schedules follow their formulas."""

import pytest
from plans import together

from limner.config.call import build, call
from limner.train.stage import Constant, LearningRateSchedule, Linear, Schedule, Trainable, WarmupStableDecay


def test_the_schedule_warms_up_and_falls_along_a_half_cosine() -> None:
    schedule = Schedule(warmup_steps=4, final=0.1)
    factors = [schedule.factor(step, 14) for step in range(14)]
    assert factors[:4] == [0.25, 0.5, 0.75, 1.0]
    assert factors[4] == 1.0
    assert factors[9] == pytest.approx(0.1 + 0.9 * 0.5)
    assert factors[4:] == sorted(factors[4:], reverse=True)
    assert schedule.factor(14, 14) == pytest.approx(0.1)
    assert Schedule().factor(0, 1) == 1.0


def test_the_other_schedules_warm_up_and_end_as_they_say() -> None:
    assert [Constant(warmup_steps=2).factor(step, 4) for step in range(4)] == [0.5, 1.0, 1.0, 1.0]
    linear = [Linear(warmup_steps=2, final=0.2).factor(step, 6) for step in range(7)]
    assert linear == pytest.approx([0.5, 1.0, 1.0, 0.8, 0.6, 0.4, 0.2])
    decay = [WarmupStableDecay(warmup_steps=2, decay_steps=4, final=0.2).factor(step, 10) for step in range(11)]
    assert decay == pytest.approx([0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.8, 0.6, 0.4, 0.2])


def test_a_stable_phase_does_not_know_how_long_the_stage_is() -> None:
    schedule = WarmupStableDecay(warmup_steps=3, decay_steps=5)
    assert [schedule.factor(s, 20) for s in range(15)] == [schedule.factor(s, 50) for s in range(15)]


@pytest.mark.parametrize("schedule", [Schedule(), Constant(), Linear(), WarmupStableDecay(decay_steps=3)])
def test_a_stage_of_one_step_trains(schedule: LearningRateSchedule) -> None:
    assert 0.0 < schedule.factor(0, 1) <= 1.0


@pytest.mark.parametrize("kind", [Schedule, Constant, Linear])
def test_a_warm_up_below_one_is_a_share_of_the_steps_rounded_up(kind) -> None:
    share, steps = kind(warmup_steps=0.003), kind(warmup_steps=4)
    assert [share.factor(step, 1001) for step in range(6)] == [steps.factor(step, 1001) for step in range(6)]
    assert kind(warmup_steps=0.003).factor(0, 8) == 1.0  # one step, at the peak
    decay = WarmupStableDecay(warmup_steps=0.25, decay_steps=1)
    assert [decay.factor(step, 8) for step in range(3)] == [0.5, 1.0, 1.0]


def test_parts_without_a_learning_rate_of_their_own_take_the_stages() -> None:
    parts = [call(Trainable, glob="backbone.*"), call(Trainable, glob="modalities.*", learning_rate=1e-3)]
    stage = build(together(trainable=parts, learning_rate=2e-5))
    assert [group.learning_rate for group in stage.trainable] == [2e-5, 1e-3]
    with pytest.raises(ValueError, match=r"trains `backbone\.\*` without a learning rate\nhint: "):
        build(together(trainable=parts))
