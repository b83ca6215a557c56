"""A tokenizer for procedural scenes, learned from nothing: nine codes a picture, pixels back from codes. A minute.

    limner train configs/tiny/scene_tokenizer.py --output runs/scene_tokenizer

Two stages, as the authors of LaVIT advise: first without the codebook, then through it, begun by k-means. The language
model beside it is not trained here. Needs no download.
"""

from limner.compositions.code_model import scene_code_model
from limner.config.call import Call, call
from limner.data.mixture import Mixture
from limner.data.scene_grammar import GrammarTask
from limner.modalities.quantizers.codebook import Codebook
from limner.modalities.quantizers.detokenizer import GridDecoder, PatchPainter, PixelDetokenizer
from limner.modalities.quantizers.visual_tokenizer import GridTokenizer
from limner.train.optim import TorchOptimizer
from limner.train.plan import Plan
from limner.train.stage import Evaluation, Schedule, Stage, Trainable
from limner.train.tokenizing import PixelTokenization, TokenizerPictures

SIZE, PATCH = 48, 16
NUM_CODES, CODE_WIDTH, WIDTH = 256, 16, 128
MATRICES = (
    "modalities.image.quantizer.patches.weight",
    "modalities.image.quantizer.mix.weight",
    "modalities.image.quantizer.head.weight",
    "modalities.image.detokenizer.decoder.hidden.*.weight",
)
"""What Muon trains; AdamW trains the rest: biases, and what is next to pixels."""


def quantizer() -> Call:
    """3 x 3 patches of 16 pixels, a code for each."""
    codebook = call(Codebook, num_codes=NUM_CODES, width=CODE_WIDTH, decay=0.95, revive_below=0.02)
    return call(GridTokenizer, codebook=codebook, size=SIZE, patch_size=PATCH, width=WIDTH)


def detokenizer() -> Call:
    """Each patch painted from its code."""
    return call(
        PixelDetokenizer,
        decoder=call(GridDecoder, code_width=CODE_WIDTH, width=WIDTH, num_patches=(SIZE // PATCH) ** 2),
        painter=call(PatchPainter, width=WIDTH, grid=SIZE // PATCH, patch_size=PATCH),
        num_codes=NUM_CODES,
        code_width=CODE_WIDTH,
    )


def config() -> Call:
    """The plan."""
    weights = {"image.reconstruction": 1.0, "image.rate": 0.0, "image.kept": 0.0}
    of_codes = {"image.commitment": 0.25, "image.usage": 0.0, "image.perplexity": 0.0}
    return call(
        Plan,
        model=call(scene_code_model, quantizer=quantizer(), detokenizer=detokenizer(), d_model=32, num_layers=1),
        stages=[
            _stage("rows", 400, quantized=False, weights=weights, rates=(1.0, 0.6), initial_batches=0),
            _stage("codes", 600, quantized=True, weights=weights | of_codes, rates=(1.0, 0.02), initial_batches=8),
        ],
        seed=0,
    )


def pictures(split: str = "train") -> Call:
    """Scenes, none of them with a held-out combination unless `split` is "test"."""
    task = call(GrammarTask, task="creation", length=8192, split=split)
    return call(Mixture, sources={"scenes": task})


def _stage(
    name: str,
    num_steps: int,
    *,
    quantized: bool,
    weights: dict[str, float],
    rates: tuple[float, float],
    initial_batches: int,
) -> Call:
    """`rates`: first and last learning rate, as shares of the peak of the plan."""
    first, last = rates
    muon = {"adjust_lr_fn": "match_rms_adamw"}
    parts = ("quantizer", "detokenizer")
    matrices = [
        call(
            Trainable,
            glob=glob,
            learning_rate=2e-3 * first,
            optimizer=call(TorchOptimizer, name="Muon", options=muon),
        )
        for glob in MATRICES
    ]
    rest = [call(Trainable, glob=f"modalities.image.{part}.*", learning_rate=1e-3 * first) for part in parts]
    return call(
        Stage,
        name=name,
        mixture=pictures(),
        batching=call(TokenizerPictures, modality="image", num_items=64),
        objective=call(
            PixelTokenization, modality="image", quantized=quantized, keep_ratio=1.0, initial_batches=initial_batches
        ),
        trainable=matrices + rest,
        num_steps=num_steps,
        loss_weights=weights,
        schedule=call(Schedule, warmup_steps=30, final=last / first),
        precision="float32",
        evaluation=call(Evaluation, mixture=pictures("test"), every=200, num_batches=4, keep_best=False),
        save_every=200,
        sample_every=200,
    )
