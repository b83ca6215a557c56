"""`limner verify`: recorded cases of another implementation, run against this one."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from limner.evaluate.golden.verify import CaseResult

COLUMNS = ("case", "checks", "difference", "tolerance", "verdict", "where")


def command(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of recorded cases.")],
    only: Annotated[
        str | None, typer.Option(metavar="GLOB", help='Cases to run, as "forward/*" or "forward"; all without it.')
    ] = None,
) -> None:
    """Run the recorded cases of a folder and compare; exit code 1 when one differs by more than it may."""
    from limner.evaluate.golden.verify import verify

    console = Console()
    results: list[CaseResult] = []
    for result in verify(directory, only=only):
        results.append(result)
        if not console.is_terminal:
            for cells in _rows(result):
                print("\t".join(cells), flush=True)
    if console.is_terminal:
        console.print(_table(results))
    num_checks = sum(len(result.checks) for result in results)
    num_failed = sum(len(result.failures) for result in results)
    print(f"{num_checks - num_failed} of {num_checks} checks pass in {len(results)} cases", file=sys.stderr)
    if num_failed:
        raise typer.Exit(1)


def _rows(result: "CaseResult") -> list[tuple[str, ...]]:
    """One row for a case: its worst check, or each one that fails."""
    shown = result.failures or (result.worst,)
    return [
        (
            result.case,
            str(len(result.checks)),
            f"{check.difference:.2g}",
            f"{check.tolerance:.2g}",
            "pass" if check.passed else "FAIL",
            " ".join(filter(None, ("/".join(check.case.split("/")[2:]), check.note))),
        )
        for check in shown
    ]


def _table(results: "list[CaseResult]") -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in COLUMNS:
        table.add_column(column, justify="right" if column in COLUMNS[1:4] else "left")
    for result in results:
        for cells in _rows(result):
            table.add_row(*cells, style="" if cells[4] == "pass" else "bold red")
    return table
