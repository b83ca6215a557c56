"""Stage I of DreamLLM by itself: the two runs that do not wait for each other.

    limner train --config configs/dreamllm/stage1.py --stage comprehension
    limner train --config configs/dreamllm/stage1.py --stage creation

They go where the whole plan goes, which then finds them finished.
"""

from pathlib import Path

from limner.config.call import Call, call
from limner.config.load import load
from limner.train.plan import Plan


def config() -> Call:
    """Both runs."""
    plan = Path(__file__).with_name("plan.py")
    stages = [load(plan, function=name) for name in ("comprehension", "creation")]
    return call(Plan, model=load(plan, function="model"), stages=stages, seed=42, output="runs/dreamllm")
