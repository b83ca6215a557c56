"""What a run writes down about itself.

<output>/plan.json, plan.txt         the recipe as recorded calls and as source
<output>/resolved.txt                the same with every default written out
<output>/launches.jsonl              one line per start: time, arguments, git revision, versions, hardware
<output>/<stage>/stage.json          recipe of the stage, description of the model, seed: what a resumed run is held to
<output>/<stage>/changes.txt         changes that were accepted under way, with their time
<output>/<stage>/start.json          where each component came from
<output>/<stage>/trainable.json      what is trained, by glob and by component

Everything but the two logs is written whole or not at all.
"""

import importlib.metadata
import json
import logging
import os
import platform
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import nn

from limner.config.call import Call, arguments_of, defaults_of, target_of
from limner.config.serialize import ALLOWED_PREFIXES, from_json, to_json
from limner.config.show import diff, show
from limner.model.checkpoint import component_of
from limner.model.multimodal import MultimodalLM
from limner.train.stage import Trainable

logger = logging.getLogger(__name__)

_VERSIONED = ("limner", "torch", "transformers", "diffusers", "peft", "safetensors", "numpy", "pillow")


def write_text(path: Path, text: str) -> None:
    """Write a file whole: after a crash it holds the new text or the old one."""
    # A name of its own: stages of one run may be trained by several commands at once.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.writing")
    temporary.write_text(text)
    temporary.replace(path)


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON, whole."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True) + "\n")


def record_run(output: Path, plan: Call) -> None:
    """Write down the recipe and the environment of this start."""
    output.mkdir(parents=True, exist_ok=True)
    write_json(output / "plan.json", to_json(plan))
    write_text(output / "plan.txt", show(plan) + "\n")
    write_text(output / "resolved.txt", show(with_defaults(plan)) + "\n")
    with (output / "launches.jsonl").open("a") as stream:
        stream.write(json.dumps(environment()) + "\n")


def stage_recipe(stage: Call, *, model: Call, seed: int) -> dict[str, Any]:
    """What decides a stage's result, as JSON."""
    return {"seed": seed, "stage": to_json(stage), "model": to_json(model)}


def begun_changes(recipe: Mapping[str, Any], *, directory: Path) -> list[str]:
    """How a stage's recipe differs from the one it was begun with in `directory`; nothing where it was not begun."""
    file = directory / "stage.json"
    if not file.exists():
        return []
    try:
        begun = json.loads(file.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"`{file}` is damaged ({error})\nhint: give another --output") from error
    # A record without a model was begun before models were recorded.
    return changes({"model": recipe["model"]} | begun, recipe).splitlines()


def check_unchanged(recipes: Mapping[str, Mapping[str, Any]], *, output: Path) -> None:
    """Raise ValueError, with the differences, where a stage was begun with another recipe or model."""
    for name, recipe in recipes.items():
        if lines := begun_changes(recipe, directory=output / name):
            listed = "\n  ".join(lines)
            raise ValueError(
                f"`{output / name}` was begun with another recipe or model: {len(lines)} changed, as listed\n"
                f"hint: undo it, give another --output, or go on with the change by --allow-changes\n  {listed}"
            )


def record_stage(recipe: Mapping[str, Any], *, directory: Path) -> None:
    """Write down the recipe that a stage goes on with; one that is finished keeps its record."""
    lines = begun_changes(recipe, directory=directory)
    directory.mkdir(parents=True, exist_ok=True)
    if (directory / "checkpoint").exists():
        if lines:
            logger.warning("%s is finished and stays as it was run, without: %s", directory, "; ".join(lines))
        return
    if lines:
        logger.warning("%s goes on with changes: %s", directory, "; ".join(lines))
        with (directory / "changes.txt").open("a") as stream:
            stream.write("".join(f"{_now()}  {line}\n" for line in lines))
    write_json(directory / "stage.json", recipe)


def changes(old: Any, new: Any) -> str:
    """What changed between two recorded recipes, one `key: old -> new` a line.

    Only code that the new recipe already uses is imported for the comparison.
    """
    prefixes = (*ALLOWED_PREFIXES, *sorted({target.rpartition(".")[0] + "." for target in _targets(new)}))
    try:
        return diff(*(from_json(recipe, allowed_prefixes=prefixes) for recipe in (old, new)))
    except ValueError:
        # The old one names something that is no longer there: compare what is written.
        return diff(old, new)


def with_defaults(node: Any) -> Any:
    """A recorded tree with the defaults of its calls written out."""
    if isinstance(node, Call):
        values = defaults_of(node) | arguments_of(node)
        return Call(target_of(node), {key: with_defaults(value) for key, value in values.items()})
    if isinstance(node, dict):
        return {key: with_defaults(value) for key, value in node.items()}
    return type(node)(with_defaults(item) for item in node) if isinstance(node, list | tuple) else node


def environment() -> dict[str, Any]:
    """Time, arguments, git revision of the working directory, versions and hardware."""
    gpus = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    return {
        "time": _now(),
        "arguments": sys.argv,
        "git": git_revision(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": {name: version for name in _VERSIONED if (version := _version(name))},
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpus": [f"{gpu.name}, {gpu.total_memory / 2**30:.0f} GiB" for gpu in gpus],
        "cuda": torch.version.cuda,
    }


def git_revision() -> str | None:
    """The commit that is checked out in the working directory, "-dirty" where files differ; None without git."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def trainable_table(model: MultimodalLM, groups: Mapping[Trainable, Mapping[str, nn.Parameter]]) -> dict[str, Any]:
    """What is trained: by glob with its learning rate, and by component of the model."""
    globs = [
        {
            "glob": group.glob,
            "tensors": len(parameters),
            "parameters": _size(parameters.values()),
            "learning_rate": group.learning_rate,
        }
        for group, parameters in groups.items()
    ]
    components: dict[str, dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        row = components.setdefault(component_of(name), {"parameters": 0, "trainable": 0, "learning_rates": []})
        row["parameters"] += parameter.numel()
        row["trainable"] += parameter.numel() if parameter.requires_grad else 0
    for group, parameters in groups.items():
        for component in sorted({component_of(name) for name in parameters}):
            components[component]["learning_rates"].append(group.learning_rate)
    frozen = _size(p for p in model.parameters() if not p.requires_grad)
    return {"trainable": globs, "frozen_parameters": frozen, "components": components}


def log_table(table: Mapping[str, Any]) -> None:
    """The table for a reader."""
    for row in table["trainable"]:
        logger.info("%-48s %12d parameters, learning rate %g", row["glob"], row["parameters"], row["learning_rate"])
    logger.info("%-48s %12d parameters", "frozen", table["frozen_parameters"])


def _size(parameters: Any) -> int:
    return sum(parameter.numel() for parameter in parameters)


def _targets(node: Any) -> Iterator[str]:
    """Names of all targets in a recorded recipe."""
    if isinstance(node, dict):
        if isinstance(node.get("_target_"), str):
            yield node["_target_"]
        for value in node.values():
            yield from _targets(value)
    elif isinstance(node, list):
        for item in node:
            yield from _targets(item)


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
