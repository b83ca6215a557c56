"""DreamLLM whose pictures follow a control picture: the published sizes with a ControlNet for edges beside the UNet.

    limner train configs/dreamllm/controlnet.py
    limner train configs/dreamllm/controlnet.py model.decoder.controlnet=DIRECTORY stages.0.start_from=CHECKPOINT

Generator and ControlNet are frozen: what is trained are queries and output projector, on pairs, as in stage I creation.
As written it goes on from where the whole plan leaves stage III; the ControlNet is as published.
"""

import runpy
from pathlib import Path

from limner.compositions.dreamllm import clip, controlled_diffusion, dreamllm
from limner.config.call import Call, call
from limner.train.plan import Plan

_PLAN = runpy.run_path(str(Path(__file__).with_name("plan.py")))


def model() -> Call:
    """The parts of plan.py, and the ControlNet."""
    return call(
        dreamllm,
        language_model="vicuna-7b-v1.1",
        encoder=call(clip, weights="clip-vit-large-patch14"),
        decoder=call(
            controlled_diffusion, weights="sd-2.1-base", controlnet="sd-2.1-controlnet-canny", control_scale=1.0
        ),
        num_queries=64,
        dtype="bfloat16",
    )


def config() -> Call:
    """Queries and output projector, on pairs."""
    creation = _PLAN["stage"](
        "creation",
        sources={"blip_laion": _PLAN["pairs"]("blip_laion", "creation")},
        sizes={"blip_laion": "600K"},
        trainable=[_PLAN["QUERIES"], _PLAN["OUTPUT"]],
        learning_rate=4e-5,
        loss_weights={"text": 0.0, "image": 1.0},
        start_from="runs/dreamllm/instructions/checkpoint",
    )
    return call(Plan, model=model(), stages=[creation], seed=42, output="runs/dreamllm-controlnet")
