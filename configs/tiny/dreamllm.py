"""DreamLLM's three stages from nothing: two stage-I runs, their merge, joint training, instructions. Two cores.

    limner train configs/tiny/dreamllm.py --output runs/dreamllm-tiny

Needs no download: the first two stages make what DreamLLM takes as published (autoencoder; language model, encoder and
generator), the other four are its own, in the order and with the freezing, loss weights and hand-over of
configs/dreamllm/plan.py. The data is procedural.
"""

from limner.compositions.scene_model import scene_model
from limner.config.call import Call, call
from limner.data.mixture import Mixture
from limner.data.pairs import Pairs, ScenePairs
from limner.data.scene_grammar import GrammarTask, SceneGrammar
from limner.modalities.decoders.autoencoder import PictureAutoencoder
from limner.modalities.decoders.flow import FlowDecoder
from limner.modalities.encoders.convolutional import ConvolutionalEncoder
from limner.train.objectives import Reconstruction
from limner.train.plan import Plan
from limner.train.stage import Packed, Pictures, Schedule, Stage, Trainable

INPUT, QUERIES, OUTPUT = (f"modalities.image.{part}.*" for part in ("input_projector", "queries", "output_projector"))
ENCODER, GENERATOR = "modalities.image.encoder.*", "modalities.image.decoder.transformer.*"
PUBLISHED = ("backbone", "image.encoder", "image.decoder*")
"""Components that DreamLLM takes ready-made."""


def model() -> Call:
    """A Llama of four layers over whole words, a convolutional encoder and a small flow decoder."""
    autoencoder = call(PictureAutoencoder, size=32, channels=(32, 64))
    return call(
        scene_model,
        encoder=call(ConvolutionalEncoder, image_size=32, width=64, num_halvings=3),
        decoder=call(
            FlowDecoder,
            autoencoder=autoencoder,
            condition_width=128,
            width=128,
            num_layers=4,
            num_heads=4,
            patch_size=1,
            draws_per_item=2,
        ),
        num_queries=4,
        d_model=128,
        num_layers=4,
        num_heads=4,
    )


def config() -> Call:
    """All stages. `limner train` runs them one after another and merges by itself."""
    return call(
        Plan,
        model=model(),
        stages=[autoencoder(), published(), comprehension(), creation(), joint(), instructions()],
        seed=0,
        output="runs/dreamllm-tiny",
    )


def autoencoder() -> Call:
    """The latent space of pictures (for Stable Diffusion's)."""
    return call(
        Stage,
        name="autoencoder",
        mixture=call(Mixture, sources={"pairs": _pairs("creation")}),
        batching=call(Pictures, modality="image", num_items=32),
        trainable=[call(Trainable, glob="modalities.image.decoder.autoencoder.*")],
        learning_rate=2e-3,
        objective=call(Reconstruction, modality="image"),
        num_steps=200,
        loss_weights={"image.reconstruction": 1.0},
        schedule=call(Schedule, warmup_steps=20),
    )


def published() -> Call:
    """A language model that knows the words, an encoder and a generator (for Vicuna, CLIP and the UNet)."""
    return _stage(
        "published",
        mixture=_mixture({"pairs": _pairs("joint"), "questions": _task("question")}),
        trainable=["backbone.*", ENCODER, GENERATOR, INPUT, QUERIES, OUTPUT],
        learning_rate=2e-3,
        num_steps=400,
        loss_weights={"text": 1.0, "image": 1.0},
        start_from="autoencoder",
    )


def comprehension() -> Call:
    """Stage I, one of two runs: the input projector."""
    return _stage(
        "comprehension",
        mixture=_mixture({"pairs": _pairs("comprehension"), "questions": _task("question")}),
        trainable=[INPUT],
        learning_rate=2e-3,
        num_steps=150,
        loss_weights={"text": 1.0, "image": 0.0},
        start_from=_made_ready(),
    )


def creation() -> Call:
    """Stage I, the other: dream queries and output projector, behind a frozen language model."""
    return _stage(
        "creation",
        mixture=_mixture({"pairs": _pairs("creation")}),
        trainable=[QUERIES, OUTPUT],
        learning_rate=2e-3,
        num_steps=200,
        loss_weights={"text": 0.0, "image": 1.0},
        start_from=_made_ready(),
    )


def joint() -> Call:
    """Stage II: the language model and both projectors, on pages and on pairs in both directions."""
    return _stage(
        "joint",
        mixture=_mixture({"pages": _task("page"), "pairs": _pairs("joint")}, weights={"pages": 1.0, "pairs": 2.0}),
        trainable=["backbone.*", INPUT, QUERIES, OUTPUT],
        learning_rate=1e-3,
        num_steps=500,
        loss_weights={"text": 1.0, "image": 10.0},
        start_from=[("image.input_projector", "comprehension"), ("*", "creation")],
    )


def instructions() -> Call:
    """Stage III: what a user asks for."""
    tasks = {"describe": 1.0, "question": 1.0, "creation": 1.0, "page": 3.0}
    return _stage(
        "instructions",
        mixture=_mixture({task: _task(task) for task in tasks}, weights=tasks),
        trainable=["backbone.*", INPUT, QUERIES, OUTPUT],
        learning_rate=1e-3,
        num_steps=500,
        loss_weights={"text": 1.0, "image": 10.0},
        start_from="joint",
    )


def _stage(name: str, *, trainable: list[str], **options: object) -> Call:
    return call(
        Stage,
        name=name,
        batching=call(Packed, row_length=256, num_rows=4, window=64),
        trainable=[call(Trainable, glob=glob) for glob in trainable],
        schedule=call(Schedule, warmup_steps=0.03),
        save_every=50,
        **options,
    )


def _mixture(sources: dict[str, Call], *, weights: dict[str, float] | None = None) -> Call:
    """A tenth of what makes a picture is the null prompt, which guidance samples against."""
    return call(Mixture, sources=sources, weights=weights, condition_dropout=0.1)


def _made_ready() -> list[tuple[str, str]]:
    """What is published comes from the stages that stand for it; projectors and queries begin as built."""
    return [(component, "published") for component in PUBLISHED]


def _pairs(mode: str) -> Call:
    return call(Pairs, source=call(ScenePairs, length=50_000, grammar=_grammar()), mode=mode)


def _task(task: str) -> Call:
    return call(GrammarTask, task=task, length=50_000, grammar=_grammar())


def _grammar() -> Call:
    return call(SceneGrammar, max_shapes=2, side=32)
