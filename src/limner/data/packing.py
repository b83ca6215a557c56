"""Packing: which sequences share a row. Order-preserving first fit, a pure function of the lengths in their order."""

from collections.abc import Sequence as Items


def first_fit(lengths: Items[int], *, row_length: int, num_rows: int) -> list[list[int]]:
    """Indices per row for the longest beginning of `lengths` that fits into `num_rows` rows of `row_length`.

    Each length goes into the first row with room; the first that fits nowhere ends the batch, so that the order of the
    data is kept. Every length must be at most `row_length`.
    """
    rows: list[list[int]] = [[] for _ in range(num_rows)]
    room = [row_length] * num_rows
    for index, length in enumerate(lengths):
        row = next((row for row in range(num_rows) if room[row] >= length), None)
        if row is None:
            break
        rows[row].append(index)
        room[row] -= length
    return [row for row in rows if row]
