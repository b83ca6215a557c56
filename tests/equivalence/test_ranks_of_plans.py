"""A plan on two ranks is the plan on one: metrics, checkpoints, states, and who writes what."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import plans
import pytest
import ranks
import torch

from limner.config.call import Call, call
from limner.model.checkpoint import load_checkpoint, read_components, read_index
from limner.train.execution import Execution
from limner.train.optim import TorchOptimizer
from limner.train.parallel import Parallel, Replicate, Shard, World
from limner.train.plan import run_plan
from limner.train.stage import Evaluation, Pictures
from limner.train.state import StateStore

pytestmark = pytest.mark.slow

PARALLEL: dict[str, Parallel] = {"replicate": Replicate(), "shard": Shard()}
SGD = call(TorchOptimizer, name="SGD", options={"momentum": 0.9})


def _plan() -> Call:
    """An autoencoder, with held-out losses on one batch, which leaves the second rank without; then everything, with
    held-out losses on three batches, which two ranks share unevenly."""
    pictures = plans.reconstruction(
        batching=call(Pictures, modality="image", num_items=2),
        accumulation=2,
        optimizer=SGD,
        evaluation=call(Evaluation, mixture=plans.mixture(seed=9), every=3, num_batches=1),
    )
    held_out = call(Evaluation, mixture=plans.mixture(seed=9), every=3, num_batches=3)
    return plans.plan(pictures, plans.together(evaluation=held_out, optimizer=SGD))


def _run(world: World, output: Path, parallel: Parallel, on_sample: Callable | None = None) -> dict[str, Any]:
    sampled: list[int] = []

    def note(model: Any, directory: Path, step: int) -> None:
        # Parts of the model run, as they do when a picture is drawn, on this rank alone.
        tokens = torch.arange(5)[None]
        model.backbone.logits(model.backbone.packed_hidden_states(
            model.backbone.embed(tokens), positions=tokens, documents=torch.ones_like(tokens)
        )[0])  # fmt: skip
        sampled.append(step)
        if on_sample is not None:
            on_sample(step)

    execution = Execution(world=world, parallel=parallel)
    path = run_plan(_plan(), output=output, execution=execution, on_sample=note)
    return {"path": str(path), "sampled": sampled}


def _two_ranks(world: World, directory: Path) -> dict[str, Any]:
    results = {kind: _run(world, directory / kind, parallel) for kind, parallel in PARALLEL.items()}
    results["begun by one"] = _run(world, directory / "begun by one", Replicate())
    return results


class Break(Exception):
    """Stands for a crash."""


def _break_at(step: int) -> Callable[[int], None]:
    def look(done: int) -> None:
        if done == step:
            raise Break

    return look


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plans")
    _run(World(), path / "one", Replicate())
    with pytest.raises(Break):
        _run(World(), path / "begun by one", Replicate(), _break_at(5))
    assert StateStore(path / "begun by one" / "together").steps() == [2, 4]
    return path


@pytest.fixture(scope="module")
def two(directory: Path) -> list[dict[str, Any]]:
    return ranks.run(_two_ranks, directory, num_ranks=2, directory=directory / "results")


def _metrics(stage: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (stage / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if not k.startswith(("seconds", "per_second"))} for line in lines]


def _difference(left: Path, right: Path) -> float:
    one, other = (read_components(path, index=read_index(path)) for path in (left, right))
    assert one.keys() == other.keys()
    return max(float((one[name].float() - other[name].float()).abs().max()) for name in one if one[name].numel())


@pytest.mark.parametrize("kind", [*PARALLEL, "begun by one"])
def test_two_ranks_run_a_plan_as_one_does(directory: Path, two, kind: str) -> None:
    for name in ("pictures", "together"):
        found, expected = _metrics(directory / kind / name), _metrics(directory / "one" / name)
        assert [line.keys() for line in found] == [line.keys() for line in expected]
        for line, other in zip(found, expected, strict=True):
            numbers = {key: value for key, value in other.items() if key != "stage"}
            assert {key: line[key] for key in numbers} == pytest.approx(numbers, rel=1e-5)
            assert line["loss"] == pytest.approx(other["loss"], rel=1e-6)
        for part in ("checkpoint", "best"):
            difference = _difference(directory / kind / name / part, directory / "one" / name / part)
            assert difference <= (1e-6 if kind == "shard" else 0.0)
        assert not (directory / kind / name / "state").exists()
    assert not load_checkpoint(directory / kind / "together" / "checkpoint").training


def test_the_first_rank_alone_samples_and_writes_the_log(directory: Path, two) -> None:
    first, second = two
    assert first["replicate"]["sampled"] == first["shard"]["sampled"] == [1, 2, 3, 4, 5, 6]
    assert second["replicate"]["sampled"] == second["shard"]["sampled"] == []
    assert second["shard"]["path"] == str(directory / "shard" / "together" / "checkpoint")
    for kind in PARALLEL:
        assert len((directory / kind / "launches.jsonl").read_text().splitlines()) == 1
    # The steps that one rank had done were not done again.
    assert first["begun by one"]["sampled"] == [5, 6]


def _refused(world: World, output: Path) -> str:
    stage = plans.together(accumulation=3)
    try:
        run_plan(plans.plan(stage), output=output, execution=Execution(world=world))
    except ValueError as error:
        return str(error)
    return ""


def _refused_over_shards(world: World, output: Path) -> str:
    stage = plans.together(optimizer=call(TorchOptimizer, name="Adafactor"))
    try:
        run_plan(plans.plan(stage), output=output, execution=Execution(world=world, parallel=Shard()))
    except ValueError as error:
        return str(error)
    return ""


def test_an_optimizer_that_cannot_step_over_shards_is_refused_on_all(tmp_path: Path) -> None:
    for message in ranks.run(_refused_over_shards, tmp_path / "out", num_ranks=2, directory=tmp_path / "results"):
        assert "uses Adafactor, which cannot step over sharded parameters\nhint: " in message


def test_a_step_that_ranks_cannot_share_is_refused_on_all(tmp_path: Path) -> None:
    for message in ranks.run(_refused, tmp_path / "out", num_ranks=2, directory=tmp_path / "results"):
        assert "3 batches per step, which 2 ranks cannot share\nhint: " in message


CONFIG = """
import plans
from limner.config.call import Call

def config() -> Call:
    return plans.plan(plans.together(num_steps=40, save_every=10, sample_every=0))
"""


def _torchrun(directory: Path, *arguments: str) -> subprocess.Popen:
    (directory / "recipe.py").write_text(CONFIG)
    root = Path(__file__).parents[2]
    paths = os.pathsep.join([str(root / "src"), str(root / "tests")])
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "limner.cli.main", "train", "recipe.py", "--output", "run", *arguments]
    environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, cwd=directory, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


@pytest.mark.parametrize("layout", ["replicate", "shard"])
def test_torchrun_trains_stops_on_a_signal_and_goes_on(tmp_path: Path, layout: str) -> None:
    run = _torchrun(tmp_path, "--parallel", layout)
    log = tmp_path / "run" / "together" / "metrics.jsonl"
    while run.poll() is None and not (log.exists() and log.read_text().count("\n") > 2):
        time.sleep(0.05)
    run.send_signal(signal.SIGTERM)
    output, errors = run.communicate(timeout=120)
    assert run.returncode != 0
    assert errors.count("stopped by SIGTERM after step") == 1, errors
    (step,) = StateStore(tmp_path / "run" / "together").steps()[-1:]
    assert step == log.read_text().count("\n")
    again = _torchrun(tmp_path, "--parallel", layout)
    output, errors = again.communicate(timeout=240)
    assert again.returncode == 0, errors
    assert output.strip().splitlines() == ["run/together/checkpoint"]
    assert [line["step"] for line in _metrics(log.parent)] == list(range(40))
