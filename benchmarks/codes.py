"""Queries against codes on the same scenes: one trainer, one data, one evaluation, printed side by side.

    python -m benchmarks codes --queries out/synergy --work out/codes --output docs/codes.md

Trains the tokenizer of configs/tiny/scene_tokenizer.py, where --tokenizer names none, and configs/tiny/codes.py behind
it, each on one core (what is in --work already is not repeated), scores it on combinations that training never showed,
as `python -m benchmarks synergy` does, and prints both: the queries' scores are read from --queries, where that
benchmark has put them. `--output FILE` gets the table between the marks `<!-- codes: begin -->` and
`<!-- codes: end -->`, and drawings beside it.
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.synergy import SHOWN, TASKS
from limner.config.load import load
from limner.config.overrides import apply_overrides
from limner.evaluate.report import contact_sheet, environment
from limner.generate.engine import Engine
from limner.model.checkpoint import load_checkpoint
from limner.train.plan import AS_BUILT, run_plan

CONFIG = Path(__file__).parents[1] / "configs" / "tiny" / "codes.py"
WAYS = {"codes": "language", "encoder": "encoder"}
"""How pictures are read -> function of the config."""
BEGIN, END = "<!-- codes: begin -->", "<!-- codes: end -->"


def main(arguments: list[str]) -> None:
    """Train and score what is missing, then print and write the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks codes")
    parser.add_argument("--tokenizer", type=Path, default=None, help="a checkpoint of one")
    parser.add_argument("--queries", type=Path, default=Path("out/synergy"), help="--work of the synergy benchmark")
    parser.add_argument("--work", type=Path, default=Path("out/codes"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--read", choices=list(WAYS), default="codes", help="what pictures are read as")
    parser.add_argument("--limit", type=int, default=400, help="test items of each task")
    parser.add_argument("--output", type=Path, default=None, help="a page with the marks of the table")
    parser.add_argument("overrides", nargs="*", help="of the recipe, such as stages.0.num_steps=20")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    found = {seed: _found(seed, options=options) for seed in options.seeds}
    queries = {
        seed: json.loads(file.read_text())
        for seed in options.seeds
        if (file := options.queries / f"joint-{seed}" / "scores.json").is_file()
    }
    text = _table(found, queries=queries) + "\n" + ", ".join(f"{key}: {value}" for key, value in environment().items())
    print(text)
    if options.output:
        sheet = options.work / f"{options.read}-{options.seeds[0]}" / "drawing.png"
        options.output.with_name("codes.png").write_bytes(sheet.read_bytes())
        text += "\n\n![drawings of held-out combinations, right on the left](codes.png)"
        page = options.output.read_text()
        before, after = page.split(BEGIN)[0], page.split(END)[1]
        options.output.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}")


def _found(seed: int, *, options: argparse.Namespace) -> dict[str, Any]:
    folder = options.work / f"{options.read}-{seed}"
    file = folder / "scores.json"
    if not file.is_file():
        _train_and_score(seed, folder=folder, options=options)
    return json.loads(file.read_text())


def _tokenizer(options: argparse.Namespace) -> Path:
    """The checkpoint of the tokenizer, trained now where there is none."""
    if options.tokenizer is not None:
        return options.tokenizer
    plan = load(CONFIG.with_name("scene_tokenizer.py"))
    last = plan.stages[-1].name
    folder = options.work / "tokenizer"
    if not (folder / last / "checkpoint").is_dir():
        run_plan(plan, output=folder)
    return folder / last / "checkpoint"


def _train_and_score(seed: int, *, folder: Path, options: argparse.Namespace) -> None:
    tokenizer = _tokenizer(options)
    plan = load(CONFIG, function=WAYS[options.read])
    stage = plan.stages[0]
    stage.start_from = [(glob, name if name == AS_BUILT else str(tokenizer)) for glob, name in stage.start_from]
    plan = apply_overrides(plan, [f"seed={seed}", f"stages.0.mixture.seed={seed}", *options.overrides])
    started, cpu = time.perf_counter(), time.process_time()
    checkpoint = run_plan(plan, output=folder / "run")
    trained = {"train_seconds": time.perf_counter() - started, "train_cpu_seconds": time.process_time() - cpu}
    engine = Engine(load_checkpoint(checkpoint))
    cpu = time.process_time()
    outcomes = {name: task().run(engine, limit=options.limit, seed=0) for name, task in TASKS.items()}
    scores = {
        name: {
            score.name: {
                "value": score.value.mean,
                "shuffled": None if score.shuffled is None else score.shuffled.mean,
                "items": score.num_items,
            }
            for score in outcome.scores
        }
        for name, outcome in outcomes.items()
    }
    for name, outcome in outcomes.items():
        contact_sheet(outcome.examples).save(folder / f"{name}.png")
        (folder / f"{name}.json").write_text(json.dumps(list(outcome.items), indent=1) + "\n")
    found = trained | {"score_cpu_seconds": time.process_time() - cpu, "scores": scores}
    (folder / "scores.json").write_text(json.dumps(found, indent=1) + "\n")


def _table(codes: dict[int, Any], *, queries: dict[int, Any]) -> str:
    lines = [
        f"| held-out combinations, seeds {', '.join(map(str, codes))} | target | queries | codes | shuffled (codes) |",
        "|---|---|---|---|---|",
    ]
    for (task, name), target in SHOWN.items():
        cells = [
            f"{task}: {name}",
            "" if target is None else f"{100 * target:.0f}",
            _mean([_value(one, task, name, "value") for one in queries.values()]),
            _mean([_value(one, task, name, "value") for one in codes.values()]),
            _mean([_value(one, task, name, "shuffled") for one in codes.values()]),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    minutes = [_mean([one["train_cpu_seconds"] for one in runs.values()], factor=1 / 60) for runs in (queries, codes)]
    lines.append(f"| minutes of training, one core | | {minutes[0]} | {minutes[1]} | |")
    return "\n".join(lines) + "\n"


def _value(found: dict[str, Any], task: str, name: str, what: str) -> float | None:
    # Without a single picture there is nothing to be right about.
    return found["scores"][task].get(name, {"value": 0.0, "shuffled": None})[what]


def _mean(values: Sequence[float | None], *, factor: float = 100.0) -> str:
    known = [value for value in values if value is not None]
    return f"{factor * sum(known) / len(known):.1f}" if known else ""
