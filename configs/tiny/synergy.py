"""Reading, drawing and illustrated pages, learned together or each alone: synergy at toy scale. One core, minutes.

    limner train configs/tiny/synergy.py --output runs/synergy             # all three together
    limner train configs/tiny/synergy.py:reading --output runs/reading     # one alone: also drawing, pages

Needs no download: everything starts from random weights, and the scenes are procedural. A run of one task takes as many
steps as the joint run, with as many of its documents in each: what it lacks are the other tasks.
"""

from limner.compositions.scene_model import scene_model
from limner.config.call import Call, call
from limner.data.mixture import Mixture, TokenShares
from limner.data.scene_grammar import GrammarTask
from limner.modalities.decoders.pixels import PixelFlowDecoder
from limner.modalities.encoders.patches import PatchEncoder
from limner.train.optim import TorchOptimizer
from limner.train.plan import Plan
from limner.train.stage import Packed, Schedule, Stage, Trainable

ROWS = {"reading": 4, "drawing": 1, "pages": 1}
"""Rows of a step that a task has: its share of the tokens."""
TASKS = {"reading": {"describe": 0.25, "question": 0.75}, "drawing": {"creation": 1.0}, "pages": {"page": 1.0}}
"""What each task consists of, as shares of its tokens."""
NUM_STEPS = 2800
MATRICES = (
    "backbone.language_model.model.layers.*_proj.weight",
    "modalities.image.encoder.*.weight",
    "modalities.image.input_projector.*.layers.[13].weight",
    "modalities.image.decoder.transformer.blocks.*.self_attn.*weight",
    "modalities.image.decoder.transformer.blocks.*.linear?.weight",
)
"""What Muon trains; AdamW trains the rest: embeddings, norms, biases, what is next to pixels."""


def model() -> Call:
    """A Llama of three layers over words, an encoder of 3 x 3 patches, a pixel decoder with a query for each patch."""
    return call(
        scene_model,
        encoder=call(PatchEncoder, image_size=48, patch_size=16, width=128, pixel_width=32),
        decoder=call(
            PixelFlowDecoder,
            size=48,
            patch_size=16,
            condition_width=128,
            width=128,
            num_layers=3,
            num_heads=4,
            draws_per_item=4,
            time_mean=1.5,
        ),
        num_queries=9,
        d_model=128,
        num_layers=3,
        num_heads=4,
    )


def config() -> Call:
    """All three tasks in every step."""
    return _plan("reading", "drawing", "pages")


def reading() -> Call:
    """Descriptions and questions alone."""
    return _plan("reading")


def drawing() -> Call:
    """Pictures from text alone."""
    return _plan("drawing")


def pages() -> Call:
    """Illustrated pages alone."""
    return _plan("pages")


def _plan(*tasks: str) -> Call:
    shares = {name: ROWS[task] * share for task in tasks for name, share in TASKS[task].items()}
    stage = call(
        Stage,
        name="scenes",
        mixture=call(
            Mixture,
            sources={name: call(GrammarTask, task=name, length=1_000_000) for name in shares},
            weights=call(TokenShares, shares=shares),
        ),
        batching=call(Packed, row_length=256, num_rows=sum(ROWS[task] for task in tasks)),
        trainable=_trainable(draws=tasks != ("reading",), reads=tasks != ("drawing",)),
        num_steps=NUM_STEPS,
        # Most pixels are white, so the image term is small: without its weight the words drown it.
        loss_weights={"text": 1.0, "image": 10.0},
        schedule=call(Schedule, warmup_steps=50, final=0.02),
        precision="float32",
        save_every=NUM_STEPS,
    )
    return call(Plan, model=model(), stages=[stage], seed=0)


def _trainable(*, draws: bool, reads: bool) -> list[Call]:
    """Muon's matrices first, then the rest; without the side that no document of the run uses."""
    unused = (
        () if draws else ("modalities.image.decoder", "modalities.image.output_projector", "modalities.image.queries")
    )
    unused += () if reads else ("modalities.image.encoder", "modalities.image.input_projector")
    muon = [
        call(
            Trainable,
            glob=glob,
            learning_rate=2e-3,
            optimizer=call(TorchOptimizer, name="Muon", options={"adjust_lr_fn": "match_rms_adamw"}),
        )
        for glob in MATRICES
        if not glob.startswith(unused)
    ]
    parts = ("encoder", "input_projector", "queries", "output_projector", "decoder.transformer")
    globs = ["backbone.*", *(f"modalities.image.{part}.*" for part in parts)]
    return muon + [call(Trainable, glob=glob, learning_rate=1e-3) for glob in globs if not glob.startswith(unused)]
