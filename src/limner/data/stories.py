"""Illustrated stories and instructions over a catalogue of named pictures (the emoji set).

Owns the catalogue (`Library`), the English around a name, and the making of seven tasks. Assumes
names in simple English and subgroups as in Unicode's emoji list. Every Document is a pure function
of (index, seed, library), and a picture follows the words that name it. Data flow:

    shards -> Library of Records -> template and names by hash of (seed, index) -> Document

`story_text` explains the notation of the templates. A slot is filled with a name of one of its
kinds (`SLOT_KINDS`); within a Document no two slots share a concept.
"""

import json
import random
import re
import tarfile
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from limner.data.story_text import (
    CONVERSATION,
    DESCRIBE,
    DRAW,
    KIND_NAMES,
    KIND_SUBGROUPS,
    KIND_WORDS,
    MASS,
    NAMES,
    NEVER,
    OPENINGS,
    PAGES,
    PLAIN,
    PLOTS,
    PLURALS,
    PROPER,
    SLOT_KINDS,
    STORY_REQUESTS,
    UNIQUE,
    WEIGHTS,
    WORDS_ONLY_REQUESTS,
)
from limner.document.document import Document, Media, Part, Text
from limner.document.media import Image

_PHRASE = re.compile(r"\{(?:(?:new|a|the|this|words|kinds|kind|hint)_)?(\w+?)\}|\[(\w+)\]")
_AN = re.compile(r"(?!uni|eu|ewe|one\b|one-|use|ut)[aeiou]|hour|x-ray|honest|SOS|ID ")


@dataclass(frozen=True)
class TarMember:
    """Where a picture's encoded bytes lie in an uncompressed tar; read by `image` only."""

    path: Path
    offset: int
    size: int

    def read(self) -> bytes:
        """The member's bytes."""
        with self.path.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.size)

    def image(self) -> Image:
        """The picture. Raises ValueError when the bytes are none."""
        return Image.from_bytes(self.read(), name=f"{self.path.name}@{self.offset}")


@dataclass(frozen=True)
class Record:
    """One named picture; `source` is the picture itself or where it lies."""

    key: str
    name: str
    keywords: tuple[str, ...]
    concept: str
    style: str
    group: str
    subgroup: str
    source: TarMember | Image

    def image(self) -> Image:
        """The picture, read from its shard if it lies in one."""
        return self.source if isinstance(self.source, Image) else self.source.image()


class Library:
    """The records by name and by kind; the order of the records given does not matter.

    Raises ValueError when there is no record.
    """

    def __init__(self, records: Iterable[Record]) -> None:
        self.records = tuple(sorted(records, key=lambda record: (record.key, record.style)))
        if not self.records:
            raise ValueError("a library without records\nhint: check the shards and the styles")
        self.styles = tuple(sorted({record.style for record in self.records}))
        self.by_name: dict[str, list[Record]] = defaultdict(list)
        self.by_kind: dict[str, list[str]] = defaultdict(list)
        for record in self.records:
            self.by_name[record.name].append(record)
        self.names = tuple(sorted(self.by_name))
        for name in self.names:
            self.by_kind[kind_of(self.by_name[name][0])].append(name)

    @staticmethod
    def from_shards(paths: Iterable[str | Path], *, styles: Collection[str] | None = None) -> "Library":
        """Index webdataset tars: `key.json` (metadata) beside `key.webp`, `.png` or `.jpg`.

        The split is chosen by the shards given; `styles` None takes every style. Pictures stay on
        disk. Raises ValueError for a shard that is missing or has a sample without its picture.
        """
        records = (record for path in paths for record in _read_shard(Path(path)))
        return Library(record for record in records if styles is None or record.style in styles)

    def pool(self, slot: str, chosen: Mapping[str, str]) -> Sequence[str]:
        """The names that may fill a slot, given those already chosen for other slots."""
        if slot in ("any", "other"):
            return self.names
        if slot == "worded":
            return [name for name in self.names if len(self.by_name[name][0].keywords) > 1]
        if slot in ("alike", "third"):
            return self.by_kind[self.kind(chosen["thing"])]
        kinds = KIND_WORDS if slot == "thing" else SLOT_KINDS.get(slot, (slot,))
        return [name for kind in kinds for name in self.by_kind.get(kind, ())]

    def kind(self, name: str) -> str:
        """The kind of a name, or "" for a name that no plot uses."""
        return kind_of(self.by_name[name][0])

    def record(self, name: str, *, style: str) -> Record:
        """The picture of a name in a style, or in its first style when it has no such picture."""
        found = self.by_name[name]
        return next((record for record in found if record.style == style), found[0])


def _read_shard(path: Path) -> list[Record]:
    if not path.is_file():
        raise ValueError(f"no such shard: `{path}`\nhint: build the emoji data set first")
    fields: dict[str, dict] = {}
    sources: dict[str, TarMember] = {}
    with tarfile.open(path, "r:") as tar:
        for member in tar:
            key, _, ending = member.name.partition(".")
            if ending == "json":
                fields[key] = json.load(cast(IO[bytes], tar.extractfile(member)))
            elif ending in ("webp", "png", "jpg"):
                sources[key] = TarMember(path, member.offset_data, member.size)
    if missing := sorted(set(fields) - set(sources)):
        raise ValueError(f"shard `{path.name}` has no picture for `{missing[0]}`\nhint: build the shard again")
    plain = ("name", "concept", "style", "group", "subgroup")
    return [
        Record(
            key=key,
            keywords=tuple(data["keywords"]),
            source=sources[key],
            **{name: data[name] for name in plain},
        )
        for key, data in fields.items()
    ]


def kind_of(record: Record) -> str:
    """The kind that a record can fill slots of, or ""."""
    if record.name in NEVER or record.name.endswith(" face"):
        return ""
    if kind := _KIND_OF_NAME.get(record.name):
        return kind
    return _KIND_OF_SUBGROUP.get(record.subgroup, "")


_KIND_OF_NAME = {name: kind for kind, names in KIND_NAMES.items() for name in names}
_KIND_OF_SUBGROUP = {group: kind for kind, groups in KIND_SUBGROUPS.items() for group in groups}


def indefinite(name: str, *, some: str = "") -> str:
    """A name with "a" or "an" where English wants one; `some` stands before plurals and masses."""
    if name in PROPER:
        return name
    if name in UNIQUE:
        return f"the {name}"
    if name in PLURALS or name in MASS:
        return some + name
    return f"an {name}" if _AN.match(name) else f"a {name}"


def definite(name: str) -> str:
    """A name with "the" unless it is a proper name."""
    return name if name in PROPER else f"the {name}"


def _phrases(slot: str, name: str, library: Library) -> dict[str, str]:
    record = library.by_name[name][0]
    singular, plural, hint = KIND_WORDS.get(kind_of(record), ("picture", "pictures", "a picture"))
    return {
        slot: name,
        f"a_{slot}": indefinite(name),
        f"the_{slot}": definite(name),
        f"this_{slot}": ("these are " if name in PLURALS else "this is ") + indefinite(name),
        f"words_{slot}": ", ".join(record.keywords[:4]),
        f"kind_{slot}": indefinite(singular),
        f"kinds_{slot}": plural,
        f"hint_{slot}": hint,
    }


def _choose(templates: Iterable[str], library: Library, rng: random.Random) -> tuple[str, dict[str, str]]:
    """A random template which the library can fill, with a name for each of its slots."""
    for template in rng.sample(list(templates), len(list(templates))):
        slots = dict.fromkeys(a or b for a, b in _PHRASE.findall(template))
        chosen: dict[str, str] = {}
        for slot in slots:
            if slot == "opening":
                continue
            used = {library.by_name[name][0].concept for name in chosen.values()}
            pool = library.pool(slot, chosen)
            free = [name for name in pool if library.by_name[name][0].concept not in used]
            if not free:
                break
            chosen[slot] = rng.choice(free)
        else:
            return template, chosen
    raise ValueError(f"a library of {len(library.names)} names fills no template of this task\nhint: index more shards")


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _parts(text: str, phrases: Mapping[str, str], pictures: Mapping[str, Media], *, gap: str) -> tuple[Part, ...]:
    """One turn: filled text and pictures in order; `gap` parts a picture from the text after it."""
    is_sentence = any(mark in text for mark in ".?!")
    parts: list[Part] = []
    for index, piece in enumerate(re.split(r"\[(\w+)\]", text)):
        if index % 2:
            parts.append(pictures[piece])
        elif filled := piece.strip().format_map(phrases):
            before = next((part.text for part in parts[::-1] if isinstance(part, Text)), ".")
            starts = before[-1] in '.?!"' and is_sentence
            filled = _capital(filled) if starts else filled
            parts.append(Text((gap if parts else "") + filled))
    return tuple(parts)


def _pictures(chosen: Mapping[str, str], library: Library, rng: random.Random) -> dict[str, Media]:
    """A picture for every slot, all in one style where the names have it."""
    style = rng.choice(library.styles)
    records = {slot: library.record(name, style=style) for slot, name in chosen.items()}
    return {slot: Media(record.image(), alt=record.name) for slot, record in records.items()}


def _script(task: str, index: int, *, seed: int, library: Library, templates: Sequence[str]) -> Document:
    rng = random.Random(f"{task}/{seed}/{index}")
    template, chosen = _choose(templates, library, rng)
    phrases: dict[str, str] = {}
    for slot, name in chosen.items():
        phrases |= _phrases(slot, name, library)
    shown = {slot: name for slot, name in chosen.items() if f"[{slot}]" in template}
    pictures = _pictures(shown, library, rng)
    meta = {"task": task, "names": chosen, "template": template}
    turns = template.split(" || ")
    if len(turns) == 1:
        return Document.page(_parts(turns[0], phrases, pictures, gap=" "), meta=meta)
    return Document.chat(
        [
            ("assistant", _parts(turn, phrases, pictures, gap=" "))
            if number % 2
            else ("user", _parts(turn, phrases, pictures, gap=""))
            for number, turn in enumerate(turns)
        ],
        meta=meta,
    )


def draw(index: int, *, seed: int, library: Library, templates: Sequence[str] = DRAW) -> Document:
    """The user asks for a picture by name or by words; the assistant draws it."""
    return _script("draw", index, seed=seed, library=library, templates=templates)


def describe(index: int, *, seed: int, library: Library, templates: Sequence[str] = DESCRIBE) -> Document:
    """The user shows a picture and asks what it is, its kind, its words, or yes or no."""
    return _script("describe", index, seed=seed, library=library, templates=templates)


def plain(index: int, *, seed: int, library: Library) -> Document:
    """A question that needs no picture, answered in words only."""
    return _script("plain", index, seed=seed, library=library, templates=PLAIN)


def conversation(index: int, *, seed: int, library: Library) -> Document:
    """Several pictures or turns, where a later one refers back to an earlier one."""
    return _script("conversation", index, seed=seed, library=library, templates=CONVERSATION)


def page(index: int, *, seed: int, library: Library) -> Document:
    """A short illustrated list, as a page without roles or on request."""
    return _script("page", index, seed=seed, library=library, templates=PAGES)


def tell(plot: Sequence[str], chosen: Mapping[str, str], *, library: Library, rng: random.Random) -> tuple[str, ...]:
    """The sentences of a plot with its slots filled; `[slot]` marks stay in their places.

    The hero gets a proper name in two stories of five.
    """
    phrases = {"opening": rng.choice(OPENINGS)}
    for slot, name in chosen.items():
        phrases |= _phrases(slot, name, library) | {f"a_{slot}": indefinite(name, some="some ")}
    phrases["new_hero"] = phrases["a_hero"]
    if rng.random() < 0.4 and chosen["hero"] not in PROPER:
        phrases["the_hero"] = rng.choice(NAMES)
        phrases["new_hero"] += f" named {phrases['the_hero']}"
    return tuple(_capital(line.format_map(phrases)) for line in plot)


def story(index: int, *, seed: int, library: Library, requests: Sequence[str] = STORY_REQUESTS) -> Document:
    """The user asks for an illustrated story; each picture follows the sentence that names it."""
    rng = random.Random(f"story/{seed}/{index}")
    topic, lines, chosen, meta = _plan(library, rng)
    shown = {slot: name for slot, name in chosen.items() if f"[{slot}]" in " ".join(lines)}
    pictures = _pictures(shown, library, rng)
    answer = _parts(" ".join(lines), {}, pictures, gap=" ")
    request = rng.choice(requests).format(topic=topic)
    return Document.chat([("user", request), ("assistant", answer)], meta={"task": "story", **meta})


def words_only(index: int, *, seed: int, library: Library) -> Document:
    """The user asks for a story without pictures and gets words alone."""
    rng = random.Random(f"words_only/{seed}/{index}")
    topic, lines, _, meta = _plan(library, rng)
    answer = re.sub(r" \[\w+\]", "", " ".join(lines))
    request = rng.choice(WORDS_ONLY_REQUESTS).format(topic=topic)
    meta = {"task": "words_only", **meta}
    return Document.chat([("user", request), ("assistant", answer)], meta=meta)


def _plan(library: Library, rng: random.Random) -> tuple[str, tuple[str, ...], dict[str, str], dict[str, object]]:
    """(topic of the request, sentences with picture marks, slot -> name, meta) of a new story."""
    template, chosen = _choose(["\n".join(plot) for plot in PLOTS], library, rng)
    lines = tell(template.split("\n"), chosen, library=library, rng=rng)
    subjects = [chosen["hero"]]
    if rng.random() < 0.7:
        others = [slot for slot in chosen if slot != "hero" and f"[{slot}]" in template]
        subjects.append(chosen[rng.choice(others)])
    topic = " and ".join(indefinite(name, some="some ") for name in subjects)
    number = next(n for n, plot in enumerate(PLOTS) if "\n".join(plot) == template)
    return topic, lines, chosen, {"plot": number, "names": chosen}


TASKS = {
    "story": story, "words_only": words_only, "plain": plain, "draw": draw,
    "describe": describe, "conversation": conversation, "page": page,
}  # fmt: skip


def document(index: int, *, seed: int, library: Library, weights: Mapping[str, int | float] = WEIGHTS) -> Document:
    """The training Document at `index`: a task by hash of (seed, index), in the given proportions.

    Raises ValueError for a task that does not exist.
    """
    if unknown := sorted(set(weights) - set(TASKS)):
        raise ValueError(f"no such task: {unknown}, expected some of {sorted(TASKS)}\nhint: see WEIGHTS")
    rng = random.Random(f"task/{seed}/{index}")
    task = rng.choices(list(weights), weights=list(weights.values()))[0]
    return TASKS[task](index, seed=seed, library=library)
