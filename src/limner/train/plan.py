"""Plan: stages and their hand-over. One command runs all of them; a finished stage is not run again.

<output>/<stage>/checkpoint/       what the stage ended with
<output>/<stage>/best/             the weights with the lowest held-out loss, where the stage is evaluated
<output>/<stage>/state/            while it runs: where it stands
<output>/<stage>/metrics.jsonl, tensorboard/, samples/, profile/
and what run_folder.py lists
"""

import logging
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

from limner.config.call import Call, build
from limner.config.serialize import to_json
from limner.model.checkpoint import (
    INDEX,
    component_of,
    load_state,
    own,
    owned_state,
    read_components,
    read_index,
    save_checkpoint,
)
from limner.model.multimodal import MultimodalLM
from limner.train.execution import Execution
from limner.train.parallel import World, whole_state
from limner.train.run_folder import check_unchanged, record_run, record_stage, stage_recipe, write_json
from limner.train.stage import Stage
from limner.train.trainer import Trainer

logger = logging.getLogger(__name__)

Resume = Literal["auto", "never", "required"]

AS_BUILT = "as built"
"""In `Stage.start_from`: neither from a stage nor from a checkpoint."""


@dataclass(frozen=True)
class Plan:
    """A recipe: the model to build, the stages in order, the seed of everything, and where a run goes by default."""

    model: MultimodalLM
    stages: Sequence[Stage]
    seed: int = 0
    output: str = ""


def run_plan(
    plan: Call,
    *,
    output: Path,
    execution: Execution | None = None,
    resume: Resume = "auto",
    allow_changes: bool = False,
    only: Collection[str] = (),
    on_sample: Callable[[MultimodalLM, Path, int], None] | None = None,
) -> Path:
    """Run or continue a recorded Plan; return the checkpoint directory of the last stage that was run.

    resume:        "auto" goes on with what is in `output`; "never" refuses a directory that holds a run of this plan,
                   "required" one that holds none.
    allow_changes: go on though the recipe or the model is not what a stage was begun with. A finished stage stays as it
                   was run; an unfinished one goes on from its saved state under the new recipe, as far as that fits
                   (other trained tensors are refused still).
    only:          names of the stages to run; none for all. Stages that do not start from one another may so be run by
                   several commands at once, into one `output`.

    Every rank of `execution.world` runs this; the first one writes. Any number of them may go on with what was run.
    Stages may be added to a plan that was run. Raises ValueError when a stage was begun with another recipe or model,
    Stopped when a signal asked for it.
    """
    execution = execution or Execution()
    world = execution.world
    names = [stage.name for stage in plan.stages]
    if len(set(names)) != len(names):
        raise ValueError(f"stage names repeat: {names}\nhint: give every stage its own name")
    if unknown := sorted(set(only) - set(names)):
        raise ValueError(f"the plan has no stage `{unknown[0]}`\nhint: its stages are {', '.join(names)}")
    _check_resume(resume, output=output, names=[name for name in names if not only or name in only])
    recipes = {stage.name: stage_recipe(stage, model=plan.model, seed=plan.seed) for stage in plan.stages}
    if not allow_changes:
        check_unchanged(recipes, output=output)
    # Whoever writes waits until all have read.
    world.barrier()
    if world.is_first:
        record_run(output, plan)
    checkpoint = output
    for index, recorded in enumerate(plan.stages):
        if only and recorded.name not in only:
            continue
        directory = output / recorded.name
        checkpoint = directory / "checkpoint"
        if world.is_first:
            record_stage(recipes[recorded.name], directory=directory)
        if world.any((checkpoint / INDEX).exists()):
            logger.info("stage %s is finished", recorded.name)
            continue
        started = time.perf_counter()
        # New parts start from the plan's seed, whatever ran before.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(plan.seed)
            model = build(plan.model)
        stage = build(recorded)
        origins = hand_over(model, stage, output=output, before=names[:index])
        if world.is_first:
            write_json(directory / "start.json", origins)
        trainer = Trainer(
            model,
            stage=stage,
            directory=directory,
            seed=plan.seed,
            execution=execution,
            on_sample=None if on_sample is None else partial(_sample, on_sample, directory / "samples"),
            on_best=partial(_save_best, directory / "best", to_json(plan.model), stage.name, world),
        )
        trainer.run()
        meta = {"stage": stage.name, "seconds": round(time.perf_counter() - started, 1)}
        _save(model, checkpoint, description=to_json(plan.model), meta=meta, world=world)
        trainer.store.remove()
        logger.info("stage %s took %.0f s", stage.name, meta["seconds"])
    return checkpoint


def _save(model: MultimodalLM, path: Path, *, description: Any, meta: dict[str, Any], world: World) -> None:
    """Write a checkpoint of a model that may lie in shards; afterwards every rank may read it."""
    state = whole_state(model, world=world)
    if world.is_first:
        save_checkpoint(model, path, description=description, meta=meta, state=state)
    world.barrier()


def _check_resume(resume: Resume, *, output: Path, names: list[str]) -> None:
    begun = [name for name in names if (output / name / "stage.json").exists()]
    if resume == "never" and begun:
        raise ValueError(
            f"`{output}` holds a run already (stage `{begun[-1]}` was begun), and resume is never\n"
            "hint: give another --output, or --resume auto to go on with it"
        )
    if resume == "required" and not begun:
        raise ValueError(
            f"`{output}` holds no run of this plan to go on with, and resume is required\n"
            "hint: check --output, or give --resume auto to begin"
        )


def _sample(on_sample: Callable[[MultimodalLM, Path, int], None], at: Path, model: MultimodalLM, step: int) -> None:
    on_sample(model, at, step)


def _save_best(
    path: Path, description: Any, stage: str, world: World, model: MultimodalLM, step: int, loss: float
) -> None:
    meta = {"stage": stage, "step": step, "held_out_loss": loss}
    _save(model, path, description=description, meta=meta, world=world)
    logger.info("lowest held-out loss so far, %.4g after step %d: %s", loss, step, path)


def hand_over(model: MultimodalLM, stage: Stage, *, output: Path, before: list[str]) -> dict[str, str]:
    """Load each component from where the recipe says (from the stage before by default).

    Returns where each came from. Raises ValueError for a place that is no earlier stage and no checkpoint.
    """
    rules = stage.origins or ([("*", before[-1])] if before else [])
    for glob, name in rules:
        if name not in (*before, AS_BUILT) and not (Path(name) / INDEX).exists():
            raise ValueError(
                f"stage `{stage.name}` starts from `{name}`, which is no stage before it and no checkpoint directory\n"
                f"hint: earlier stages are {', '.join(before) or 'none'}; a directory of a checkpoint holds {INDEX}"
            )
        if not any(fnmatchcase(component, glob) for component in _components(model)):
            raise ValueError(
                f"`{glob}` in start_from of stage `{stage.name}` matches no component\n"
                f"hint: components are {', '.join(_components(model))}"
            )
    origins: dict[str, str] = {}
    for component in _components(model):
        name = next((name for glob, name in rules if fnmatchcase(component, glob)), AS_BUILT)
        origins[component] = AS_BUILT
        if name == AS_BUILT:
            continue
        path = output / name / "checkpoint" if name in before else Path(name)
        state = read_components(path, index=read_index(path), pattern=component)
        own(model, state)
        expected = {key for key in owned_state(model) if component_of(key) == component}
        if expected:
            load_state(model, state, expected=expected, source=f"{path}/{component}")
            origins[component] = f"stage {name}" if name in before else f"checkpoint {path}"
    return origins


def _components(model: MultimodalLM) -> list[str]:
    return sorted({component_of(name) for name in model.state_dict()})
