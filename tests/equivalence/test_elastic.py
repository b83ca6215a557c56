"""Workers x ranks x rows per batch: one global order of samples, and the same rows whoever reads them."""

import itertools

import pytest
import torch
from tiny import COLOURS, documents, picture, tiny_model

from limner.data.collate import Collator
from limner.data.loader import Loader
from limner.data.mixture import FunctionSource, Mixture
from limner.data.packing import BestFit, NextFit
from limner.document.document import Document
from limner.document.media import Image
from limner.tokens.batch import Batch

MODEL = tiny_model()
NUM_ROWS = 48
"""Rows that every reader of the matrix reads in all."""


def _ragged(index: int) -> Document:
    """Other numbers of words and pictures in each; some documents are bad, in different ways."""
    if index % 11 == 7:
        raise ValueError("unreadable\nhint: none")
    if index % 11 == 9:
        return Document.page(["damaged", Image(picture(size=(200, 200)).data[:-60])])
    pictures = [picture(COLOURS[(index + number) % len(COLOURS)]) for number in range(index % 3)]
    return Document.page(["ab " * (1 + index * 7 % 9), *pictures, "." * (index % 5)])


def _loader(*, packing=None, **changes) -> Loader:
    sources = {
        "ragged": FunctionSource(_ragged, 40),
        "others": FunctionSource(lambda index: documents()[index % 4], 8),
    }
    mixture = Mixture(sources, weights={"ragged": 3.0, "others": 1.0}, seed=3, condition_dropout=0.1)
    return Loader(
        mixture, render=MODEL.render, collate=Collator(MODEL), row_length=96, packing=packing, window=25, **changes
    )


def _rows(batch: Batch) -> list[dict]:
    """What each row holds, without the padding, which depends on the row's neighbours."""
    rows = []
    width = batch.ids.shape[1]
    for number in range(len(batch.ids)):
        length = int((batch.documents[number] > 0).sum())
        names = ("ids", "positions", "documents", "labels", "source_ids")
        row = {name: getattr(batch, name)[number, :length].tolist() for name in names}
        row |= {"keys": batch.keys[number], "items": {}}
        for side, spans in batch.spans.items():
            slots = spans.slots.split(spans.lengths.tolist())
            for key, places, values in zip(spans.keys, slots, spans.values, strict=True):
                if int(places[0]) // width == number:
                    row["items"][side, key] = ((places % width).tolist(), values)
        rows.append(row)
    return rows


def _same(left: dict, right: dict) -> bool:
    items, others = left["items"], right["items"]
    if left | {"items": items.keys()} != right | {"items": others.keys()}:
        return False
    pairs = [(items[key], others[key]) for key in items]
    return all(one[0] == two[0] and torch.equal(one[1], two[1]) for one, two in pairs)


def _read(loaders: list[Loader], *, num_rows: int = NUM_ROWS) -> list[dict]:
    """Rows of the global order, put together from all ranks."""
    batches = num_rows // sum(loader.num_rows for loader in loaders)
    rows = [row for _ in range(batches) for loader in loaders for row in _rows(loader.next_batch())]
    for loader in loaders:
        loader.close()
    return rows


@pytest.fixture(scope="module", params=[NextFit(), BestFit()], ids=lambda packing: type(packing).__name__)
def expected(request):
    """Row after row, read alone in one process."""
    loader = _loader(packing=request.param, num_rows=1)
    rows = _read([loader])
    assert loader.place[0] >= 2
    assert {"skipped/ragged/read", "skipped/ragged/decode"} <= set(loader.counters())
    return request.param, rows, loader.state_dict()


@pytest.mark.parametrize(
    ("num_workers", "num_ranks", "num_rows"), list(itertools.product([0, 1, 2], [1, 2], [2, 4])), ids=str
)
def test_workers_ranks_and_rows_per_batch_change_nothing(expected, num_workers, num_ranks, num_rows) -> None:
    packing, rows, state = expected
    loaders = [
        _loader(packing=packing, num_rows=num_rows, rank=rank, num_ranks=num_ranks, num_workers=num_workers)
        for rank in range(num_ranks)
    ]
    found = _read(loaders)
    assert [row["keys"] for row in found] == [row["keys"] for row in rows]
    assert all(_same(one, two) for one, two in zip(found, rows, strict=True))
    # What every rank counts; what could not be decoded, each counts in its own rows.
    for what in ("window", "row", "drawn", "tokens", "cut"):
        assert all(loader.state_dict()[what] == state[what] for loader in loaders)
    undecoded = sum(loader.counters().get("skipped/ragged/decode", 0) for loader in loaders)
    assert undecoded == state["skipped"]["ragged/decode"]


def test_a_run_goes_on_with_other_workers_ranks_and_rows_at_every_stop(expected) -> None:
    packing, rows, _ = expected
    found: list[dict] = []
    state = None
    for num_workers, num_ranks, num_rows in ((0, 1, 2), (2, 2, 4), (1, 1, 4), (0, 2, 2), (1, 2, 1)):
        loaders = [
            _loader(packing=packing, num_rows=num_rows, rank=rank, num_ranks=num_ranks, num_workers=num_workers)
            for rank in range(num_ranks)
        ]
        for loader in loaders:
            if state is not None:
                loader.load_state_dict(state)
        found += _read(loaders, num_rows=8)
        state = loaders[-1].state_dict()
    assert all(_same(one, two) for one, two in zip(found, rows[: len(found)], strict=True))
