"""The chunked text loss: the loss and gradients of full logits, which never exist."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from jaxtyping import Float
from tiny import tiny_backbone
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from limner.backbone.lora import LoraSpec
from limner.model import losses
from limner.tokens.batch import IGNORED, Batch

NUM_TOKENS, NUM_IDS = 300, 53


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch) -> None:
    monkeypatch.setattr(losses, "MIN_CHUNK", 7)


def _batch(*, seed: int = 0) -> Batch:
    """Two rows of which about half is supervised."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(NUM_IDS, (2, NUM_TOKENS), generator=generator)
    labels = ids.masked_fill(torch.rand(ids.shape, generator=generator) < 0.5, IGNORED)
    ones = torch.ones_like(ids)
    return Batch(ids, ones.cumsum(1) - 1, ones, labels)


def _hidden() -> Float[Tensor, "batch seq d_model"]:
    return torch.randn(2, NUM_TOKENS, 16, generator=torch.Generator().manual_seed(1)).requires_grad_()


def _full(backbone, hidden: Tensor, labels: Tensor) -> Tensor:
    """The loss out of full logits."""
    logits = backbone.logits(hidden[:, :-1].flatten(0, 1))
    return F.cross_entropy(logits, labels[:, 1:].flatten(), ignore_index=IGNORED, reduction="sum")


def _same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Gradients are the same up to the rounding of sums in another order, which is relative to the largest element."""
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        tolerance = 1e-5 * float(gradient.abs().max())
        torch.testing.assert_close(found[name], gradient, atol=tolerance, rtol=0.0, msg=name)


def _gradients(module: nn.Module, hidden: Tensor, loss: Tensor) -> dict[str, Tensor]:
    module.zero_grad(set_to_none=True)
    hidden.grad = None
    (0.3 * loss).backward()
    found = {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
    return {"hidden": hidden.grad, **found}


@pytest.mark.parametrize(
    ("family", "tied"),
    [("llama", True), ("llama", False), ("gemma2", True), ("cohere", True), ("granite", True)],
)
def test_loss_and_gradients_are_those_of_full_logits(family: str, tied: bool) -> None:
    backbone, hidden, batch = tiny_backbone(family, tied=tied), _hidden(), _batch()
    expected = _full(backbone, hidden, batch.labels)
    expected_gradients = _gradients(backbone, hidden, expected)
    term = losses.text_loss(backbone, hidden, batch)
    assert float(term.sum.detach()) == pytest.approx(float(expected.detach()), rel=1e-6)
    assert int(term.count) == int((batch.labels[:, 1:] != IGNORED).sum())
    _same(_gradients(backbone, hidden, term.sum), expected_gradients)


def test_an_adapter_on_the_output_matrix_is_trained_and_what_is_frozen_is_not() -> None:
    backbone = tiny_backbone(tied=False, lora=LoraSpec(rank=2, alpha=4.0, targets=["lm_head"]))
    for name, parameter in backbone.named_parameters():
        parameter.requires_grad_("lora_" in name)
    hidden, batch = _hidden(), _batch()
    expected = _gradients(backbone, hidden, _full(backbone, hidden, batch.labels))
    found = _gradients(backbone, hidden, losses.text_loss(backbone, hidden, batch).sum)
    assert all("lora_" in name for name in found if name != "hidden")
    _same(found, expected)


def test_many_chunks_lose_nothing_in_bfloat16() -> None:
    backbone, batch = tiny_backbone(tied=False).to(torch.bfloat16), _batch()
    hidden = _hidden().detach().bfloat16().requires_grad_()
    expected = _gradients(backbone, hidden, _full(backbone, hidden, batch.labels))
    found = _gradients(backbone, hidden, losses.text_loss(backbone, hidden, batch).sum)
    for name, gradient in expected.items():
        assert found[name].dtype == gradient.dtype
        similarity = F.cosine_similarity(found[name].flatten().float(), gradient.flatten().float(), dim=0)
        assert float(similarity) > 0.9999, name


class _Largest(TorchDispatchMode):
    """The most elements that one tensor has had."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        for tensor in found if isinstance(found, tuple | list) else (found,):
            if isinstance(tensor, Tensor):
                self.elements = max(self.elements, tensor.numel())
        return found


def test_no_tensor_is_as_large_as_a_quarter_of_the_logits() -> None:
    backbone, hidden, batch = tiny_backbone(), _hidden(), _batch()
    with _Largest() as largest:
        losses.text_loss(backbone, hidden, batch).sum.backward()
    with _Largest() as full:
        _full(backbone, hidden, batch.labels).backward()
    num_targets = int((batch.labels[:, 1:] != IGNORED).sum())
    assert full.elements >= num_targets * NUM_IDS
    # The hidden states themselves, and their gradient, are whole.
    assert largest.elements <= max(num_targets * NUM_IDS // 4, hidden.numel())


def test_nothing_to_learn_is_a_loss_of_zero_with_gradients_of_zero() -> None:
    backbone, hidden, batch = tiny_backbone(), _hidden(), _batch()
    batch = dataclasses.replace(batch, labels=torch.full_like(batch.labels, IGNORED))
    with torch.no_grad():
        assert float(losses.text_loss(backbone, hidden, batch).sum) == 0.0
    found = _gradients(backbone, hidden, losses.text_loss(backbone, hidden, batch).sum)
    assert not any(gradient.any() for gradient in found.values())
