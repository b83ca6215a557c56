"""The only home of token ids.

A language model brings `base_size` rows of its own. Modalities ask for further tokens by role ("image.out.begin"); the
result is one frozen table, saved with the checkpoint. Ids of imported checkpoints are read from their files and put in
the same table, so no other module ever assumes one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Vocabulary:
    """Role -> id. Ids from `base_size` on are rows that were added to the language model.

    Ids below it are rows of the language model itself: those of an imported checkpoint all are, and none is added.
    """

    base_size: int
    ids: Mapping[str, int]

    def __post_init__(self) -> None:
        # Slots are overwritten, so they may share a row (imported checkpoints do); nothing else may.
        own = [token for role, token in self.ids.items() if not role.endswith(".slot")]
        slots = {token for role, token in self.ids.items() if role.endswith(".slot")}
        if len(set(own)) != len(own) or slots & set(own):
            raise ValueError(
                f"two roles share a token id: {dict(self.ids)}\nhint: every role but a slot needs an id of its own"
            )

    @staticmethod
    def grow(base_size: int, *, roles: Sequence[str]) -> "Vocabulary":
        """Give each role the next free id after the language model's own rows."""
        return Vocabulary(base_size, {role: base_size + index for index, role in enumerate(roles)})

    @property
    def num_added(self) -> int:
        """Rows added to the language model."""
        return len({token for token in self.ids.values() if token >= self.base_size})

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
        return {"base_size": self.base_size, "ids": dict(self.ids)}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> "Vocabulary":
        """Read what `to_json` wrote."""
        return Vocabulary(int(data["base_size"]), {role: int(token) for role, token in data["ids"].items()})
