"""docs/data.md and docs/training.md do what they say.

Blocks of a page are run in order, in an empty folder: ```python in one namespace, or written to a file where the first
line is `# name.py`; ```bash line by line. ```sh is not run (several processes, compilers, other packages), but its
verbs, options and arguments must be those of the programs.
"""

import json
import re
import shlex
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple, get_args

import pytest
import typer

from limner.cli.main import app, main

REPOSITORY = Path(__file__).parents[2]
PAGES = ("data", "training")
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108000000003a7e9b55"
    "0000000a49444154789c6360000000020001e221bc330000000049454e44ae426082"
)


class Block(NamedTuple):
    """A fenced block of a page."""

    language: str
    text: str

    def commands(self) -> list[list[str]]:
        """The words of each line that is a command."""
        lines = self.text.replace("\\\n", " ").splitlines() if self.language in ("bash", "sh") else []
        return [words for line in lines if (words := shlex.split(line, comments=True))]


def text_of(page: str) -> str:
    return (REPOSITORY / "docs" / f"{page}.md").read_text(encoding="utf-8")


def blocks(page: str) -> list[Block]:
    return [Block(*found) for found in re.findall(r"^```(\w+)\n(.*?)^```$", text_of(page), re.DOTALL | re.MULTILINE)]


def check(words: list[str]) -> None:
    """Raise where a command names a verb or an option that its program does not have, or lacks an argument."""
    if words[0] == "torchrun":
        from torch.distributed.run import get_args_parser

        launched = get_args_parser().parse_args(words[1:])
        assert (launched.module, launched.training_script) == (True, "limner.cli.main")
        words = ["limner", *launched.training_script_args]
    if words[0] == "export":
        assert all("=" in word for word in words[1:])
        return
    assert words[0] == "limner", f"nobody checks `{words[0]}`"
    command: Any = typer.main.get_command(app)
    context, rest = None, words[1:]
    while True:
        context = command.make_context(command.name, rest, parent=context)
        if not hasattr(command, "resolve_command"):
            return
        _, command, rest = command.resolve_command(context, [*context._protected_args, *context.args])


def run(words: list[str], patch: pytest.MonkeyPatch) -> None:
    if words[0] == "export":
        for word in words[1:]:
            patch.setenv(*word.split("=", 1))
        return
    with pytest.raises(SystemExit) as leaving:
        main(words[1:])
    assert leaving.value.code == 0, shlex.join(words)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where both pages were run."""
    place = tmp_path_factory.mktemp("docs")
    (place / "configs").symlink_to(REPOSITORY / "configs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setenv("LIMNER_CACHE", str(place / "cache"))
        patch.setenv("LIMNER_FEATURES", str(place / "features"))
        for page in PAGES:
            namespace: dict[str, Any] = {}
            for block in blocks(page):
                if named := re.match(r"# (\w+\.py)\n", block.text):
                    (place / named[1]).write_text(block.text, encoding="utf-8")
                elif block.language == "python":
                    exec(compile(block.text, f"{page}.md", "exec"), namespace)
                elif block.language == "bash":
                    for words in block.commands():
                        run(words, patch)
    return place


@pytest.mark.parametrize("page", [*PAGES, "dreamllm"])
def test_every_command_has_the_options_that_the_page_says(page: str):
    found = [words for block in blocks(page) for words in block.commands()]
    assert len(found) >= 6
    for words in found:
        check(words)


def test_a_verb_or_an_option_that_is_not_there_is_found():
    for line in ("limner data lost", "limner data list --all", "limner data show", "torchrun --np 2 -m limner"):
        with pytest.raises((typer.BadParameter.__mro__[2], SystemExit, AssertionError)):
            check(line.split())


def test_what_can_be_run_runs_as_written(folder: Path):
    assert (folder / "seen.html").stat().st_size > 0
    assert (folder / "runs" / "first" / "pages" / "checkpoint").is_dir()


def test_every_format_reads_the_row_that_the_page_shows():
    from limner.data.formats.table import FORMATS

    shown = dict(re.findall(r"^\| `(\w+)` \| `(\{.*\})` \|", text_of("data"), re.MULTILINE))
    assert set(shown) == set(FORMATS)
    for name, row in shown.items():
        assert FORMATS[name](json.loads(row), lambda wanted: PNG).messages


def test_every_reason_and_every_key_of_the_metrics_is_explained(folder: Path):
    from limner.data.windows import Reason

    for reason in get_args(Reason):
        assert f"| `{reason}` |" in text_of("data")
    table = text_of("training").partition("## Metrics")[2]
    known = [re.sub(r"<\w+>", "*", key) for key in re.findall(r"`([\w/<>]+)`", table)]
    lines = [line for path in folder.glob("runs/*/*/metrics.jsonl") for line in path.read_text().splitlines()]
    written = {key for line in lines for key in json.loads(line)}
    assert written
    assert not {key for key in written if not any(fnmatchcase(key, pattern) for pattern in known)}


def test_every_file_of_a_run_is_explained(folder: Path):
    listed = text_of("training").partition("## The run folder")[2].partition("##")[0]
    known = {name.removeprefix("<stage>/").strip("/") for name in re.findall(r"^\| (.*?) \|", listed, re.MULTILINE)}
    names = {name.strip("`").removeprefix("<stage>/").strip("/") for cell in known for name in cell.split(", ")}
    for launched in (folder / "runs").iterdir():
        stages = {path.name for path in launched.iterdir() if path.is_dir()}
        found = {path.name for path in launched.iterdir()} | {path.name for path in launched.glob("*/*")}
        assert not found - stages - names
