"""Killed at any moment = uninterrupted: losses of every step and weights, bit for bit."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_killed_at_twenty_random_moments_ends_with_the_same_bits(tmp_path: Path) -> None:
    paths = os.pathsep.join([str(TESTS.parent / "src"), str(TESTS)])
    ran = subprocess.run(
        [sys.executable, str(TESTS / "killed.py"), str(tmp_path), "20", "0"],
        env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "LIMNER_CACHE": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        timeout=850,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    found = json.loads((tmp_path / "results.json").read_text())
    assert found["kills"] == 20
    assert sum(run["lives"] - 1 for run in found["killed"]) == 20
    assert len(found["whole"]["curve"]) == 160
    for run in found["killed"]:
        assert run["curve"] == found["whole"]["curve"]
        assert run["weights"] == found["whole"]["weights"]
