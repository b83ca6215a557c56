"""`limner verify`: what it prints, and how it ends."""

import json
import shutil
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from limner.cli import verify

GOLDEN = Path(__file__).parents[1] / "golden" / "dreamllm"


@pytest.fixture
def run():
    """Run the verb alone, to its exit."""
    app = typer.Typer()
    app.command()(verify.command)
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_cases_are_lines_of_columns_and_the_total_goes_to_stderr(run):
    found = run(GOLDEN, "--only", "padding")
    assert found.exit_code == 0, found.output
    lines = [line.split("\t") for line in found.stdout.splitlines()]
    assert [line[0] for line in lines] == ["padding/left", "padding/right"]
    assert all(line[4] == "pass" for line in lines)
    assert found.stderr == "4 of 4 checks pass in 2 cases\n"


def test_a_failure_names_what_differs_and_exits_with_1(run, tmp_path):
    copy = shutil.copytree(GOLDEN, tmp_path / "copy")
    cases = json.loads((copy / "cases/cases.json").read_text())
    cases["padding"][0]["input_ids"][0][0] = 7
    (copy / "cases/cases.json").write_text(json.dumps(cases))
    found = run(copy, "--only", "padding")
    assert found.exit_code == 1
    assert "padding/left\t2\t1\t0\tFAIL\tinput_ids first at 0" in found.stdout
    assert found.stderr == "3 of 4 checks pass in 2 cases\n"


def test_an_unknown_directory_is_an_error_with_a_hint(run, tmp_path):
    found = run(tmp_path)
    assert isinstance(found.exception, ValueError)
    assert "holds no recorded cases of a known family" in str(found.exception)
    assert "hint:" in str(found.exception)
