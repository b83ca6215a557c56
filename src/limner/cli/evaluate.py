"""`limner evaluate`: benchmarks asked of a model, resumable, with a report."""

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from limner.cli import options
from limner.cli.loading import STDERR, open_engine


def command(
    model: options.Model,
    tasks: Annotated[str, typer.Option(help="Benchmarks, separated by commas; `list` shows them.")],
    data: Annotated[Path, typer.Option(help="Folder with the benchmarks' files, one folder each or all in it.")] = Path(
        "data"
    ),
    limit: Annotated[int | None, typer.Option(min=1, help="Most questions of each benchmark.")] = None,
    preset: Annotated[str, typer.Option(help="Whose wording; the benchmark's first where left out.")] = "",
    split: Annotated[str, typer.Option(help="Part of the benchmark; its usual one where left out.")] = "",
    seed: options.Seed = 0,
    device: options.DeviceOption = options.Device.AUTO,
    output: options.Output = Path("evaluation"),
) -> None:
    """Score a model. Answers are kept in the output folder: started again, it goes on where it stopped.

    Started by torchrun, the ranks share the questions; rank 0 writes the report.
    """
    from limner.evaluate.tasks import GROUPS, TASKS, expanded, open_task, where_from

    if tasks == "list":
        for name in TASKS:
            print(f"{name}\t{where_from(name).splitlines()[0]}")
        for name, members in GROUPS.items():
            print(f"{name}\t{', '.join(members)}")
        return
    names = expanded([name for name in tasks.split(",") if name])
    opened = [open_task(name, folder=data, preset=preset, split=split) for name in names]
    engine = open_engine(model, device=device)

    from limner.evaluate.runner import evaluate, key_of

    rank, num_ranks = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    with _bar(opened) as show:
        report = evaluate(
            opened,
            engine=engine,
            model_name=Path(model).name,
            model_key=key_of(model),
            output=output,
            limit=limit,
            seed=seed,
            rank=rank,
            num_ranks=num_ranks,
            on_answer=show,
        )
    if rank == 0:
        print(report, end="")


def _bar(benchmarks: Any) -> Any:
    """Counts answers on stderr; silent where that is no terminal."""
    from contextlib import contextmanager

    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    @contextmanager
    def running() -> Any:
        columns = (SpinnerColumn(), TextColumn("{task.completed} answers"), TimeElapsedColumn())
        with Progress(*columns, console=STDERR, transient=True, disable=not STDERR.is_terminal) as progress:
            task = progress.add_task("", total=None)
            yield lambda count: progress.advance(task, count)

    return running()
