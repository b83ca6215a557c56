"""The builders by name: what reads which source. `listing.py` tells of the same names without importing anything."""

from collections.abc import Callable, Iterator, Mapping

from limner.config.suggestion import suggest
from limner.data.builders import bound, documents, pictures, sounds, speech, videos
from limner.data.builders.building import Given, Outcome

Maker = Callable[[Given], Iterator[Outcome]]

MAKERS: Mapping[str, Maker] = {
    "llava-pretrain": pictures.conversations,
    "llava-finetune": pictures.conversations,
    "multi-image-finetune": pictures.several,
    "imagebind-pretrain": bound.conversations,
    "imagebind-finetune": bound.answerable,
    "whisper-pretrain": speech.transcripts,
    "whisper-finetune": speech.questions,
    "clap-pretrain": sounds.descriptions,
    "clap-finetune": sounds.questions,
    "document-pretrain": documents.repeated,
    "document-finetune": documents.questions,
    "xclip-pretrain": videos.captions,
    "xclip-finetune": videos.questions,
}
"""All but `game-episodes`, which plays its source (`games.py`)."""


def maker(name: str) -> Maker:
    """A builder by its name. Raises ValueError with the closest name for an unknown one."""
    if name not in MAKERS:
        raise ValueError(f"no builder `{name}`\n{suggest(name, among=MAKERS)}")
    return MAKERS[name]
