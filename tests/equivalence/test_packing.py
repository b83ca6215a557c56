"""packed = unpacked, segments = masks, batched = single, accumulate 4x1 = 1x4: loss and gradients."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from tiny import backward, documents, tiny_backbone, tiny_model
from torch import Tensor

from limner.backbone.attention import Segments, packed_causal_mask
from limner.backbone.hf import Backbone
from limner.data.collate import Collator

LOSS, COSINE = 1e-6, 0.999999
"""Largest relative difference of a loss; smallest cosine between the gradients of a module."""


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def sequences(model):
    return [model.render(document, key=str(index)) for index, document in enumerate(documents())]


def _modules(gradients: dict[str, Tensor | None]) -> dict[str, Tensor]:
    """Gradients of each module's own parameters, as one vector."""
    found: dict[str, list[Tensor]] = {}
    for name, gradient in gradients.items():
        assert gradient is not None, name
        found.setdefault(name.rpartition(".")[0], []).append(gradient.flatten().double())
    return {name: torch.cat(parts) for name, parts in found.items()}


def _close(left, right) -> None:
    (left_totals, left_gradients), (right_totals, right_gradients) = left, right
    for name, (total, count) in left_totals.items():
        assert total == pytest.approx(right_totals[name][0], rel=LOSS)
        assert count == right_totals[name][1]
    right_modules = _modules(right_gradients)
    compared = 0
    for name, gradient in _modules(left_gradients).items():
        other = right_modules[name]
        assert bool(gradient.any()) == bool(other.any()), name
        if gradient.any():
            compared += 1
            assert float(F.cosine_similarity(gradient, other, dim=0)) >= COSINE, name
            assert float(gradient.norm() / other.norm()) == pytest.approx(1.0, rel=1e-4), name
    assert compared > 20


@pytest.mark.parametrize("layout", [[[0], [1], [2], [3]], [[0, 1], [2, 3]], [[3, 2], [1, 0]]])
def test_packed_rows_give_the_loss_and_gradients_of_one_long_row(model, sequences, layout) -> None:
    collate = Collator(model)
    packed = backward(model, [collate([sequences])])
    other = backward(model, [collate([[sequences[index] for index in row] for row in layout])])
    _close(packed, other)


def test_packed_rows_train_encoders_and_projectors_alike(model, sequences) -> None:
    # What the comparisons above compare: every part of the model has a gradient there.
    _, gradients = backward(model, [Collator(model)([sequences])])
    parts = {".".join(name.split(".")[:3]) for name, vector in _modules(gradients).items() if vector.any()}
    assert {
        "modalities.image.encoder",
        "modalities.image.input_projector",
        "modalities.image.output_projector",
        "modalities.image.queries",
        "modalities.image.decoder",
        "backbone.language_model.model",
    } <= parts


def test_segments_give_the_loss_and_gradients_of_masks(model, sequences, monkeypatch) -> None:
    batch = Collator(model)([[sequences[0], sequences[1]], [sequences[2]], [sequences[3]]])
    assert model.backbone.segmented
    segments = backward(model, [batch])
    monkeypatch.setattr(model.backbone, "segmented", False)
    _close(segments, backward(model, [batch]))


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
    batch = Collator(model)([[sequences[0]], [sequences[2]]])
    filled = dataclasses.replace(batch, ids=batch.ids.masked_fill(batch.documents == 0, 7))
    assert (filled.ids != batch.ids).any()
    with torch.no_grad():
        before, after = model(batch, noise_key=(0,)), model(filled, noise_key=(0,))
    assert float(before["text"].sum) == float(after["text"].sum)


DOCUMENTS = torch.tensor([[1, 1, 1, 2, 3, 3, 3, 3, 0, 0], [1, 1, 1, 1, 1, 1, 2, 2, 2, 0], [0] * 10])
POSITIONS = torch.tensor([[0, 1, 2, 0, 0, 1, 2, 3, 0, 0], [0, 1, 2, 3, 4, 5, 0, 1, 2, 0], [0] * 10])


def _rows(backbone: Backbone) -> tuple[Tensor, list[Tensor]]:
    """Hidden states of the packed rows above, and the gradients of all parameters."""
    ids = torch.randint(53, DOCUMENTS.shape, generator=torch.Generator().manual_seed(0))
    backbone.zero_grad(set_to_none=True)
    hidden = backbone.packed_hidden_states(backbone.embed(ids), positions=POSITIONS, documents=DOCUMENTS)
    hidden = hidden * (DOCUMENTS > 0)[..., None]
    (hidden * torch.arange(1.0, hidden.numel() + 1).view_as(hidden).sin()).sum().backward()
    return hidden.detach(), [p.grad.clone() for p in backbone.language_model.get_decoder().parameters()]


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt_neox", "cohere", "granite"])
def test_every_family_computes_by_segments_what_it_computes_by_masks(family: str, monkeypatch) -> None:
    backbone = tiny_backbone(family, tied=family != "gpt_neox")
    assert backbone.segmented
    found, gradients = _rows(backbone)
    monkeypatch.setattr(backbone, "segmented", False)
    expected, expected_gradients = _rows(backbone)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    for gradient, other in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(gradient, other, atol=2e-4, rtol=1e-3)


def test_a_family_that_caps_its_scores_keeps_the_masks() -> None:
    backbone = tiny_backbone("gemma2")
    assert not backbone.segmented
    assert backbone.language_model.config._attn_implementation == "eager"
    hidden, _ = _rows(backbone)
    assert hidden.isfinite().all()


def test_segments_survive_activation_checkpointing() -> None:
    backbone = tiny_backbone()
    expected, expected_gradients = _rows(backbone)
    backbone.language_model.activation_checkpointing_enable()
    backbone.train()
    found, gradients = _rows(backbone)
    torch.testing.assert_close(found, expected)
    for gradient, other in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(gradient, other)


def test_padding_never_enters_the_language_model() -> None:
    backbone, seen = tiny_backbone(), []
    layer = backbone.language_model.get_decoder().layers[0]
    layer.register_forward_pre_hook(lambda module, inputs: seen.append(tuple(inputs[0].shape)))
    _rows(backbone)
    assert seen == [(1, int((DOCUMENTS > 0).sum()), 16)]


def test_segments_are_the_documents_of_all_rows_end_to_end() -> None:
    segments = Segments.of(DOCUMENTS)
    assert segments.slots.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, *range(10, 19)]
    assert segments.bounds.tolist() == [0, 3, 4, 8, 14, 17]
    assert segments.longest == 6
    assert segments.as_mask().shape == (1, 1, 6, 6)
    # Documents of the same number in neighbouring rows are two.
    assert Segments.of(torch.ones(2, 3, dtype=torch.long)).bounds.tolist() == [0, 3, 6]


def test_a_batch_of_nothing_but_padding_has_hidden_states_of_zero() -> None:
    backbone = tiny_backbone()
    nothing = torch.zeros(1, 4, dtype=torch.long)
    rows = backbone.embed(nothing)
    hidden = backbone.packed_hidden_states(rows, positions=nothing, documents=nothing)
    assert hidden.shape == rows.shape
    assert not hidden.any()


def test_the_language_model_alone_still_masks_for_itself() -> None:
    backbone = tiny_backbone()
    ids = torch.tensor([[5, 6, 7, 8], [9, 10, 0, 0]])
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    with torch.no_grad():
        batched = backbone.language_model(ids, attention_mask=mask).logits
        alone = backbone.language_model(ids[1:, :2]).logits
    torch.testing.assert_close(batched[1, :2], alone[0], atol=1e-5, rtol=1e-4)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_gpu_computes_by_segments_what_it_computes_by_masks(dtype: torch.dtype) -> None:
    backbone = tiny_backbone().to("cuda", dtype)
    ids = torch.randint(53, DOCUMENTS.shape, generator=torch.Generator().manual_seed(0)).cuda()
    documents, positions = DOCUMENTS.cuda(), POSITIONS.cuda()
    with torch.no_grad():
        rows = backbone.embed(ids)
        found = backbone.packed_hidden_states(rows, positions=positions, documents=documents)
        mask = packed_causal_mask(documents, dtype=backbone.dtype)
        expected = backbone.hidden_states(rows, positions=positions, mask=mask)
    tolerance = 1e-5 if dtype is torch.float32 else 5e-2
    torch.testing.assert_close(found[documents > 0], expected[documents > 0], atol=tolerance, rtol=tolerance)
