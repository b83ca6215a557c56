"""`limner train`: run or continue a recipe."""

from pathlib import Path
from typing import Annotated

import typer

from limner.cli import options
from limner.cli.files import require_directory
from limner.config.load import load
from limner.config.overrides import apply_overrides
from limner.config.show import show


def command(
    config: options.Config,
    overrides: options.Overrides = None,
    output: Annotated[Path | None, typer.Option(help="Directory of the run; a run that is there is continued.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the recipe and stop.")] = False,
) -> None:
    """Train the stages of a recipe, or go on where they stopped."""
    plan = apply_overrides(load(config), overrides or [])
    if dry_run:
        print(show(plan))
        return
    if output is None:
        raise typer.BadParameter("--output is missing; expected the directory of the run")
    from limner.cli.samples import write_samples
    from limner.config.call import name_of_target, target_of
    from limner.train.plan import Plan, run_plan

    if target_of(plan) is not Plan:
        raise ValueError(
            f"`{config}` describes a {name_of_target(target_of(plan))}; expected a Plan\n"
            "hint: name the function that returns the plan, as in path.py:function"
        )
    print(run_plan(plan, output=require_directory(output), on_sample=write_samples))
