"""docs/evaluation.md names what there is, and its commands have the options that it says."""

import re
import shlex
from pathlib import Path
from typing import Any

import typer

from limner.cli.main import app
from limner.evaluate.tasks import GROUPS, SUITES, TASKS

PAGE = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text(encoding="utf-8")


def test_every_task_is_named() -> None:
    told = set(re.findall(r"`(\w+)(?::<task>)?`", PAGE))
    assert {*TASKS, *GROUPS, *SUITES} <= told


def test_commands_have_the_options_that_the_page_says() -> None:
    lines = [line for line in PAGE.splitlines() if line.startswith("limner ")]
    assert len(lines) >= 4
    for line in lines:
        command: Any = typer.main.get_command(app)
        context = command.make_context("limner", shlex.split(line)[1:])
        _, verb, rest = command.resolve_command(context, [*context._protected_args, *context.args])
        assert verb.make_context(verb.name, rest, parent=context).params
