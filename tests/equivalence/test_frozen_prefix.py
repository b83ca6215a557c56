"""Beginnings without gradients = one forward over everything: loss and gradients of what is trained behind them."""

import pytest
import torch
from tiny import Pages, backward, documents, tiny_model
from torch.utils.flop_counter import FlopCounterMode

from limner.backbone import prefix
from limner.data.collate import Collator
from limner.document.document import Direction, Document, Media
from limner.model import multimodal
from limner.train.stage import Trainable, select_trainable

CONNECTORS = [Trainable("modalities.image.queries.*", 1e-3), Trainable("modalities.image.output_projector.*", 1e-3)]


@pytest.fixture(scope="module")
def model():
    found = tiny_model()
    select_trainable(found, CONNECTORS)
    return found


@pytest.fixture(scope="module")
def batch(model):
    """Documents that make nothing, one picture, two; alone and sharing rows; one null prompt; padding."""
    pages = Pages()
    two = Document.page(["a", *pages[1].messages[0].parts, "and", *pages[2].messages[0].parts, "end"])
    null = Document.page([Media(pages[3].messages[0].parts[1].payload, directions=(Direction.OUT,))])
    rows = [[documents()[0], two, documents()[3]], [null, documents()[2]], [documents()[1], null]]
    rendered = [
        [model.render(document, key=f"pages/{row}/{number}") for number, document in enumerate(members)]
        for row, members in enumerate(rows)
    ]
    return Collator(model)(rendered)


@pytest.fixture
def plain(monkeypatch):
    """Switch the split off."""

    def switch() -> None:
        monkeypatch.setattr(multimodal, "serves_prefixes", lambda backbone: False)

    return switch


@pytest.mark.parametrize("texts", [True, False])
def test_gradients_behind_a_frozen_beginning_are_those_of_one_forward(model, batch, plain, texts) -> None:
    assert prefix.serves_prefixes(model.backbone)

    def found() -> tuple[dict[str, float], dict[str, torch.Tensor]]:
        model.zero_grad(set_to_none=True)
        terms = model(batch, noise_key=(0, 0))
        total = terms["image"].mean + (terms["text"].mean if texts else 0.0)
        total.backward()
        gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        return {name: float(term.sum.detach()) for name, term in terms.items()}, gradients

    losses, gradients = found()
    plain()
    other_losses, other_gradients = found()
    assert losses == pytest.approx(other_losses, rel=1e-6)
    assert gradients.keys() == other_gradients.keys()
    assert {name.split(".")[2] for name in gradients} == {"queries", "output_projector"}
    for name, gradient in gradients.items():
        other = other_gradients[name]
        assert float((gradient - other).norm() / other.norm()) <= 1e-6, name


def test_hidden_states_are_those_of_one_forward_everywhere(model, batch, plain) -> None:
    split = model.hidden_states(batch).detach()
    plain()
    assert torch.allclose(split, model.hidden_states(batch).detach(), atol=1e-6)


def test_the_beginning_costs_no_backward_pass(model, batch, plain) -> None:
    def flops() -> int:
        with FlopCounterMode(display=False) as counter:
            model.hidden_states(batch).square().sum().backward()
        return counter.get_total_flops()

    split = flops()
    plain()
    assert split < flops()


@pytest.mark.parametrize(
    "glob", ["backbone.added_input", "backbone.language_model.*norm*", "modalities.image.input_projector.*"]
)
def test_a_beginning_that_is_trained_is_not_split_off(batch, monkeypatch, glob) -> None:
    found = tiny_model()
    select_trainable(found, [*CONNECTORS, Trainable(glob, 1e-3)])
    monkeypatch.setattr(multimodal, "hidden_states_behind", None)
    _, gradients = backward(found, [batch])
    assert all(gradient is not None for gradient in gradients.values())


def test_layers_that_are_checkpointed_are_not_split(model, monkeypatch) -> None:
    monkeypatch.setattr(model.backbone.language_model.model.layers[0], "gradient_checkpointing", True)
    assert not prefix.serves_prefixes(model.backbone)
