"""Stage III of DreamLLM (supervised fine-tuning) by itself, from a checkpoint of stage II or any other of this model.

    limner train --config configs/dreamllm/stage3.py pretrained_model_name_or_path=runs/dreamllm-stage2/joint/checkpoint

As written it goes on from where the whole plan leaves stage II.
"""

from pathlib import Path

from limner.config.call import Call, call
from limner.config.load import load
from limner.train.plan import Plan


def config() -> Call:
    """One stage."""
    plan = Path(__file__).with_name("plan.py")
    instructions = load(plan, function="instructions")
    instructions.start_from = "runs/dreamllm/joint/checkpoint"
    return call(Plan, model=load(plan, function="model"), stages=[instructions], seed=42, output="runs/dreamllm-stage3")
