"""Reading, drawing and illustrated pages with pictures said in codes: the other half of configs/tiny/synergy.py.

    limner train configs/tiny/codes.py --output runs/codes             # the tokenizer first, then the rest
    limner train configs/tiny/codes.py:language --output runs/codes    # behind the tokenizer that stands at `TOKENIZER`

Same scenes, tasks and shares of tokens, same language model and steps as there; instead of queries, projectors and a
decoder that learns beside the language model, codes from a tokenizer that was trained before
(configs/tiny/scene_tokenizer.py): place and look of each patch that is not blank, two to six a picture. Pictures are
read as the same codes. One core, minutes; needs no download.
"""

from pathlib import Path

from limner.compositions.code_model import scene_code_model
from limner.config.call import Call, call
from limner.config.load import load
from limner.modalities.encoders.patches import PatchEncoder
from limner.modalities.quantizers.placed import PlacedDetokenizer, PlacedTokenizer
from limner.train.plan import Plan

TOKENIZER = "runs/scene_tokenizer/codes/checkpoint"
PAPER = 250 / 127.5 - 1
"""What data/scenes.py draws on, of [-1, 1]."""
PARTS = ("image.quantizer", "image.detokenizer")
"""Components that a tokenizer's checkpoint has."""


def config() -> Call:
    """The tokenizer's stages, then the language model's."""
    tokenizer = load(Path(__file__).with_name("scene_tokenizer.py"))
    return call(Plan, model=model(), stages=[*tokenizer.stages, _stage("codes")], seed=0)


def language() -> Call:
    """The language model's stage alone, behind a tokenizer at `TOKENIZER`."""
    return call(Plan, model=model(), stages=[_stage(TOKENIZER)], seed=0)


def encoder() -> Call:
    """The same, but pictures are read by the encoder of configs/tiny/synergy.py."""
    return call(Plan, model=model(reads=True), stages=[_stage(TOKENIZER, reads=True)], seed=0)


def model(reads: bool = False) -> Call:
    """A Llama of three layers over words and codes; with `reads` beside an encoder of 3 x 3 patches."""
    tokenizer = load(Path(__file__).with_name("scene_tokenizer.py")).model
    grid, painter = tokenizer.quantizer, tokenizer.detokenizer
    return call(
        scene_code_model,
        quantizer=call(
            PlacedTokenizer,
            paper=PAPER,
            codebook=grid.codebook,
            size=grid.size,
            patch_size=grid.patch_size,
            width=grid.width,
        ),
        detokenizer=call(
            PlacedDetokenizer,
            paper=PAPER,
            decoder=painter.decoder,
            painter=painter.painter,
            num_codes=painter.num_codes,
            code_width=painter.code_width,
        ),
        encoder=call(PatchEncoder, image_size=48, patch_size=16, width=128, pixel_width=32) if reads else None,
        d_model=128,
        num_layers=3,
        num_heads=4,
    )


def _stage(tokenizer: str, *, reads: bool = False) -> Call:
    """The stage of configs/tiny/synergy.py with codes; `tokenizer` is the stage or checkpoint it comes from."""
    stage = load(Path(__file__).with_name("synergy.py")).stages[0]
    stage.start_from = [*((part, tokenizer) for part in PARTS), ("*", "as built")]
    stage.loss_weights = {"text": 1.0, "image": 1.0}
    kept = [
        group
        for group in stage.trainable
        if group.glob.startswith("backbone") or (reads and group.glob.split(".")[2] in ("encoder", "input_projector"))
    ]
    stage.trainable = kept
    return stage
