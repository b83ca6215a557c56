"""Rows about sounds that are described by tags: another model turns the tags into a description or a question.

A record has `tags` (a list, or text with commas) or other columns of words, and `audio`, `file`, `path` or `url` with
the name of the sound; of an address, the last part is looked for in the media folder. Where two addresses end alike,
the file belongs to the first of them.
"""

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

from limner.data.builders.building import Given, Left, Outcome, Question, Row, chat, exercise, unless_left, written
from limner.data.builders.records import records

NAMES = ("audio", "file", "path", "filename", "url", "audio_url", "link")
WORDS = ("title", "tags", "keywords", "category", "genres", "moods", "description")

REQUESTS = (
    "What is <sound>?",
    "<sound>\nDescribe what is heard here.",
    "What can be heard in <sound>?",
    "<sound>\nName this sound.",
    "Tell me about this recording: <sound>",
    "Say in one sentence what makes <sound>.",
)

DESCRIBER = (
    "You write exercises for a model that listens to sounds. You are told the tags of a sound. Write one "
    "plain sentence that says what is heard, and nothing that the tags do not tell. Never speak of tags. "
    'Answer with a JSON object and nothing else: {"description": "..."}'
)

QUESTIONER = (
    "You write exercises for a model that listens to sounds. You are told the tags of a sound. Write one "
    "question that somebody who hears it can answer (what makes it, where it may be, what happens, what it "
    "would be used for) and its answer in one or two sentences, with nothing that the tags do not tell. Never"
    ' speak of tags. Answer with a JSON object and nothing else: {"question": "...", "answer": "..."}'
)


def descriptions(given: Given) -> Iterator[Outcome]:
    """A sound, and its description asked for in one of several ways."""

    def described(key: str, sound: str, told: str) -> Question:
        request = given.draws(f"request/{key}").choice(REQUESTS)

        def finish(answer: Mapping[str, Any]) -> Row:
            return chat(key, request, *written(answer, "description"), sounds=[sound])

        return Question(key, ({"role": "system", "content": DESCRIBER}, {"role": "user", "content": told}), finish)

    return unless_left(_sounds(given), described)


def questions(given: Given) -> Iterator[Outcome]:
    """A sound with a question."""

    def asked(key: str, sound: str, told: str) -> Question:
        comes_first = given.draws(f"order/{key}").random() < 0.5
        return exercise(key, "<sound>", system=QUESTIONER, told=told, comes_first=comes_first, sounds=[sound])

    return unless_left(_sounds(given), asked)


def _sounds(given: Given) -> Iterator[tuple[str, str, str] | Left]:
    """(name, sound below the media folder, its tags in words)."""
    owners: dict[str, str] = {}
    for name, record in records(given.sources):
        item = next((record[column] for column in NAMES if record.get(column)), "")
        item = str(item.get("path") or "") if isinstance(item, Mapping) else str(item)
        last = unquote(urlsplit(item).path.rpartition("/")[2]) if "://" in item else item
        key = str(record.get("id") or last.rpartition(".")[0] or name)
        told = "; ".join(f"{column}: {words}" for column in WORDS if (words := _words(record.get(column))))
        sound = given.found(last, last.rpartition("/")[2])
        if not told:
            yield Left(key, "no text", f"none of {', '.join(WORDS)}")
        elif sound is None:
            yield Left(key, "missing file", last or f"none of {', '.join(NAMES)}")
        elif sound != item and owners.setdefault(sound, item) != item:
            yield Left(key, "same name", f"{item} ends as {owners[sound]}")
        else:
            yield key, sound, told


def _words(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(str(item).strip() for item in value if str(item).strip())
    return value.strip() if isinstance(value, str) else ""
