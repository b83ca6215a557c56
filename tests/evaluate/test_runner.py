"""Evaluations that are interrupted, shared and compared."""

import json
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import numpy
import public_formats
import pytest
from tiny import tiny_model

from limner.evaluate.benchmarks.scenes import SceneDrawing, ScenePages
from limner.evaluate.comparison import compare, sign_flip
from limner.evaluate.runner import evaluate
from limner.evaluate.tasks import open_task
from limner.generate.engine import Engine

NUM_KILLS = 20
TASKS = ("easy_vqa", "pope", "coco_captions")
DRAWN = (SceneDrawing(num_inference_steps=2), ScenePages(num_inference_steps=2))
"""Benchmarks whose answers are pictures."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("benchmarks")
    for name in TASKS:
        public_formats.ALL[name](folder / name)
    return folder


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(tiny_model(), context_length=256)


def run(
    folder: Path, output: Path, engine: Engine, *, seed: int = 0, rank: int = 0, num_ranks: int = 1
) -> dict[str, Any]:
    evaluate(
        [*(open_task(name, folder=folder) for name in TASKS), *DRAWN],
        engine=engine,
        model_name="tiny",
        model_key="0",
        output=output,
        limit=6,
        seed=seed,
        rank=rank,
        num_ranks=num_ranks,
    )
    return json.loads((output / "results.json").read_text()) if rank == 0 else {}


def test_killed_at_random_moments_the_report_is_the_same(folder: Path, tmp_path: Path, engine: Engine) -> None:
    started = time.perf_counter()
    whole = run(folder, tmp_path / "whole", engine)
    seconds = time.perf_counter() - started
    rng, killed, finished = random.Random(0), 0, 0
    while killed < NUM_KILLS:
        # One that came to its end starts anew, in a folder of its own: all twenty kills hit work that was under way.
        output = tmp_path / f"killed {finished}"
        child = os.fork()
        if not child:
            run(folder, output, engine)
            os._exit(0)
        time.sleep(rng.uniform(0.0, seconds / 2))
        os.kill(child, signal.SIGKILL)
        was_killed = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        killed, finished = killed + was_killed, finished + (not was_killed)
    for number in range(finished + 1):
        resumed = tmp_path / f"killed {number}"
        assert run(folder, resumed, engine) == whole
        for name in ("report.html", "results.md", "results.json", "scene-drawing.png"):
            assert (resumed / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_ranks_share_the_work_and_write_the_same_report(folder: Path, tmp_path: Path, engine: Engine) -> None:
    whole = run(folder, tmp_path / "whole", engine)
    children = []
    for rank in range(2):
        child = os.fork()
        if not child:
            run(folder, tmp_path / "shared", engine, rank=rank, num_ranks=2)
            os._exit(0)
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0]
    assert json.loads((tmp_path / "shared" / "results.json").read_text()) == whole
    assert (tmp_path / "shared" / "report.html").read_bytes() == (tmp_path / "whole" / "report.html").read_bytes()
    for task in ("pope_random", "scene-drawing"):
        files = sorted((tmp_path / "shared" / "answers" / task).glob("answers.*.jsonl"))
        assert [len(file.read_text().splitlines()) for file in files] == ([2, 2] if task == "pope_random" else [3, 3])


def test_the_report_has_all_its_files(folder: Path, tmp_path: Path, engine: Engine) -> None:
    run(folder, tmp_path, engine)
    names = {path.name for path in tmp_path.iterdir()}
    assert {"results.json", "results.md", "report.html", "pope_random.png", "easy_vqa.submission.json"} <= names
    page = (tmp_path / "report.html").read_text()
    assert "<h2>easy_vqa</h2>" in page
    assert "data:image/png;base64," in page
    assert "<script" not in page


def results(path: Path, scores: list[float]) -> Path:
    items = [{"key": str(place), "cluster": str(place // 2), "score": score} for place, score in enumerate(scores)]
    path.write_text(json.dumps({"benchmarks": [{"name": "made", "items": items}]}))
    return path


def test_models_are_compared_item_by_item(tmp_path: Path) -> None:
    first = results(tmp_path / "a.json", [0.0] * 40)
    (same,) = compare(first, first)
    assert (same.difference.mean, same.p_value) == (0.0, 1.0)
    (better,) = compare(first, results(tmp_path / "b.json", [1.0] * 40))
    assert better.difference.mean == 1.0
    assert better.p_value < 0.001
    (mixed,) = compare(first, results(tmp_path / "c.json", [1.0, 1.0, -1.0, -1.0] * 10))
    assert mixed.difference.low < 0.0 < mixed.difference.high
    assert mixed.p_value == 1.0


def test_items_of_one_picture_are_flipped_together() -> None:
    # Two clusters: half of the four changes of sign are as far off as what was seen.
    p_value = sign_flip(numpy.ones(4), clusters=["a", "a", "b", "b"])
    assert p_value == pytest.approx(0.5, abs=0.02)


def test_nothing_in_common_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text(json.dumps({"benchmarks": [{"name": "other", "items": []}]}))
    with pytest.raises(ValueError, match="no scored item in common"):
        compare(results(tmp_path / "a.json", [1.0]), tmp_path / "other.json")
    with pytest.raises(ValueError, match="holds no results"):
        compare(tmp_path / "none.json", tmp_path / "other.json")
