"""Training samples exactly as the published DreamLLM made them: ids, labels and pictures of every kind of record.

Parity only: some of what it does is a mistake that is reproduced on purpose (the dream token is no target in pairs and
conversations, cut documents end with a stop token, a cut at a picture keeps too little). What Limner itself trains on
is rendered by `limner.tokens`. Assumes a tokenizer that splits special tokens; pictures are names, kept in order.

    record --build (kind, mode)--> LegacySample(ids, labels, read, made) --collate--> right-padded rows
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from limner.compositions.dreamllm_model import VICUNA_SYSTEM
from limner.compositions.sentencepiece_text import SentencePieceText
from limner.tokens.batch import IGNORED

ROLES = ("USER", "ASSISTANT")
PRETOKENISED = {32000: "<im_patch>", 32001: "<im_start>", 32002: "<im_end>"}
"""Ids of picture tokens in records that were tokenised beforehand, whatever the checkpoint's own ids are."""

Record = Mapping[str, Any]


@dataclass(frozen=True)
class LegacySample:
    """`labels[i]` is the id at i where it is a target, else IGNORED. `read` and `made` name pictures in span order."""

    ids: tuple[int, ...]
    labels: tuple[int, ...]
    read: tuple[str, ...] = ()
    made: tuple[str, ...] = ()


@dataclass(frozen=True)
class LegacyBatch:
    """Right-padded rows and the pictures of all rows in order."""

    ids: Int[Tensor, "batch seq"]
    mask: Int[Tensor, "batch seq"]
    labels: Int[Tensor, "batch seq"]
    read: tuple[str, ...] = ()
    made: tuple[str, ...] = ()


@dataclass
class _Rows:
    """A sample that grows."""

    ids: list[int] = field(default_factory=list)
    read: list[str] = field(default_factory=list)
    made: list[str] = field(default_factory=list)


class SampleBuilder:
    """Records -> samples. `num_patches` slots of a picture that is read, `num_queries` of a made one (0: none)."""

    def __init__(self, tokenizer: SentencePieceText, *, num_patches: int, num_queries: int, max_length: int) -> None:
        self.tokenizer = tokenizer
        self.max_length = max_length
        of = tokenizer.id_of
        self.begin, self.end = of(tokenizer.begin), of(tokenizer.end)
        slot = of("<im_patch>")
        self.reading = [of("<im_start>"), *[slot] * num_patches, of("<im_end>")]
        self.making = [of("<dream_start>"), *[slot] * num_queries, of("<dream_end>")] if num_queries else []
        self.unlabelled = {*self.reading, *self.making[1:]}

    def build(self, kind: str, record: Record, *, mode: str = "joint", draw: float = 1.0) -> LegacySample:
        """The sample of a record.

        `mode` is "joint", "comprehension_only" or "creation_only"; in joint mode a pair is read where the uniform
        `draw` is at least 0.5, else made. Raises ValueError for a kind or mode that the original did not have.
        """
        if kind == "image_text_pair":
            reads = mode == "comprehension_only" or (mode == "joint" and draw >= 0.5)
            return (self._read_pair if reads else self._made_pair)(record)
        builders: dict[str, Callable[[], LegacySample]] = {
            "image_image_pair": lambda: self._image_pair(record),
            "image_text_token_pair": lambda: self._token_pair(record),
            "interleaved": lambda: self._interleaved(record, mode=mode),
            "instruct_interleaved": lambda: self._interleaved(record, mode=mode),
            "conversation": lambda: self.conversation(record),
        }
        if kind not in builders or mode not in ("joint", "comprehension_only", "creation_only"):
            known = ", ".join(["image_text_pair", *builders])
            raise ValueError(f"a sample of the kind `{kind}` in the mode `{mode}`\nhint: kinds are {known}")
        return builders[kind]()

    def _read_pair(self, record: Record) -> LegacySample:
        text = self.tokenizer.prompt_ids(record["text"], max_length=self.max_length - len(self.reading) - 1)
        ids = [text[0], *self.reading, *text[1:], self.end]
        return LegacySample(tuple(ids), self._labels(ids), read=(record["image"],))

    def _made_pair(self, record: Record) -> LegacySample:
        text = self.tokenizer.prompt_ids(record["text"], max_length=self.max_length - len(self.making) - 1)
        ids = [*text, *self.making, self.end]
        return LegacySample(tuple(ids), (IGNORED,) * len(ids), made=(record["image"],))

    def _image_pair(self, record: Record) -> LegacySample:
        ids = [self.begin, *self.reading, *self.making, self.end]
        return LegacySample(tuple(ids), (IGNORED,) * len(ids), read=(record["source"],), made=(record["target"],))

    def _token_pair(self, record: Record) -> LegacySample:
        remapped = {old: self.tokenizer.id_of(name) for old, name in PRETOKENISED.items()}
        recorded: list[int] = record["input_ids"]
        ids = [remapped.get(token, token) for token in recorded]
        labels = [token if kept else IGNORED for token, kept in zip(ids, record["label_mask"], strict=True)]
        return LegacySample(tuple(ids), tuple(labels), read=(record["image"],))

    def _interleaved(self, record: Record, *, mode: str) -> LegacySample:
        """A document: merged texts, each followed by its pictures, until one does not fit."""
        instruction = record.get("instruction")
        prefix = [self.begin]
        if instruction is not None:
            prefix = self.tokenizer.prompt_ids(prompt_of([instruction, None]))
        # The begin token alone was not counted, a whole prompt was.
        counted = len(prefix) if instruction is not None else 0
        block = [*(self.making if mode != "comprehension_only" else ())]
        block += self.reading if mode != "creation_only" else []
        rows = _Rows()
        images = list(record["images"])
        for place, chunk in enumerate(merged_texts(record["texts"], matched=record["matched_text_index"])):
            text = self.tokenizer.markup_ids(chunk)
            if counted + len(rows.ids) + len(text) + 2 > self.max_length:
                break
            rows.ids += text
            if place >= len(images):
                continue
            if counted + len(rows.ids) + len(block) + 2 > self.max_length:
                break
            rows.ids += block
            rows.read += images[place : place + 1] if mode != "creation_only" else []
            rows.made += images[place : place + 1] if mode != "comprehension_only" else []
        begin = [IGNORED] * len(prefix) if instruction is not None else prefix
        ids = [*prefix, *rows.ids, self.end]
        labels = (*begin, *self._labels(ids[len(prefix) :]))
        return LegacySample(tuple(ids), labels, tuple(rows.read), tuple(rows.made))

    def _labels(self, ids: Sequence[int]) -> tuple[int, ...]:
        """Every id is a target but those of picture blocks; the token that begins a picture is one."""
        return tuple(IGNORED if token in self.unlabelled else token for token in ids)

    def conversation(self, record: Record) -> LegacySample:
        """A conversation in the LLaVA format: assistant's turns are targets, pictures never."""
        turns, pictures = turns_of(record)
        prompt = prompt_of(turns)
        ids = self.tokenizer.prompt_ids(prompt)
        labels = self._turn_labels(prompt, ids)
        image, dream = self._special("<image>"), self._special("<dream>")
        named = iter(pictures)
        order = [(token == dream, next(named, None)) for token in ids if token in (image, dream)]
        ids, labels = self._replaced(ids, labels, placeholder=image, block=self.reading)
        ids, labels = self._replaced(ids, labels, placeholder=dream, block=[*self.making, *self.reading])
        # A placeholder that was cut off takes its picture with it.
        kept = order[: ids.count(self.reading[0])]
        if any(name is None for _, name in kept):
            raise ValueError(
                f"a conversation has {len(order)} placeholders and {len(pictures)} pictures\n"
                "hint: every <image> and <dream> needs a picture"
            )
        read = tuple(str(name) for _, name in kept)
        made = tuple(str(name) for is_made, name in kept if is_made)
        return LegacySample(tuple(ids), tuple(labels), read, made)

    def _special(self, token: str) -> int | None:
        return self.tokenizer.id_of(token) if token in self.tokenizer.special else None

    def _turn_labels(self, prompt: str, ids: Sequence[int]) -> list[int]:
        """Targets found as the original found them: by tokenising every round again.

        A round that the role's name splits elsewhere ends the search, and all that follows stays a target.
        """
        labels = list(ids)
        labels[0] = IGNORED
        separator = f" {ROLES[1]}: "
        place = 1
        for number, round_text in enumerate(prompt.split(self.tokenizer.end)):
            parts = round_text.split(separator)
            if not round_text or len(parts) != 2:
                break
            # Off by one where "▁" and the role's name are one token: then the colon stays a target.
            surplus = 0 if self.tokenizer.legacy or number == 0 else 1
            asked = len(self.tokenizer.prompt_ids(parts[0] + separator)) - 2 - surplus
            stop = min(place + asked, len(labels))
            labels[place:stop] = [IGNORED] * (stop - place)
            place += len(self.tokenizer.prompt_ids(round_text)) - surplus
        return labels

    def _replaced(
        self, ids: Sequence[int], labels: Sequence[int], *, placeholder: int | None, block: Sequence[int]
    ) -> tuple[list[int], list[int]]:
        """Blocks in the place of placeholders, cut to `max_length` as the original cut.

        A block that does not fit leaves only as many ids as were free, from the front; one that ends exactly at the
        limit lifts it for what follows.
        """
        if placeholder is None or placeholder not in ids:
            return list(ids), list(labels)
        found: list[int] = []
        kept: list[int] = []
        limit: float = self.max_length
        for token, label in zip(ids, labels, strict=True):
            size = len(block) if token == placeholder else 1
            if len(found) + size > limit:
                if token != placeholder:
                    break
                free = int(limit) - len(found)
                return found[:free], kept[:free]
            found += block if token == placeholder else [token]
            kept += [IGNORED] * size if token == placeholder else [label]
            if token == placeholder and len(found) == limit:
                limit = float("inf")
        return found, kept


def prompt_of(turns: Sequence[str | None]) -> str:
    """A conversation as text, in the Vicuna v1.1 template; None leaves the last turn open."""
    text = VICUNA_SYSTEM + " "
    for place, turn in enumerate(turns):
        role, after = (ROLES[1], "</s>") if place % 2 else (ROLES[0], " ")
        text += f"{role}:" if turn is None else f"{role}: {turn}{after}"
    return text


def turns_of(record: Record) -> tuple[list[str], list[str]]:
    """Texts of a LLaVA record, from its first human turn on, and its pictures in order of placeholders."""
    turns = list(record["conversations"])
    if turns and turns[0]["from"] not in ("human", "user"):
        turns = turns[1:]
    pictures: list[str] = []
    for turn in turns:
        placeholders = sum(turn["value"].count(token) for token in ("<image>", "<dream>"))
        if "image" in record:
            pictures += [record["image"]] * placeholders
        else:
            pictures += [name for _, names in turn.get("modal_info", {}).values() for name in names]
    return [turn["value"] for turn in turns], pictures


def merged_texts(texts: Sequence[str], *, matched: Sequence[int]) -> list[str]:
    """One text per picture, up to and with the one that it belongs to, and what is left over."""
    texts = [text.strip() for text in texts]
    merged, before = [], 0
    for index in matched:
        merged.append(" ".join(texts[before : index + 1]))
        before = max(before, index + 1)
    return [*merged, " ".join(texts[before:])]


def collate(samples: Sequence[LegacySample], *, pad_id: int) -> LegacyBatch:
    """Right-padded rows; pictures in row order."""
    length = max(len(sample.ids) for sample in samples)
    pad = [length - len(sample.ids) for sample in samples]
    pairs = list(zip(samples, pad, strict=True))
    return LegacyBatch(
        ids=torch.tensor([[*sample.ids, *[pad_id] * missing] for sample, missing in pairs]),
        mask=torch.tensor([[1] * len(sample.ids) + [0] * missing for sample, missing in pairs]),
        labels=torch.tensor([[*sample.labels, *[IGNORED] * missing] for sample, missing in pairs]),
        read=tuple(name for sample in samples for name in sample.read),
        made=tuple(name for sample in samples for name in sample.made),
    )
