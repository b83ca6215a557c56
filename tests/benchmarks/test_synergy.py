"""The synergy benchmark at the smallest size: it trains, scores, prints, writes, and repeats nothing."""

import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.slow


def test_synergy_trains_scores_and_writes_every_run_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    monkeypatch.syspath_prepend(str(ROOT))
    synergy = importlib.import_module("benchmarks.synergy")
    work, output = tmp_path / "work", tmp_path / "docs"
    output.mkdir()
    (output / "synergy.md").write_text("Before.\n<!-- synergy: begin -->\nold\n<!-- synergy: end -->\nAfter.\n")
    arguments = ["--seeds", "0", "--limit", "4", "--work", str(work), "--output", str(output), "--workers", "1"]
    overrides = ["stages.0.num_steps=2", "stages.0.save_every=2"]
    synergy.main([*arguments, *overrides])
    printed = capsys.readouterr().out
    for score in ("reading: exact match", "drawing: whole scenes", "pages: layout F1"):
        assert f"| {score} |" in printed
    for run in ("joint", "reading", "drawing", "pages"):
        assert f"{run}: trained in" in printed
    page = (output / "synergy.md").read_text()
    assert page.startswith("Before.\n")
    assert page.endswith("After.\n")
    assert "old" not in page
    assert (output / "synergy.svg").read_text().startswith("<svg")
    assert (output / "synergy.png").is_file()
    times = {file: file.stat().st_mtime for file in work.rglob("scores.json")}
    assert len(times) == 4
    synergy.main([*arguments, *overrides])
    assert {file: file.stat().st_mtime for file in work.rglob("scores.json")} == times


def test_the_table_is_computed_by_hand(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(ROOT))
    synergy = importlib.import_module("benchmarks.synergy")

    def found(value: float) -> dict:
        score = {"value": value, "shuffled": 0.1, "items": 4}
        scores = {task: {} for task in synergy.TASKS}
        for task, name in synergy.SHOWN:
            scores[task][name] = score
        return {"train_seconds": 60.0, "train_cpu_seconds": 30.0, "scores": scores}

    results = {
        ("joint", 0): found(0.9), ("joint", 1): found(1.0), ("reading", 0): found(0.8), ("reading", 1): found(0.6),
    }  # fmt: skip
    text = synergy._table(results, runs=["joint", "reading"], seeds=[0, 1])
    row = next(line for line in text.splitlines() if line.startswith("| reading: exact match"))
    assert row == (
        "| reading: exact match | 95 | 95.0 (90.0 to 100.0) | 70.0 (60.0 to 80.0) | +25.0 (+10.0 to +40.0) | 10.0 |"
    )
    assert "joint: trained in 1.0 minutes (1.0 to 1.0), 0.5 of one core's." in text
