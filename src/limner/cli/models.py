"""`limner models`: what can be named, and where it would come from."""

import os

from rich.console import Console
from rich.table import Table

from limner import zoo


def command() -> None:
    """List the models that have a name, and where they come from."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("name", "kind", "licence", "size", "comes from"):
        table.add_column(column, no_wrap=True, justify="right" if column == "size" else "left")
    for name, entry in zoo.ENTRIES.items():
        size = f"{entry.size / 1e6:,.0f} MB" if entry.size else "-"
        table.add_row(name, entry.kind, entry.licence, size, origin(name))
    # Where stdout is a file, a table that is cut at 80 columns would lose what it lists.
    console = Console()
    console = console if console.is_terminal else Console(width=200, color_system=None)
    console.print(table)


def origin(name: str) -> str:
    """Where `zoo.locate` would take a model from, without opening a connection."""
    entry, variable = zoo.ENTRIES[name], zoo.environment_variable(name)
    if os.environ.get(variable):
        return f"{os.environ[variable]} (${variable})"
    if entry.package is not None:
        try:
            zoo.locate(name, offline=True)
        except ValueError:
            return "limner itself (not installed)"
        return "limner itself"
    if (zoo.cache_root() / name / "source.json").is_file():
        return f"the cache ({zoo.source(zoo.cache_root() / name)['origin']})"
    places = [f"hub: {entry.hub}"] if entry.hub else []
    places += [f"pip: {entry.wheel.requirement}"] if entry.wheel else []
    return ", else ".join(places)
