"""`limner convert`: a published checkpoint into our own layout, and back."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from limner.cli.loading import STDERR


def command(
    source: Annotated[
        str, typer.Argument(metavar="SRC", help="A checkpoint, ours or an original: a directory or a name.")
    ],
    target: Annotated[Path, typer.Argument(metavar="DST", help="The directory to write; it must not exist.")],
    to: Annotated[str, typer.Option(help="The layout to write: limner, or an original's.")] = "limner",
    part: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=DIR", help="Where a part of an original lies: clip, diffusion, or a plugin's name."),
    ] = None,
    dtype: Annotated[
        Literal["float32", "bfloat16", "float16"], typer.Option(help="The type that the language model is read in.")
    ] = "float32",
) -> None:
    """Read a checkpoint in any layout and write it in another; a round trip changes no value."""
    from limner import zoo

    parts: dict[str, Path] = {}
    for text in part or ():
        name, _, folder = text.partition("=")
        if not folder:
            raise ValueError(f"--part {text}: expected NAME=DIR\nhint: as in --part clip=path/to/clip")
        parts[name] = Path(folder)
    path = zoo.locate(source)
    with STDERR.status(f"reading {source}"):
        from limner.compositions.layouts import convert

        found = convert(path, target, to=to, parts=parts, dtype=dtype)
    STDERR.print(f"{source} ({found}) -> {to}")
    print(target)
