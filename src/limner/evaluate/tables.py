"""Outcomes as Markdown tables, and the facts of a run.

The environment names processor, cores and versions, and nothing that identifies a machine.
"""

import importlib.metadata
import os
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from limner import __version__
from limner.evaluate.benchmark import Outcome, Score, Unit
from limner.evaluate.intervals import Interval

VERSIONED = ("torch", "transformers", "diffusers", "numpy", "pillow")


def environment() -> dict[str, Any]:
    """Date (UTC), processor, cores, threads, versions."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        # A source tree that is not installed has no metadata of its own.
        "versions": {"limner": __version__, **{name: importlib.metadata.version(name) for name in VERSIONED}},
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def markdown(outcomes: Sequence[Outcome], *, facts: Mapping[str, Any]) -> str:
    """The facts of the run, then a table per benchmark."""
    lines = [f"- {name}: {flat(value)}" for name, value in facts.items()]
    for outcome in outcomes:
        lines += ["", f"## {outcome.name}", "", outcome.setup, ""]
        head, rows = columns(outcome)
        if rows:
            lines += [f"| {' | '.join(head)} |", "|---|---|---|---|---|"]
            lines += [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join(lines) + "\n"


def columns(outcome: Outcome) -> tuple[list[str], list[list[str]]]:
    """The table of an outcome: its head, and a row per score."""
    head = ["measure", "items", "value [95 %]", "shuffled [95 %]", outcome.baseline]
    return head, [_row(score) for score in outcome.scores]


def flat(value: Any) -> str:
    """A fact on one line."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {item}" for key, item in value.items())
    return str(value)


def _row(score: Score) -> list[str]:
    cells = [score.name, str(score.num_items)]
    cells += [_interval(interval, score.unit) for interval in (score.value, score.shuffled)]
    cells.append("" if score.baseline is None else _number(score.baseline, score.unit))
    return cells


def _interval(interval: Interval | None, unit: Unit) -> str:
    if interval is None:
        return ""
    mean, low, high = (_number(value, unit) for value in interval)
    return f"{mean} [{low}, {high}]"


def _number(value: float, unit: Unit) -> str:
    return f"{100 * value:.1f} %" if unit is Unit.SHARE else f"{value:.2f}"
