"""Rows about spoken sentences, from a release of Common Voice: its table of clips and what is said in them.

client_id <tab> path <tab> sentence ...     beside a folder of clips
"""

from collections.abc import Iterator

from limner.data.builders.building import Given, Left, Outcome, Question, Row, chat, exercise, unless_left
from limner.data.builders.records import records

REQUESTS = (
    "Write down what is said in <speech>.",
    "<speech>\nWhat are the words that are spoken here?",
    "Transcribe this: <speech>",
    "<speech>\nPut this recording into writing.",
    "What does the speaker of <speech> say, word for word?",
    "Here is a recording: <speech> Please type it out.",
    "<speech>\nI cannot play this. What is being said?",
    "Give me the exact wording of <speech>.",
)

QUESTIONER = (
    "You write exercises for a model that listens to speech. You are told what a speaker says. Write one "
    "question about it that somebody who has heard it can answer (about a fact, the subject, the tone, what "
    "follows from it), without giving the words away, and its answer in one or two sentences. Speak of the "
    'speaker or the recording, never of a text. Answer with a JSON object and nothing else: {"question": '
    '"...", "answer": "..."}'
)


def transcripts(given: Given) -> Iterator[Outcome]:
    """A clip, and its sentence asked for in one of several ways."""

    def transcribed(key: str, clip: str, sentence: str) -> Row:
        return chat(key, given.draws(f"request/{key}").choice(REQUESTS), sentence, speech_audios=[clip])

    return unless_left(_clips(given), transcribed)


def questions(given: Given) -> Iterator[Outcome]:
    """A clip with a question that another model writes from its sentence."""

    def asked(key: str, clip: str, sentence: str) -> Question:
        comes_first, told = given.draws(f"order/{key}").random() < 0.5, f"The speaker says: {sentence}"
        return exercise(key, "<speech>", system=QUESTIONER, told=told, comes_first=comes_first, speech_audios=[clip])

    return unless_left(_clips(given), asked)


def _clips(given: Given) -> Iterator[tuple[str, str, str] | Left]:
    """(name, clip below the media folder, sentence)."""
    for name, record in records(given.sources):
        path, sentence = str(record.get("path") or ""), str(record.get("sentence") or "").strip()
        last = path.rpartition("/")[2]
        key = last.removesuffix(".mp3") or name
        # Tables of some releases name their clips without an ending, and `clips` may be given or hold what is given.
        clip = given.found(path, last, f"{path}.mp3", f"clips/{path}", f"clips/{path}.mp3")
        if not sentence:
            yield Left(key, "no text")
        elif clip is None:
            yield Left(key, "missing file", path)
        else:
            yield key, clip, sentence
