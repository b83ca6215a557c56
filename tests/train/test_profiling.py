"""Profiles cover the steps that were asked for, and are written even when the run ends within them."""

import json
import sys
from pathlib import Path

import pytest
import torch

from limner.train.profiling import Profile, StepProfiler


def _steps(profile: Profile | None, directory: Path, *, num_steps: int) -> None:
    with StepProfiler(profile, directory=directory) as profiler:
        for step in range(num_steps):
            profiler.before(step)
            with torch.profiler.record_function(f"step {step}"):
                torch.ones(2) + step


@pytest.mark.parametrize(("num_steps", "recorded"), [(6, {"step 2", "step 3"}), (3, {"step 2"}), (2, set())])
def test_the_trace_holds_the_steps_asked_for(tmp_path: Path, num_steps: int, recorded: set[str]) -> None:
    _steps(Profile(2, 4), tmp_path, num_steps=num_steps)
    trace = tmp_path / "profile" / "trace.json"
    names = {event.get("name") for event in json.loads(trace.read_text())["traceEvents"]} if trace.exists() else set()
    assert {name for name in names if str(name).startswith("step ")} == recorded
    assert (tmp_path / "profile" / "operators.txt").exists() == bool(recorded)


def test_a_resumed_run_profiles_what_is_left(tmp_path: Path) -> None:
    with StepProfiler(Profile(2, 4), directory=tmp_path) as profiler:
        profiler.before(3)
    assert (tmp_path / "profile" / "trace.json").exists()


def test_without_a_profile_nothing_is_written(tmp_path: Path) -> None:
    _steps(None, tmp_path, num_steps=3)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_profiled_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"cannot profile steps 4:4\nhint: "):
        Profile(4, 4)
    monkeypatch.setitem(sys.modules, "pyinstrument", None)
    with pytest.raises(ValueError, match=r"pyinstrument is not installed\nhint: "):
        _steps(Profile(0, 1, tool="pyinstrument"), tmp_path, num_steps=1)
