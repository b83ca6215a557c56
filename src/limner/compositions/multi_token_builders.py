"""The original's eight builders by name: placeholders, encoders, layouts.

    model = multi_token(language_model="...", parts=[builder("vision_clip_pool"), builder("audio_whisper")])

Weights are zoo names or directories; the number of positions of patch layouts is the encoder's. Features are taken from
the encoder as it is, so another size of the same kind works too.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from limner import zoo
from limner.compositions.multi_token import Layout, Part, placed
from limner.document.rows import Placeholder
from limner.modalities.base import Encoder
from limner.modalities.encoders.clap import ClapEncoder
from limner.modalities.encoders.gte import GteEncoder
from limner.modalities.encoders.imagebind import ImageBindEncoder
from limner.modalities.encoders.plain_clip import PlainClipEncoder, PooledClipEncoder
from limner.modalities.encoders.whisper import WhisperEncoder
from limner.modalities.encoders.xclip import XClipEncoder

PLACEHOLDERS: Mapping[str, Placeholder] = {
    placeholder.name: placeholder
    for placeholder in (
        Placeholder("vision_clip", "<image>", "images", 0, "image", "image"),
        Placeholder("audio_whisper", "<speech>", "speech_audios", 10, "speech", "sound"),
        Placeholder("audio_clap", "<sound>", "sounds", 5, "sound", "sound"),
        Placeholder("video_xclip", "<video>", "videos", 10, "video", "video"),
        Placeholder("imagebind", "<imagebind>", "imagebinds", 4, "imagebind", "imagebind"),
        Placeholder("document_gte", "<document>", "documents", 4, "document", "text"),
    )
}
"""By the original's name; 0 positions are as many as the encoder has rows."""


@dataclass(frozen=True)
class Recipe:
    """A builder's modality: its name, its positions (0: the encoder's rows), how its encoder is made.

    `weights` is the encoder's published name, "" where a file of one's own must be given.
    """

    name: str
    num_positions: int
    layout: Layout
    encoder: Callable[[Path], Encoder]
    weights: str


BUILDERS: Mapping[str, Recipe] = {
    "vision_clip": Recipe("vision_clip", 0, "patch", PlainClipEncoder, "clip-vit-large-patch14-336"),
    "vision_clip_pool": Recipe("vision_clip", 10, "vector", PooledClipEncoder, "clip-vit-large-patch14-336"),
    "audio_whisper": Recipe("audio_whisper", 10, "vector", WhisperEncoder, "whisper-small"),
    "audio_clap": Recipe("audio_clap", 5, "vector", ClapEncoder, "clap-htsat-fused"),
    "video_xclip": Recipe("video_xclip", 10, "vector", XClipEncoder, "xclip-base-patch32"),
    "imagebind": Recipe("imagebind", 4, "vector", ImageBindEncoder, ""),
    "document_gte": Recipe("document_gte", 4, "vector", GteEncoder, "gte-large"),
    "document_gte_x16": Recipe("document_gte", 32, "vector", GteEncoder, "gte-large"),
}


def builder(name: str, *, weights: str = "", positions: int = 0) -> Part:
    """The part of a builder. `weights` is a zoo name or a directory, "" the published encoder; `positions` 0 are the
    builder's own.

    Raises ValueError for an unknown builder, and where weights are missing.
    """
    if name not in BUILDERS:
        raise ValueError(f"there is no builder `{name}`; there are {', '.join(BUILDERS)}\nhint: name one of these")
    recipe = BUILDERS[name]
    encoder = _encoder(recipe, weights or recipe.weights)
    return placed(PLACEHOLDERS[recipe.name], encoder, layout=recipe.layout, positions=positions or recipe.num_positions)


def encoders(weights: Mapping[str, str | Path]) -> dict[str, Callable[[Layout], Encoder]]:
    """How to make the encoder of each modality in `weights`, told the layout that its projector expects."""

    def maker(name: str, source: str | Path) -> Callable[[Layout], Encoder]:
        recipes = {recipe.layout: recipe for recipe in BUILDERS.values() if recipe.name == name}
        if not recipes:
            raise ValueError(
                f"there is no modality `{name}`; there are {', '.join(PLACEHOLDERS)}\nhint: name one of these"
            )
        return lambda layout: _encoder(recipes[layout], source)

    return {name: maker(name, source) for name, source in weights.items()}


def _encoder(recipe: Recipe, source: str | Path) -> Encoder:
    if not recipe.weights:
        return recipe.encoder(Path(source))
    path = zoo.locate(str(source))
    encoder = recipe.encoder(path)
    if str(source) != str(path):
        encoder.source = f"{source}@{zoo.fingerprint(path)}"
    return encoder
