"""DreamLLM behind Stable Diffusion XL: Vicuna-7B v1.5, 196 dream queries, an MLP that reads and a pooled condition.

    limner train configs/dreamllm/sdxl.py

The published recipe is stage I creation; the other stages go on from it as in plan.py.
"""

import runpy
from pathlib import Path

from limner.compositions.dreamllm import dreamllm_sdxl_7b
from limner.config.call import Call, call
from limner.train.plan import Plan

_PLAN = runpy.run_path(str(Path(__file__).with_name("plan.py")))


def config() -> Call:
    """Queries and output projector, on pairs."""
    sizes = {"laion400m_orig": "20M", "blip_laion": "10M"}
    creation = _PLAN["stage"](
        "creation",
        sources={name: _PLAN["pairs"](name, "creation") for name in sizes},
        sizes=sizes,
        trainable=[_PLAN["QUERIES"], _PLAN["OUTPUT"]],
        learning_rate=2e-3,
        loss_weights={"text": 0.0, "image": 1.0},
    )
    return call(Plan, model=call(dreamllm_sdxl_7b), stages=[creation], seed=42, output="runs/dreamllm-sdxl")
