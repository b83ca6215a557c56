"""Runs that are killed at random moments and started again, beside one that is not; results.json says what both gave.

    python tests/killed.py DIRECTORY NUM_KILLS SEED

A program of its own: each run is a fork of this process, which has imported everything and computed nothing.
"""

import hashlib
import json
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

import plans
import torch
from tiny import Pages

from limner.config.call import Call, call
from limner.data.mixture import Mixture
from limner.train.execution import Execution
from limner.train.plan import run_plan
from limner.train.stage import Packed, Trainable

DELAYS = (0.2, 2.0)
"""Seconds that a run lives before it is killed."""
STARTING = 1.0
"""Seconds added for starting up, in which nothing is saved."""


def plan() -> Call:
    """Three stages: the autoencoder; everything, packed and mixed, read by workers; the same with moving average."""
    mixed = call(
        Mixture,
        sources={"seven": call(Pages), "five": call(Pages, num_pages=5)},
        weights={"seven": 2.0, "five": 1.0},
        condition_dropout=0.1,
    )
    together = {
        "mixture": mixed,
        "batching": call(Packed, row_length=96, num_rows=2),
        "num_steps": 60,
        "save_every": 4,
        "sample_every": 0,
    }
    words = [call(Trainable, glob="backbone.*", learning_rate=1e-2, weight_decay=0.01)]
    return plans.plan(
        plans.reconstruction(num_steps=40, save_every=4),
        plans.together(**together, ema_decay=None),
        plans.together(name="words", trainable=words, **together),
    )


def start(directory: Path, *, recipe: Callable[[], Call] = plan) -> int:
    """The process of a new or continued run of a plan in `directory`."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        torch.set_num_threads(1)
        log = os.open(directory.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        run_plan(recipe(), output=directory, execution=Execution(num_workers=1))
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def is_done(child: int, directory: Path) -> bool:
    """Whether a run has ended by itself. Raises RuntimeError when it failed."""
    found, status = os.waitpid(child, os.WNOHANG)
    if not found:
        return False
    if status:
        raise RuntimeError(directory.with_suffix(".log").read_text()[-3000:])
    return True


def ended_with(directory: Path, *, stages: Sequence[str] = ("pictures", "together", "words")) -> dict[str, object]:
    """Losses of every step and a hash of every file of weights."""
    curve, weights = [], {}
    for stage in stages:
        for line in (directory / stage / "metrics.jsonl").read_text().splitlines():
            row = json.loads(line)
            curve.append({key: row[key] for key in row if key.startswith(("loss", "step", "gradient"))})
        for file in sorted((directory / stage / "checkpoint").glob("*.safetensors")):
            weights[f"{stage}/{file.name}"] = hashlib.sha256(file.read_bytes()).hexdigest()
    return {"curve": curve, "weights": weights}


def main(directory: Path, num_kills: int, seed: int) -> None:
    """One run to its end, then runs under fire until `num_kills` were killed and the last has ended."""
    directory.mkdir(parents=True, exist_ok=True)
    whole = directory / "whole"
    child = start(whole)
    while not is_done(child, whole):
        time.sleep(0.05)
    results = {"whole": ended_with(whole), "killed": []}
    rng, kills, number = random.Random(seed), 0, 0
    while kills < num_kills:
        under_fire = directory / f"killed-{number}"
        child, number, lives = start(under_fire), number + 1, 1
        until = time.monotonic() + STARTING + rng.uniform(*DELAYS)
        while not is_done(child, under_fire):
            if kills < num_kills and time.monotonic() > until:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                kills, lives = kills + 1, lives + 1
                child = start(under_fire)
                until = time.monotonic() + STARTING + rng.uniform(*DELAYS)
            time.sleep(0.01)
        results["killed"].append({"lives": lives, **ended_with(under_fire)})
    (directory / "results.json").write_text(json.dumps({"kills": kills, **results}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
