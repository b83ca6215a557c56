"""Stage II of DreamLLM by itself, from the checkpoints of the two stage-I runs, wherever these were trained.

    limner train --config configs/dreamllm/stage2.py training.learning_rate=2e-5
    limner train --config configs/dreamllm/stage2.py pretrained_model_name_or_path=runs/mine/checkpoint

The second takes everything from one place.
"""

from pathlib import Path

from limner.config.call import Call, call
from limner.config.load import load
from limner.train.plan import Plan


def config() -> Call:
    """One stage; `start_from` names directories in place of stages."""
    plan = Path(__file__).with_name("plan.py")
    joint = load(plan, function="joint")
    joint.start_from = [
        ("image.input_projector", "runs/dreamllm/comprehension/checkpoint"),
        ("*", "runs/dreamllm/creation/checkpoint"),
    ]
    return call(Plan, model=load(plan, function="model"), stages=[joint], seed=42, output="runs/dreamllm-stage2")
