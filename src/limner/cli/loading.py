"""From the name of a model to an engine, with a sign of life on stderr while it takes; from a config to its plan."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from limner import zoo
from limner.cli.ancestor_overrides import translated
from limner.cli.options import Device, Weights
from limner.config.call import Call
from limner.config.load import load
from limner.config.overrides import apply_overrides

if TYPE_CHECKING:
    import torch

    from limner.generate.engine import Engine

STDERR = Console(stderr=True)

MODULES = "LIMNER_MODULES"
"""Variable with the names of modules, besides this library, whose code a checkpoint's description may call."""


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


def choose_device(device: Device) -> "torch.device":
    """The device of that name; auto takes a GPU where there is one. Raises ValueError for cuda without one."""
    import torch

    if device is Device.AUTO:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device is Device.CUDA and not torch.cuda.is_available():
        raise ValueError("no CUDA device was found\nhint: give --device cpu, or see `limner doctor`")
    return torch.device(device.value)


def open_engine(
    name: str, *, device: Device = Device.AUTO, weights: Weights = Weights.EXACT, compiles: bool = False
) -> "Engine":
    """Load a checkpoint by zoo name or directory, and choose how it writes: `weights` says how the language model's
    matrices are held then, `compiles` whether one token per row is compiled (`backbone/compiled.py`). Raises
    ValueError: unknown or damaged, no such device, a library that is missing."""
    path = locate_checkpoint(name)
    place = choose_device(device)
    # The libraries' own bars would stand beside ours.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    with STDERR.status(f"loading {name}"):
        from transformers.utils import logging as transformers_logging

        from limner.backbone import products
        from limner.backbone.compiled import Compiled
        from limner.backbone.eight_bits import to_eight_bits
        from limner.backbone.fused import Fused, can_fuse
        from limner.backbone.lora import can_merge, merge_lora
        from limner.generate.engine import Engine
        from limner.model.checkpoint import load_checkpoint

        transformers_logging.disable_progress_bar()
        transformers_logging.set_verbosity_error()
        modules = [module for module in os.environ.get(MODULES, "").split(",") if module]
        model = load_checkpoint(path, modules=modules)
        language_model = model.backbone.language_model
        if can_merge(language_model):
            merge_lora(language_model)  # two products less per layer and token; what is used here is not trained
        model = model.to(place)
        if not compiles and place.type == "cpu" and can_fuse(language_model):
            return Engine(model, token_step=Fused(model.backbone, weights=products.Weights(weights)))
        if weights is Weights.INT8:
            to_eight_bits(language_model)
        return Engine(model, token_step=Compiled(model.backbone) if compiles else None)


def overridden(config: str, overrides: Sequence[str]) -> Call:
    """What a config describes, with the changes of the command line. Raises ValueError."""
    tree = load(config)
    return apply_overrides(tree, translated(overrides, plan=tree))


def load_plan(config: str, overrides: Sequence[str]) -> Any:
    """The recorded plan that a config describes. Raises ValueError for something else."""
    plan = overridden(config, overrides)
    from limner.config.call import name_of_target, target_of
    from limner.train.plan import Plan

    if target_of(plan) is not Plan:
        raise ValueError(
            f"`{config}` describes a {name_of_target(target_of(plan))}; expected a Plan\n"
            "hint: name the function that returns the plan, as in path.py:function"
        )
    return plan


def chosen_stages(plan: Any, names: Sequence[str] | None, *, config: str) -> list[Any]:
    """The recorded stages of a plan with those names (none: all), in order. Raises ValueError for an unknown name."""
    known = [recorded.name for recorded in plan.stages]
    for name in names or ():
        if name not in known:
            raise ValueError(f"no stage `{name}` in `{config}`\nhint: its stages are {', '.join(known)}")
    return [recorded for recorded in plan.stages if not names or recorded.name in names]


def is_batched_by(recorded: Any, kind: type) -> bool:
    """Whether a recorded stage's batching is of that class."""
    from limner.config.call import target_of

    return target_of(recorded.batching) is kind
