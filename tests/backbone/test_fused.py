"""One token per row with joined matrices gives what the transformers model gives."""

import pytest
import torch
from tiny import tiny_backbone

from limner.backbone.cache import RowCache
from limner.backbone.fused import Fused, can_fuse
from limner.backbone.products import MANY, Products, Weights


def run(backbone, lengths: list[int], *, fused: Fused | None, seed: int = 0) -> torch.Tensor:
    """Logits of four tokens behind prompts of those lengths."""
    generator = torch.Generator().manual_seed(seed)
    rows = list(range(len(lengths)))
    cache, found = RowCache(num_rows=len(rows), capacity=32), []
    for counts in (lengths, *[[1] * len(rows)] * 4):
        ids = torch.randint(53, (len(rows), max(counts)), generator=generator)
        step = cache.step(rows, counts=counts)
        embeddings = backbone.embed(ids)
        if fused is None or max(counts) > 1:
            mask = step.mask(backbone.dtype)
            hidden = backbone.hidden_states(embeddings, positions=step.positions, mask=mask, cache=step)
        else:
            hidden = fused(embeddings[:, 0], cache=step)[:, None]
        step.commit()
        found.append(backbone.logits(hidden[:, -1]))
    return torch.stack(found[1:])


@pytest.mark.parametrize("family", ["llama", "qwen2"])
@pytest.mark.parametrize("lengths", [[5], [5, 5], [3, 7, 4], [6, 2, 6, 3, 4, 5, 8, 7]])
@torch.no_grad()
def test_a_fused_step_is_the_models(family: str, lengths: list[int]) -> None:
    backbone = tiny_backbone(family)
    expected = run(backbone, lengths, fused=None)
    fused = Fused(backbone)
    torch.testing.assert_close(run(backbone, lengths, fused=fused), expected, atol=1e-5, rtol=1e-5)
    # Joined matrices serve the model's own layers too.
    torch.testing.assert_close(run(backbone, lengths, fused=None), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("width", [64, 96])
@torch.no_grad()
def test_eight_bits_are_near(width: int) -> None:
    torch.manual_seed(width)
    layer, rows = torch.nn.Linear(width, 40), torch.randn(3, width)
    expected = layer(rows)
    found = Products([layer], weights=Weights.INT8)(rows)
    assert 0.0 < (found - expected).abs().max() < 0.03 * expected.abs().max()


@pytest.mark.parametrize("width", [24, 33, 40])
@torch.no_grad()
def test_widths_that_eight_bits_cannot_serve_stay_exact(width: int) -> None:
    layer, rows = torch.nn.Linear(width, 40), torch.randn(3, width)
    torch.testing.assert_close(Products([layer], weights=Weights.INT8)(rows), layer(rows))


@pytest.mark.parametrize("family", ["gemma2", "gpt_neox", "cohere"])
def test_other_families_are_refused(family: str) -> None:
    model = tiny_backbone(family, tied=family != "gpt_neox")
    assert not can_fuse(model.language_model)
    with pytest.raises(ValueError, match=r"cannot be fused.*\nhint: "):
        Fused(model)


def test_adapters_and_half_precision_are_not_fused() -> None:
    from limner.backbone.lora import LoraSpec

    assert not can_fuse(tiny_backbone("llama", lora=LoraSpec(rank=2, alpha=2.0)).language_model)
    assert not can_fuse(tiny_backbone("llama").to(torch.bfloat16).language_model)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 9, MANY])
@pytest.mark.parametrize("bias", [True, False])
@torch.no_grad()
def test_products_of_any_number_of_rows(count: int, bias: bool) -> None:
    layers = [torch.nn.Linear(24, width, bias=bias) for width in (16, 8)]
    rows = torch.randn(count, 24)
    expected = torch.cat([layer(rows) for layer in layers], dim=1)
    products = Products(layers, weights=Weights.EXACT)
    torch.testing.assert_close(products(rows), expected, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(products(rows[None]), expected[None], atol=1e-6, rtol=1e-5)
    assert all(
        layer.weight.untyped_storage().data_ptr() == products.weight.untyped_storage().data_ptr() for layer in layers
    )


@pytest.mark.parametrize("count", [1, 2, 8])
@pytest.mark.parametrize("tied", [True, False])
@torch.no_grad()
def test_scores_within_a_block_are_the_backbones(count: int, tied: bool) -> None:
    backbone = tiny_backbone("llama", tied=tied, num_added=5)
    hidden = torch.randn(count, backbone.d_model, generator=torch.Generator().manual_seed(count))
    expected = {ids: backbone.logits_within(hidden, ids) for ids in (range(48, 53), range(51, 55), range(53, 58))}
    fused = Fused(backbone)
    for ids, scores in expected.items():
        for _ in range(2):  # made, then kept
            torch.testing.assert_close(fused.logits_within(hidden, ids), scores, atol=1e-6, rtol=1e-5)
