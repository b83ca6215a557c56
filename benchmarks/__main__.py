"""Runs a benchmark script by name: `python -m benchmarks <name> [options]`; without a name, all.

A script is a module of this folder with `main(arguments: list[str])`.
"""

import importlib
import sys
from pathlib import Path

NAMES = sorted(p.stem for p in Path(__file__).parent.glob("*.py") if not p.stem.startswith("_"))


def main(arguments: list[str]) -> None:
    """Run the named script with the rest of the arguments."""
    if arguments and arguments[0] not in NAMES:
        sys.exit(f"no benchmark `{arguments[0]}`\nhint: there is {', '.join(NAMES)}")
    for name in arguments[:1] or NAMES:
        importlib.import_module(f"benchmarks.{name}").main(arguments[1:])


main(sys.argv[1:])
