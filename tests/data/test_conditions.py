"""Cached features and conditions are what the full forward gives."""

import pytest
import torch
from tiny import Pages, picture, tiny_model

from limner.data.collate import Collator
from limner.data.conditions import ConditionLoader
from limner.data.features import FeatureCache
from limner.data.mixture import FunctionSource, Mixture
from limner.document.document import Direction, Document, Media


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
        for document, draw in map(_mixture().document, range(loader.position + 1))
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
        torch.testing.assert_close(hidden, expected, atol=4e-3, rtol=2e-3)  # kept as float16
        torch.testing.assert_close(latent, pixels, atol=4e-3, rtol=2e-3)


def test_the_loss_over_cached_conditions_is_the_loss_of_the_full_forward() -> None:
    model = _frozen()
    pages = Mixture({"a": Pages()})
    cached = ConditionLoader(pages, model=model, name="image", num_items=4).next_batch()
    sequences = [model.render(document, key=draw.key) for document, draw in map(pages.document, range(4))]
    with torch.no_grad():
        short = model(cached, noise_key=(0, 1))
        full = model(Collator(model)([sequences]), noise_key=(0, 1))
    assert short.keys() == {"image"}
    assert float(short["image"].sum) == pytest.approx(float(full["image"].sum), rel=2e-3)


def test_a_condition_loader_resumes_exactly_and_computes_nothing_twice() -> None:
    model = _frozen()
    whole = ConditionLoader(_mixture(), model=model, name="image", num_items=3)
    batches = [whole.next_batch() for _ in range(4)]
    assert len(whole.hidden) <= 13  # two pictures of each of six documents, and the null prompt
    resumed = ConditionLoader(_mixture(), model=model, name="image", num_items=3)
    resumed.next_batch()
    state = resumed.state_dict()
    again = ConditionLoader(_mixture(), model=model, name="image", num_items=3)
    again.load_state_dict(state)
    left, right = (batch.spans["image", Direction.OUT] for batch in (batches[1], again.next_batch()))
    assert left.keys == right.keys
    assert torch.equal(left.values, right.values)
    torch.testing.assert_close(left.hidden, right.hidden, atol=2e-3, rtol=1e-3)


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


def test_features_are_computed_once_per_item_and_only_for_frozen_parts() -> None:
    model = tiny_model()
    cache = FeatureCache(model)
    # A flow's own autoencoder is frozen from the start, the encoder is not.
    assert cache.covers("image", Direction.OUT)
    assert not cache.covers("image", Direction.IN)
    model.requires_grad_(False)
    cache = FeatureCache(model)
    calls: list[int] = []
    encoder = model.modalities["image"].encoder
    encoder.register_forward_hook(lambda *arguments: calls.append(len(arguments[1][0])))
    media = [Media(picture(colour)) for colour in ("red", "blue", "red")]
    found = cache.features(media, direction=Direction.IN)
    assert calls == [1, 1]
    assert torch.equal(found[0], found[2])
    expected = encoder(torch.stack([encoder.preprocess(item) for item in media])).values
    torch.testing.assert_close(torch.cat(found), expected, atol=4e-3, rtol=2e-3)
    cache.features(media, direction=Direction.IN)
    assert len(calls) == 3  # the direct call above, none for the second lookup
