"""Rows about films: captions of clips (InternVid) and questions about films (VideoInstruct-100K).

{"YoutubeID", "Start_timestamp", "End_timestamp", "Caption"}        {"video_id", "q", "a"}

Films must lie in the media folder, clips cut: nothing is fetched or cut here.
"""

from collections.abc import Iterator

from limner.data.builders.building import Given, Left, Outcome, chat
from limner.data.builders.records import records

ENDINGS = (".mp4", ".webm", ".mkv", ".avi", ".mov")

REQUESTS = (
    "What happens in <video>?",
    "<video>\nDescribe this clip.",
    "Say in a sentence what <video> shows.",
    "<video>\nWhat is going on here?",
    "Give this film a caption: <video>",
    "What can be seen in <video>?",
)


def captions(given: Given) -> Iterator[Outcome]:
    """A clip, and its caption asked for in one of several ways."""
    for name, record in records(given.sources):
        video = str(record.get("YoutubeID") or "")
        start, end = str(record.get("Start_timestamp") or ""), str(record.get("End_timestamp") or "")
        caption = str(record.get("Caption") or "").strip()
        stem = f"{video}_{start}_{end}"
        key = stem if video else name
        # Colons are not allowed in the names of files everywhere.
        clip = _film(given, stem, stem.replace(":", "-"), stem.replace(":", ""))
        if not caption or not video:
            yield Left(key, "no text", "no caption" if video else "no `YoutubeID`")
        elif clip is None:
            yield Left(key, "missing file", f"{stem}.mp4")
        else:
            yield chat(key, given.draws(f"request/{key}").choice(REQUESTS), caption, videos=[clip])


def questions(given: Given) -> Iterator[Outcome]:
    """A film with a question; the film stands before the question."""
    for name, record in records(given.sources):
        video = str(record.get("video_id") or "")
        question, answer = str(record.get("q") or "").strip(), str(record.get("a") or "").strip()
        key = f"{name}:{video}"
        film = _film(given, video, video.removeprefix("v_"), f"v_{video}")
        if not question or not answer:
            yield Left(key, "no text", "no question" if answer else "no answer")
        elif film is None:
            yield Left(key, "missing file", f"{video}.mp4")
        else:
            yield chat(key, f"<video>\n{question}", answer, videos=[film])


def _film(given: Given, *stems: str) -> str | None:
    return given.found(*(stem + ending for stem in stems if stem for ending in ENDINGS))
