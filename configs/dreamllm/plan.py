"""DreamLLM-7B as it was trained: two stage-I runs side by side, their merge, stage II and stage III.

    limner train configs/dreamllm/plan.py --output runs/dreamllm

Vicuna-7B v1.1, CLIP ViT-L/14 and Stable Diffusion 2.1 base; data sets by the names of `limner data list`, with the
sizes that they count for. A step is 8 batches of 16 documents. docs/dreamllm.md says how to run it, whole or stage by
stage, and where it differs from the original.
"""

import math
from collections.abc import Mapping

from limner.compositions.dreamllm import clip, dreamllm, stable_diffusion
from limner.config.call import Call, call
from limner.data.catalogue import dataset
from limner.data.mixture import Mixture
from limner.data.packing import OneEach
from limner.data.pairs import Pairs
from limner.data.sizes import parse_size
from limner.train.optim import TorchOptimizer
from limner.train.plan import Plan
from limner.train.stage import Packed, Schedule, Stage, Trainable

BATCH, NUM_BATCHES = 16, 8
CONTEXT = 2048
INPUT, QUERIES, OUTPUT = (f"modalities.image.{part}.*" for part in ("input_projector", "queries", "output_projector"))
CONNECTORS = (INPUT, QUERIES, OUTPUT)


def model() -> Call:
    """The published parts, joined by 64 dream queries and two linear projectors."""
    return call(
        dreamllm,
        language_model="vicuna-7b-v1.1",
        encoder=call(clip, weights="clip-vit-large-patch14"),
        decoder=call(stable_diffusion, weights="sd-2.1-base", resolution=512),
        num_queries=64,
        dtype="bfloat16",
    )


def config() -> Call:
    """All stages, in one command."""
    stages = [comprehension(), creation(), joint(), instructions()]
    return call(Plan, model=model(), stages=stages, seed=42, output="runs/dreamllm")


def comprehension() -> Call:
    """Stage I: the input projector learns to be read, everything else stands still."""
    return stage(
        "comprehension",
        sources={
            "llava_pretrain": call(dataset, name="llava_pretrain"),
            **_web_pairs("comprehension"),
            "gqa": call(dataset, name="gqa"),
        },
        sizes={"llava_pretrain": "558K", **_WEB, "gqa": "13.53M"},
        trainable=[INPUT],
        learning_rate=2e-3,
        loss_weights={"text": 1.0, "image": 0.0},
        start_from="as built",
    )


def creation() -> Call:
    """Stage I, beside it: queries and output projector learn to condition the frozen generator."""
    return stage(
        "creation",
        sources=_web_pairs("creation"),
        sizes=_WEB,
        trainable=[QUERIES, OUTPUT],
        learning_rate=2e-3,
        loss_weights={"text": 0.0, "image": 1.0},
        start_from="as built",
    )


def joint() -> Call:
    """Stage II (I-GPT): the language model too, on pages of text and pictures and on pairs in both directions."""
    return stage(
        "joint",
        sources={"mmc4_core": call(dataset, name="mmc4_core"), "blip_laion": pairs("blip_laion", "joint")},
        sizes={"mmc4_core": "7M", "blip_laion": "10M"},
        trainable=["backbone.*", *CONNECTORS],
        learning_rate=2e-5,
        loss_weights={"text": 1.0, "image": 10.0},
        start_from=[("image.input_projector", "comprehension"), ("*", "creation")],
    )


def instructions() -> Call:
    """Stage III (SFT): conversations, and pages and pictures that a user asks for."""
    return stage(
        "instructions",
        sources={
            "llavav1.5_instruct": call(dataset, name="llavav1.5_instruct"),
            "blip_laion": pairs("blip_laion", "joint", min_size=128),
            "mmc4_instruct_filtered224": call(dataset, name="mmc4_instruct_filtered224"),
        },
        sizes={"llavav1.5_instruct": 665_298, "blip_laion": "600K", "mmc4_instruct_filtered224": 20_231},
        trainable=["backbone.*", *CONNECTORS],
        learning_rate=4e-5,
        loss_weights={"text": 1.0, "image": 10.0},
        start_from="joint",
        keep_last=2,
    )


def pairs(name: str, mode: str, *, min_size: int = 0) -> Call:
    """A data set of pairs in the directions of `mode`."""
    return call(Pairs, source=call(dataset, name=name), mode=mode, min_size=min_size)


def stage(
    name: str, *, sources: dict[str, Call], sizes: Mapping[str, int | str], trainable: list[str], **options: object
) -> Call:
    """What all stages share: AdamW, a cosine after 0.3 % of warm-up, clipping, one epoch of `sizes`.

    A tenth of what makes a picture is the null prompt, which guidance samples against.
    """
    num_documents = sum(map(parse_size, sizes.values()))
    return call(
        Stage,
        name=name,
        mixture=call(Mixture, sources=sources, sizes=dict(sizes), condition_dropout=0.1, seed=42),
        batching=call(Packed, row_length=CONTEXT, num_rows=BATCH, packing=call(OneEach)),
        trainable=[call(Trainable, glob=glob) for glob in trainable],
        num_steps=math.ceil(num_documents / (BATCH * NUM_BATCHES)),
        accumulation=NUM_BATCHES,
        optimizer=call(TorchOptimizer, name="AdamW", options={"betas": (0.9, 0.999), "eps": 1e-8}),
        schedule=call(Schedule, warmup_steps=0.003),
        max_gradient_norm=1.0,
        precision="bfloat16",
        **{"save_every": 2000, "keep_last": 3, **options},
    )


_WEB = {"laion400m_orig": "20M", "laion_coco": "20M", "blip_laion": "20M"}


def _web_pairs(mode: str) -> dict[str, Call]:
    return {name: pairs(name, mode) for name in _WEB}
