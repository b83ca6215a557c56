"""The preview shows the tensors that a forward takes: every token once, targets where labels are, pictures as given."""

import io

import numpy
import PIL.Image
import pytest
import torch
from tiny import NUM_QUERIES, NUM_READ, documents, model_call, tiny_model

from limner.config.call import build
from limner.data.collate import Collator
from limner.data.features import FeatureCache
from limner.data.loader import Loader
from limner.data.mixture import FunctionSource, Mixture
from limner.data.preview import DocumentView, RowView, SpanView, TokenView, row_views
from limner.data.preview_page import StagePreview, to_page
from limner.document.document import Direction, Document
from limner.tokens.batch import IGNORED, Batch

ROW_LENGTH = 256


@pytest.fixture(scope="module")
def model():
    with torch.device("meta"):  # no weight is looked at
        return build(model_call())


def previewed(model, made: list[Document]) -> tuple[Batch, list[RowView]]:
    source = FunctionSource(lambda index: made[index], len(made))
    mixture = Mixture({"<b>ours": source}, exhaustion="all_exhausted")
    loader = Loader(mixture, render=model.render, collate=Collator(model), row_length=ROW_LENGTH, num_rows=2)
    batch = loader.next_batch()
    return batch, row_views(batch, model=model)


def test_every_position_of_a_document_is_shown_once_and_in_order(model):
    batch, rows = previewed(model, documents())
    assert sum(len(row.documents) for row in rows) == 4
    for number, row in enumerate(rows):
        for document in row.documents:
            columns, ids = [], []
            for piece in document.pieces:
                columns += range(piece.column, piece.column + length(piece))
                ids += piece.ids if isinstance(piece, TokenView) else [None] * piece.length
            assert columns == list(range(document.column, document.column + document.length))
            shown = [(i, t) for i, t in zip(columns, ids, strict=True) if t is not None]
            assert all(int(batch.ids[number, column]) == token for column, token in shown)


def test_targets_are_those_of_the_batch(model):
    batch, rows = previewed(model, documents())
    for labels, row in zip(batch.labels, rows, strict=True):
        shown = {
            token.column + offset
            for document in row.documents
            for token in document.pieces
            if isinstance(token, TokenView) and token.is_target
            for offset in range(len(token.ids))
        }
        assert shown == set((labels != IGNORED).nonzero().flatten().tolist())
        assert row.num_targets == len(shown)


def test_rows_say_how_full_they_are(model):
    batch, rows = previewed(model, documents())
    assert [row.capacity for row in rows] == [ROW_LENGTH] * 2
    assert sum(row.num_tokens for row in rows) == batch.num_tokens


def test_spans_have_the_length_that_the_model_gives_them_and_their_pictures(model):
    _, rows = previewed(model, documents())
    spans = [span for row in rows for document in row.documents for span in document.spans]
    lengths = {(span.direction, span.length) for span in spans}
    assert lengths == {(Direction.IN, NUM_READ), (Direction.OUT, NUM_QUERIES)}
    assert all(span.shape == (3, 32, 32) for span in spans)


@pytest.mark.parametrize("direction", list(Direction))
def test_pictures_are_shown_in_their_own_colours(model, direction: Direction):
    _, rows = previewed(model, documents()[1:2])
    (span,) = [span for span in rows[0].documents[0].spans if span.direction is direction]
    assert span.picture is not None
    pixels = numpy.asarray(PIL.Image.open(io.BytesIO(span.picture)))
    assert pixels[16, 16].tolist() == [0, 0, 255]


def test_a_character_of_several_tokens_is_shown_as_one(model):
    _, rows = previewed(model, [Document.page(["aé\N{SNOWMAN}b"])])
    texts = [(token.text, len(token.ids)) for token in rows[0].documents[0].pieces if not token.role]
    assert texts[:4] == [("a", 1), ("é", 2), ("\N{SNOWMAN}", 3), ("b", 1)]


def test_features_of_a_cache_are_shown_as_such():
    model = tiny_model()
    collate = Collator(model.requires_grad_(False), cache=FeatureCache(model))
    mixture = Mixture({"ours": FunctionSource(lambda index: documents()[0], 1)}, exhaustion="all_exhausted")
    batch = Loader(mixture, render=model.render, collate=collate, row_length=ROW_LENGTH, num_rows=1).next_batch()
    (span,) = row_views(batch, model=model)[0].documents[0].spans
    assert (span.shape, span.picture) == ((), None)


def test_the_page_is_self_contained_and_escaped(model):
    _, rows = previewed(model, [Document.page(["<script>alert(1)</script>"])])
    page = to_page([StagePreview("<i>stage", tuple(rows), notes=("<u>",))], title="<title>")
    for raw in ("<script", "<i>stage", "<b>ours", "<u>", "<title><"):
        assert raw not in page
    assert "http" not in page.replace("http-equiv", "")
    assert "default-src 'none'" in page


def test_an_empty_row_has_a_page():
    page = to_page([StagePreview("none", (RowView(8, ()),))], title="empty")
    assert "0 of 8 tokens" in page


def length(piece: TokenView | SpanView | DocumentView) -> int:
    return len(piece.ids) if isinstance(piece, TokenView) else piece.length
