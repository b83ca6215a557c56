"""The `limner` program: its verbs, its global options, and the edge where every error ends.

Data goes to stdout; logs, progress and errors go to stderr. An error is one line `error: ...` and
one `hint: ...`, without a traceback unless `--debug` or LIMNER_DEBUG=1 asks for it. Exit codes: 0
done, 1 failed, 2 wrong usage, 130 interrupted (Ctrl-C), 143 terminated (SIGTERM while training,
after the step was saved). Importing this module loads no torch: verbs import what they need when
they run.
"""

import logging
import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer

import limner
from limner.cli import (
    chat,
    compare,
    config,
    convert,
    data,
    demo,
    doctor,
    evaluate,
    export,
    generate,
    models,
    publish,
    serve,
    train,
    verify,
)

# New versions of typer bring their own click, old ones use the installed one. In both the chain is
# BadParameter, UsageError, ClickException.
ClickException: Any = typer.BadParameter.__mro__[2]
INTERRUPTED = 130
"""The exit code of a program that Ctrl-C ended, as shells count it."""

app = typer.Typer(
    name="limner",
    no_args_is_help=True,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for verb in (demo, generate, chat, serve, train, evaluate, compare, verify, convert, export, publish, models, doctor):
    app.command(verb.__name__.rpartition(".")[2])(verb.command)
app.add_typer(config.app, name="config")
app.add_typer(data.app, name="data")


def _show_version(wanted: bool) -> bool:
    if wanted:
        print(f"limner {limner.__version__}")
        raise typer.Exit
    return wanted


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show it and exit."),
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error (or LIMNER_DEBUG=1).")] = False,
) -> None:
    """Multimodal language models that read and write illustrated pages."""
    if debug:
        os.environ["LIMNER_DEBUG"] = "1"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the program with `arguments` (None: the process's own) and leave with its exit code."""
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(message)s", force=True)
    logging.getLogger("limner").setLevel(logging.INFO)
    # transformers reads this when it is imported; its bars would stand beside ours.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    debug_before = os.environ.get("LIMNER_DEBUG")
    try:
        code = _run(sys.argv[1:] if arguments is None else list(arguments))
    finally:
        if debug_before is None:
            os.environ.pop("LIMNER_DEBUG", None)
    sys.exit(code)


def _run(arguments: list[str]) -> int:
    try:
        # An exit that a verb asks for, and an interrupt, come back as a code.
        code = app(arguments, standalone_mode=False, prog_name="limner") or 0
    except typer.Abort:
        code = INTERRUPTED
    except Exception as error:
        if _is_debug() and not isinstance(error, ClickException):
            raise
        print(_describe(error), file=sys.stderr)
        return 2 if isinstance(error, ClickException) else 1
    if code == INTERRUPTED:
        print("interrupted", file=sys.stderr)
    return code


def _is_debug() -> bool:
    return os.environ.get("LIMNER_DEBUG", "").lower() in ("1", "true", "yes", "on")


def _describe(error: Any) -> str:
    """`error: ...` and `hint: ...`, whatever went wrong."""
    debug = "hint: run again with `limner --debug ...` for the traceback"
    if isinstance(error, ClickException):
        context = getattr(error, "ctx", None)
        name = context.command_path if context is not None else "limner"
        message = " ".join(error.format_message().split())
        # No arguments at all: what is shown is the help page, not an error.
        if type(error).__name__ == "NoArgsIsHelpError":
            return error.format_message()
        return f"error: {message}\nhint: `{name} --help` lists what it takes"
    message, _, rest = str(error).partition("\n")
    notes = "".join(f" ({note})" for note in getattr(error, "__notes__", ()))
    if isinstance(error, ValueError):
        return f"error: {message}{notes}\n" + (rest if rest.startswith("hint:") else debug)
    if isinstance(error, OSError) and error.strerror:
        name = f"`{error.filename}`: " if error.filename else ""
        hint = "hint: check the path, its permissions and the free space"
        return f"error: {name}{error.strerror}{notes}\n{hint}"
    return f"error: {type(error).__name__}: {message}{notes}\n{debug}"


if __name__ == "__main__":
    main()
