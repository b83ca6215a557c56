"""A visual tokenizer of dynamic length, trained on the emoji set: features of a frozen EfficientNet-lite0, made again
from 16 of 64 patches on average. One core, some minutes for each plan.

    limner train configs/tiny/emoji_tokenizer.py --output runs/emoji_tokenizer             # patches as they are needed
    limner train configs/tiny/emoji_tokenizer.py:even --output runs/even                   # the same 16 of each picture
    limner train configs/tiny/emoji_tokenizer.py:even_large --output runs/even_large       # of eight times the looks
    limner train configs/tiny/emoji_tokenizer.py:pooled --output runs/pooled               # a plain grid of 4 x 4 means

A code is the place of a patch and its look, so all plans tell the decoder where a row stands. The features are those at
stride 8: later ones tell of the whole picture in each patch, and hardly any patch is needless then.

The authors of LaVIT advise two phases: selector and merger first, without the codebook, then all through it, begun by
k-means. In the first phase the selector learns what dropping a patch costs (`NeedTokenization`); then the odds above
which a quarter is kept are measured, the selector rests, and what is kept has no chance in it any more. A third stage
learns to paint pixels from codes.
"""

from pathlib import Path

from limner.compositions.code_model import scene_code_model
from limner.compositions.illustrator import efficientnet
from limner.config.call import Call, call
from limner.data.mixture import Mixture
from limner.data.sources.augmentation import Augmentation
from limner.data.sources.procedural import NamedPictures
from limner.modalities.decoders.feature_decoder import PlacedFeatureDecoder
from limner.modalities.quantizers.codebook import Codebook
from limner.modalities.quantizers.detokenizer import PatchPainter
from limner.modalities.quantizers.merger import MeanOfShares, TokenMerger
from limner.modalities.quantizers.products import ProductDetokenizer, ProductTokenizer
from limner.modalities.quantizers.selector import EvenSelector
from limner.train.optim import TorchOptimizer
from limner.train.plan import Plan
from limner.train.stage import Evaluation, Schedule, Stage, Trainable
from limner.train.tokenizing import FeatureTokenization, NeedTokenization, Painting, TokenizerPictures

DATA = Path(__file__).resolve().parents[2] / "data" / "emoji"
SHARDS = [str(DATA / f"train-{number:05d}.tar") for number in range(3)]
HELD_OUT = [str(DATA / "heldout-concept.tar")]
GRID, KEPT = 8, 4
"""Patches a side, and how many a side a fixed grid keeps: the budget of all three plans."""
KEPT_SHARE = (KEPT / GRID) ** 2
STRIDE, FEATURES, WIDTH, HIDDEN, HEADS = 8, 40, 128, 256, 4
NUM_CODES, CODE_WIDTH = 512, 16
STEPS = {"rows": 600, "codes": 1000, "pixels": 300}
MATRICES = {
    "quantizer.merger": ("qkv.weight", "proj.weight", "query.weight", "key.weight", "value.weight", "fc?.weight"),
    "detokenizer.decoder": ("qkv.weight", "proj.weight", "fc?.weight"),
}
"""What Muon trains of the blocks of a part; AdamW trains the rest."""


def config() -> Call:
    """As many codes as a picture needs."""
    return _plan(call(ProductTokenizer, merger=_merger(), **_tokenizer()), learned=True)


def even() -> Call:
    """The same patches of every picture; merger and all else as above."""
    return _plan(call(ProductTokenizer, merger=_merger(), selector=_even(), **_tokenizer()), learned=False)


def even_large() -> Call:
    """The even grid with as many looks as the places of a dynamic choice tell besides: log2 of 64 over 16 is 48.8 bits,
    three for each code. Each look is seen an eighth as often, so its mean moves slower."""
    codebook = call(Codebook, num_codes=8 * NUM_CODES, width=CODE_WIDTH, decay=0.99, revive_below=0.05 / 8)
    tokenizer = _tokenizer() | {"codebook": codebook}
    quantizer = call(ProductTokenizer, merger=_merger(), selector=_even(), **tokenizer)
    return _plan(quantizer, learned=False, num_codes=8 * NUM_CODES)


def pooled() -> Call:
    """Means of 2 x 2 patches in place of selector and merger."""
    tokenizer = call(ProductTokenizer, merger=call(MeanOfShares), selector=_even(), **_tokenizer())
    return _plan(tokenizer, learned=False, merged=False)


def pictures(shards: list[str]) -> Call:
    """Every picture of some shards four times: as it is, and small somewhere on white paper."""
    variants = call(Augmentation, num_variants=4, scale=(0.25, 0.6), colour=0.0)
    source = call(NamedPictures, shards=shards, styles=["noto"], augmentation=variants)
    return call(Mixture, sources={"emoji": source})


def _tokenizer() -> dict[str, Call | int]:
    return {
        "encoder": call(efficientnet, image_size=16 * GRID, grid=GRID, stride=STRIDE),
        "num_patches": GRID**2,
        "width": WIDTH,
        "codebook": call(Codebook, num_codes=NUM_CODES, width=CODE_WIDTH, decay=0.97, revive_below=0.05),
    }


def _merger() -> Call:
    return call(TokenMerger, width=WIDTH, num_layers=2, num_heads=HEADS, hidden=HIDDEN)


def _even() -> Call:
    return call(EvenSelector, grid=GRID, kept=KEPT)


def _detokenizer(num_codes: int) -> Call:
    decoder = call(
        PlacedFeatureDecoder,
        code_width=CODE_WIDTH,
        width=WIDTH,
        num_patches=GRID**2,
        num_layers=2,
        num_heads=HEADS,
        hidden=HIDDEN,
        width_out=FEATURES,
    )
    painter = call(PatchPainter, width=FEATURES, grid=GRID, patch_size=8, num_blocks=2)
    return call(ProductDetokenizer, decoder=decoder, painter=painter, num_codes=num_codes, code_width=CODE_WIDTH)


def _plan(quantizer: Call, *, learned: bool, merged: bool = True, num_codes: int = NUM_CODES) -> Call:
    terms = {"image.reconstruction": 1.0, "image.kept": 0.0}
    needed, fixed = terms | {"image.need": 1.0}, terms | {"image.rate": 0.0}
    of_codes = fixed | {"image.commitment": 1.0, "image.usage": 0.0, "image.perplexity": 0.0}
    by_need = call(NeedTokenization, modality="image", keep_ratio=KEPT_SHARE)
    painting = call(Painting, modality="image")
    rows, weights = (by_need, needed) if learned else (_features(quantized=False), fixed)
    chosen_by = ["quantizer.input", "quantizer.norm", "quantizer.positions"] + ["quantizer.selector"] * learned
    parts = ["quantizer.head", "detokenizer.decoder"] + ["quantizer.merger"] * merged
    return call(
        Plan,
        model=call(
            scene_code_model, quantizer=quantizer, detokenizer=_detokenizer(num_codes), d_model=32, num_layers=1
        ),
        stages=[
            _stage("rows", chosen_by + parts, weights, rows, rates=(1.0, 0.5)),
            _stage("codes", parts, of_codes, _features(quantized=True), rates=(0.5, 0.02)),
            _stage("pixels", ["detokenizer.painter"], {"image.pixels": 1.0}, painting, rates=(1.0, 0.02)),
        ],
        seed=0,
    )


def _features(*, quantized: bool) -> Call:
    return call(
        FeatureTokenization,
        modality="image",
        quantized=quantized,
        drawn=False,
        keep_ratio=KEPT_SHARE,
        initial_batches=128 if quantized else 0,
    )


def _stage(
    name: str,
    parts: list[str],
    weights: dict[str, float],
    objective: Call,
    *,
    rates: tuple[float, float],
) -> Call:
    """`rates`: first and last learning rate, as shares of the peak of the plan."""
    first, last = rates
    muon = {"adjust_lr_fn": "match_rms_adamw"}
    matrices = [
        call(
            Trainable,
            glob=f"modalities.image.{part}.blocks.*.{matrix}",
            learning_rate=3e-3 * first,
            optimizer=call(TorchOptimizer, name="Muon", options=muon),
        )
        for part in parts
        for matrix in MATRICES.get(part, ())
    ]
    rest = [call(Trainable, glob=f"modalities.image.{part}*", learning_rate=1.5e-3 * first) for part in parts]
    return call(
        Stage,
        name=name,
        mixture=pictures(SHARDS),
        batching=call(TokenizerPictures, modality="image", num_items=8),
        objective=objective,
        trainable=matrices + rest,
        num_steps=STEPS[name],
        loss_weights=dict(weights),
        schedule=call(Schedule, warmup_steps=20, final=last / first),
        precision="float32",
        evaluation=call(Evaluation, mixture=pictures(HELD_OUT), every=300, num_batches=16, keep_best=False),
        save_every=300,
        sample_every=300,
    )
