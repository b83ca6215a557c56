"""The emoji set as benchmarks see it: which pictures are asked about, and who recognises what was drawn.

Files, with the repository: emoji/{train-*,heldout-style,heldout-concept}.tar (in the folder `data`)
"""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from limner.compositions.illustrator import efficientnet
from limner.data.stories import Library
from limner.document.document import Media
from limner.document.media import Image
from limner.evaluate.metrics.retrieval import Judge
from limner.modalities.base import Decoder
from limner.model.multimodal import MultimodalLM

DRAWN, EARLIER, NEVER_READ = "noto", "noto-v1", ("fluent", "fluent-flat")
MODALITY = "image"

Judges = Callable[[MultimodalLM], Sequence[Judge]]
"""Who recognises pictures that a model drew; the gallery is at the size at which it draws."""


@functools.cache
def trained(folder: Path, style: str) -> Library:
    """The pictures of training in a style, one per name."""
    shards = sorted(_shards(folder).glob("train-*.tar"))
    if not shards:
        raise ValueError(f"no emoji/train-*.tar in `{folder}`\nhint: give the repository's folder `data` with --data")
    return Library.from_shards(shards, styles=[style])


def held_out_styles(folder: Path) -> Library:
    """Known things in styles that were never read."""
    return Library.from_shards([_shards(folder) / "heldout-style.tar"])


def held_out_concepts(folder: Path) -> Library:
    """Things that were never read, in styles that were never read."""
    return Library.from_shards([_shards(folder) / "heldout-concept.tar"], styles=NEVER_READ)


@functools.lru_cache(maxsize=1)
def own_judge(library: Library, model: MultimodalLM) -> Judge:
    """Recognises by the features that the model reads with. Raises ValueError for one that reads no pictures."""
    encoder = model.modality(MODALITY).encoder
    if encoder is None:
        raise ValueError(f"the model does not read `{MODALITY}`\nhint: benchmark one that does")
    return Judge("features it reads with", encoder, gallery=gallery(library, decoder=decoder_of(model)))


def both_judges(library: Library, model: MultimodalLM) -> list[Judge]:
    """The own one, and one with features of another size and place, which limner-tiny never used."""
    pictures = gallery(library, decoder=decoder_of(model))
    device = next(model.parameters()).device
    unused = Judge("features it never used", efficientnet(image_size=160, grid=1).to(device), gallery=pictures)
    return [own_judge(library, model), unused]


def decoder_of(model: MultimodalLM) -> Decoder:
    """What the model draws with. Raises ValueError when it cannot draw."""
    modality = model.modality(MODALITY)
    decoder = modality.decoder
    if decoder is None and modality.speller is not None:
        raise ValueError(
            f"the model makes `{MODALITY}` in codes; this task needs a decoder that reads queries\n"
            "hint: benchmark one with an out-projector and a decoder"
        )
    if decoder is None:
        raise ValueError(f"the model cannot make `{MODALITY}`\nhint: benchmark one that draws")
    return decoder


def gallery(library: Library, *, decoder: Decoder) -> list[Image]:
    """The pictures of a library at the size that the decoder draws, in the library's order."""
    return [at_target_size(record.image(), decoder=decoder) for record in library.records]


def at_target_size(image: Image, *, decoder: Decoder) -> Image:
    """A picture as the decoder would see it as a target."""
    return to_image(decoder.preprocess(Media(image)))


def to_image(pixels: Float[Tensor, "3 height width_px"]) -> Image:
    """A picture of pixels in [-1, 1]."""
    scaled = ((pixels.float().clamp(-1, 1) + 1.0) * 127.5).round()
    return Image.from_array(scaled.permute(1, 2, 0).to("cpu", torch.uint8).numpy())


def _shards(folder: Path) -> Path:
    inner = folder / "emoji"
    return inner if inner.is_dir() else folder
