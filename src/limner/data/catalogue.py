"""The data sets that published systems of this kind were trained on: literal facts, no data.

Sizes are documents as published. A licence is that of the annotations; pictures collected from the web keep their own.
Terms change: read them at the source before use.
"""

from pathlib import Path
from typing import NamedTuple

from limner.data.mixture import Source
from limner.data.registry import Registry

LINKS = "CC-BY-4.0 for the list of links; pictures keep their own"
PAIR, IMAGES, CHAT = "image-text pair", "image-image pair", "conversation"


class Row(NamedTuple):
    """What is told of a data set."""

    name: str
    kind: str
    size: str
    files: str
    licence: str
    description: str


_ROWS = (
    ("laion_coco", PAIR, "104.9M", "laion_coco/*.tar", LINKS, "Web pictures with captions written by BLIP."),
    ("laion2b_en", PAIR, "2B", "laion2b_en/*.tar", LINKS, "Web pictures with their English alternative texts."),
    ("laion400m", PAIR, "270M", "laion400m/*.tar", LINKS, "Web pictures of 256 pixels with alternative texts."),
    (
        "blip_laion", PAIR, "65M", "blip_laion/*.tar", "unknown",
        "A part of LAION captioned anew and filtered by BLIP.",
    ),
    ("laion400m_orig", PAIR, "20M", "laion400m_orig/*.tar", LINKS, "A part of LAION-400M at its first sizes."),
    (
        "journeydb", PAIR, "2.37M", "journeydb/*.tar", "own terms, non-commercial",
        "Generated pictures and their prompts.",
    ),
    (
        "pokemon-gpt4-captions", PAIR, "833", "pokemon-gpt4-captions/*.parquet", "unknown; pictures are copyrighted",
        "Game characters with captions written by GPT-4.",
    ),
    (
        "dalle3-by-laion", PAIR, "13020", "dalle3-by-laion/*.parquet", "CC0-1.0",
        "Pictures by DALL-E 3 and their prompts.",
    ),
    ("laion_coco_ii", IMAGES, "100M", "laion_coco/*.tar", LINKS, "laion_coco's pictures, read and made again."),
    ("blip_laion_ii", IMAGES, "65M", "blip_laion/*.tar", "unknown", "blip_laion's pictures, read and made again."),
    (
        "mmc4_core", "interleaved", "7M", "mmc4_core/*.tar", "ODC-BY-1.0; pictures keep their own",
        "Web pages with each picture set beside its best sentence.",
    ),
    (
        "obelics", "interleaved", "113M", "obelics/*.tar", "CC-BY-4.0; pictures keep their own",
        "Web pages with their pictures where they stood.",
    ),
    (
        "mmc4_instruct_filtered224", "instruct-interleaved", "20321", "mmc4_instruct_filtered224/*.json",
        "unknown; never published",
        "Pages of MMC4 with an instruction that asks for them; pictures above 224 pixels.",
    ),
    (
        "webvid", "video-text pair", "10.7M", "webvid/*.jsonl", "own terms, research only; withdrawn",
        "Stock films with their captions.",
    ),
    (
        "llava_pretrain", CHAT, "558K", "llava_pretrain/blip_laion_cc_sbu_558k.json",
        "those of its sources (LAION, CC, SBU)",
        "Short descriptions of pictures, asked for in one turn.",
    ),
    ("gqa", CHAT, "13532530", "gqa/*.json", "CC-BY-4.0", "Questions about the scene graphs of Visual Genome."),
    (
        "llava_instruct", CHAT, "158K", "llava_instruct/llava_instruct_150k.json", "CC-BY-4.0, and OpenAI's terms",
        "Conversations, descriptions and reasoning about COCO pictures, written by GPT-4.",
    ),
    (
        "llavav1.5_instruct", CHAT, "665298", "llavav1.5_instruct/llava_v1_5_mix665k.json", "those of its sources",
        "llava_instruct with questions from eight public sets and text-only conversations.",
    ),
    (
        "llava_instruct_filter", CHAT, "80K", "llava_instruct_filter/llava_instruct_80k.json",
        "CC-BY-4.0, and OpenAI's terms",
        "A part of llava_instruct.",
    ),
    (
        "instruct_blip_laion", CHAT, "22K", "instruct_blip_laion/*.json", "unknown; never published",
        "Requests for a picture of blip_laion, answered by it.",
    ),
)  # fmt: skip

_COLUMNS = {
    "pokemon-gpt4-captions": {"caption": "text"},
    "webvid": {"video": "{page_dir}/{videoid}.mp4", "caption": "name"},
}


def published() -> Registry:
    """A new registry that holds the published data sets."""
    registry = Registry()
    for name, kind, size, files, licence, description in map(Row._make, _ROWS):
        folder = files.partition("/")[0]
        media_root = f"{folder}/images" if kind in (CHAT, "instruct-interleaved") else ""
        registry.register(
            name,
            kind=kind,
            files=files,
            size=size,
            licence=licence,
            description=description,
            media_root=f"{folder}/videos" if name == "webvid" else media_root,
            columns=_COLUMNS.get(name, {}),
        )
    return registry


DATASETS = published()
"""The data sets that recipes and the command line know. One's own: DATASETS.register("mine", kind=..., files=...)."""


def dataset(name: str, *, format: str | None = None, root: str | Path | None = None) -> Source:
    """The documents of a data set by name, for recipes: call(dataset, name="gqa"). Raises ValueError for an unknown
    name, and with the place to put them when its files are missing."""
    return DATASETS.get(name, root=root).source(root=root, format=format)
