"""`limner doctor`: what a report of a problem should contain."""

import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Annotated

import typer

import limner
from limner import zoo
from limner.cli.models import origin

LIBRARIES = (
    "torch", "transformers", "diffusers", "peft", "safetensors", "numpy", "pillow", "typer", "rich",
)  # fmt: skip
TIMEOUT = 10.0
"""Seconds that each place on the network may take to answer."""


def command(
    network: Annotated[
        bool, typer.Option("--network", help="Also see whether the hub and pip's index answer.")
    ] = False,
) -> None:
    """Show versions, device, threads and the cache."""
    import torch

    rows = [
        ("limner", limner.__version__),
        ("python", f"{platform.python_version()} on {platform.system()}"),
    ]
    rows += [(name, _version(name)) for name in LIBRARIES]
    rows += [
        ("device", _device()),
        ("threads", f"{torch.get_num_threads()} of {os.cpu_count()} cores"),
        ("cache", _cache()),
        ("offline", "yes" if _is_set(zoo.OFFLINE_VARIABLES) else "no"),
    ]
    rows += [(name, origin(name)) for name, e in zoo.ENTRIES.items() if e.kind == "multimodal"]
    if network:
        rows += [("hub", _hub()), ("pip", _pip())]
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"{name:<{width}}  {value}")


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _device() -> str:
    import torch

    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name(0)} ({torch.cuda.device_count()} in all)"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _cache() -> str:
    root = zoo.cache_root()
    existing = next(path for path in (root, *root.parents) if path.exists())
    free = shutil.disk_usage(existing).free / 1e9
    writable = "" if os.access(existing, os.W_OK) else ", cannot be written"
    state = "" if root.exists() else ", not made yet"
    return f"{_shortened(root)} ({free:.1f} GB free{writable}{state})"


def _shortened(path: Path) -> str:
    home = Path.home()
    return f"~/{path.relative_to(home)}" if path.is_relative_to(home) else str(path)


def _is_set(names: tuple[str, ...]) -> bool:
    return any(os.environ.get(name, "").lower() in ("1", "true", "yes", "on") for name in names)


def _hub() -> str:
    from huggingface_hub.constants import ENDPOINT

    try:
        with urllib.request.urlopen(ENDPOINT, timeout=TIMEOUT) as answer:
            return f"answers ({answer.status})"
    except urllib.error.HTTPError as error:
        return f"answers, but refuses ({error.code})"
    except (OSError, ValueError) as error:
        return f"does not answer ({getattr(error, 'reason', error)})"


def _pip() -> str:
    requirement = next(e.wheel.requirement for e in zoo.ENTRIES.values() if e.wheel is not None)
    name = requirement.partition("==")[0]
    command = [sys.executable, "-m", "pip", "index", "versions", name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    except subprocess.TimeoutExpired:
        return f"does not answer within {TIMEOUT:.0f} s"
    errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
    return "answers" if done.returncode == 0 else f"fails ({errors[-1] if errors else 'no pip'})"
