"""Batches are a function of the place: resume is exact, bad documents are left out whole, counted and named."""

import itertools
import os
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny import Pages, picture, tiny_model

from limner.data.collate import Collator
from limner.data.loader import Loader
from limner.data.mixture import FunctionSource, Mixture, TokenShares
from limner.data.packing import NextFit
from limner.document.document import Direction, Document, Media
from limner.document.media import Image
from limner.modalities.encoders.convolutional import ConvolutionalEncoder
from limner.tokens.batch import IGNORED, Batch

MODEL = tiny_model()


def _loader(mixture: Mixture, **changes) -> Loader:
    options = {"row_length": 80, "num_rows": 2, "window": 12} | changes
    return Loader(mixture, render=MODEL.render, collate=Collator(MODEL), **options)


def _same(left: Batch, right: Batch) -> bool:
    tensors = ("ids", "positions", "documents", "labels", "source_ids")
    return (
        all(torch.equal(getattr(left, name), getattr(right, name)) for name in tensors)
        and left.keys == right.keys
        and left.spans.keys() == right.spans.keys()
        and all(
            torch.equal(spans.slots, right.spans[side].slots)
            and torch.equal(spans.values, right.spans[side].values)
            and spans.keys == right.spans[side].keys
            for side, spans in left.spans.items()
        )
    )


def _mixture(**changes) -> Mixture:
    sources = {"a": Pages(num_pages=5), "b": Pages(num_pages=3)}
    return Mixture(sources, **({"weights": {"a": 2.0, "b": 1.0}, "condition_dropout": 0.2} | changes))


def _words(number: int) -> FunctionSource:
    """Pages of other lengths."""
    return FunctionSource(lambda index: Document.page(["ab" * (1 + index * 7 % 13)]), number)


def _keys(batches: list[Batch]) -> list[str]:
    return [key for batch in batches for row in batch.keys for key in row]


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("num_batches", [1, 4])
def test_a_resumed_loader_goes_on_with_the_very_same_batches_across_epochs(num_batches: int, num_workers: int) -> None:
    whole = _loader(_mixture())
    for _ in range(num_batches):
        whole.next_batch()
    resumed = _loader(_mixture(), num_workers=num_workers)
    resumed.load_state_dict(whole.state_dict())
    for _ in range(6):
        assert _same(whole.next_batch(), resumed.next_batch())
    assert sum(whole.state_dict()["drawn"].values()) > 16  # epochs of 5 and 3 documents have ended
    assert whole.state_dict() == resumed.state_dict()


def test_the_state_is_a_few_integers_however_much_was_prefetched() -> None:
    one, two = _loader(_mixture()), _loader(_mixture(), num_workers=2)
    for _ in range(5):
        one.next_batch()
        two.next_batch()
        assert one.state_dict() == two.state_dict()
    state = one.state_dict()
    assert (type(state["window"]), type(state["row"])) == (int, int)
    assert set(state) == {"window", "row", "drawn", "tokens", "cut", "skipped"}
    assert one.counters()["drawn/a"] == state["drawn"]["a"]


def test_a_loader_set_back_gives_the_same_batches_again() -> None:
    loader = _loader(_mixture(), num_workers=1)
    start = loader.state_dict()
    first = [loader.next_batch() for _ in range(3)]
    loader.load_state_dict(start)
    assert all(_same(batch, loader.next_batch()) for batch in first)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_reading_leaves_the_global_random_state_alone(num_workers: int) -> None:
    before = torch.get_rng_state()
    _loader(_mixture(), num_workers=num_workers).next_batch()
    assert torch.equal(before, torch.get_rng_state())


def test_no_document_is_lost_or_met_twice_between_batches() -> None:
    loader = _loader(_mixture(), row_length=40)
    batches = []
    while loader.place[0] < 3:
        batches.append(loader.next_batch())
    window, row = loader.place
    expected = [_mixture().draw(position).key for position in range(12 * window)]
    later = [planned.draw.key for taken in loader.windows[window].rows[:row] for planned in taken]
    assert sorted(_keys(batches)) == sorted(expected + later)
    assert sum(loader.state_dict()["drawn"].values()) == len(expected) + len(later)
    for batch in batches:
        assert [int(documents.max()) for documents in batch.documents] == [len(row) for row in batch.keys]


def test_next_fit_reads_documents_in_the_order_of_the_mixture() -> None:
    loader = _loader(_mixture(), packing=NextFit())
    keys = _keys([loader.next_batch() for _ in range(12)])
    assert keys == [_mixture().draw(position).key for position in range(len(keys))]


def test_a_row_holds_at_most_so_many_media_items() -> None:
    loader = _loader(_mixture(), row_length=200, max_items=2)
    rows = [row for _ in range(4) for row in loader.next_batch().keys]
    assert max(map(len, rows)) == 2


def test_sources_and_capacity_are_written_on_the_batch() -> None:
    batch = _loader(_mixture()).next_batch()
    assert batch.sources == ("a", "b")
    for row, keys in enumerate(batch.keys):
        for number, key in enumerate(keys, start=1):
            (found,) = set(batch.source_ids[row][batch.documents[row] == number].tolist())
            assert batch.sources[found] == key.split("/")[0]
    assert (batch.source_ids[batch.documents == 0] == -1).all()
    assert batch.capacity == 160
    assert batch.pack_efficiency == pytest.approx(batch.num_tokens / 160)
    assert batch.to("cpu").keys == batch.keys


class Counted(ConvolutionalEncoder):
    """The tiny encoder; every payload that it decodes is written down in a file, whichever process decodes it."""

    log: Path

    def preprocess(self, media: Media) -> torch.Tensor:
        """Counted."""
        with self.log.open("a") as file:
            file.write(media.content.name + "\n")
        return super().preprocess(media)


def _numbered(index: int) -> Document:
    payload = Image(picture().data, name=f"picture {index}")
    return Document.page(["x" * (index % 5), Media(payload, directions=(Direction.IN,)), "seen"])


@pytest.mark.parametrize("num_workers", [0, 2])
def test_nothing_is_decoded_twice_after_resuming(tmp_path: Path, num_workers: int) -> None:
    model = tiny_model()
    encoder = model.modality("image").encoder
    encoder.__class__, encoder.log = Counted, tmp_path / "decoded.txt"

    def loader() -> Loader:
        mixture = Mixture({"a": FunctionSource(_numbered, 1000)})
        return Loader(
            mixture,
            render=model.render,
            collate=Collator(model),
            row_length=80,
            num_rows=2,
            window=24,
            num_workers=num_workers,
        )

    first = loader()
    before = _keys([first.next_batch() for _ in range(7)])
    state = first.state_dict()
    first.close()
    encoder.log.unlink()
    resumed = loader()
    resumed.load_state_dict(state)
    after = _keys([resumed.next_batch() for _ in range(3)])
    resumed.close()
    decoded = Counter(line.split()[1] for line in encoder.log.read_text().splitlines())
    wanted = {key.split("/")[1] for key in after}
    assert max(decoded.values()) == 1
    assert wanted <= set(decoded)
    assert not {key.split("/")[1] for key in before} & set(decoded)
    # What is prefetched beyond the last batch, and nothing else.
    assert len(decoded) - len(wanted) <= 2 * num_workers * 8


def _sometimes_bad(index: int) -> Document:
    if index % 5 == 0:
        return Document.page(["broken", Media(picture(), modality="sound")])
    if index % 5 == 1:
        raise ValueError(f"row {index} is unreadable\nhint: none")
    if index % 5 == 2:
        return Document.chat([("user", "only asked")])
    if index % 5 == 3:
        cut_off = Image(picture(size=(200, 200)).data[:-60], name="cut off")
        return Document.page(["truncated", cut_off])
    return Document.page(["good words", picture()])


REASONS = ("render", "read", "untrained", "decode", None)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_bad_documents_are_counted_named_and_left_out_whole(caplog: pytest.LogCaptureFixture, num_workers: int) -> None:
    loader = _loader(Mixture({"a": FunctionSource(_sometimes_bad, 60)}), window=30, num_workers=num_workers)
    batches = []
    while loader.place[0] < 2:
        batches.append(loader.next_batch())
    draws = [loader.mixture.draw(position) for position in range(60)]
    good = {draw.key for draw in draws if REASONS[draw.index % 5] is None}
    assert good <= set(_keys(batches))
    assert all(int(key.split("/")[1]) % 5 == 4 for key in _keys(batches))
    skipped = loader.state_dict()["skipped"]
    for reason in ("render", "read", "untrained"):
        assert skipped[f"a/{reason}"] >= sum(REASONS[draw.index % 5] == reason for draw in draws)
    assert skipped["a/decode"] >= 12
    messages = [record.getMessage() for record in caplog.records]
    assert any("(render): " in message and "no `sound`" in message for message in messages)
    assert any("(read): row" in message for message in messages)
    assert any("(decode): `cut off` is damaged" in message for message in messages)
    assert len(messages) == len(set(messages)) == sum(skipped.values())
    for batch in batches:
        for side, spans in batch.spans.items():
            slot = MODEL.vocabulary.span(*side).slot
            assert int((batch.ids == slot).sum()) == len(spans.slots)


def test_bad_documents_of_a_window_are_counted_once_however_often_one_resumes() -> None:
    def loader() -> Loader:
        return _loader(Mixture({"a": FunctionSource(_sometimes_bad, 60)}), window=30, num_rows=1)

    whole, resumed = loader(), loader()
    for _ in range(8):
        whole.next_batch()
        state = resumed.state_dict()
        resumed = loader()
        resumed.load_state_dict(state)
        resumed.next_batch()
    assert resumed.state_dict() == whole.state_dict()


def _bad(index: int) -> Document:
    raise ValueError("no\nhint: none")


def _damaged(index: int) -> Document:
    return Document.page(["x", Image(picture(size=(200, 200)).data[:-60], name=f"damaged {index}")])


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize(("make", "reason"), [(_bad, "read: no"), (_damaged, "decode: `damaged")])
def test_data_that_is_all_bad_stops_the_run(make: Callable[[int], Document], reason: str, num_workers: int) -> None:
    loader = _loader(Mixture({"a": FunctionSource(make, 10)}), num_workers=num_workers)
    with pytest.raises(ValueError, match=rf"documents in a row could not be used.*\({reason}.*\nhint: ") as error:
        list(itertools.islice(loader, 200))
    assert len(str(error.value).splitlines()) == 2


def test_a_short_mixture_that_is_all_bad_says_so() -> None:
    with pytest.raises(ValueError, match="6 documents in a row could not be used"):
        _loader(Mixture({"a": FunctionSource(_bad, 6)}, exhaustion="all_exhausted")).next_batch()


def test_a_picture_still_to_be_made_is_no_target() -> None:
    pages = FunctionSource(lambda index: Document.page(["x", Media(None, directions=(Direction.OUT,))]), 4)
    with pytest.raises(ValueError, match="has no payload"):
        _loader(Mixture({"a": pages}, exhaustion="first_exhausted")).next_batch()


def test_a_finite_mixture_ends_with_its_last_document_and_every_rank_has_the_same_number_of_batches() -> None:
    def loader(rank: int) -> Loader:
        mixture = _mixture(exhaustion="all_exhausted", condition_dropout=0.0)
        return _loader(mixture, row_length=40, rank=rank, num_ranks=2)

    batches = [list(loader(rank)) for rank in range(2)]
    assert len(batches[0]) == len(batches[1])
    assert all(len(batch.ids) == 2 for own in batches for batch in own)
    number = loader(0).mixture.num_documents
    expected = {_mixture().draw(position).key for position in range(number)}
    assert sorted(_keys(batches[0]) + _keys(batches[1])) == sorted(expected)
    one = loader(0)
    for _ in batches[0]:
        one.next_batch()
    with pytest.raises(ValueError, match=rf"has ended after {number} documents\nhint: "):
        one.next_batch()


def test_a_batch_without_a_document_is_padding_and_has_no_targets() -> None:
    batch = Collator(MODEL)([[], []])
    assert batch.num_tokens == 0
    with torch.no_grad():
        terms = MODEL(batch, noise_key=(0,))
    assert [float(term.count) for term in terms.values()] == [0.0, 0.0]


def test_shares_of_tokens_are_reached_by_measured_lengths() -> None:
    short = FunctionSource(lambda index: Document.page(["a" * (2 + index % 3)]), 50)
    long = FunctionSource(lambda index: Document.page(["b" * (20 + index % 5)]), 50)
    mixture = Mixture({"short": short, "long": long}, weights=TokenShares({"short": 1.0, "long": 3.0}))
    loader = _loader(mixture, window=64)
    for _ in range(40):
        loader.next_batch()
    tokens = loader.state_dict()["tokens"]
    assert tokens["long"] / sum(tokens.values()) == pytest.approx(0.75, abs=0.02)


@pytest.mark.parametrize(
    "changes",
    [{"num_rows": 0}, {"rank": 1}, {"num_workers": -1}, {"window": 0}, {"row_length": 0}],
)
def test_a_loader_that_cannot_be_is_refused(changes: dict) -> None:
    with pytest.raises(ValueError, match="\nhint: "):
        _loader(_mixture(), **changes)


def test_a_place_of_another_mixture_is_refused() -> None:
    loader = _loader(_mixture())
    loader.load_state_dict(loader.state_dict() | {"row": 100})
    with pytest.raises(ValueError, match=r"row 100 of a window.*\nhint: "):
        loader.next_batch()


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


def test_words_alone_need_no_picture_anywhere() -> None:
    batch = _loader(Mixture({"a": _words(30)})).next_batch()
    assert not batch.spans
    assert batch.pack_efficiency > 0.8


def test_workers_are_forked_without_a_warning_on_any_python(monkeypatch: pytest.MonkeyPatch) -> None:
    fork = os.fork

    def warns() -> int:
        # As Python 3.12 says it in a process of several threads.
        text = "This process (pid=1) is multi-threaded, use of fork() may lead to deadlocks in the child."
        warnings.warn(text, DeprecationWarning, stacklevel=2)
        return fork()

    monkeypatch.setattr(os, "fork", warns)
    loader = _loader(Mixture({"a": Pages()}), num_workers=1)
    assert loader.next_batch().ids.numel()
    loader.close()
