"""configs/tiny/dreamllm.py at a few steps: once without a break, once killed in the middle of every stage.

    python tests/dreamllm_killed.py DIRECTORY

Writes DIRECTORY/results.json: what both ended with, and how often the second was killed.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

import killed

from limner.config.call import Call
from limner.config.load import load
from limner.config.overrides import apply_overrides

CONFIG = Path(__file__).parents[1] / "configs" / "tiny" / "dreamllm.py"
STEPS = {"autoencoder": 6, "published": 24, "comprehension": 6, "creation": 6, "joint": 24, "instructions": 30}
SIZES = (
    "model.d_model=64",
    "model.num_layers=2",
    "model.num_heads=2",
    "model.encoder.width=16",
    "model.decoder.width=32",
    "model.decoder.num_layers=1",
    "model.decoder.num_heads=2",
    "model.decoder.autoencoder.channels=[16,16]",
)


def recipe() -> Call:
    """The plan, smaller and shorter; a state is saved twice in every stage."""
    stages = enumerate(STEPS.values())
    steps = [f"stages.{n}.{key}" for n, s in stages for key in (f"num_steps={s}", f"save_every={s // 3}")]
    return apply_overrides(load(CONFIG), [*SIZES, *steps])


def main(directory: Path) -> None:
    """Both runs, one after the other."""
    directory.mkdir(parents=True, exist_ok=True)
    recipe()  # imports what the plan names, so that its processes need not
    whole, broken = directory / "whole", directory / "broken"
    child = killed.start(whole, recipe=recipe)
    while not killed.is_done(child, whole):
        time.sleep(0.05)
    kills = []
    for stage, num_steps in STEPS.items():
        child = killed.start(broken, recipe=recipe)
        # After a state that was saved, and before the end: some steps are lost.
        while _num_steps(broken / stage) <= num_steps // 2:
            assert not killed.is_done(child, broken), f"{stage} was over before it could be killed"
            time.sleep(0.002)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        assert not (broken / stage / "checkpoint").exists(), stage
        kills.append(stage)
    child = killed.start(broken, recipe=recipe)
    while not killed.is_done(child, broken):
        time.sleep(0.05)
    results = {run.name: killed.ended_with(run, stages=list(STEPS)) for run in (whole, broken)}
    (directory / "results.json").write_text(json.dumps({"kills": kills, **results}))


def _num_steps(directory: Path) -> int:
    file = directory / "metrics.jsonl"
    return len(file.read_text().splitlines()) if file.exists() else 0


if __name__ == "__main__":
    main(Path(sys.argv[1]))
