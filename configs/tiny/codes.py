"""Reading, drawing and illustrated pages with pictures said in codes: the other half of configs/tiny/synergy.py.

    limner train configs/tiny/codes.py --output runs/codes             # the tokenizer first, then the rest
    limner train configs/tiny/codes.py:language --output runs/codes    # behind the tokenizer that stands at `TOKENIZER`

Same scenes, tasks and shares of tokens, same language model and steps as there; instead of queries, projectors and a
decoder that learns beside the language model, codes from a tokenizer that was trained before
(configs/tiny/scene_tokenizer.py): place and look of each patch that is not blank, two to six a picture. Pictures are
read as the same codes; `encoder` reads them as configs/tiny/synergy.py does, and `grid` says a look for each of the
nine patches, in raster order. One core, minutes; needs no download.
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
READERS = ("modalities.image.encoder", "modalities.image.input_projector")
"""What learns beside the language model where pictures are read by an encoder."""


def config() -> Call:
    """The tokenizer's stages, then the language model's."""
    return call(Plan, model=_model(*placed()), stages=[*_tokenizer().stages, _stage("codes")], seed=0)


def language() -> Call:
    """The language model's stage alone, behind a tokenizer at `TOKENIZER`."""
    return call(Plan, model=_model(*placed()), stages=[_stage(TOKENIZER)], seed=0)


def encoder() -> Call:
    """The same, but pictures are read by the encoder of configs/tiny/synergy.py."""
    reader = call(PatchEncoder, image_size=48, patch_size=16, width=128, pixel_width=32)
    return call(Plan, model=_model(*placed(), encoder=reader), stages=[_stage(TOKENIZER, trains=READERS)], seed=0)


def grid() -> Call:
    """The same as `language` with nine codes for every picture."""
    model = _tokenizer().model
    return call(Plan, model=_model(model.quantizer, model.detokenizer), stages=[_stage(TOKENIZER)], seed=0)


def placed() -> tuple[Call, Call]:
    """The tokenizer's parts around place and look."""
    model = _tokenizer().model
    grid, painter = model.quantizer, model.detokenizer
    quantizer = call(
        PlacedTokenizer,
        paper=PAPER,
        codebook=grid.codebook,
        size=grid.size,
        patch_size=grid.patch_size,
        width=grid.width,
    )
    detokenizer = call(
        PlacedDetokenizer,
        paper=PAPER,
        decoder=painter.decoder,
        painter=painter.painter,
        num_codes=painter.num_codes,
        code_width=painter.code_width,
    )
    return quantizer, detokenizer


def _tokenizer() -> Call:
    return load(Path(__file__).with_name("scene_tokenizer.py"))


def _model(quantizer: Call, detokenizer: Call, *, encoder: Call | None = None) -> Call:
    """A Llama of three layers over words and codes, with an `encoder` of 3 x 3 patches where there is one."""
    return call(
        scene_code_model,
        quantizer=quantizer,
        detokenizer=detokenizer,
        encoder=encoder,
        d_model=128,
        num_layers=3,
        num_heads=4,
    )


def _stage(tokenizer: str, *, trains: tuple[str, ...] = ()) -> Call:
    """The stage of configs/tiny/synergy.py with codes. `tokenizer` is the stage or checkpoint it comes from, `trains`
    what learns beside the language model."""
    stage = load(Path(__file__).with_name("synergy.py")).stages[0]
    stage.start_from = [*((part, tokenizer) for part in PARTS), ("*", "as built")]
    stage.loss_weights = {"text": 1.0, "image": 1.0}
    stage.trainable = [group for group in stage.trainable if group.glob.startswith(("backbone", *trains))]
    return stage
