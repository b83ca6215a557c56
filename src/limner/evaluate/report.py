"""Outcomes on paper: a Markdown table, JSON with every item, and a contact sheet per benchmark.

A sheet shows what was right and what was wrong in the order in which it was asked, not the best of
it. The environment names processor, cores and versions, and nothing that identifies a machine.
"""

import importlib.metadata
import json
import os
import platform
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont
import torch

from limner.document.media import Image
from limner.evaluate.benchmark import Example, Outcome, Score, Unit
from limner.evaluate.intervals import Interval

VERSIONED = ("limner", "torch", "transformers", "diffusers", "numpy", "pillow")
PER_SIDE = 12
"""Most examples of either kind on a sheet."""
TILE, TEXT_HEIGHT, COLUMNS, LINES = 96, 58, 3, 3
RIGHT, WRONG = (46, 125, 50), (198, 40, 40)


def environment() -> dict[str, Any]:
    """Date (UTC), processor, cores, threads, versions."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in VERSIONED},
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def markdown(outcomes: Sequence[Outcome], *, facts: Mapping[str, Any]) -> str:
    """The facts of the run, then a table per benchmark."""
    lines = [f"- {name}: {_flat(value)}" for name, value in facts.items()]
    for outcome in outcomes:
        lines += ["", f"## {outcome.name}", "", outcome.setup, ""]
        lines += [f"| measure | items | value [95 %] | shuffled [95 %] | {outcome.baseline} |"]
        lines += ["|---|---|---|---|---|", *map(_row, outcome.scores)]
    return "\n".join(lines) + "\n"


def _flat(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {item}" for key, item in value.items())
    return str(value)


def _row(score: Score) -> str:
    cells = [score.name, str(score.num_items)]
    cells += [_interval(interval, score.unit) for interval in (score.value, score.shuffled)]
    cells.append("" if score.baseline is None else _number(score.baseline, score.unit))
    return "| " + " | ".join(cells) + " |"


def _interval(interval: Interval | None, unit: Unit) -> str:
    if interval is None:
        return ""
    mean, low, high = (_number(value, unit) for value in interval)
    return f"{mean} [{low}, {high}]"


def _number(value: float, unit: Unit) -> str:
    return f"{100 * value:.1f} %" if unit is Unit.SHARE else f"{value:.2f}"


def contact_sheet(examples: Sequence[Example]) -> PIL.Image.Image:
    """Right examples in green frames on the left, wrong ones in red on the right."""
    sides = [[e for e in examples if e.is_right is wanted][:PER_SIDE] for wanted in (True, False)]
    tiles = [[_tile(example) for example in side] for side in sides]
    width = max((tile.width for side in tiles for tile in side), default=TILE)
    rows = max(1, *(-(-len(side) // COLUMNS) for side in tiles))
    height = TILE + TEXT_HEIGHT
    sheet = PIL.Image.new("RGB", (2 * COLUMNS * width + TILE // 4, rows * height), "white")
    for number, side in enumerate(tiles):
        left = number * (COLUMNS * width + TILE // 4)
        for index, tile in enumerate(side):
            sheet.paste(tile, (left + index % COLUMNS * width, index // COLUMNS * height))
    return sheet


def _tile(example: Example) -> PIL.Image.Image:
    inner = TILE - 8
    size = (max(2, len(example.pictures)) * TILE, TILE + TEXT_HEIGHT)
    tile = PIL.Image.new("RGB", size, "white")
    canvas = PIL.ImageDraw.Draw(tile)
    for place, picture in enumerate(example.pictures):
        tile.paste(_fitted(picture, inner), (place * TILE + 4, 4))
    color = RIGHT if example.is_right else WRONG
    canvas.rectangle((1, 1, size[0] - 3, size[1] - 3), outline=color)
    font = PIL.ImageFont.load_default(11)
    lines = [part for line in example.caption.splitlines() for part in textwrap.wrap(line, size[0] // 7)]
    canvas.multiline_text((6, TILE), "\n".join(lines[:LINES]), fill=color, font=font)
    return tile


def _fitted(picture: Image, side: int) -> PIL.Image.Image:
    return picture.pil().resize((side, side), PIL.Image.Resampling.BICUBIC)


def write(outcomes: Sequence[Outcome], *, facts: Mapping[str, Any], output: Path) -> None:
    """`results.md`, `results.json`, and `<benchmark>.png` into a directory, which is made."""
    output.mkdir(parents=True, exist_ok=True)
    (output / "results.md").write_text(markdown(outcomes, facts=facts), encoding="utf-8")
    data = {"facts": dict(facts), "benchmarks": [_as_json(outcome) for outcome in outcomes]}
    text = json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False)
    (output / "results.json").write_text(text + "\n", encoding="utf-8")
    for outcome in outcomes:
        contact_sheet(outcome.examples).save(output / f"{outcome.name}.png")


def _as_json(outcome: Outcome) -> dict[str, Any]:
    return {
        "name": outcome.name,
        "setup": outcome.setup,
        "baseline": outcome.baseline,
        "settings": dict(outcome.settings),
        "scores": [_score_as_json(score) for score in outcome.scores],
        "items": [dict(item) for item in outcome.items],
    }


def _score_as_json(score: Score) -> dict[str, Any]:
    data = asdict(score) | {"value": score.value._asdict()}
    return data | {"shuffled": None if score.shuffled is None else score.shuffled._asdict()}
