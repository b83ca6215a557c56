"""Packing: which sequences share a row. Order-preserving first fit, a pure function of the lengths in their order."""

from typing import Generic, TypeVar

Item = TypeVar("Item")


class FirstFit(Generic[Item]):
    """Rows of at most `row_length`, filled one item after another; the first that fits nowhere ends the batch."""

    def __init__(self, *, row_length: int, num_rows: int) -> None:
        self.room = [row_length] * num_rows
        self._rows: list[list[Item]] = [[] for _ in range(num_rows)]

    def place(self, item: Item, length: int) -> bool:
        """Put an item into the first row with room; False when none has."""
        for number, room in enumerate(self.room):
            if room >= length:
                self._rows[number].append(item)
                self.room[number] -= length
                return True
        return False

    @property
    def rows(self) -> list[list[Item]]:
        """Items per row, rows without any left out."""
        return [row for row in self._rows if row]
