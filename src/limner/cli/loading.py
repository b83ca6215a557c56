"""From the name of a model to an engine, with a sign of life on stderr while it takes."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from limner import zoo

if TYPE_CHECKING:
    from limner.generate.engine import Engine

STDERR = Console(stderr=True)


def locate_checkpoint(name: str) -> Path:
    """The directory of a checkpoint. Raises ValueError for a name that is unknown or stands for
    something else.
    """
    entry = None if Path(name).is_dir() else zoo.ENTRIES.get(name)
    if entry is not None and entry.kind != "multimodal":
        ours = ", ".join(key for key, value in zoo.ENTRIES.items() if value.kind == "multimodal")
        raise ValueError(
            f"`{name}` is a part of models ({entry.kind}), not a model that can be run by itself\n"
            f"hint: there is {ours}; or give a checkpoint directory"
        )
    return zoo.locate(name)


def open_engine(name: str) -> "Engine":
    """Load a checkpoint by zoo name or directory. Raises ValueError: unknown or damaged."""
    path = locate_checkpoint(name)
    # The libraries' own bars would stand beside ours.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    with STDERR.status(f"loading {name}"):
        from transformers.utils import logging as transformers_logging

        from limner.generate.engine import Engine
        from limner.model.checkpoint import load_checkpoint

        transformers_logging.disable_progress_bar()
        transformers_logging.set_verbosity_error()
        return Engine(load_checkpoint(path))
