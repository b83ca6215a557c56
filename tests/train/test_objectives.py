"""Word alignment: a picture's rows become the words after it, and nobody else's."""

from dataclasses import replace

import plans
import pytest
import torch
from tiny import NUM_QUERIES, NUM_READ, tiny_model

from limner.data.collate import Collator
from limner.document.document import Direction
from limner.modalities.projectors import DiscriminantProjector
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


def test_creation_measures_discriminants_on_the_cached_conditions_without_the_null_prompt() -> None:
    model = tiny_model().requires_grad_(False)
    modality = model.modality("image")
    options = {"num_rows": NUM_QUERIES, "width_in": 32, "num_conditions": 2, "width_out": 16, "num_things": 5}
    options["num_components"] = 8
    modality.output_projector = DiscriminantProjector(**options)
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(12, NUM_QUERIES, 32, generator=generator) + 5.0
    latents = torch.arange(4.0).repeat(3)[:, None]
    null = torch.full((4, NUM_QUERIES, 32), 90.0)
    empty = torch.zeros(0, 0, dtype=torch.long)

    def batch(hidden: torch.Tensor, latents: torch.Tensor) -> Batch:
        lengths = torch.full((len(hidden),), NUM_QUERIES)
        spans = SpanBatch(empty.flatten(), lengths, latents, ("",) * len(hidden), hidden=hidden)
        return Batch(empty, empty, empty, empty, {("image", Direction.OUT): spans})

    batches = [batch(hidden, latents), batch(null, latents[:4]), batch(hidden * 7.0, latents)]
    Creation(made=["image"], calibration_batches=2).prepare(model, batches)
    expected = DiscriminantProjector(**options)
    expected.calibrate(hidden, owners=torch.arange(4).repeat(3), null=null)
    torch.testing.assert_close(modality.output_projector.mean, hidden.flatten(1).mean(dim=0))
    torch.testing.assert_close(modality.output_projector.components, expected.components)
    torch.testing.assert_close(modality.output_projector.things, expected.things)
