"""Parts for models of one's own: a picture as a few rows, speech word for word.

    model = multi_token(language_model="smollm2-135m-instruct", parts=[picture(), speech()])

The original's builders are in `multi_token_builders.py`; these share their placeholders' tokens and row keys, so a row
of data serves both.
"""

from pathlib import Path

from limner import zoo
from limner.compositions.multi_token import Part, placed
from limner.document.rows import Placeholder
from limner.modalities.base import Encoder
from limner.modalities.encoders.efficientnet import EfficientNetEncoder
from limner.modalities.encoders.whisper import WhisperFrames


def picture(*, weights: str = "efficientnet-lite0", image_size: int = 160, positions: int = 4) -> Part:
    """What a picture shows, not where: the mean of EfficientNet-lite0's last feature map as `positions` rows.

    `weights` is a zoo name or a directory, `image_size` in pixels.
    """
    path = zoo.locate(weights)
    encoder = EfficientNetEncoder(path, image_size=image_size, grid=1, stride=32)
    placeholder = Placeholder("vision_efficientnet", "<image>", "images", 0, "image", "image")
    return placed(placeholder, _published(encoder, weights, path), layout="vector", positions=positions)


def speech(*, weights: str = "whisper-base", seconds: float = 3.0, stack: int = 10) -> Part:
    """What Whisper's encoder hears in the first `seconds`, `stack` frames of 20 ms a row.

    `weights` is a zoo name or a directory.
    """
    path = zoo.locate(weights)
    encoder = WhisperFrames(path, seconds=seconds, stack=stack)
    placeholder = Placeholder("speech_frames", "<speech>", "speech_audios", 0, "speech", "sound")
    return placed(placeholder, _published(encoder, weights, path), layout="patch")


def _published(encoder: Encoder, weights: str, path: Path) -> Encoder:
    """The encoder with its source, where it is published under a name."""
    if weights != str(path):
        encoder.source = f"{weights}@{zoo.fingerprint(path)}"
    return encoder
