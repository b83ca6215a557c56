"""packed = unpacked, batched = single, accumulate 4x1 = 1x4: loss and gradients."""

import pytest
import torch
from tiny import backward, documents, tiny_model

from limner.data.collate import Collator


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def sequences(model):
    return [model.render(document, key=str(index)) for index, document in enumerate(documents())]


def _close(left, right) -> None:
    (left_totals, left_gradients), (right_totals, right_gradients) = left, right
    for name, (total, count) in left_totals.items():
        assert total == pytest.approx(right_totals[name][0], rel=1e-5)
        assert count == right_totals[name][1]
    for name, gradient in left_gradients.items():
        torch.testing.assert_close(gradient, right_gradients[name], atol=2e-4, rtol=2e-3, msg=name)


@pytest.mark.parametrize("layout", [[[0], [1], [2], [3]], [[0, 1], [2, 3]], [[3, 2], [1, 0]]])
def test_packed_rows_give_the_loss_and_gradients_of_one_long_row(model, sequences, layout) -> None:
    collate = Collator(model)
    packed = backward(model, [collate([sequences])])
    other = backward(model, [collate([[sequences[index] for index in row] for row in layout])])
    _close(packed, other)


def test_four_batches_of_one_give_what_one_batch_of_four_gives(model, sequences) -> None:
    collate = Collator(model)
    whole = backward(model, [collate([[sequence] for sequence in sequences])])
    single = backward(model, [collate([[sequence]]) for sequence in sequences])
    _close(whole, single)


def test_hidden_states_do_not_know_their_neighbours_or_padding(model, sequences) -> None:
    collate = Collator(model)
    with torch.no_grad():
        packed = model.hidden_states(collate([sequences]))[0]
        padded = model.hidden_states(collate([[sequence] for sequence in sequences]))
        start = 0
        for row, sequence in enumerate(sequences):
            alone = model.hidden_states(collate([[sequence]]))[0, : len(sequence)]
            torch.testing.assert_close(packed[start : start + len(sequence)], alone, atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(padded[row, : len(sequence)], alone, atol=1e-5, rtol=1e-4)
            start += len(sequence)


def test_what_stands_in_padding_changes_nothing(model, sequences) -> None:
    import dataclasses

    batch = Collator(model)([[sequences[0]], [sequences[2]]])
    filled = dataclasses.replace(batch, ids=batch.ids.masked_fill(batch.documents == 0, 7))
    assert (filled.ids != batch.ids).any()
    with torch.no_grad():
        before, after = model(batch, noise_key=(0,)), model(filled, noise_key=(0,))
    assert float(before["text"].sum) == float(after["text"].sum)
