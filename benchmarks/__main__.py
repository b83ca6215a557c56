"""Runs a benchmark script by name: `python -m benchmarks <name> [options]`; without a name, all.

A script is a module of this folder with `main(arguments: list[str])`. Those that need a browser, Ray or a quarter of an
hour are run when they are named.
"""

import importlib
import sys
from pathlib import Path

NAMES = sorted(p.stem for p in Path(__file__).parent.glob("*.py") if not p.stem.startswith("_"))
WHEN_NAMED = ("page_pictures", "replicas", "soak")


def main(arguments: list[str]) -> None:
    """Run the named script with the rest of the arguments."""
    if arguments and arguments[0] not in NAMES:
        sys.exit(f"no benchmark `{arguments[0]}`\nhint: there is {', '.join(NAMES)}")
    for name in arguments[:1] or [name for name in NAMES if name not in WHEN_NAMED]:
        importlib.import_module(f"benchmarks.{name}").main(arguments[1:])


main(sys.argv[1:])
