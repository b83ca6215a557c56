"""Reading, drawing and illustrated pages on scenes: learned together, and each alone, from nothing, in minutes.

    python -m benchmarks synergy --seeds 0 1 2 3 4 --workers 2 --work out/synergy --output docs

Trains every run of configs/tiny/synergy.py, each in a process of its own on one core, scores it on
combinations that training never showed, and prints a Markdown table: mean over seeds, least and greatest, and the
difference of the joint run to the run of one task with the same seed. A run that is in --work already is not repeated.
`--output DIR` gets synergy.md with the table, synergy.svg with every run as a dot, and synergy.png with drawings.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from limner.config.load import load
from limner.config.overrides import apply_overrides
from limner.evaluate.benchmark import Outcome
from limner.evaluate.benchmarks.scenes import SceneDrawing, ScenePages, SceneReading
from limner.evaluate.report import contact_sheet, environment
from limner.generate.engine import Engine
from limner.model.checkpoint import load_checkpoint
from limner.train.plan import run_plan

CONFIG = Path(__file__).parents[1] / "configs" / "tiny" / "synergy.py"
RUNS = {"joint": "config", "reading": "reading", "drawing": "drawing", "pages": "pages"}
"""Run -> function of the config."""
TASKS = {"reading": SceneReading, "drawing": SceneDrawing, "pages": ScenePages}
SHOWN = {
    ("reading", "exact match"): 0.95,
    ("reading", "descriptions"): None,
    ("reading", "questions"): None,
    ("drawing", "stated aspects"): 0.85,
    ("drawing", "whole scenes"): None,
    ("pages", "layout F1"): 0.95,
    ("pages", "texts"): None,
    ("pages", "pictures: stated aspects"): None,
    ("pages", "pictures: whole scenes"): None,
}
"""(task, score) -> target."""
WIDTH, LINE, LEFT = 720, 34, 220


def main(arguments: list[str]) -> None:
    """Train and score what is missing, then print and write the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks synergy")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--runs", nargs="+", choices=list(RUNS), default=list(RUNS))
    parser.add_argument("--workers", type=int, default=2, help="runs at a time, one core each")
    parser.add_argument("--limit", type=int, default=400, help="test items of each task")
    parser.add_argument("--work", type=Path, default=Path("out/synergy"))
    parser.add_argument("--output", type=Path, default=None)
    parser.add_argument("--only", metavar="RUN:SEED", help="one run, in this process")
    parser.add_argument("overrides", nargs="*", help="of the recipe, such as stages.0.num_steps=20")
    options = parser.parse_args(arguments)
    if options.only:
        run, _, seed = options.only.partition(":")
        _train_and_score(run, int(seed), work=options.work, limit=options.limit, overrides=options.overrides)
        return
    started = time.perf_counter()
    wanted = [(run, seed) for seed in options.seeds for run in options.runs]
    missing = [one for one in wanted if not _file(options.work, *one).is_file()]
    with ThreadPoolExecutor(options.workers) as pool:
        for _ in pool.map(lambda one: _spawn(*one, options=options), missing):
            pass
    results = {one: json.loads(_file(options.work, *one).read_text()) for one in wanted}
    facts = environment() | {"threads": "1 per run", "runs at a time": options.workers}
    if len(missing) == len(wanted):
        facts["wall time of everything"] = f"{(time.perf_counter() - started) / 60:.1f} minutes"
    text = _table(results, runs=options.runs, seeds=options.seeds)
    text += "\n" + ", ".join(f"{key}: {value}" for key, value in facts.items()) + "\n"
    print(text)
    if options.output:
        _write(text, results, work=options.work, output=options.output)


def _file(work: Path, run: str, seed: int) -> Path:
    return work / f"{run}-{seed}" / "scores.json"


def _spawn(run: str, seed: int, *, options: argparse.Namespace) -> None:
    """One run in a process on one core: its threads and its measured time are then its own."""
    command = [sys.executable, "-m", "benchmarks", "synergy", "--only", f"{run}:{seed}", "--work", str(options.work)]
    command += ["--limit", str(options.limit), *options.overrides]
    environment_of_run = os.environ | {
        "OMP_NUM_THREADS": "1",
        "LIMNER_FEATURES": str(options.work.resolve() / "features"),
    }
    subprocess.run(command, check=True, cwd=CONFIG.parents[2], env=environment_of_run)


def _train_and_score(run: str, seed: int, *, work: Path, limit: int, overrides: Sequence[str]) -> None:
    torch.set_num_threads(1)
    folder = _file(work, run, seed).parent
    plan = apply_overrides(
        load(CONFIG, function=RUNS[run]), [f"seed={seed}", f"stages.0.mixture.seed={seed}", *overrides]
    )
    started, cpu = time.perf_counter(), time.process_time()
    checkpoint = run_plan(plan, output=folder / "run")
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu
    engine = Engine(load_checkpoint(checkpoint))
    tasks = list(TASKS) if run == "joint" else [run]
    outcomes = {task: TASKS[task]().run(engine, limit=limit, seed=0) for task in tasks}
    found: dict[str, Any] = {
        "train_seconds": seconds,
        "train_cpu_seconds": cpu_seconds,
        "scores": {task: _scores(outcome) for task, outcome in outcomes.items()},
    }
    for task, outcome in outcomes.items():
        contact_sheet(outcome.examples).save(folder / f"{task}.png")
        (folder / f"{task}.json").write_text(json.dumps(list(outcome.items), indent=1) + "\n")
    _file(work, run, seed).write_text(json.dumps(found, indent=1) + "\n")


def _scores(outcome: Outcome) -> dict[str, dict[str, float | None]]:
    return {
        score.name: {
            "value": score.value.mean,
            "shuffled": None if score.shuffled is None else score.shuffled.mean,
            "items": score.num_items,
        }
        for score in outcome.scores
    }


Results = dict[tuple[str, int], dict[str, Any]]


def _table(results: Results, *, runs: Sequence[str], seeds: Sequence[int]) -> str:
    lines = [
        f"| held-out combinations, {len(seeds)} seeds, mean (least to greatest) | target | together | alone | "
        "together - alone | shuffled |",
        "|---|---|---|---|---|---|",
    ]
    for (task, name), target in SHOWN.items():
        both = {
            run: [_value(results[run, seed], task, name) for seed in seeds] for run in ("joint", task) if run in runs
        }
        gains = [100 * (a - b) for a, b in zip(both.get("joint", []), both.get(task, []), strict=False)]
        luck = [
            score["shuffled"]
            for (run, _), found in results.items()
            if run in ("joint", task) and (score := found["scores"][task].get(name))
        ]
        cells = [
            f"{task}: {name}",
            "" if target is None else f"{100 * target:.0f}",
            *(_spread(both[run]) if run in both else "" for run in ("joint", task)),
            f"{statistics.mean(gains):+.1f} ({min(gains):+.1f} to {max(gains):+.1f})" if gains else "",
            f"{100 * statistics.mean(luck):.1f}" if luck else "",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    for run in runs:
        minutes = [results[run, seed]["train_seconds"] / 60 for seed in seeds]
        cpu = [results[run, seed]["train_cpu_seconds"] / 60 for seed in seeds]
        lines.append(
            f"\n{run}: trained in {statistics.mean(minutes):.1f} minutes ({min(minutes):.1f} to {max(minutes):.1f}), "
            f"{statistics.mean(cpu):.1f} of one core's."
        )
    return "\n".join(lines) + "\n"


def _value(found: dict[str, Any], task: str, name: str) -> float:
    # Without a single picture there is nothing to be right about.
    return found["scores"][task].get(name, {"value": 0.0})["value"]


def _spread(values: Sequence[float]) -> str:
    return f"{100 * statistics.mean(values):.1f} ({100 * min(values):.1f} to {100 * max(values):.1f})"


def _write(text: str, results: Results, *, work: Path, output: Path) -> None:
    """The table goes between the marks of synergy.md, where that is there, else the file is the table."""
    file, begin, end = output / "synergy.md", "<!-- synergy: begin -->", "<!-- synergy: end -->"
    block = f"{begin}\n{text}{end}\n"
    page = file.read_text() if file.is_file() else ""
    if begin in page and end in page:
        block = page[: page.index(begin)] + block.rstrip("\n") + page[page.index(end) + len(end) :]
    file.write_text(block)
    (output / "synergy.svg").write_text(_svg(results))
    sheet = next((work / f"joint-{seed}" / "drawing.png" for run, seed in results if run == "joint"), None)
    if sheet is not None and sheet.is_file():
        (output / "synergy.png").write_bytes(sheet.read_bytes())


def _svg(results: Results) -> str:
    """A line per score from 0 to 100, a dot per run: filled for the joint runs, open for those of one task."""
    height = LINE * len(SHOWN) + 50
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="serif" font-size="13">'
        f'<rect width="100%" height="100%" fill="#fdfaf3"/>{"".join(_marks(results))}'
        f'<text x="{LEFT}" y="{height - 12}">filled: all tasks together; open: one alone; bar: target</text></svg>\n'
    )


def _marks(results: Results) -> Iterator[str]:
    wide = WIDTH - LEFT - 30
    for number, ((task, name), target) in enumerate(SHOWN.items()):
        y = LINE * number + 24
        yield f'<text x="{LEFT - 10}" y="{y + 4}" text-anchor="end">{task}: {name}</text>'
        yield f'<path d="M{LEFT},{y} H{LEFT + wide}" stroke="#ccc"/>'
        if target is not None:
            yield f'<path d="M{LEFT + wide * target:.1f},{y - 11} v22" stroke="#444" stroke-width="2"/>'
        for (run, _), found in results.items():
            if run not in ("joint", task):
                continue
            x, up = LEFT + wide * _value(found, task, name), -5 if run == "joint" else 5
            yield (
                f'<circle cx="{x:.1f}" cy="{y + up}" r="4" stroke="#a03020" '
                f'fill="{"#a03020" if run == "joint" else "none"}"/>'
            )
