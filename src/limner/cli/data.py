"""`limner data`: build data sets, and look into what was built."""

import json
import tarfile
from pathlib import Path
from typing import Annotated

import typer

from limner.cli.files import require_directory

app = typer.Typer(no_args_is_help=True, help="Build data sets and look into them.")
build_app = typer.Typer(no_args_is_help=True, help="Build a data set as webdataset shards.")
app.add_typer(build_app, name="build")


@build_app.command("emoji")
def build_emoji(
    output: Annotated[Path, typer.Option(help="Directory for the shards and manifest.json.")],
    source: Annotated[
        Path | None,
        typer.Option(help="Directory with the npm tarballs; without it, npm fetches them."),
    ] = None,
    size: Annotated[int, typer.Option(min=8, max=1024, help="Pixels of a picture's side.")] = 128,
) -> None:
    """Captioned drawings of one concept in several styles, with held-out concepts and styles."""
    from limner.data.builders import emoji

    require_directory(output)
    manifest = emoji.build(output, source=source, size=size)
    for split, count in manifest["samples"].items():
        print(f"{split}\t{count}")


@app.command("show")
def show(
    path: Annotated[Path, typer.Argument(help="A shard (.tar), a manifest.json, or its directory.")],
    limit: Annotated[int, typer.Option(min=1, help="Most samples of a shard to print.")] = 10,
) -> None:
    """Print what a shard or a data set holds."""
    if path.is_dir():
        path = path / "manifest.json"
    if not path.is_file():
        raise ValueError(f"no such file: `{path}`\nhint: give a shard (.tar) or a manifest.json")
    if path.suffix == ".json":
        _show_manifest(path)
    else:
        _show_shard(path, limit=limit)


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
