"""`import limner` is light: no heavy library, and quick."""

import json
import subprocess
import sys
from pathlib import Path

import limner

HEAVY = {"torch", "diffusers", "transformers", "datasets", "fastapi", "gradio", "peft", "numpy"}
MAX_SECONDS = 0.3
RUNS = 5

PROGRAM = """
import sys, time, json
sys.path.insert(0, {source!r})
started = time.perf_counter()
import limner
seconds = time.perf_counter() - started
json.dump({{"seconds": seconds, "modules": sorted(sys.modules)}}, sys.stdout)
"""


def import_in_a_fresh_interpreter() -> dict:
    program = PROGRAM.format(source=str(Path(limner.__file__).parents[1]))
    command = [sys.executable, "-I", "-c", program]
    return json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout)


def test_importing_limner_loads_no_heavy_library():
    modules = import_in_a_fresh_interpreter()["modules"]
    assert HEAVY & {name.split(".")[0] for name in modules} == set()


def test_importing_limner_is_quick():
    # The minimum: a busy machine makes a run slower, never faster.
    fastest = min(import_in_a_fresh_interpreter()["seconds"] for _ in range(RUNS))
    assert fastest < MAX_SECONDS


def test_the_version_is_the_one_of_the_changelog():
    changelog = Path(__file__).parents[2] / "CHANGELOG.md"
    assert f"## {limner.__version__}" in changelog.read_text(encoding="utf-8")
