"""Word alignment: a picture's rows become the words after it, and nobody else's."""

from dataclasses import replace

import plans
import pytest
import torch
from tiny import NUM_QUERIES, NUM_READ, tiny_model

from limner.data.collate import Collator
from limner.document.document import Direction
from limner.modalities.projectors import WhitenedProjector
from limner.tokens.batch import IGNORED, Batch, SpanBatch
from limner.train.objectives import Creation, Multimodal, Reconstruction, WordAlignment

ALIGNMENT = WordAlignment(modality="image")


@pytest.fixture(scope="module")
def model():
    """The tiny model, its input projector trainable."""
    found = tiny_model().requires_grad_(False)
    found.modality("image").input_projector.requires_grad_(True)
    return found


def _batch(model, *rows: list[int]):
    source = plans.Spellings()
    sequences = [[model.render(source[index], key=str(index)) for index in row] for row in rows]
    return Collator(model)(sequences)


def test_rows_meet_the_words_after_their_picture_and_no_others(model) -> None:
    tokens = model.tokenizer
    (stop,) = tokens.eos_ids
    batch = _batch(model, [0, 2], [1])
    words = ALIGNMENT._words(batch.spans["image", Direction.IN], batch)
    for row, index in zip(words.tolist(), (0, 2, 1), strict=True):
        expected = [*tokens.text_ids("ab" * (index + 1)), stop]
        assert row == expected + [IGNORED] * (NUM_READ - len(expected))


def test_a_picture_s_loss_does_not_see_its_neighbours(model) -> None:
    alone, packed = _batch(model, [0]), _batch(model, [0, 1], [0])
    shown = packed.spans["image", Direction.IN]
    first = replace(
        shown,
        slots=shown.slots[:NUM_READ],
        lengths=shown.lengths[:1],
        values=shown.values[:1],
        keys=shown.keys[:1],
    )
    packed = replace(packed, spans={("image", Direction.IN): first})
    one, two = (ALIGNMENT(model, batch, noise_key=(0,))["text"] for batch in (alone, packed))
    torch.testing.assert_close(one.sum, two.sum)
    assert float(one.count) == float(two.count) == 3


def test_training_pulls_the_rows_to_their_words(model) -> None:
    batch = _batch(model, [0], [1], [2], [3])
    optimizer = torch.optim.Adam(model.modality("image").input_projector.parameters(), lr=1e-2)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        loss = ALIGNMENT(model, batch, noise_key=(0,))["text"].mean
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]


def test_objectives_count_what_their_terms_count(model) -> None:
    batch = _batch(model, [0, 2], [1])
    for objective in (Multimodal(), ALIGNMENT):
        terms = objective(model, batch, noise_key=(0, 0))
        assert objective.count(batch)["text"] == float(terms["text"].count)
    assert ALIGNMENT.count(batch) == {"text": 3 + 7 + 5}
    assert Reconstruction(modality="image").count(batch) == {}


def test_creation_measures_the_whitening_on_the_cached_conditions() -> None:
    model = tiny_model().requires_grad_(False)
    modality = model.modality("image")
    modality.output_projector = WhitenedProjector(num_rows=NUM_QUERIES, width_in=32, width_out=16, num_components=8)
    hidden = torch.randn(6, NUM_QUERIES, 32, generator=torch.Generator().manual_seed(0)) + 5.0
    empty = torch.zeros(0, 0, dtype=torch.long)
    spans = SpanBatch(empty.flatten(), torch.full((6,), NUM_QUERIES), torch.zeros(6, 0), ("",) * 6, hidden=hidden)
    batches = [Batch(empty, empty, empty, empty, {("image", Direction.OUT): spans})] * 3
    Creation(made=["image"], calibration_batches=2).prepare(model, batches)
    torch.testing.assert_close(modality.output_projector.mean, hidden.mean(dim=0))
