"""The only home of token ids.

A language model brings `base_size` rows of its own. Modalities ask for further tokens by role ("image.out.begin"); one
that is said in codes asks for a block of consecutive ids besides, one per row of its codebook, and for no slot: codes
are said like words. The result is one frozen table, saved with the checkpoint. Ids of imported checkpoints are read
from their files and put in the same table, so no other module ever assumes one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple

from limner.document.document import Direction


class SpanTokens(NamedTuple):
    """Ids around a span: `begin`, `slot` (one per row, overwritten by features or queries), `end`."""

    begin: int
    slot: int
    end: int


def span_roles(modality: str, directions: Sequence[Direction]) -> list[str]:
    """The roles a modality asks for: begin, slot and end in each of its directions."""
    return [f"{modality}.{direction}.{kind}" for direction in directions for kind in ("begin", "slot", "end")]


def edge_roles(modality: str) -> list[str]:
    """The roles around an item that is said in codes: begin and end."""
    return [f"{modality}.{Direction.OUT}.{kind}" for kind in ("begin", "end")]


@dataclass(frozen=True)
class Vocabulary:
    """Role -> id. Ids from `base_size` on are rows that were added to the language model.

    Ids below it are rows of the language model itself: those of an imported checkpoint all are, and none is added.
    `codes`: of each modality that is said in codes, the id of its first code and how many there are.
    """

    base_size: int
    ids: Mapping[str, int]
    codes: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # Slots are overwritten, so they may share a row (imported checkpoints do); nothing else may, but the edges of
        # what a modality reads and says may be the same tokens.
        own = {(token, _without_direction(role)) for role, token in self.ids.items() if not role.endswith(".slot")}
        tokens = [token for token, _ in own]
        slots = {token for role, token in self.ids.items() if role.endswith(".slot")}
        if len(set(tokens)) != len(tokens) or slots & set(tokens):
            raise ValueError(
                f"two roles share a token id: {dict(self.ids)}\nhint: every role but a slot needs an id of its own"
            )
        self._check_codes()

    def _check_codes(self) -> None:
        """Raise ValueError for blocks that overlap one another, roles or the edge between old and new rows."""
        blocks = sorted((first, first + number, name) for name, (first, number) in self.codes.items())
        for (_, end, name), (first, _, other) in pairwise(blocks):
            if first < end:
                raise ValueError(f"the codes of `{name}` and `{other}` overlap\nhint: give each block ids of its own")
        for first, end, name in blocks:
            if first < self.base_size < end:
                raise ValueError(f"the codes of `{name}` are old rows and new ones\nhint: begin at {self.base_size}")
            if taken := [role for role, token in self.ids.items() if first <= token < end]:
                raise ValueError(f"`{taken[0]}` lies within the codes of `{name}`\nhint: give it an id of its own")
            if missing := [role for role in edge_roles(name) if role not in self.ids]:
                raise ValueError(f"the codes of `{name}` need the role `{missing[0]}`\nhint: ask for `edge_roles`")

    @staticmethod
    def grow(base_size: int, *, roles: Sequence[str], codes: Mapping[str, int] | None = None) -> "Vocabulary":
        """Give each role the next free id after the language model's own rows, then each modality of `codes` a block of
        as many ids as it says."""
        ids = {role: base_size + index for index, role in enumerate(roles)}
        blocks: dict[str, tuple[int, int]] = {}
        first = base_size + len(roles)
        for name, number in (codes or {}).items():
            blocks[name] = (first, number)
            first += number
        return Vocabulary(base_size, ids, blocks)

    @property
    def num_added(self) -> int:
        """Rows added to the language model."""
        roles = len({token for token in self.ids.values() if token >= self.base_size})
        return roles + sum(number for first, number in self.codes.values() if first >= self.base_size)

    def code_ids(self, modality: str) -> range:
        """Ids of a modality's codes: code c is said by the c-th."""
        first, number = self.codes[modality]
        return range(first, first + number)

    def edges(self, modality: str) -> tuple[int, int]:
        """Ids of the begin and end token around an item that is said in codes."""
        begin, end = (self.ids[role] for role in edge_roles(modality))
        return begin, end

    def is_coded(self, modality: str, direction: Direction) -> bool:
        """Whether a span is written as codes: what is made so always is, what is read where it has no slots to read."""
        if modality not in self.codes:
            return False
        return direction is Direction.OUT or f"{modality}.{direction}.slot" not in self.ids

    def span(self, modality: str, direction: Direction) -> SpanTokens:
        """The ids around a span. Raises ValueError when the model has no such modality or direction."""
        try:
            return SpanTokens(*(self.ids[f"{modality}.{direction}.{kind}"] for kind in ("begin", "slot", "end")))
        except KeyError:
            known = sorted({role.rsplit(".", 1)[0] for role in self.ids})
            raise ValueError(
                f"the model has no `{modality}` in the direction `{direction}`; it has {', '.join(known) or 'none'}\n"
                "hint: leave that media part out, or use a model that was built with it"
            ) from None

    def bare_slot(self, modality: str, direction: Direction) -> int | None:
        """The id at the slots of a span that has neither begin nor end token; None where it has them, or is unknown.

        Such an id may be negative: no token at all, but a place for rows that features will overwrite.
        """
        role = f"{modality}.{direction}"
        return None if f"{role}.begin" in self.ids else self.ids.get(f"{role}.slot")

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready dictionary."""
        codes = {"codes": {name: list(block) for name, block in self.codes.items()}} if self.codes else {}
        return {"base_size": self.base_size, "ids": dict(self.ids), **codes}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> "Vocabulary":
        """Read what `to_json` wrote."""
        blocks = {name: (int(first), int(number)) for name, (first, number) in data.get("codes", {}).items()}
        return Vocabulary(int(data["base_size"]), {role: int(token) for role, token in data["ids"].items()}, blocks)


def _without_direction(role: str) -> str:
    """`image.begin` of `image.out.begin`."""
    modality, _, kind = role.split(".") if role.count(".") == 2 else (role, "", "")
    return f"{modality}.{kind}"
