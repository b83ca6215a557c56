"""Speech and pictures in one prompt: Whisper-base, EfficientNet-lite0, SmolLM2-135M-Instruct. CPU, an hour.

    limner data build speech-and-pictures --output data/speech_and_pictures
    LIMNER_WHISPER_BASE=data/speech_and_pictures/whisper-base \\
        limner train configs/multi_token/speech_and_pictures.py --output runs/speech_and_pictures

First the projectors alone, so that their rows spell what is shown and said (minutes); then behind the frozen language
model; then with adapters in it.
"""

import os
from pathlib import Path

from limner.backbone.lora import LoraSpec
from limner.compositions.multi_token import multi_token
from limner.compositions.multi_token_parts import picture, speech
from limner.config.call import Call, call
from limner.data.mixture import Mixture, TokenShares
from limner.data.sources.opening import open_source
from limner.train.alignment import ConnectionistAlignment
from limner.train.plan import Plan
from limner.train.stage import Packed, Schedule, Stage, Trainable

ROOT = Path(os.environ.get("LIMNER_DATA") or Path(__file__).resolve().parents[2] / "data")
DATA = ROOT / "speech_and_pictures"


def model() -> Call:
    """4 rows of a picture, 15 rows of three seconds of speech."""
    return call(
        multi_token,
        language_model="smollm2-135m-instruct",
        parts=[call(picture), call(speech)],
        lora=call(LoraSpec, rank=16, alpha=32.0),
        system="",
    )


def _mixture(**shares: float) -> Call:
    """Files of rows by name, with their shares of the tokens."""
    return call(
        Mixture,
        sources={
            name: call(open_source, paths=str(DATA / f"{name}.train.jsonl"), format="keyed_chat") for name in shares
        },
        weights=call(TokenShares, shares=shares),
    )


def words(name: str, *, source: str, modality: str) -> Call:
    """The rows of one modality spell what is shown or said; the language model lends its words and does not run."""
    return call(
        Stage,
        name=name,
        mixture=_mixture(**{source: 1.0}),
        batching=call(Packed, row_length=256, num_rows=4),
        trainable=[call(Trainable, glob=f"modalities.{modality}.input_projector.*", learning_rate=1e-3)],
        objective=call(ConnectionistAlignment, modality=modality),
        num_steps=400,
        loss_weights={"text": 1.0},
        schedule=call(Schedule, warmup_steps=20, final=0.05),
        precision="float32",
        start_from="as built",
        save_every=200,
    )


def projectors() -> Call:
    """Both modalities through the frozen language model."""
    return call(
        Stage,
        name="projectors",
        mixture=_mixture(name=0.2, look=0.4, listen=0.4),
        batching=call(Packed, row_length=256, num_rows=2),
        trainable=[call(Trainable, glob="modalities.*.input_projector.*", learning_rate=5e-4)],
        num_steps=30,
        loss_weights={"text": 1.0},
        schedule=call(Schedule, warmup_steps=5, final=0.2),
        precision="bfloat16",
        start_from=[("image.input_projector", "shown"), ("speech.input_projector", "said")],
        save_every=20,
    )


def together() -> Call:
    """Everything, comparisons too, with adapters in the language model."""
    return call(
        Stage,
        name="together",
        mixture=_mixture(look=0.3, listen=0.2, compare=0.5),
        batching=call(Packed, row_length=256, num_rows=2),
        trainable=[
            call(Trainable, glob="modalities.*.input_projector.*", learning_rate=5e-4),
            call(Trainable, glob="backbone.language_model.*lora_*", learning_rate=1e-3),
        ],
        num_steps=240,
        loss_weights={"text": 1.0},
        schedule=call(Schedule, warmup_steps=10, final=0.05),
        precision="bfloat16",
        save_every=20,
    )


def config() -> Call:
    """All stages; the first two do not wait for each other (`--stage shown`, `--stage said`)."""
    stages = [
        words("shown", source="name", modality="image"),
        words("said", source="listen", modality="speech"),
        projectors(),
        together(),
    ]
    return call(Plan, model=model(), stages=stages, seed=0)
