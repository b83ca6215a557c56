"""Outcomes on disk: a Markdown table, JSON with every item, a page, a contact sheet and a submission per benchmark."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from limner.evaluate.benchmark import Outcome, Score
from limner.evaluate.contact_sheet import contact_sheet
from limner.evaluate.report_page import to_page
from limner.evaluate.tables import environment, markdown

__all__ = ["environment", "markdown", "write"]


def write(outcomes: Sequence[Outcome], *, facts: Mapping[str, Any], output: Path) -> None:
    """`results.md`, `results.json`, `report.html`, contact sheets and submissions into a directory, which is made."""
    output.mkdir(parents=True, exist_ok=True)
    (output / "results.md").write_text(markdown(outcomes, facts=facts), encoding="utf-8")
    data = {"facts": dict(facts), "benchmarks": [_as_json(outcome) for outcome in outcomes]}
    text = json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False)
    (output / "results.json").write_text(text + "\n", encoding="utf-8")
    (output / "report.html").write_text(to_page(outcomes, facts=facts), encoding="utf-8")
    for outcome in outcomes:
        if outcome.examples:
            contact_sheet(outcome.examples).save(output / f"{outcome.name}.png")
        for name, content in outcome.submissions.items():
            file, text = (name, content) if isinstance(content, str) else (f"{name}.json", _one_line(content))
            (output / file).write_text(text, encoding="utf-8")


def _one_line(content: Any) -> str:
    return json.dumps(content, ensure_ascii=False) + "\n"


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
