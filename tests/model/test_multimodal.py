"""The join: text loss as in transformers, zero gradients of absent modalities, keyed noise."""

import dataclasses

import pytest
import torch
from tiny import backward, documents, picture, tiny_model

from limner.data.collate import Collator
from limner.data.features import FeatureCache
from limner.document.document import Direction, Document, Media
from limner.tokens.batch import IGNORED


@pytest.fixture
def model():
    return tiny_model()


def test_the_text_loss_is_the_language_models_own(model) -> None:
    rendered = [model.render(Document.page([text])) for text in ("A fox.", "The end of it")]
    batch = Collator(model)([[sequence] for sequence in rendered])
    plain = model.backbone.language_model
    with torch.no_grad():
        term = model(batch, noise_key=(0,))["text"]
        # The added rows are part of the softmax: without them the loss is transformers' own.
        rows = torch.nonzero(batch.labels[:, 1:] != IGNORED)
        hidden = model.hidden_states(batch)[rows[:, 0], rows[:, 1]]
        added = torch.logsumexp(model.backbone.logits(hidden), -1) - torch.logsumexp(
            model.backbone.logits(hidden)[:, : model.backbone.base_size], -1
        )
        mask = (batch.documents > 0).long()
        reference = plain(batch.ids, attention_mask=mask, labels=batch.labels).loss
    assert int(term.count) == len(rows)
    assert float((term.sum - added.sum()) / term.count) == pytest.approx(float(reference), rel=1e-5)


@pytest.mark.parametrize(
    ("document", "absent"),
    [
        (
            Document.page(["words"]),
            ("encoder", "input_projector", "queries", "output_projector", "decoder.transformer"),
        ),
        (
            Document.page([Media(picture(), directions=(Direction.OUT,))]),
            ("encoder", "input_projector"),
        ),
        (
            Document.chat([("user", ["x", picture()]), ("assistant", "y")]),
            ("queries", "output_projector", "decoder.transformer"),
        ),
    ],
    ids=["text alone", "made and not read", "read and not made"],
)
def test_an_absent_side_gets_zero_gradients_and_never_none(model, document, absent) -> None:
    model.modalities["image"].decoder.autoencoder.requires_grad_(False)
    _, found = backward(model, [Collator(model)([[model.render(document)]])])
    for name, gradient in found.items():
        assert gradient is not None, name
        if name.removeprefix("modalities.image.").startswith(absent):
            assert not gradient.any(), name
    assert any(gradient.any() for gradient in found.values())


def test_an_item_has_the_same_noise_whatever_else_is_in_the_batch(model) -> None:
    rendered = [model.render(document, key=str(index)) for index, document in enumerate(documents())]
    collate = Collator(model)
    with torch.no_grad():
        alone = [model(collate([[sequence]]), noise_key=(1, 2))["image"] for sequence in rendered]
        together = model(collate([rendered]), noise_key=(1, 2))["image"]
        again = model(collate([rendered]), noise_key=(1, 2))["image"]
        other = model(collate([rendered]), noise_key=(1, 3))["image"]
    assert float(together.sum) == pytest.approx(sum(float(term.sum) for term in alone), rel=1e-5)
    assert float(together.count) == sum(float(term.count) for term in alone)
    assert float(again.sum) == float(together.sum)
    assert float(other.sum) != float(together.sum)


def test_cached_features_give_what_fresh_ones_do(model) -> None:
    model.modalities["image"].requires_grad_(False)
    rendered = [model.render(document, key=str(index)) for index, document in enumerate(documents())]
    fresh, cached = (
        Collator(model)([rendered]),
        Collator(model, cache=FeatureCache(model))([rendered]),
    )
    assert all(spans.encoded for spans in cached.spans.values())
    with torch.no_grad():
        before, after = model(fresh, noise_key=(0,)), model(cached, noise_key=(0,))
    for name, term in before.items():
        # The cache keeps float16.
        assert float(after[name].sum) == pytest.approx(float(term.sum), rel=2e-3)


def test_a_batch_without_targets_has_an_empty_text_term(model) -> None:
    batch = Collator(model)([[model.render(Document.chat([("user", "hello")]))]])
    with torch.no_grad():
        term = model(batch, noise_key=(0,))["text"]
    assert (float(term.sum), float(term.count), float(term.mean)) == (0.0, 0.0, 0.0)


def test_a_batch_without_targets_goes_backward_through_the_language_model_too(model) -> None:
    batch = Collator(model)([[model.render(Document.chat([("user", "hello")]))]])
    model(batch, noise_key=(0,))["text"].sum.backward()
    assert all(parameter.grad is not None for parameter in model.backbone.parameters())


def test_terms_tell_their_sources_apart(model) -> None:
    keys = ("chats/0/0", "pages/0/0", "pages/1/0", "odd/name/3/1")
    rendered = [model.render(document, key=key) for document, key in zip(documents(), keys, strict=True)]
    batch = Collator(model)([rendered[:2], rendered[2:]])
    names = ("chats", "pages", "never drawn", "odd/name")
    ids = torch.full_like(batch.ids, -1)
    for row, column in torch.nonzero(batch.documents):
        key = (keys[:2], keys[2:])[row][batch.documents[row, column] - 1]
        ids[row, column] = names.index(key.rsplit("/", 2)[0])
    batch = dataclasses.replace(batch, sources=names, source_ids=ids)
    with torch.no_grad():
        terms = model(batch, noise_key=(0,))
        for key, sequence in zip(keys, rendered, strict=True):
            if key.startswith("pages"):
                continue
            alone = model(Collator(model)([[sequence]]), noise_key=(0,))
            for term, other in ((terms[name], alone[name]) for name in ("text", "image")):
                total, count = term.by_source[key.rsplit("/", 2)[0]]
                assert float(total) == pytest.approx(float(other.sum), rel=1e-5)
                assert float(count) == float(other.count)
    for term in terms.values():
        assert float(sum(total for total, _ in term.by_source.values())) == pytest.approx(float(term.sum), rel=1e-5)
        assert float(sum(count for _, count in term.by_source.values())) == float(term.count)
        assert tuple(map(float, term.by_source["never drawn"])) == (0.0, 0.0)


def test_an_unknown_modality_is_refused_with_what_there_is(model) -> None:
    with pytest.raises(ValueError, match=r"no modality `sound`; it has image\nhint: "):
        model.modality("sound")


def test_one_way_modalities_say_what_they_cannot(model) -> None:
    image = model.modalities["image"]
    image.queries = None
    with pytest.raises(ValueError, match=r"cannot make `image`\nhint: "):
        model.span_length(Media(picture()), Direction.OUT)
    image.encoder = None
    with pytest.raises(ValueError, match=r"cannot read `image`\nhint: "):
        model.span_length(Media(picture()), Direction.IN)
