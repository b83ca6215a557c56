"""Plan: stages and their hand-over. One command runs all of them; a finished stage is not run again.

<output>/<stage>/stage.json        the stage's recipe as it was run
<output>/<stage>/checkpoint/       what the stage ended with
<output>/<stage>/state.pt          while it runs: where it stands
<output>/<stage>/metrics.jsonl, trainable.json, samples/
"""

import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import torch

from limner.config.call import Call, build
from limner.config.serialize import to_json
from limner.model.checkpoint import (
    component_of,
    load_state,
    owned_state,
    read_components,
    read_index,
    save_checkpoint,
)
from limner.model.multimodal import MultimodalLM
from limner.train.stage import Stage
from limner.train.state import FILE as STATE_FILE
from limner.train.trainer import Trainer

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """A recipe: the model to build, the stages in order, and the seed of everything."""

    model: MultimodalLM
    stages: Sequence[Stage]
    seed: int = 0


def run_plan(
    plan: Call,
    *,
    output: Path,
    on_sample: Callable[[MultimodalLM, Path, int], None] | None = None,
) -> Path:
    """Run or continue a recorded Plan; return the last stage's checkpoint directory.

    Stages may be added to a plan that was run. Raises ValueError when a stage was begun with another recipe.
    """
    names = [stage.name for stage in plan.stages]
    if len(set(names)) != len(names):
        raise ValueError(f"stage names repeat: {names}\nhint: give every stage its own name")
    checkpoint = output
    for index, recorded_stage in enumerate(plan.stages):
        directory = output / recorded_stage.name
        checkpoint = directory / "checkpoint"
        _record(recorded_stage, directory=directory, seed=plan.seed)
        if (checkpoint / "limner.json").exists():
            logger.info("stage %s is finished", recorded_stage.name)
            continue
        started = time.perf_counter()
        # New parts start from the plan's seed, whatever ran before.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(plan.seed)
            model = build(plan.model)
        stage = build(recorded_stage)
        _hand_over(model, stage, output=output, before=names[:index])
        trainer = Trainer(
            model,
            stage=stage,
            directory=directory,
            seed=plan.seed,
            on_sample=None
            if on_sample is None
            else lambda model, step, at=directory: on_sample(model, at / "samples", step),
        )
        trainer.run()
        meta = {"stage": stage.name, "seconds": round(time.perf_counter() - started, 1)}
        save_checkpoint(model, checkpoint, description=to_json(plan.model), meta=meta)
        (directory / STATE_FILE).unlink(missing_ok=True)
        logger.info("stage %s took %.0f s", stage.name, meta["seconds"])
    return checkpoint


def _record(stage: Call, *, directory: Path, seed: int) -> None:
    """Write down the stage's recipe, or compare with what was written when it was begun."""
    recipe = json.dumps({"seed": seed, "stage": to_json(stage)}, indent=1, sort_keys=True) + "\n"
    file = directory / "stage.json"
    if file.exists() and file.read_text() != recipe:
        raise ValueError(
            f"`{directory}` was begun with another recipe of stage `{stage.name}`\n"
            "hint: give another --output, or undo the change (see stage.json there)"
        )
    directory.mkdir(parents=True, exist_ok=True)
    file.write_text(recipe)


def _hand_over(model: MultimodalLM, stage: Stage, *, output: Path, before: list[str]) -> None:
    """Load each component from the stage that the recipe names for it (the stage before by default)."""
    rules = list(stage.start_from) or ([("*", before[-1])] if before else [])
    for glob, name in rules:
        if name not in before:
            raise ValueError(
                f"stage `{stage.name}` starts from `{name}`, which does not come before it\n"
                f"hint: earlier stages are {', '.join(before) or 'none'}"
            )
        if not any(fnmatchcase(component, glob) for component in _components(model)):
            raise ValueError(
                f"`{glob}` in start_from of stage `{stage.name}` matches no component\n"
                f"hint: components are {', '.join(_components(model))}"
            )
    for component in _components(model):
        name = next((name for glob, name in rules if fnmatchcase(component, glob)), None)
        if name is None:
            continue
        path = output / name / "checkpoint"
        state = read_components(path, index=read_index(path), pattern=component)
        expected = {key for key in owned_state(model) if component_of(key) == component}
        load_state(model, state, expected=expected, source=f"{path}/{component}")


def _components(model: MultimodalLM) -> list[str]:
    return sorted({component_of(name) for name in owned_state(model)})
