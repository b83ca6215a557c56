"""Recorded plans at tiny size: an autoencoder, then everything."""

from tiny import COLOURS, Pages, model_call, picture

from limner.config.call import Call, call
from limner.data.mixture import Mixture
from limner.document.document import Direction, Document, Media
from limner.train.objectives import Multimodal, Reconstruction
from limner.train.plan import Plan
from limner.train.stage import Packed, Pictures, Schedule, Stage, Trainable


class Spellings:
    """A source: a red, a blue, ... picture that is read, and after it more and more letters of the same two."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Document:
        shown = Media(picture(COLOURS[index]), directions=(Direction.IN,))
        return Document.page(["b" * (4 - index), shown, "ab" * (index + 1)])


def mixture(*, seed: int = 0) -> Call:
    """Seven pages, a tenth of them null prompts."""
    return call(Mixture, sources={"pages": call(Pages)}, seed=seed, condition_dropout=0.1)


def batching(*, num_rows: int = 2) -> Call:
    """Rows of one to three pages."""
    return call(Packed, row_length=96, num_rows=num_rows)


def reconstruction(**changes) -> Call:
    """The autoencoder alone."""
    options = {
        "name": "pictures",
        "mixture": mixture(),
        "batching": call(Pictures, modality="image", num_items=4),
        "trainable": [call(Trainable, glob="modalities.image.decoder.autoencoder.*", learning_rate=1e-2)],
        "num_steps": 3,
        "loss_weights": {"image.reconstruction": 1.0},
        "objective": call(Reconstruction, modality="image"),
    }
    return call(Stage, **(options | changes))


def together(**changes) -> Call:
    """Language model, projectors, queries and flow."""
    options = {
        "name": "together",
        "mixture": mixture(seed=1),
        "batching": batching(),
        "trainable": [
            call(Trainable, glob="modalities.image.decoder.transformer.*", learning_rate=3e-3),
            call(Trainable, glob="modalities.image.input_projector.*", learning_rate=1e-3),
            call(Trainable, glob="backbone.*", learning_rate=1e-2, weight_decay=0.01),
        ],
        "num_steps": 6,
        "loss_weights": {"text": 1.0, "image": 0.5},
        "objective": call(Multimodal),
        "schedule": call(Schedule, warmup_steps=2, final=0.1),
        "accumulation": 2,
        "ema_decay": 0.9,
        "save_every": 2,
        "sample_every": 1,
    }
    return call(Stage, **(options | changes))


def plan(*stages: Call, seed: int = 0) -> Call:
    """A plan over the tiny model."""
    return call(Plan, model=model_call(), stages=list(stages), seed=seed)
