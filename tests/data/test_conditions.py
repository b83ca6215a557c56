"""Cached features and conditions are what the full forward gives."""

import pytest
import torch
from tiny import Pages, picture, tiny_model

from limner.data.collate import Collator
from limner.data.conditions import ConditionLoader
from limner.data.mixture import FunctionSource, Mixture
from limner.data.pictures import PictureLoader
from limner.document.document import Direction, Document, Media
from limner.document.media import Image
from limner.tokens.batch import Batch


def _frozen():
    model = tiny_model().requires_grad_(False)
    model.modalities["image"].decoder.transformer.requires_grad_(True)
    model.modalities["image"].output_projector.requires_grad_(True)
    return model


def _document(index: int) -> Document:
    if index % 4 == 3:
        return Document.page(["no picture here"])
    return Document.chat(
        [
            ("user", [f"{index}: ", picture("black")]),
            ("assistant", [picture("red"), "and", picture("blue"), "."]),
        ]
    )


def _mixture() -> Mixture:
    return Mixture({"a": FunctionSource(_document, 8)}, condition_dropout=0.2)


def test_cached_conditions_are_the_hidden_states_of_the_full_forward() -> None:
    model = _frozen()
    loader = ConditionLoader(_mixture(), model=model, name="image", num_items=6)
    batch = loader.next_batch()
    spans = batch.spans["image", Direction.OUT]
    assert spans.hidden.shape == (6, 3, 32)
    rendered = {
        draw.key: model.render(document, key=draw.key)
        for document, draw in map(_mixture().document, range(loader.order.position + 1))
    }
    made = [
        f"{key}:{span.item}"
        for key, sequence in rendered.items()
        for span in sequence.spans
        if span.direction is Direction.OUT
    ]
    assert list(spans.keys) == made[:6]  # every made picture is an item, in the order of the pages
    for key, hidden, latent in zip(spans.keys, spans.hidden, spans.values, strict=True):
        document_key, _ = key.rsplit(":", 1)
        whole = Collator(model)([[rendered[document_key]]])
        found = whole.spans["image", Direction.OUT]
        index = found.keys.index(key)
        with torch.no_grad():
            expected = model.out_hidden(found, model.hidden_states(whole))[index]
            pixels = model.modalities["image"].decoder.encode(found.values)[index]
        torch.testing.assert_close(hidden, expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(latent, pixels, atol=1e-5, rtol=1e-5)


def test_the_loss_over_cached_conditions_is_the_loss_of_the_full_forward() -> None:
    model = _frozen()
    pages = Mixture({"a": Pages()})
    cached = ConditionLoader(pages, model=model, name="image", num_items=4).next_batch()
    sequences = [model.render(document, key=draw.key) for document, draw in map(pages.document, range(4))]
    with torch.no_grad():
        short = model(cached, noise_key=(0, 1))
        full = model(Collator(model)([sequences]), noise_key=(0, 1))
    assert short.keys() == {"image"}
    assert float(short["image"].sum) == pytest.approx(float(full["image"].sum), rel=1e-5)


def _same(one: Batch, two: Batch) -> bool:
    left, right = (batch.spans["image", Direction.OUT] for batch in (one, two))
    same = torch.equal(left.values, right.values) and torch.equal(left.hidden, right.hidden)
    return same and left.keys == right.keys


@pytest.mark.parametrize("begun", [1, 2, 5])
def test_a_condition_loader_resumes_bit_by_bit_and_computes_nothing_twice(begun: int) -> None:
    model = _frozen()
    whole = ConditionLoader(_mixture(), model=model, name="image", num_items=3)
    batches = [whole.next_batch() for _ in range(9)]
    assert len(whole.hidden) <= 7  # six documents that make pictures, and the null prompt
    resumed = ConditionLoader(_mixture(), model=model, name="image", num_items=3)
    for _ in range(begun):
        resumed.next_batch()
    again = ConditionLoader(_mixture(), model=model, name="image", num_items=3)
    again.load_state_dict(resumed.state_dict())
    assert all(_same(batch, again.next_batch()) for batch in batches[begun:])
    assert again.state_dict() == whole.state_dict()


def test_a_condition_is_the_same_whatever_else_the_model_was_asked_before() -> None:
    def page(end: str) -> Mixture:
        return Mixture({"a": FunctionSource(lambda index: Document.page(["A ", picture("red"), end]), 1)})

    model = _frozen().train()  # dropout, where a model has it, must not reach what is cached
    short, long = (
        ConditionLoader(page(end), model=model, name="image", num_items=1).next_batch()
        for end in (".", " and more" * 9)
    )
    assert _same(short, long)  # what follows the picture is not run at all


@pytest.mark.parametrize("loader_type", [ConditionLoader, PictureLoader])
def test_ranks_share_the_items_of_one_order(loader_type) -> None:
    def loader(num_items: int, rank: int = 0, num_ranks: int = 1):
        return loader_type(_mixture(), model=model, name="image", num_items=num_items, rank=rank, num_ranks=num_ranks)

    model = _frozen()
    single = loader(6)
    ranks = [loader(3, rank, 2) for rank in range(2)]
    for _ in range(3):
        whole = single.next_batch().spans["image", Direction.OUT]
        parts = [rank.next_batch().spans["image", Direction.OUT] for rank in ranks]
        assert whole.keys == sum((part.keys for part in parts), ())
        assert torch.equal(whole.values, torch.cat([part.values for part in parts]))
        if loader_type is ConditionLoader:
            assert torch.equal(whole.hidden, torch.cat([part.hidden for part in parts]))
    assert ranks[0].state_dict() == ranks[1].state_dict() == single.state_dict()
    elastic = loader(2, 0, 1)
    elastic.load_state_dict(ranks[1].state_dict())
    following = single.next_batch().spans["image", Direction.OUT]
    assert elastic.next_batch().spans["image", Direction.OUT].keys == following.keys[:2]


def _with_bad_rows(index: int) -> Document:
    if index == 1:
        raise ValueError("row 1 is no JSON\nhint: repair it")
    damaged = Media(Image(picture("red").data[:60], name="damaged.png"))
    if index == 2:
        return Document.page(["bad ", damaged])
    if index == 3:
        return Document.page(["So: ", "x" * 300, picture("blue")])
    return Document.page([f"{index} ", picture("green")])


@pytest.mark.parametrize(
    ("too_long", "reasons"), [("skip", {"read", "decode", "too_long"}), ("cut", {"read", "decode"})]
)
def test_bad_and_long_documents_are_counted_and_named_and_the_run_goes_on(
    too_long: str, reasons: set[str], caplog: pytest.LogCaptureFixture
) -> None:
    mixture = Mixture({"a": FunctionSource(_with_bad_rows, 6)})
    loader = ConditionLoader(mixture, model=_frozen(), name="image", num_items=4, row_length=100, too_long=too_long)
    batches = [loader.next_batch() for _ in range(2)]  # an epoch deals four pictures
    # One of each four cannot be decoded: its batch is smaller.
    assert [len(batch.spans["image", Direction.OUT].keys) for batch in batches] == [3, 3]
    assert loader.state_dict()["drawn"] == {"a": 8}
    assert set(loader.state_dict()["skipped"]) == {f"a/{reason}" for reason in reasons}
    assert loader.counters()["skipped/a/decode"] == 2
    assert "skipped a/1/0 (read): row 1 is no JSON" in caplog.text
    assert "damaged.png" in caplog.text


@pytest.mark.parametrize("loader_type", [ConditionLoader, PictureLoader])
def test_a_bad_document_is_named_by_one_rank_and_counted_by_all(loader_type, caplog: pytest.LogCaptureFixture) -> None:
    mixture = Mixture({"a": FunctionSource(_with_bad_rows, 6)})
    model = _frozen()
    for rank in range(2):
        loader = loader_type(mixture, model=model, name="image", num_items=3, rank=rank, num_ranks=2)
        loader.next_batch()
        assert loader.state_dict()["skipped"]["a/read"] >= 1
    named = [record.getMessage() for record in caplog.records if "(read)" in record.getMessage()]
    assert named
    assert len(named) == len(set(named))


def test_a_document_that_is_too_long_can_end_the_run() -> None:
    mixture = Mixture({"a": FunctionSource(lambda index: _with_bad_rows(3), 2)})
    loader = ConditionLoader(mixture, model=_frozen(), name="image", num_items=1, row_length=100, too_long="error")
    with pytest.raises(ValueError, match=r"do not fit into a row of 100 tokens\nhint: "):
        loader.next_batch()


@pytest.mark.parametrize("loader_type", [ConditionLoader, PictureLoader])
def test_a_batch_of_damaged_pictures_alone_ends_the_run(loader_type) -> None:
    mixture = Mixture({"a": FunctionSource(lambda index: _with_bad_rows(2), 2)})
    loader = loader_type(mixture, model=_frozen(), name="image", num_items=2)
    with pytest.raises(ValueError, match=r"batch.*a/\d/0\nhint: "):
        loader.next_batch()


def test_a_picture_loader_skips_what_is_bad_and_resumes_bit_by_bit() -> None:
    mixture = Mixture({"a": FunctionSource(_with_bad_rows, 6)})
    model = _frozen()
    whole = PictureLoader(mixture, model=model, name="image", num_items=3)
    first, second = whole.next_batch(), whole.next_batch()
    again = PictureLoader(mixture, model=model, name="image", num_items=3)
    again.next_batch()
    resumed = PictureLoader(mixture, model=model, name="image", num_items=3)
    resumed.load_state_dict(again.state_dict())
    left, right = (batch.spans["image", Direction.OUT] for batch in (second, resumed.next_batch()))
    assert left.keys == right.keys
    assert torch.equal(left.values, right.values)
    assert sum(len(batch.spans["image", Direction.OUT].keys) for batch in (first, second)) < 6
    assert {"a/read", "a/decode"} == set(whole.state_dict()["skipped"])
    media = Media(picture("green"))
    assert torch.equal(left.values[-1], model.maker("image").decoder.preprocess(media))


def test_conditions_that_would_go_stale_are_refused() -> None:
    model = _frozen()
    model.modalities["image"].queries.requires_grad_(True)
    with pytest.raises(ValueError, match=r"stale.*queries.*\nhint: "):
        ConditionLoader(_mixture(), model=model, name="image", num_items=3)
    model = _frozen()
    model.modalities["image"].decoder.autoencoder.requires_grad_(True)
    with pytest.raises(ValueError, match=r"autoencoder.*\nhint: "):
        ConditionLoader(_mixture(), model=model, name="image", num_items=3)


def test_a_mixture_that_makes_nothing_stops_instead_of_searching_for_ever() -> None:
    words = Mixture({"a": FunctionSource(lambda index: Document.page(["words"]), 5)})
    with pytest.raises(ValueError, match=r"makes no `image`.*\nhint: "):
        ConditionLoader(words, model=_frozen(), name="image", num_items=1).next_batch()
