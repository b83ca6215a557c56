"""Learning-rate schedules follow their formulas."""

import pytest

from limner.train.stage import Constant, LearningRateSchedule, Linear, Schedule, WarmupStableDecay


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
