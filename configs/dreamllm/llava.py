"""LLaVA as the composition without an out-direction: Vicuna-7B v1.5, CLIP ViT-L/14 and an MLP of two layers.

    limner train configs/dreamllm/llava.py

The projector alone, then the language model with it. Checkpoints are read and written by the same reader as DreamLLM's.
"""

import runpy
from pathlib import Path

from limner.compositions.dreamllm import llava_7b
from limner.config.call import Call, call
from limner.data.catalogue import dataset
from limner.train.plan import Plan

_PLAN = runpy.run_path(str(Path(__file__).with_name("plan.py")))


def config() -> Call:
    """Alignment and instructions."""
    stages = [
        _PLAN["stage"](
            "alignment",
            sources={"llava_pretrain": call(dataset, name="llava_pretrain")},
            sizes={"llava_pretrain": "558K"},
            trainable=[_PLAN["INPUT"]],
            learning_rate=2e-3,
            loss_weights={"text": 1.0},
        ),
        _PLAN["stage"](
            "instructions",
            sources={"llavav1.5_instruct": call(dataset, name="llavav1.5_instruct")},
            sizes={"llavav1.5_instruct": 665_298},
            trainable=["backbone.*", _PLAN["INPUT"]],
            learning_rate=4e-5,
            loss_weights={"text": 1.0},
            save_every=200,
        ),
    ]
    return call(Plan, model=call(llava_7b), stages=stages, seed=42, output="runs/llava")
