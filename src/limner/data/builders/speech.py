"""Rows about spoken sentences, from a release of Common Voice: its table of clips and what is said in them.

client_id <tab> path <tab> sentence ...     beside a folder of clips
"""

from collections.abc import Iterator, Mapping
from typing import Any

from limner.data.builders.building import Given, Left, Outcome, Question, Row, chat, written
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
    for found in _clips(given):
        if isinstance(found, Left):
            yield found
            continue
        key, clip, sentence = found
        request = given.draws(f"request/{key}").choice(REQUESTS)
        yield chat(key, request, sentence, speech_audios=[clip])


def questions(given: Given) -> Iterator[Outcome]:
    """A clip with a question that another model writes from its sentence."""
    for found in _clips(given):
        if isinstance(found, Left):
            yield found
            continue
        key, clip, sentence = found
        comes_first = given.draws(f"order/{key}").random() < 0.5
        yield _question(key, clip, sentence, comes_first=comes_first)


def _question(key: str, clip: str, sentence: str, *, comes_first: bool) -> Question:
    def finish(answer: Mapping[str, Any]) -> Row:
        question, reply = written(answer, "question", "answer")
        asked = f"<speech>\n{question}" if comes_first else f"{question}\n<speech>"
        return chat(key, asked, reply, speech_audios=[clip])

    told = ({"role": "system", "content": QUESTIONER}, {"role": "user", "content": f"The speaker says: {sentence}"})
    return Question(key, told, finish)


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
