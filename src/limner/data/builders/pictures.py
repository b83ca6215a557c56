"""Rows about pictures, from LLaVA's published JSON: its conversations as they are, and questions about several.

{"id", "image"?, "conversations": [{"from": "human" | "gpt", "value"}]}
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from limner.data.builders.building import Given, Left, Outcome, Row, exercise
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
    for found in placed(given):
        if isinstance(found, Left):
            yield found
        elif not found.asked:
            yield found.row
        elif found.place is None:
            yield Left(found.key, "missing file", found.asked)
        else:
            yield {**found.row, "images": [found.place]}


class Placed(NamedTuple):
    """A conversation, the picture that it asks for ("" for none), and where that lies (None where it is missing)."""

    key: str
    row: Row
    asked: str
    place: str | None


def placed(given: Given) -> Iterator[Placed | Left]:
    """The conversations of all sources, with the places of their pictures."""
    for name, record in records(given.sources):
        key = str(record.get("id") or name)
        row = conversation(record, key=key)
        if isinstance(row, Left):
            yield row
            continue
        asked = str(record.get("image") or "")
        yield Placed(key, row, asked, given.found(asked, doubled(asked)))


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
        comes_first, mark = draws.random() < 0.5, "<image>" * len(images)
        yield exercise(key, mark, system=SEVERAL, told=told, comes_first=comes_first, images=images)


def _captioned(given: Given) -> Iterator[tuple[str, str, str] | Left]:
    """(name, picture, caption) of every record with a picture that is there and a last turn that tells of it."""
    for found in placed(given):
        if isinstance(found, Left):
            yield found
            continue
        caption = found.row["messages"][-1]["content"].strip()
        if found.place is None:
            yield Left(found.key, "missing file", found.asked)
        elif not caption:
            yield Left(found.key, "no text")
        else:
            yield found.key, found.place, caption
