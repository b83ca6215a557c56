"""How good limner-tiny is, on pictures and wordings that it never saw: tasks of `limner evaluate`, as docs show them.

    python -m benchmarks limner_tiny_quality --output out/quality

is `limner evaluate limner-tiny --tasks naming,drawing,stories,scenes,easy_vqa`, with a line per batch on stderr.
`--broken` permutes the rows that the model reads pictures into, and those that its decoder is conditioned on: scores
then have to fall to those of luck. They go to a folder of their own, out/quality-broken. With both there,

    python -m benchmarks limner_tiny_quality --summary [DIR ...]

prints the table of the README from them and asks nothing; tasks may lie in several folders.
"""

import argparse
import json
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from limner.cli.loading import open_engine
from limner.evaluate.runner import evaluate, key_of
from limner.evaluate.tasks import expanded, open_task
from limner.modalities.noise import keyed_generator
from limner.model.multimodal import MultimodalLM

logger = logging.getLogger(__name__)

DATA = Path(__file__).parents[1] / "data"
TASKS = "naming,drawing,stories,scenes,easy_vqa"
WHOLE, BROKEN = Path("out/quality"), Path("out/quality-broken")
ROWS = {
    "naming": {
        "withheld style: exact name": "names a drawing in a style it was never shown: exact name",
        "withheld style: any word": "the same: name or keyword",
        "withheld style and thing, without people: any word": "names a thing it was never shown: a word of it",
    },
    "drawing": {
        "judge: features it reads with; drawn: name R@5": (
            "draws a known name in a new wording: R@5 among 1,217, by the features it reads with"
        ),
        "judge: features it never used; drawn: name R@5": "the same, by features that it never used",
        "judge: features it never used; bound, autoencoder: name R@5": (
            "bound: the true picture through the autoencoder, by the same features"
        ),
        "draws when asked, pictures left to the model": "draws when asked to, left to itself",
    },
    "stories": {
        "stories with a picture": "stories with a picture where the model decides",
        "pictures that fit the text before them": "pictures that fit the text before them (R@5)",
        "bound: the recipe's stories under the same rule": "bound: the recipe's own stories under the same rule",
        "no picture when asked for words only": "no picture when asked for words only",
    },
    "scene-reading": {"exact match": "scenes: described, or asked about; word for word"},
    "scene-drawing": {
        "stated aspects": "scenes: stated aspects that are drawn",
        "whole scenes": "scenes: all of them in one drawing",
    },
    "scene-prompts": {"all": "scenes: one thing asked (count, colour, place, size, binding)"},
    "scene-pages": {"pages with every picture in its place": "scenes: pages with every picture in its place"},
    "easy_vqa": {
        "all": "easy-VQA's test split: the answer, word for word",
        "names the answer": "the same: the answer named first",
    },
}
"""What the README shows: benchmark -> score -> in words."""


def main(arguments: list[str]) -> None:
    """Run the tasks that are asked for."""
    options = _options(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    if options.summary is not None:
        print(summary(options.summary or [WHOLE], BROKEN))
        return
    engine, key = open_engine(options.model), key_of(options.model)
    if options.broken:
        break_projectors(engine.model)
        key += "-broken"
    started = time.process_time()
    report = evaluate(
        [open_task(name, folder=options.data) for name in expanded(options.tasks.split(","))],
        engine=engine,
        model_name=Path(options.model).name + (" (projectors shuffled)" if options.broken else ""),
        model_key=key,
        output=options.output,
        limit=options.limit,
        seed=options.seed,
    )
    logger.info("%.0f s of processor time", time.process_time() - started)
    print(report)


def break_projectors(model: MultimodalLM) -> None:
    """Permute, by a fixed seed, the first axis of every matrix of what projects pictures in and hidden states out."""
    for name, parameter in model.named_parameters():
        if "_projector." in name and parameter.dim() > 1:
            order = torch.randperm(len(parameter), generator=keyed_generator(0, name))
            with torch.no_grad():
                parameter.copy_(parameter[order.to(parameter.device)])


def summary(folders: Sequence[Path], broken: Path) -> str:
    """A Markdown table of `ROWS` from the results in folders; those of `broken` may be missing, or of fewer items."""
    scores: dict[tuple[str, str], dict[str, Any]] = {}
    facts: dict[str, Any] = {}
    for folder in folders:
        facts, found = _read(folder)
        scores |= found
    others = _read(broken)[1] if (broken / "results.json").is_file() else {}
    lines = ["| measure | items | value [95 %] | shuffled | chance or best constant | projectors shuffled |"]
    lines.append("|---|---|---|---|---|---|")
    for benchmark, rows in ROWS.items():
        for name, told in rows.items():
            if score := scores.get((benchmark, name)):
                other = others.get((benchmark, name))
                count = f" (of {other['num_items']})" if other and other["num_items"] != score["num_items"] else ""
                # What the broken model has no part in says nothing about it.
                cell = "" if other is None or "bound" in name else _cell(other) + count
                baseline = "" if score["baseline"] is None else f"{100 * score['baseline']:.1f} %"
                shuffled = _cell({**score, "value": score["shuffled"]}) if score["shuffled"] else ""
                lines.append(f"| {told} | {score['num_items']:,} | {_cell(score)} | {shuffled} | {baseline} | {cell} |")
    lines += ["", f"{facts['date']}, {facts['processor']}, {facts['cores']} cores, checkpoint {facts['checkpoint']}."]
    return "\n".join(lines)


def _read(folder: Path) -> tuple[dict[str, Any], dict[tuple[str, str], dict[str, Any]]]:
    data = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    return data["facts"], {(one["name"], score["name"]): score for one in data["benchmarks"] for score in one["scores"]}


def _cell(score: dict[str, Any]) -> str:
    mean, low, high = (100 * score["value"][name] for name in ("mean", "low", "high"))
    return f"{mean:.1f} % [{low:.1f} %, {high:.1f} %]"


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks limner_tiny_quality")
    parser.add_argument("--model", default="limner-tiny", help="a zoo name or a checkpoint")
    parser.add_argument("--tasks", default=TASKS, help="as of `limner evaluate`")
    parser.add_argument("--data", type=Path, default=DATA, help="folder with the tasks' files")
    parser.add_argument("--limit", type=int, help="most items of each task")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--broken", action="store_true", help="shuffle the projectors first")
    parser.add_argument("--summary", type=Path, nargs="*", metavar="DIR", help="print the README's table from results")
    parser.add_argument("--output", type=Path, help="out/quality, or out/quality-broken")
    options = parser.parse_args(arguments)
    options.output = options.output or (BROKEN if options.broken else WHOLE)
    return options
