"""Scenes from nothing: a byte-level model learns to name, answer about and draw coloured shapes. Two cores, minutes.

    limner train configs/tiny/scenes.py --output runs/scenes

Needs no download: language model, encoder, autoencoder and decoder all start from random weights, and the data is
procedural.
"""

from limner.compositions.illustrator import scratch_illustrator
from limner.config.call import Call, call
from limner.data.mixture import Mixture
from limner.data.sources.procedural import SceneTask
from limner.modalities.decoders.autoencoder import PictureAutoencoder
from limner.modalities.decoders.flow import FlowDecoder
from limner.modalities.encoders.convolutional import ConvolutionalEncoder
from limner.train.objectives import Reconstruction
from limner.train.plan import Plan
from limner.train.stage import Packed, Pictures, Schedule, Stage, Trainable


def model() -> Call:
    """Four layers of width 192 over bytes, with a convolutional encoder and a small flow decoder."""
    return call(
        scratch_illustrator,
        encoder=call(ConvolutionalEncoder, image_size=64, width=64, num_halvings=4),
        decoder=call(
            FlowDecoder,
            autoencoder=call(PictureAutoencoder, size=64, channels=(48, 96)),
            condition_width=128,
            width=128,
            num_layers=4,
            num_heads=4,
            patch_size=2,
            draws_per_item=2,
        ),
        num_queries=8,
        d_model=192,
        num_layers=4,
        num_heads=4,
    )


def config() -> Call:
    """The autoencoder alone, then everything together."""

    def scenes(task: str) -> Call:
        return call(SceneTask, task=task, length=100_000)

    autoencoder = call(
        Stage,
        name="autoencoder",
        mixture=call(Mixture, sources={"creation": scenes("creation")}),
        batching=call(Pictures, modality="image", num_items=32),
        trainable=[call(Trainable, glob="modalities.image.decoder.autoencoder.*", learning_rate=1e-3)],
        objective=call(Reconstruction, modality="image"),
        num_steps=200,
        loss_weights={"image.reconstruction": 1.0},
        schedule=call(Schedule, warmup_steps=20),
        precision="bfloat16",
    )
    together = call(
        Stage,
        name="together",
        mixture=call(
            Mixture,
            sources={task: scenes(task) for task in ("caption", "question", "creation")},
            weights={"caption": 1.0, "question": 1.0, "creation": 1.5},
            condition_dropout=0.05,
        ),
        batching=call(Packed, row_length=256, num_rows=4),
        trainable=[
            call(Trainable, glob="modalities.image.decoder.transformer.*", learning_rate=1e-3),
            call(Trainable, glob="modalities.image.encoder.*", learning_rate=1e-3),
            call(Trainable, glob="modalities.image.*projector.*", learning_rate=1e-3),
            call(Trainable, glob="modalities.image.queries.*", learning_rate=1e-3),
            call(Trainable, glob="backbone.*", learning_rate=1e-3, weight_decay=0.01),
        ],
        num_steps=1500,
        loss_weights={"text": 1.0, "image": 1.0},
        schedule=call(Schedule, warmup_steps=50),
    )
    return call(Plan, model=model(), stages=[autoencoder, together], seed=0)
