"""Queries against codes on the same scenes: one trainer, one data, one evaluation, printed side by side.

    python -m benchmarks codes --queries out/synergy --work out/codes --output docs/codes.md
    python -m benchmarks codes --runs codes:0 codes:1 codes:2 brief:0 encoder:0 grid:0

Trains the tokenizer of configs/tiny/scene_tokenizer.py, where --tokenizer names none, and configs/tiny/codes.py behind
it, each on one core (what is in --work already is not repeated), scores it on combinations that training never showed,
as `python -m benchmarks synergy` does, and prints both: the queries' scores are read from --queries, where that
benchmark has put them. Drawings of both are compared with the true pictures pixel by pixel besides. `--output FILE`
gets the table between the marks `<!-- codes: begin -->` and `<!-- codes: end -->`, and drawings beside it.
"""

import argparse
import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import PIL.Image
import PIL.ImageDraw
import torch

from benchmarks.synergy import SHOWN, TASKS
from limner.config.load import load
from limner.config.overrides import apply_overrides
from limner.document.document import Document
from limner.evaluate.benchmarks.scenes import SceneDrawing
from limner.evaluate.report import contact_sheet, environment
from limner.generate.engine import Engine
from limner.generate.request import Pictures, Request
from limner.model.checkpoint import load_checkpoint
from limner.train.plan import AS_BUILT, run_plan

CONFIG = Path(__file__).parents[1] / "configs" / "tiny" / "codes.py"


@dataclass(frozen=True)
class Way:
    """One way of the config: its function, how the table calls it, and what of the stage is other than there."""

    function: str
    title: str
    overrides: tuple[str, ...] = ()


WAYS = {
    "codes": Way("language", "codes"),
    "brief": Way("language", "codes, fewer steps", ("stages.0.num_steps=1820", "stages.0.save_every=1820")),
    "encoder": Way("encoder", "codes, read by an encoder"),
    "grid": Way("grid", "nine codes a picture"),
}
"""In the fewer steps no task has more documents than with queries; codes are shorter, so that more fit into a row."""
TOPICS = {("reading", f"questions: {topic}"): None for topic in ("color", "count", "position", "shape", "size")}
"""Scores besides those of the synergy benchmark, without targets."""
QUERIES = "queries"
NUM_DRAWN, NUM_SHOWN = 64, 8
"""Drawings of each run that are compared with the true pictures, and those of one that are shown."""
EDGE, LABEL = 96, 150
"""Pixels of a picture that is shown, and of what stands before a row of them."""
BEGIN, END = "<!-- codes: begin -->", "<!-- codes: end -->"
Run = dict[str, Any]


def main(arguments: list[str]) -> None:
    """Train and score what is missing, then print and write the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks codes")
    parser.add_argument("--tokenizer", type=Path, default=None, help="a checkpoint of one")
    parser.add_argument("--queries", type=Path, default=Path("out/synergy"), help="--work of the synergy benchmark")
    parser.add_argument("--work", type=Path, default=Path("out/codes"))
    parser.add_argument(
        "--runs", nargs="+", type=_wanted, default=[("codes", 0)], metavar="WAY:SEED", help=f"ways: {', '.join(WAYS)}"
    )
    parser.add_argument("--limit", type=int, default=400, help="test items of each task")
    parser.add_argument("--output", type=Path, default=None, help="a page with the marks of the table")
    parser.add_argument("overrides", nargs="*", help="of the recipe, such as stages.0.num_steps=20")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    seeds = {seed for _, seed in options.runs}
    columns: dict[str, list[Run]] = {QUERIES: _of_queries(seeds, options=options)}
    for way, seed in options.runs:
        columns.setdefault(way, []).append(_found(way, seed, options=options))
    text = _table(columns, tokenizer=_tokenizer_seconds(options))
    text += "\n" + ", ".join(f"{key}: {value}" for key, value in environment().items())
    print(text)
    if options.output:
        _sheet(columns).save(options.output.with_name("codes.png"))
        text += "\n\n![the first drawings of held-out combinations, a row for each way](codes.png)"
        page = options.output.read_text()
        before, after = page.split(BEGIN)[0], page.split(END)[1]
        options.output.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}")


def _wanted(run: str) -> tuple[str, int]:
    way, _, seed = run.partition(":")
    if way not in WAYS or not seed.isdecimal():
        raise argparse.ArgumentTypeError(f"{run!r} is no run; expected one of {', '.join(WAYS)}, a colon and a seed")
    return way, int(seed)


def _of_queries(seeds: set[int], *, options: argparse.Namespace) -> list[Run]:
    """The joint runs of the synergy benchmark with these seeds, those that are there."""
    folders = [options.queries / f"joint-{seed}" for seed in sorted(seeds)]
    return [
        _read(folder, kept=options.work / f"{QUERIES}-{folder.name}")
        for folder in folders
        if (folder / "scores.json").is_file()
    ]


def _found(way: str, seed: int, *, options: argparse.Namespace) -> Run:
    folder = options.work / f"{way}-{seed}"
    if not (folder / "scores.json").is_file():
        _train_and_score(way, seed, folder=folder, options=options)
    return _read(folder, kept=folder)


def _read(folder: Path, *, kept: Path) -> Run:
    """What was found, what the training was given until its last step, and what `_draw` gives, which is `kept`."""
    (metrics,) = folder.glob("run/*/metrics.jsonl")
    last = json.loads(metrics.read_text().splitlines()[-1])
    counts = {key.removeprefix("drawn/"): value for key, value in last.items() if key.startswith("drawn/")}
    file = kept / "drawings.json"
    if not file.is_file():
        kept.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(_draw(metrics.with_name("checkpoint"), kept=kept)) + "\n")
    found = json.loads((folder / "scores.json").read_text()) | json.loads(file.read_text())
    return found | {"steps": last["step"] + 1, "documents": counts, "strip": kept / "drawings.png"}


def _draw(checkpoint: Path, *, kept: Path) -> dict[str, float]:
    """Of drawings of held-out scenes: how far pixels are from the true ones, as a root mean square of [0, 255], and
    the time of one core that a picture takes, drawn with others. The first go to `kept`."""
    task = SceneDrawing()
    documents = task.documents(limit=NUM_DRAWN, seed=0)
    requests = [
        Request(
            Document(document.messages[:1]),
            max_new_tokens=1,
            max_pictures=1,
            pictures=Pictures.NOW,
            guidance_scale=task.guidance_scale,
            num_inference_steps=task.num_inference_steps,
            seed=number,
        )
        for number, document in enumerate(documents)
    ]
    engine = Engine(load_checkpoint(checkpoint))
    engine.run(requests[:2])  # what is prepared once
    cpu = time.process_time()
    replies = engine.run(requests)
    milliseconds = 1000 * (time.process_time() - cpu) / len(requests)
    _strip(replies).save(kept / "drawings.png")
    pairs = zip(replies, documents, strict=True)
    squares = [numpy.square(_pixels(reply) - _pixels(document)).mean() for reply, document in pairs]
    return {"pixel_error": float(numpy.sqrt(numpy.mean(squares))), "draw_milliseconds": milliseconds}


def _strip(documents: Sequence[Document]) -> PIL.Image.Image:
    """The first pictures in a row."""
    strip = PIL.Image.new("RGB", (NUM_SHOWN * (EDGE + 8), EDGE + 8), "white")
    for number, document in enumerate(documents[:NUM_SHOWN]):
        picture = PIL.Image.fromarray(_pixels(document).astype(numpy.uint8))
        strip.paste(picture.resize((EDGE, EDGE), PIL.Image.Resampling.NEAREST), (number * (EDGE + 8), 4))
    return strip


def _sheet(columns: dict[str, list[Run]]) -> PIL.Image.Image:
    """The true pictures, and those of the first run of each way."""
    strips = {"true": _strip(SceneDrawing().documents(limit=NUM_SHOWN, seed=0))}
    strips |= {_title(name): PIL.Image.open(runs[0]["strip"]) for name, runs in columns.items() if runs}
    wide, high = strips["true"].size
    sheet = PIL.Image.new("RGB", (LABEL + wide, high * len(strips)), "white")
    pen = PIL.ImageDraw.Draw(sheet)
    for number, (title, strip) in enumerate(strips.items()):
        pen.text((8, number * high + high // 2 - 6), title, fill="black")
        sheet.paste(strip, (LABEL, number * high))
    return sheet


def _title(name: str) -> str:
    return WAYS[name].title if name in WAYS else name


def _pixels(document: Document) -> numpy.ndarray:
    """The document's first picture, levels of [0, 255]."""
    picture = next(media.content for _, media in document.media())
    return numpy.array(picture.pil().convert("RGB"), dtype=float)


def _tokenizer(options: argparse.Namespace) -> Path:
    """The checkpoint of the tokenizer, trained now where there is none."""
    if options.tokenizer is not None:
        return options.tokenizer
    plan = load(CONFIG.with_name("scene_tokenizer.py"))
    last = plan.stages[-1].name
    folder = options.work / "tokenizer"
    if not (folder / "seconds.json").is_file():
        cpu = time.process_time()
        run_plan(plan, output=folder)
        (folder / "seconds.json").write_text(json.dumps(time.process_time() - cpu) + "\n")
    return folder / last / "checkpoint"


def _tokenizer_seconds(options: argparse.Namespace) -> float | None:
    """What the tokenizer took of one core; None where another was given."""
    file = options.work / "tokenizer" / "seconds.json"
    return json.loads(file.read_text()) if options.tokenizer is None and file.is_file() else None


def _train_and_score(name: str, seed: int, *, folder: Path, options: argparse.Namespace) -> None:
    way, tokenizer = WAYS[name], _tokenizer(options)
    # Its own: codes that another run has kept would make this one look cheaper than it is.
    os.environ["LIMNER_FEATURES"] = str(folder.resolve() / "features")
    plan = load(CONFIG, function=way.function)
    stage = plan.stages[0]
    stage.start_from = [(glob, name if name == AS_BUILT else str(tokenizer)) for glob, name in stage.start_from]
    own = [f"seed={seed}", f"stages.0.mixture.seed={seed}", *way.overrides]
    plan = apply_overrides(plan, [*own, *options.overrides])
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


def _table(columns: dict[str, list[Run]], *, tokenizer: float | None) -> str:
    titles = [f"{_title(name)} ({len(runs)} seed{'s' * (len(runs) != 1)})" for name, runs in columns.items()]
    lines = [
        f"| held-out combinations, mean (least to greatest) | target | {' | '.join(titles)} | shuffled |",
        "|---|---|" + "---|" * len(columns) + "---|",
    ]
    lines += ["| " + " | ".join(cells) + " |" for cells in [*_scores(columns), *_costs(columns, tokenizer=tokenizer)]]
    return "\n".join(lines) + "\n"


def _scores(columns: dict[str, list[Run]]) -> Iterator[list[str]]:
    """A row for each score. The control is of all runs that are not the queries'."""
    coded = [run for name, runs in columns.items() if name != QUERIES for run in runs]
    for (task, name), target in (SHOWN | TOPICS).items():
        yield [
            f"{task}: {name}",
            "" if target is None else f"{100 * target:.0f}",
            *(_spread([_value(run, task, name, "value") for run in runs]) for runs in columns.values()),
            _mean([_value(run, task, name, "shuffled") for run in coded], form="{:.1f}"),
        ]
    for title, key in (("pixel error, of 255", "pixel_error"), ("milliseconds a picture", "draw_milliseconds")):
        cells = [_mean([run[key] for run in runs], form="{:.1f}") for runs in columns.values()]
        yield [f"drawing: {title}", "", *cells, ""]


def _costs(columns: dict[str, list[Run]], *, tokenizer: float | None) -> Iterator[list[str]]:
    """What each was given, and what it took."""
    every = list(columns.values())
    yield ["steps", "", *(_mean([run["steps"] for run in runs], form="{:,.0f}") for runs in every), ""]
    for title, tasks in (("reading", ("describe", "question")), ("drawing", ("creation",)), ("pages", ("page",))):
        counts = [[sum(run["documents"][task] for task in tasks) / 1000 for run in runs] for runs in every]
        yield [f"documents of {title}, thousands", "", *(_mean(one, form="{:.1f}") for one in counts), ""]
    minutes = [[run["train_cpu_seconds"] / 60 for run in runs] for runs in every]
    yield ["minutes of training, one core", "", *(_mean(one, form="{:.1f}") for one in minutes), ""]
    if tokenizer is not None:
        cells = ["" if name == QUERIES else f"{tokenizer / 60:.1f}" for name in columns]
        yield ["minutes of the tokenizer's before that", "", *cells, ""]


def _value(found: Run, task: str, name: str, what: str) -> float | None:
    """A score in percent."""
    # Without a single picture there is nothing to be right about.
    value = found["scores"][task].get(name, {"value": 0.0, "shuffled": None})[what]
    return None if value is None else 100 * value


def _spread(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    between = f" ({min(known):.1f} to {max(known):.1f})" if len(known) > 1 else ""
    return _mean(known, form="{:.1f}") + between


def _mean(values: Sequence[float | None], *, form: str) -> str:
    known = [value for value in values if value is not None]
    return form.format(sum(known) / len(known)) if known else ""
