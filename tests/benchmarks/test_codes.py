"""`python -m benchmarks codes` at tiny size: every way of its config trains behind one tokenizer and is scored."""

import importlib
from pathlib import Path
from typing import Any

import pytest

from limner.config.load import load
from limner.config.overrides import apply_overrides
from limner.train.plan import run_plan

ROOT = Path(__file__).parents[2]


@pytest.fixture
def codes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """The script, which sets where features are kept; here that is put back."""
    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.setenv("LIMNER_FEATURES", str(tmp_path / "features"))
    return importlib.import_module("benchmarks.codes")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of the scene tokenizer, hardly trained."""
    plan = load(ROOT / "configs" / "tiny" / "scene_tokenizer.py")
    short = [f"stages.{stage}.{key}=1" for stage in (0, 1) for key in ("num_steps", "save_every", "sample_every")]
    pictures = [f"stages.{stage}.batching.num_items=4" for stage in (0, 1)]
    return run_plan(apply_overrides(plan, [*short, *pictures]), output=tmp_path_factory.mktemp("tokenizer"))


@pytest.mark.slow
def test_every_way_is_trained_and_scored_and_put_into_the_page(
    codes: Any, tokenizer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{codes.BEGIN}\nold\n{codes.END}\nafter\n")
    runs = [f"{way}:0" for way in codes.WAYS]
    arguments = ["--tokenizer", str(tokenizer), "--work", str(tmp_path), "--queries", str(tmp_path / "none")]
    arguments += ["--runs", *runs, "--limit", "2", "--output", str(page)]
    codes.main([*arguments, "stages.0.num_steps=1", "stages.0.save_every=1"])
    printed = capsys.readouterr().out
    assert all(f"{way.title} (1 seed)" in printed for way in codes.WAYS.values())
    assert "| steps |  |  | 1 | 1 | 1 | 1 |  |" in printed
    assert page.read_text().startswith("before\n")
    assert page.read_text().endswith("after\n")
    assert "old" not in page.read_text()
    assert (tmp_path / "codes.png").is_file()
    codes.main(arguments)  # nothing is left to do
    assert "| steps |  |  | 1 | 1 | 1 | 1 |  |" in capsys.readouterr().out


def test_the_table_gives_means_and_spreads_and_what_each_was_given(codes: Any) -> None:
    shown = list(codes.SHOWN)
    columns = {
        "queries": [_run(shown, value=0.9, steps=10), _run(shown, value=1.0, steps=10)],
        "codes": [_run(shown, value=0.5, steps=8)],
    }
    lines = codes._table(columns, tokenizer=90.0).splitlines()
    assert lines[0].split(" | ")[2:] == ["queries (2 seeds)", "codes (1 seed)", "shuffled |"]
    assert "| reading: exact match | 95 | 95.0 (90.0 to 100.0) | 50.0 | 10.0 |" in lines
    assert "| drawing: pixel error, of 255 |  | 7.0 | 7.0 |  |" in lines
    assert "| steps |  | 10 | 8 |  |" in lines
    assert "| documents of reading, thousands |  | 3.0 | 3.0 |  |" in lines
    assert "| minutes of the tokenizer's before that |  |  | 1.5 |  |" in lines


@pytest.mark.parametrize("run", ["codes", "other:0", "codes:x"])
def test_what_is_no_run_is_refused(codes: Any, run: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        codes.main(["--runs", run])
    assert f"'{run}' is no run" in capsys.readouterr().err


def _run(shown: list[tuple[str, str]], *, value: float, steps: int) -> dict[str, Any]:
    scores: dict[str, dict[str, Any]] = {task: {} for task, _ in shown}
    for task, name in shown:
        scores[task][name] = {"value": value, "shuffled": 0.1}
    documents = {"describe": 1000, "question": 2000, "creation": 500, "page": 100}
    given = {"train_cpu_seconds": 60.0, "steps": steps, "documents": documents}
    return {"scores": scores, "pixel_error": 7.0, "draw_milliseconds": 3.0, **given}
