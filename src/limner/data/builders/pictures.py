"""Rows about pictures, from LLaVA's published JSON: its conversations as they are, and questions about several.

{"id", "image"?, "conversations": [{"from": "human" | "gpt", "value"}]}
"""

from collections.abc import Iterator, Mapping
from typing import Any

from limner.data.builders.building import Given, Left, Outcome, Question, Row, chat, written
from limner.data.builders.records import records
from limner.data.formats.conversations import SPEAKERS

SEVERAL = (
    "You write exercises for a model that looks at pictures. You are told in a line each what the pictures "
    "show. Write one question that can only be answered by looking at more than one of them (what they share,"
    " what sets them apart, which of them something is true of) and its answer in one to three sentences, as "
    "if you saw the pictures yourself: never speak of lines, texts or descriptions. Call them picture 1, "
    'picture 2 and so on, in the order given. Answer with a JSON object and nothing else: {"question": "...",'
    ' "answer": "..."}'
)


def conversations(given: Given) -> Iterator[Outcome]:
    """Every conversation, its content to the letter; those without a picture too."""
    for name, record in records(given.sources):
        key = str(record.get("id") or name)
        row = conversation(record, key=key)
        if isinstance(row, Left) or not record.get("image"):
            yield row
            continue
        asked = str(record["image"])
        place = given.found(asked, doubled(asked))
        if place is None:
            yield Left(key, "missing file", asked)
            continue
        yield {**row, "images": [place]}


def conversation(record: Mapping[str, Any], *, key: str) -> Row | Left:
    """The turns of a published conversation as a row without items."""
    turns = record.get("conversations")
    if not isinstance(turns, list) or not turns:
        return Left(key, "no conversation")
    messages = []
    for turn in turns:
        role, content = SPEAKERS.get(str(turn.get("from"))), turn.get("value")
        if role is None or not isinstance(content, str):
            return Left(key, "no conversation", f"a turn is {turn!r:.60}")
        messages.append({"role": role, "content": content})
    return {"id": key, "messages": messages}


def doubled(name: str) -> str:
    """Where a picture lies when its archive was unpacked into a folder of the archive's own name."""
    first, _, rest = name.partition("/")
    second, _, last = rest.partition("/")
    return f"{first}/{second}/{second}/{last}" if last else ""


def several(given: Given) -> Iterator[Outcome]:
    """Questions about 1 to `max_items` pictures at once, one for every captioned picture as the first of them."""
    captioned = list(_captioned(given))
    pairs = [pair for pair in captioned if not isinstance(pair, Left)]
    yield from (pair for pair in captioned if isinstance(pair, Left))
    for number, (key, _, _) in enumerate(pairs):
        draws = given.draws(f"several/{key}")
        count = min(draws.randint(1, given.max_items), len(pairs))
        others = draws.sample([place for place in range(len(pairs)) if place != number], count - 1) if count > 1 else []
        chosen = [pairs[place] for place in (number, *others)]
        told = "\n".join(f"Picture {place}: {caption}" for place, (_, _, caption) in enumerate(chosen, start=1))
        images = [image for _, image, _ in chosen]
        yield _question(key, told, images, comes_first=draws.random() < 0.5)


def _question(key: str, told: str, images: list[str], *, comes_first: bool) -> Question:
    shown = "<image>" * len(images)

    def finish(answer: Mapping[str, Any]) -> Row:
        question, reply = written(answer, "question", "answer")
        return chat(key, f"{shown}\n{question}" if comes_first else f"{question}\n{shown}", reply, images=images)

    return Question(key, ({"role": "system", "content": SEVERAL}, {"role": "user", "content": told}), finish)


def _captioned(given: Given) -> Iterator[tuple[str, str, str] | Left]:
    """(name, picture, caption) of every record with a picture that is there and a last turn that tells of it."""
    for name, record in records(given.sources):
        key = str(record.get("id") or name)
        row = conversation(record, key=key)
        if isinstance(row, Left):
            yield row
            continue
        asked = str(record.get("image") or "")
        place = given.found(asked, doubled(asked))
        caption = row["messages"][-1]["content"].strip()
        if place is None:
            yield Left(key, "missing file", asked)
        elif not caption:
            yield Left(key, "no text")
        else:
            yield key, place, caption
