"""The data sets that `limner data build` makes: what each holds and where its source is had. Names alone; no imports of
heavy libraries, because the command line lists them at its start.

Nothing is fetched: a builder reads local copies of public sources, whose terms are their own.
"""

from typing import NamedTuple


class Listed(NamedTuple):
    """One data set that can be built."""

    name: str
    holds: str
    source: str
    """What to give as SOURCE, and where it is published."""
    media: str
    """What lies in the folder given by --media; "" where none is needed."""
    asks: bool = False
    """Whether another model writes the questions and answers (--endpoint)."""


_LLAVA = "of the LLaVA project"
_CAPTIONS = f"blip_laion_cc_sbu_558k.json {_LLAVA}"
_MIX = f"llava_v1_5_mix665k.json or llava_instruct_150k.json {_LLAVA}"
_SPEECH = "validated.tsv or train.tsv of a Common Voice release (Mozilla)"
_SOUNDS = "a table with `tags` and `audio` or `url` per sound, such as the parquet files of Chr0my/Epidemic_sounds"
_TEXTS = "a table with `text`, such as the parquet files of Wikipedia"

LISTED = {
    listed.name: listed
    for listed in (
        Listed("llava-pretrain", "a picture, its caption asked for", _CAPTIONS, "its pictures"),
        Listed("llava-finetune", "conversations about a picture, and text-only ones", _MIX, "COCO, GQA, OCR-VQA, ..."),
        Listed("multi-image-finetune", "a question about several pictures", _CAPTIONS, "its pictures", True),
        Listed("imagebind-pretrain", "llava-pretrain's, the picture as <imagebind>", _CAPTIONS, "its pictures"),
        Listed("imagebind-finetune", "llava-finetune's that no place or colour decides", _MIX, "COCO, GQA, ..."),
        Listed("whisper-pretrain", "a spoken sentence, its words asked for", _SPEECH, "the release's clips"),
        Listed("whisper-finetune", "a question about a spoken sentence", _SPEECH, "the release's clips", True),
        Listed("clap-pretrain", "a sound, its description asked for", _SOUNDS, "the sounds", True),
        Listed("clap-finetune", "a question about a sound", _SOUNDS, "the sounds", True),
        Listed("document-pretrain", "texts to be repeated", _TEXTS, ""),
        Listed("document-finetune", "a question about a long text", "LongAlpaca-12k.json, or .jsonl with `text`", ""),
        Listed(
            "xclip-pretrain", "a clip, its caption asked for", "InternVid's .jsonl (OpenGVLab)", "ID_START_END.mp4, cut"
        ),
        Listed(
            "xclip-finetune", "a question about a film", "VideoInstruct100K.json (MBZUAI)", "ActivityNet's v_ID.mp4"
        ),
        Listed(
            "game-episodes", "a frame of a game, the action to take asked for",
            "a CleanRL policy (.cleanrl_model) for a gymnasium environment", "where frames are written",
        ),
    )
}  # fmt: skip
"""By name, in the order in which they are listed."""
