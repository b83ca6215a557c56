"""`limner data`: which data sets there are, what they hold, and making them ready."""

import json
import os
import tarfile
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from limner.cli import data_build
from limner.cli.data_cache import cache
from limner.cli.data_encode import encode
from limner.cli.data_preview import preview

app = typer.Typer(
    no_args_is_help=True, help="Data sets: list them, look into them, build, merge, index and encode them."
)
app.command("cache")(cache)
app.command("encode")(encode)
app.command("preview")(preview)
app.command("merge")(data_build.merge)
app.add_typer(data_build.app, name="build")


@app.command("list")
def list_datasets() -> None:
    """List the data sets that have a name, and which of them are there."""
    from limner.data.catalogue import DATASETS
    from limner.data.registry import ROOT_VARIABLE
    from limner.data.sizes import format_size

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("name", "kind", "size", "format", "there", "files"):
        table.add_column(column, no_wrap=True, justify="right" if column == "size" else "left")
    root = os.environ.get(ROOT_VARIABLE)
    for entry in DATASETS.all().values():
        size = format_size(entry.size) if entry.size else "-"
        there = "yes" if root and entry.is_there() else "no"
        table.add_row(entry.name, entry.kind, size, entry.format, there, _place(entry.files))
    # Where stdout is a file, a table that is cut at 80 columns would lose what it lists.
    console = Console()
    console = console if console.is_terminal else Console(width=200, color_system=None)
    console.print(table)


@app.command("index")
def index_files(
    paths: Annotated[list[str], typer.Argument(metavar="PATH...", help="Files, patterns, folders or addresses.")],
) -> None:
    """Find the rows of files ahead of a training run, and count them."""
    from limner.data.sources import opening, storage

    console = Console(stderr=True)
    for url in track(
        storage.expand(paths), "indexing", console=console, transient=True, disable=not console.is_terminal
    ):
        print(f"{opening.index(url)}\t{url}")


@app.command("show")
def show(
    what: Annotated[
        str,
        typer.Argument(metavar="WHAT", help="A data set's name, a shard (.tar), a manifest.json, or its directory."),
    ],
    limit: Annotated[int, typer.Option(min=1, help="Most samples of a shard to print.")] = 10,
) -> None:
    """Print what a data set, a shard or a built data set holds."""
    given = Path(what)
    path = given / "manifest.json" if given.is_dir() else given
    if not path.is_file():
        # A name has neither folders nor an ending that we read. A folder may bear one too.
        is_name = given.name == what and given.suffix not in (".tar", ".json")
        if is_name and (not given.exists() or _is_dataset(what)):
            _show_dataset(what)
            return
        raise ValueError(f"no such file: `{path}`\nhint: give a shard (.tar) or a manifest.json")
    if path.suffix == ".json":
        _show_manifest(path)
    else:
        _show_shard(path, limit=limit)


def _place(files: str) -> str:
    """Where files belong, with the data root spelled as its variable where it is not set."""
    from limner.data.registry import ROOT_VARIABLE

    return f"{os.environ.get(ROOT_VARIABLE) or '$' + ROOT_VARIABLE}/{files}"


def _is_dataset(name: str) -> bool:
    from limner.data.catalogue import DATASETS

    return name in DATASETS.all()


def _show_dataset(name: str) -> None:
    from limner.data.catalogue import DATASETS
    from limner.data.registry import KINDS, ROOT_VARIABLE
    from limner.data.sizes import format_size

    entry = DATASETS.get(name)
    print(f"{entry.name}: {entry.description}" if entry.description else entry.name)
    print(f"kind\t{entry.kind}")
    print(f"size\t{f'{format_size(entry.size)} ({entry.size} documents)' if entry.size else 'unknown'}")
    print(f"format\t{', '.join(dict.fromkeys((entry.format, *KINDS[entry.kind])))}")
    print(f"licence\t{entry.licence}")
    print(f"files\t{_place(entry.files)}")
    if entry.media_root:
        print(f"media\t{_place(entry.media_root)}")
    print(f"there\t{'yes' if os.environ.get(ROOT_VARIABLE) and entry.is_there() else 'no'}")


def _show_manifest(path: Path) -> None:
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        samples, shards = manifest["samples"], manifest["shards"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"`{path}` is no manifest of a data set\nhint: build it again") from error
    print(f"{manifest.get('name', path.parent.name)}: {sum(samples.values())} samples")
    for split, count in samples.items():
        print(f"split\t{split}\t{count}")
    for name, shard in shards.items():
        print(f"shard\t{name}\t{shard['samples']}")
    for source in manifest.get("sources", ()):
        print(f"source\t{source['name']}\t{source['version']}\t{source['licence']}")


def _show_shard(path: Path, *, limit: int) -> None:
    members: dict[str, list[str]] = {}
    fields: dict[str, str] = {}
    try:
        with tarfile.open(path) as tar:
            for member in tar:
                key, _, extension = member.name.partition(".")
                members.setdefault(key, []).append(f"{extension} {member.size} B")
                stream = tar.extractfile(member) if extension == "json" else None
                if stream is not None and len(fields) < limit:
                    data = json.loads(stream.read())
                    fields[key] = str(data.get("name") or data.get("caption") or "")
    except (tarfile.TarError, ValueError) as error:
        raise ValueError(f"`{path}` is no readable shard ({error})\nhint: build it again") from error
    print(f"{path.name}: {len(members)} samples")
    for key, parts in list(members.items())[:limit]:
        print("\t".join([key, fields.get(key, ""), *parts]))
    if len(members) > limit:
        print(f"... {len(members) - limit} more")
