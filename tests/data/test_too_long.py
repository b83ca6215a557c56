"""What no row holds: whole parts of its beginning are kept, or nothing of it, or the run ends; always counted."""

import pytest
from tiny import picture, tiny_model

from limner.data.collate import Collator
from limner.data.loader import Loader
from limner.data.mixture import FunctionSource, Mixture
from limner.document.document import Direction, Document

MODEL = tiny_model()


def _loader(mixture: Mixture, **changes) -> Loader:
    options = {"row_length": 80, "num_rows": 2, "window": 12} | changes
    return Loader(mixture, render=MODEL.render, collate=Collator(MODEL), **options)


LONG = FunctionSource(lambda index: Document.page(["long " * 9, picture(), "!"] if index % 4 == 0 else ["ok"]), 40)


def test_too_long_documents_are_cut_at_a_part_and_counted() -> None:
    loader = _loader(Mixture({"a": LONG}), row_length=50, num_rows=4)
    while loader.place[0] < 3:
        batch = loader.next_batch()
        assert batch.ids.shape[1] <= 64
        assert not batch.spans
    assert loader.state_dict()["cut"]["a"] >= 9
    assert not loader.state_dict()["skipped"]


def test_a_text_that_no_row_holds_is_left_out_and_never_split() -> None:
    pages = FunctionSource(lambda index: Document.page(["one.", "long " * 30, "!"] if index else ["long " * 30]), 2)
    loader = _loader(Mixture({"a": pages}, exhaustion="all_exhausted"), row_length=50, num_rows=4)
    batch = loader.next_batch()
    whole = MODEL.render(Document.page(["one."])).ids
    length = len(whole) - 1  # a page that was cut does not stop
    assert batch.ids[batch.documents > 0].tolist() == list(whole[:length])
    assert loader.state_dict()["cut"] == {"a": 1}
    assert loader.state_dict()["skipped"] == {"a/too_long": 1}


def test_a_turn_that_fits_keeps_its_stop_where_the_next_is_cut_off() -> None:
    turns = [("user", "a?"), ("assistant", "b."), ("user", "and " * 60), ("assistant", "c.")]
    chats = FunctionSource(lambda index: Document.chat(turns), 1)
    loader = _loader(Mixture({"a": chats}, exhaustion="all_exhausted"), row_length=80, num_rows=1)
    batch = loader.next_batch()
    stopped = MODEL.render(Document.chat(turns[:2]))
    ids = batch.ids[batch.documents > 0].tolist()
    assert ids == list(stopped.ids[: stopped.ends[-1]])
    assert stopped.trained[len(ids) - 1]


def test_too_long_documents_are_left_out_whole_where_that_is_asked() -> None:
    loader = _loader(Mixture({"a": LONG}), row_length=50, num_rows=4, too_long="skip")
    while loader.place[0] < 3:
        batch = loader.next_batch()
        assert all(int(key.split("/")[1]) % 4 for row in batch.keys for key in row)
    assert loader.state_dict()["skipped"]["a/too_long"] >= 9


@pytest.mark.parametrize("num_workers", [0, 1])
def test_too_long_documents_stop_the_run_where_that_is_asked(num_workers: int) -> None:
    loader = _loader(Mixture({"a": LONG}), row_length=50, too_long="error", num_workers=num_workers)
    with pytest.raises(ValueError, match=r"^a/\d+/0: \d+ tokens do not fit into a row of 50 tokens\nhint: "):
        loader.next_batch()


def test_a_document_of_too_many_items_is_cut_before_the_first_surplus_one() -> None:
    pages = FunctionSource(lambda index: Document.page(["a", picture(), "b", picture("blue"), "c"]), 4)
    batch = _loader(Mixture({"a": pages}), num_rows=1, max_items=1, window=4).next_batch()
    assert len(batch.spans["image", Direction.OUT].lengths) == 1
    with pytest.raises(ValueError, match=r"and 2 media items do not fit into a row of 80 tokens and 1 items"):
        _loader(Mixture({"a": pages}), max_items=1, too_long="error").next_batch()


def test_a_document_of_which_nothing_fits_is_left_out_and_not_packed_for_ever() -> None:
    pages = FunctionSource(lambda index: Document.page([picture()]), 10)
    with pytest.raises(ValueError, match="in a row could not be used"):
        _loader(Mixture({"a": pages}), row_length=4).next_batch()
