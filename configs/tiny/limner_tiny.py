"""limner-tiny: SmolLM2-135M-Instruct reads through EfficientNet-lite0 and draws 64 px pictures. CPU, hours.

limner train configs/tiny/limner_tiny.py --output runs/limner-tiny
"""

from pathlib import Path

from limner.backbone.lora import LoraSpec
from limner.compositions.illustrator import efficientnet, illustrator
from limner.config.call import Call, call
from limner.data.mixture import Mixture
from limner.data.sources.augmentation import Augmentation
from limner.data.sources.procedural import EmojiTask, NamedPictures
from limner.modalities.decoders.autoencoder import PictureAutoencoder
from limner.modalities.decoders.flow import FlowDecoder
from limner.modalities.projectors import DiscriminantProjector, MemoryProjector
from limner.train.objectives import Creation, Multimodal, Reconstruction, WordAlignment
from limner.train.plan import Plan
from limner.train.stage import (
    CachedConditions,
    Packed,
    Pictures,
    Schedule,
    Stage,
    Trainable,
)

DATA = Path(__file__).resolve().parents[2] / "data" / "emoji"
SHARDS = [str(DATA / f"train-{number:05d}.tar") for number in range(3)]
READ_STYLES = ["noto", "noto-v1"]
"""What the model is shown. Both Fluent styles are withheld from reading altogether."""
DRAWN_STYLES = ["noto"]
"""What the model draws: one style, so that a prompt has one answer."""


def model() -> Call:
    """The wiring."""
    return call(
        illustrator,
        language_model="smollm2-135m-instruct",
        encoder=call(efficientnet, image_size=160, grid=3, stride=16),
        input_projector=call(MemoryProjector, num_rows=9, width_in=112, width_out=576, num_slots=1216, num_words=4),
        output_projector=call(
            DiscriminantProjector, num_rows=8, width_in=576, num_conditions=4, width_out=256, num_things=1218
        ),
        decoder=call(
            FlowDecoder,
            autoencoder=call(PictureAutoencoder, size=64),
            condition_width=256,
            width=256,
            num_layers=6,
            num_heads=4,
            patch_size=2,
            draws_per_item=1,
            time_mean=0.5,
        ),
        num_queries=8,
        lora=call(LoraSpec, rank=8, alpha=16.0),
        system="",
        dtype="bfloat16",
    )


def task(name: str, length: int, *, styles: list[str] | None = DRAWN_STYLES) -> Call:
    """One task over the training shards. Pictures that a user shows are augmented."""
    return call(EmojiTask, shards=SHARDS, task=name, length=length, styles=styles, augmentation=variants())


def variants() -> Call:
    """Augmentation of pictures that are read."""
    return call(Augmentation, num_variants=4)


def mixture(sources: dict[str, tuple[Call, float]], *, condition_dropout: float = 0.0) -> Call:
    """Sources with their weights."""
    return call(
        Mixture,
        sources={name: source for name, (source, _) in sources.items()},
        weights={name: weight for name, (_, weight) in sources.items()},
        condition_dropout=condition_dropout,
    )


def autoencoder() -> Call:
    """Pixels <-> latents, on every picture of the set."""
    return call(
        Stage,
        name="autoencoder",
        mixture=mixture({"draw": (task("draw", 40_000, styles=None), 1.0)}),
        batching=call(Pictures, modality="image", num_items=64),
        trainable=[call(Trainable, glob="modalities.image.decoder.autoencoder.*", learning_rate=1.5e-3)],
        objective=call(Reconstruction, modality="image"),
        num_steps=1000,
        loss_weights={"image.reconstruction": 1.0},
        schedule=call(Schedule, warmup_steps=50),
        ema_decay=0.995,
        precision="bfloat16",
    )


def words() -> Call:
    """Stage I, comprehension, first half: pictures are remembered by their names, without the language model."""
    pictures = call(NamedPictures, shards=SHARDS, styles=READ_STYLES, augmentation=variants())
    return call(
        Stage,
        name="words",
        mixture=mixture({"names": (pictures, 1.0)}),
        batching=call(Packed, row_length=64, num_rows=48),
        trainable=[call(Trainable, glob="modalities.image.input_projector.values", learning_rate=1e-4)],
        objective=call(WordAlignment, modality="image"),
        num_steps=20,
        loss_weights={"text": 1.0},
        schedule=call(Schedule, warmup_steps=5),
    )


def reading() -> Call:
    """Stage I, comprehension: questions about pictures, through the frozen language model."""
    return call(
        Stage,
        name="reading",
        mixture=mixture({"describe": (task("describe", 12_000, styles=READ_STYLES), 1.0)}),
        batching=call(Packed, row_length=256, num_rows=4),
        trainable=[
            call(Trainable, glob="modalities.image.input_projector.values", learning_rate=1e-3),
            call(Trainable, glob="backbone.added_input", learning_rate=1e-3),
        ],
        objective=call(Multimodal, made=[]),
        num_steps=40,
        loss_weights={"text": 1.0},
        schedule=call(Schedule, warmup_steps=20),
        start_from=[("image.input_projector", "words")],
        save_every=100,
    )


def drawing() -> Call:
    """Stage I, creation: the decoder learns to draw behind the frozen language model."""
    return call(
        Stage,
        name="drawing",
        mixture=mixture({"draw": (task("draw", 3_600), 1.0)}, condition_dropout=0.1),
        batching=call(CachedConditions, modality="image", num_items=96),
        trainable=drawn_parts(),
        objective=call(Creation, made=["image"]),
        num_steps=2500,
        loss_weights={"image": 1.0},
        schedule=call(Schedule, warmup_steps=50, final=0.3),
        ema_decay=0.998,
        precision="bfloat16",
        start_from=[("image.decoder.autoencoder", "autoencoder")],
    )


def drawn_parts() -> list[Call]:
    """What draws, behind the hidden states."""
    return [
        call(Trainable, glob="modalities.image.decoder.transformer.*", learning_rate=1e-3),
        call(Trainable, glob="modalities.image.output_projector.*", learning_rate=1e-3),
    ]


def spoken_parts() -> list[Call]:
    """What reads and writes: adapters of the language model, its new tokens, the input projector."""
    return [
        call(Trainable, glob="backbone.language_model.*lora_*", learning_rate=4e-4),
        call(Trainable, glob="backbone.added_input", learning_rate=1e-3),
        call(Trainable, glob="modalities.image.input_projector.values", learning_rate=2e-4),
    ]


def interleaved() -> Call:
    """Stage II: pages and stories with pictures in them; where a picture goes is the model's to say."""
    return call(
        Stage,
        name="interleaved",
        mixture=mixture(
            {
                "story": (task("story", 8_000), 60.0),
                "page": (task("page", 4_000), 12.0),
                "words_only": (task("words_only", 4_000), 12.0),
                "describe": (task("describe", 12_000, styles=READ_STYLES), 16.0),
            }
        ),
        batching=call(Packed, row_length=256, num_rows=4),
        trainable=spoken_parts(),
        objective=call(Multimodal, made=[]),
        num_steps=190,
        loss_weights={"text": 1.0},
        schedule=call(Schedule, warmup_steps=20, final=0.1),
        save_every=100,
        start_from=[("*", "reading")],
    )


def instruction() -> Call:
    """Stage III: everything that can be asked: what to answer, and when to draw."""
    return call(
        Stage,
        name="instruction",
        mixture=mixture(
            {
                "draw": (task("draw", 8_000), 22.0),
                "describe": (task("describe", 12_000, styles=READ_STYLES), 26.0),
                "story": (task("story", 8_000), 26.0),
                "conversation": (task("conversation", 4_000), 10.0),
                "words_only": (task("words_only", 4_000), 6.0),
                "plain": (task("plain", 4_000), 6.0),
                "page": (task("page", 4_000), 4.0),
            }
        ),
        batching=call(Packed, row_length=256, num_rows=4),
        trainable=spoken_parts(),
        objective=call(Multimodal, made=[]),
        num_steps=120,
        loss_weights={"text": 1.0},
        schedule=call(Schedule, warmup_steps=10, final=0.1),
        save_every=100,
        start_from=[("*", "interleaved")],
    )


def finish() -> Call:
    """Last: the decoder behind the finished language model. Many wordings of each name, and stories."""
    return call(
        Stage,
        name="finish",
        mixture=mixture(
            {"draw": (task("draw", 8_192), 16.0), "story": (task("story", 1_280), 1.0)},
            condition_dropout=0.1,
        ),
        batching=call(CachedConditions, modality="image", num_items=96),
        trainable=drawn_parts(),
        objective=call(Creation, made=["image"], calibration_batches=125),
        num_steps=6000,
        loss_weights={"image": 1.0},
        schedule=call(Schedule, warmup_steps=50, final=0.02),
        ema_decay=0.998,
        precision="bfloat16",
        save_every=200,
        start_from=[("image.decoder.*", "drawing"), ("*", "instruction")],
    )


def config() -> Call:
    """The whole recipe."""
    stages = [
        autoencoder(),
        words(),
        reading(),
        drawing(),
        interleaved(),
        instruction(),
        finish(),
    ]
    return call(Plan, model=model(), stages=stages, seed=0)
