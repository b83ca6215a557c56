"""First fit: nothing is lost, nothing overflows, the order decides."""

from hypothesis import given
from hypothesis import strategies as st

from limner.data.packing import FirstFit


def packed(lengths: list[int], *, row_length: int, num_rows: int) -> list[list[int]]:
    """Indices per row of the longest beginning that fits."""
    packing: FirstFit[int] = FirstFit(row_length=row_length, num_rows=num_rows)
    for index, length in enumerate(lengths):
        if not packing.place(index, length):
            break
    return packing.rows


@given(st.lists(st.integers(1, 10), max_size=30), st.integers(10, 25), st.integers(1, 5))
def test_rows_hold_the_longest_beginning_that_fits(lengths: list[int], row_length: int, num_rows: int) -> None:
    rows = packed(lengths, row_length=row_length, num_rows=num_rows)
    placed = sorted(index for row in rows for index in row)
    assert placed == list(range(len(placed)))
    assert len(rows) <= num_rows
    assert all(row == sorted(row) and row for row in rows)
    used = [sum(lengths[index] for index in row) for row in rows] + [0] * (num_rows - len(rows))
    assert max(used) <= row_length
    if len(placed) < len(lengths):
        assert min(used) + lengths[len(placed)] > row_length


def test_a_short_document_fills_the_gap_of_an_earlier_row() -> None:
    assert packed([6, 7, 4, 3, 1], row_length=10, num_rows=2) == [[0, 2], [1, 3]]
