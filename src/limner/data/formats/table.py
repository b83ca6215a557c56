"""The formats by name: what a recipe, the registry and the command line write."""

from limner.config.suggestion import suggest
from limner.data.formats import conversations, interleaved, pairs
from limner.data.formats.rows import Format

FORMATS: dict[str, Format] = {
    "native": pairs.native,
    "caption": pairs.caption,
    "creation": pairs.creation,
    "tokenized_caption": pairs.tokenized_caption,
    "image_image": pairs.image_image,
    "video_caption": pairs.video_caption,
    "conversation": conversations.conversation,
    "keyed_chat": conversations.keyed_chat,
    "openai_chat": conversations.openai_chat,
    "interleaved": interleaved.interleaved,
    "instruct_interleaved": interleaved.instruct_interleaved,
    "alternating": interleaved.alternating,
}


def format_named(name: str) -> Format:
    """A format by its name. Raises ValueError with the closest name for an unknown one."""
    if name not in FORMATS:
        raise ValueError(f"no format `{name}`\n{suggest(name, among=FORMATS)}")
    return FORMATS[name]
