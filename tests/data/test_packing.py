"""Packing: nothing is lost or doubled, nothing overflows, the order rules hold, hardly a place is wasted."""

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limner.data.packing import BestFit, NextFit, OneEach, Packing, Size

ROOM = Size(tokens=20, items=4)
sizes_of_documents = st.lists(st.builds(Size, st.integers(1, ROOM.tokens), st.integers(0, ROOM.items)), max_size=60)
each_packing = pytest.mark.parametrize(
    "packing", [NextFit(), BestFit(), OneEach()], ids=lambda packing: type(packing).__name__
)


def _total(sizes: list[Size], row: list[int]) -> Size:
    return Size(sum(sizes[index].tokens for index in row), sum(sizes[index].items for index in row))


@each_packing
@given(sizes=sizes_of_documents)
def test_every_document_stands_once_and_no_row_holds_more_than_it_may(packing: Packing, sizes: list[Size]) -> None:
    rows = packing.rows(sizes, room=ROOM)
    assert sorted(index for row in rows for index in row) == list(range(len(sizes)))
    assert all(row and _total(sizes, row).fits(ROOM) for row in rows)


@each_packing
@given(sizes=sizes_of_documents)
def test_documents_of_a_row_keep_their_order_and_rows_come_by_their_first(packing: Packing, sizes: list[Size]) -> None:
    rows = packing.rows(sizes, room=ROOM)
    assert all(row == sorted(row) for row in rows)
    assert [row[0] for row in rows] == sorted(row[0] for row in rows)


@given(sizes=sizes_of_documents)
def test_next_fit_keeps_the_whole_order_and_leaves_only_gaps_that_the_next_could_not_fill(sizes: list[Size]) -> None:
    rows = NextFit().rows(sizes, room=ROOM)
    assert [index for row in rows for index in row] == list(range(len(sizes)))
    for row, following in itertools.pairwise(rows):
        assert not _total(sizes, [*row, following[0]]).fits(ROOM)


@given(sizes=sizes_of_documents)
def test_best_fit_opens_no_row_that_another_one_could_have_taken_in(sizes: list[Size]) -> None:
    rows = BestFit().rows(sizes, room=ROOM)
    if max((size.items for size in sizes), default=0) == 0:
        # At most one row is half empty or emptier, as for any such packing.
        assert sum(_total(sizes, row).tokens * 2 <= ROOM.tokens for row in rows) <= 1


def test_best_fit_fills_what_next_fit_leaves_open() -> None:
    sizes = [Size(length) for length in (6, 7, 4, 3, 1)]
    assert NextFit().rows(sizes, room=Size(10)) == [[0], [1], [2, 3, 4]]
    assert BestFit().rows(sizes, room=Size(10)) == [[0, 2], [1, 3], [4]]


def test_a_row_is_full_when_its_items_are() -> None:
    sizes = [Size(1, 2), Size(1, 2), Size(1, 0), Size(1, 1)]
    assert NextFit().rows(sizes, room=Size(100, 3)) == [[0], [1, 2, 3]]
    assert BestFit().rows(sizes, room=Size(100, 3)) == [[0, 2, 3], [1]]


def _captions(choice: random.Random) -> int:
    """A picture of 64 rows and a caption."""
    return 68 + min(180, round(choice.lognormvariate(3.0, 0.7)))


def _chats(choice: random.Random) -> int:
    """None or one picture of 576 rows, and a conversation."""
    return choice.choice([0, 576, 576]) + min(1400, 30 + round(choice.lognormvariate(5.0, 0.9)))


def _pages(choice: random.Random) -> int:
    """Up to five pictures of 64 rows between paragraphs."""
    return sum(66 + min(300, round(choice.lognormvariate(4.0, 0.8))) for _ in range(choice.randint(1, 5)))


def _mixed(choice: random.Random) -> int:
    return choice.choice([_captions, _chats, _pages])(choice)


@pytest.mark.parametrize("draw", [_captions, _chats, _pages, _mixed])
@pytest.mark.parametrize("row_length", [2048, 4096])
def test_best_fit_wastes_less_than_a_twentieth_of_ragged_data(draw, row_length: int) -> None:
    # Window by window, as the loader packs, the open rows at the windows' ends included.
    choice = random.Random(0)
    held, best, next_fit = 0, 0, 0
    for _ in range(8):
        sizes = [Size(min(row_length, draw(choice))) for _ in range(512)]
        held += sum(size.tokens for size in sizes)
        best += len(BestFit().rows(sizes, room=Size(row_length)))
        next_fit += len(NextFit().rows(sizes, room=Size(row_length)))
    assert held / (best * row_length) >= 0.95
    assert best <= next_fit


def test_a_row_per_document_is_a_row_per_document() -> None:
    assert OneEach().rows([Size(3), Size(1), Size(20)], room=ROOM) == [[0], [1], [2]]
