"""Codes of place and look: numbers, places, what is made of them."""

import pytest
import torch

from limner.modalities.base import Codes
from limner.modalities.decoders.feature_decoder import PlacedFeatureDecoder
from limner.modalities.encoders.eva import EvaEncoder
from limner.modalities.quantizers.codebook import Codebook
from limner.modalities.quantizers.detokenizer import PatchPainter
from limner.modalities.quantizers.merger import TokenMerger
from limner.modalities.quantizers.products import ProductDetokenizer, ProductTokenizer
from limner.modalities.quantizers.selector import share_mask

GRID, LOOKS, WIDTH = 4, 6, 16


@pytest.fixture
def tokenizer() -> ProductTokenizer:
    torch.manual_seed(0)
    return ProductTokenizer(
        EvaEncoder(image_size=16, patch_size=4, width=8, num_layers=1, num_heads=2, hidden=16),
        num_patches=GRID**2,
        width=WIDTH,
        merger=TokenMerger(WIDTH, num_layers=1, num_heads=2, hidden=16),
        codebook=Codebook(LOOKS, width=4),
    ).eval()


@pytest.fixture
def detokenizer() -> ProductDetokenizer:
    torch.manual_seed(1)
    decoder = PlacedFeatureDecoder(
        code_width=4, width=WIDTH, num_patches=GRID**2, num_layers=1, num_heads=2, hidden=16, width_out=8
    )
    painter = PatchPainter(width=8, grid=GRID, patch_size=4)
    made = ProductDetokenizer(decoder=decoder, painter=painter, num_codes=LOOKS, code_width=4)
    made.vectors.normal_()
    return made.eval()


def test_a_code_is_a_place_and_a_look(tokenizer: ProductTokenizer) -> None:
    pixels = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    features = tokenizer.encode(pixels)
    tokenizer.calibrate(features, keep_ratio=0.25)
    codes, rows = tokenizer(pixels), tokenizer.rows(features)
    assert tokenizer.num_codes == GRID**2 * LOOKS
    assert torch.equal(codes.lengths, rows.lengths)
    assert torch.equal(codes.values % LOOKS, tokenizer.codebook(rows.values).codes)
    for item, keep in zip(codes.items(), rows.keep, strict=True):
        assert [code // LOOKS for code in item] == keep.nonzero().flatten().tolist()


def test_what_the_caller_keeps_is_kept(tokenizer: ProductTokenizer) -> None:
    features = torch.randn(2, GRID**2, 8, generator=torch.Generator().manual_seed(0))
    keep = torch.zeros(2, GRID**2)
    keep[0, 3] = keep[1, 5] = keep[1, 15] = 1.0
    rows = tokenizer.rows(features, keep=keep)
    assert rows.lengths.tolist() == [1, 2]
    assert rows.places.tolist() == [3, 5, 15]


def test_pictures_of_codes_are_those_of_looks_at_their_places(detokenizer: ProductDetokenizer) -> None:
    places, looks = [1, 7, 2], [5, 0, 3]
    codes = [place * LOOKS + look for place, look in zip(places, looks, strict=True)]
    found = detokenizer.painted(Codes.of([codes[:2], codes[2:]]))
    made = detokenizer.features(detokenizer.vectors[looks], torch.tensor([2, 1]), places=torch.tensor(places))
    torch.testing.assert_close(found, detokenizer.painter(made).clamp(-1.0, 1.0))
    moved = detokenizer.painted(Codes.of([[codes[0], 8 * LOOKS]]))
    assert not torch.allclose(moved[0], found[0])


def test_order_does_not_count_and_of_a_place_said_twice_the_last_look_does(detokenizer: ProductDetokenizer) -> None:
    first, last, other = 4 * LOOKS + 1, 4 * LOOKS + 2, 9 * LOOKS
    found = detokenizer.painted(Codes.of([[first, other, last], [other, last], []]))
    torch.testing.assert_close(found[0], found[1])
    assert not torch.allclose(found[0], found[2])
    assert found[2].isfinite().all()


def test_a_weight_carries_the_gradient_of_having_kept_a_row(detokenizer: ProductDetokenizer) -> None:
    weights = torch.ones(2, requires_grad=True)
    lengths, places = torch.tensor([1, 1]), torch.tensor([0, 3])
    detokenizer.features(detokenizer.vectors[:2], lengths, places=places, weights=weights).sum().backward()
    assert weights.grad is not None
    assert (weights.grad != 0).all()


def test_the_share_is_that_of_all_pictures_and_each_keeps_its_best() -> None:
    odds = torch.tensor([[9.0, 8.0, 7.0, 1.0], [-3.0, -2.0, -5.0, -4.0], [0.0, 6.0, 0.0, 0.0]])
    keep = share_mask(odds, keep_ratio=1 / 3)
    assert keep.tolist() == [[1, 1, 1, 0], [0, 1, 0, 0], [0, 1, 0, 0]]


def test_the_share_holds_where_all_are_alike() -> None:
    keep = share_mask(torch.zeros(2, 8), keep_ratio=0.25)
    # Four of sixteen, and the best of each picture.
    assert 4 <= keep.sum() <= 6
    assert (keep.sum(dim=1) >= 1).all()
