"""Batches are a function of the position: resume is exact, bad documents are skipped whole."""

import pytest
import torch
from tiny import Pages, picture, tiny_model

from limner.data.collate import Collator
from limner.data.loader import Loader
from limner.data.mixture import FunctionSource, Mixture
from limner.document.document import Document, Media
from limner.tokens.batch import IGNORED, Batch

MODEL = tiny_model()


def _loader(mixture: Mixture, **changes: int) -> Loader:
    options = {"row_length": 80, "num_rows": 2} | changes
    return Loader(mixture, render=MODEL.render, collate=Collator(MODEL), **options)


def _same(left: Batch, right: Batch) -> bool:
    tensors = ("ids", "positions", "documents", "labels")
    return (
        all(torch.equal(getattr(left, name), getattr(right, name)) for name in tensors)
        and left.spans.keys() == right.spans.keys()
        and all(
            torch.equal(spans.slots, right.spans[side].slots)
            and torch.equal(spans.values, right.spans[side].values)
            and spans.keys == right.spans[side].keys
            for side, spans in left.spans.items()
        )
    )


def _mixture() -> Mixture:
    sources = {"a": Pages(num_pages=5), "b": Pages(num_pages=3)}
    return Mixture(sources, weights={"a": 2.0, "b": 1.0}, condition_dropout=0.2)


@pytest.mark.parametrize("num_batches", [1, 3, 6])
def test_a_resumed_loader_goes_on_with_the_very_same_batches_across_epochs(
    num_batches: int,
) -> None:
    whole = _loader(_mixture())
    for _ in range(num_batches):
        whole.next_batch()
    resumed = _loader(_mixture())
    resumed.load_state_dict(whole.state_dict())
    for _ in range(4):
        assert _same(whole.next_batch(), resumed.next_batch())
    assert whole.position > 8  # epochs of 5 and 3 documents have ended
    assert whole.state_dict() == resumed.state_dict()


def test_no_document_is_lost_or_met_twice_between_batches() -> None:
    loader = _loader(_mixture(), row_length=40)
    keys: list[str] = []
    for _ in range(6):
        batch = loader.next_batch()
        found = {key.split(":")[0] for spans in batch.spans.values() for key in spans.keys}
        assert int(sum(row.max() for row in batch.documents)) == len(found)
        keys += sorted(found)
    expected = [_mixture().draw(position).key for position in range(loader.position)]
    assert sorted(keys) == sorted(expected)
    assert sum(loader.drawn.values()) == loader.position


def _sometimes_bad(index: int) -> Document:
    if index % 3 == 0:
        return Document.page(["good words", picture()])
    if index % 3 == 1:
        return Document.page(["broken", Media(picture(), modality="sound")])
    raise ValueError(f"row {index} is unreadable\nhint: none")


def test_bad_documents_are_counted_named_and_skipped_whole(
    caplog: pytest.LogCaptureFixture,
) -> None:
    loader = _loader(Mixture({"a": FunctionSource(_sometimes_bad, 30)}))
    batches = [loader.next_batch() for _ in range(3)]
    broken = MODEL.tokenizer.text_ids("broken")
    for batch in batches:
        assert str(broken)[1:-1] not in str(batch.ids.flatten().tolist())
    assert loader.skipped["a"] + loader.drawn["a"] in (
        loader.position,
        loader.position + loader.skipped["a"],
    )
    assert any("no `sound`" in record.getMessage() for record in caplog.records)
    assert any("unreadable" in record.getMessage() for record in caplog.records)


def test_skips_are_counted_once_each() -> None:
    loader = _loader(Mixture({"a": FunctionSource(_sometimes_bad, 30)}))
    for _ in range(4):
        loader.next_batch()
    good = sum(loader.mixture.draw(p).index % 3 == 0 for p in range(loader.position))
    assert loader.drawn["a"] == good
    # What was skipped up to the document that opens the next batch.
    assert loader.skipped["a"] == loader.position - good


def test_data_that_is_all_bad_stops_the_run() -> None:
    def bad(index: int) -> Document:
        raise ValueError("no")

    with pytest.raises(ValueError, match=r"100 documents in a row.*\nhint: "):
        _loader(Mixture({"a": FunctionSource(bad, 10)})).next_batch()


def test_a_document_of_which_nothing_fits_is_skipped_and_not_packed_for_ever() -> None:
    pages = FunctionSource(lambda index: Document.page([picture()]), 10)
    with pytest.raises(ValueError, match="in a row"):
        _loader(Mixture({"a": pages}), row_length=4).next_batch()


def test_collated_rows_restart_positions_and_mark_padding() -> None:
    rows = [MODEL.render(Document.page([text]), key=text) for text in ("abc", "de", "f")]
    batch = Collator(MODEL)([[rows[0], rows[1]], [rows[2]]])
    assert batch.positions[0, :7].tolist() == [0, 1, 2, 3, 0, 1, 2]
    assert batch.documents[0, :7].tolist() == [1, 1, 1, 1, 2, 2, 2]
    assert not batch.documents[0, 7:].any()
    assert batch.num_tokens == 9
    # The first id of a document is never a target.
    assert (batch.labels[batch.positions == 0] == IGNORED).all()


def test_slots_point_at_slot_tokens() -> None:
    batch = _loader(_mixture()).next_batch()
    for (name, direction), spans in batch.spans.items():
        slot = MODEL.vocabulary.span(name, direction).slot
        assert (batch.ids.flatten()[spans.slots] == slot).all()
        assert int(spans.lengths.sum()) == len(spans.slots)
        assert int((batch.ids == slot).sum()) == len(spans.slots)
