"""Rows about texts that are read as documents: texts to be repeated, and questions about long ones.

A text becomes documents of whole sentences, of so many words that a text encoder of 512 tokens reads each whole.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from limner.data.builders.building import Given, Left, Outcome, chat
from limner.data.builders.records import records
from limner.modalities.encoders.gte import split_sentences

MAX_WORDS = 300
"""Words of a document: about 400 word pieces of English."""

LEAST_WORDS = 100
"""A text with fewer is no long text."""

MOST_ASKED = 1200
"""Characters of a question; what is longer belongs to the text."""

REQUESTS = (
    "Repeat {}word for word.",
    "What is the full text of {}?",
    "{}\nWrite down all that stands here.",
    "Copy out {}without changing a word.",
    "Read {}aloud to me.",
)

_ENDED = re.compile(
    r"\b(?:begins?|starts?|below|follows?)\b[^\n]{0,80}[.:\n]\s*(?P<text>.+?)\s*"
    r"(?:\n|(?<=[.!?]))\s*(?:now,?\s+)?the\s+[\w ]{1,40}\s+ends?\b\.?\s*(?P<question>.+)\Z",
    re.IGNORECASE | re.DOTALL,
)
_LABELLED = re.compile(
    r"\A(?P<text>.+?)\s*\n\s*(?:question|q)\s*:\s*(?P<question>.+?)\s*(?:\n\s*)?\b(?:answer|a)\s*:\s*(?P<answer>.+)\Z",
    re.IGNORECASE | re.DOTALL,
)


def repeated(given: Given) -> Iterator[Outcome]:
    """The beginning of a text in 1 to `max_items` documents, and the same words as the answer."""
    for name, record in records(given.sources):
        key, text = str(record.get("id") or name), record.get("text")
        if not isinstance(text, str) or not text.strip():
            yield Left(key, "no text")
            continue
        draws = given.draws(f"repeat/{key}")
        documents = pieces(text)[: draws.randint(1, given.max_items)]
        request = draws.choice(REQUESTS).format("<document>" * len(documents) + " ").replace("  ", " ")
        yield chat(key, request.replace(" \n", "\n").replace(" ?", "?"), " ".join(documents), documents=documents)


def questions(given: Given) -> Iterator[Outcome]:
    """Questions about long texts: the text as documents, the question behind them."""
    for name, record in records(given.sources):
        key = str(record.get("id") or name)
        found = taken_apart(record)
        if found is None:
            yield Left(key, "no long text found")
            continue
        text, question, answer = found
        documents = pieces(text)
        if len(documents) > given.max_items:
            yield Left(key, "too long", f"{len(documents)} documents")
            continue
        yield chat(key, "<document>" * len(documents) + "\n" + question, answer, documents=documents)


def taken_apart(record: Mapping[str, Any]) -> tuple[str, str, str] | None:
    """(text, question, answer) of a record: {"instruction", "input"?, "output"}, or {"text"} with labelled parts.

    The text is what stands between a beginning and an end that the instruction announces, or else all but its last
    paragraph. None where there is no long text with a question.
    """
    if isinstance(record.get("text"), str):
        match = _LABELLED.match(record["text"].strip())
        parts = (match["text"], match["question"], match["answer"]) if match else ("", "", "")
    else:
        told, answer = str(record.get("instruction") or ""), str(record.get("output") or "")
        given = str(record.get("input") or "")
        match = _ENDED.search(told)
        if match:
            parts = (match["text"], match["question"], answer)
        elif given.strip():
            parts = (given, told, answer)
        else:
            text, _, question = told.strip().rpartition("\n")
            parts = (text, question, answer)
    text, question, answer = (part.strip() for part in parts)
    if len(text.split()) < LEAST_WORDS or not question or len(question) > MOST_ASKED or not answer:
        return None
    return text, question, answer


def pieces(text: str, *, max_words: int = MAX_WORDS) -> list[str]:
    """A text as documents of whole sentences, in order; a sentence beyond `max_words` is cut."""
    documents: list[list[str]] = [[]]
    for words in _sentences(text, max_words):
        if documents[-1] and len(documents[-1]) + len(words) > max_words:
            documents.append([])
        documents[-1].extend(words)
    return [" ".join(words) for words in documents if words]


def _sentences(text: str, max_words: int) -> Iterator[Sequence[str]]:
    for sentence in split_sentences(text):
        words = sentence.split()
        yield from (words[start : start + max_words] for start in range(0, len(words), max_words))
