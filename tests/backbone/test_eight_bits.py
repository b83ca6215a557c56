"""Eight-bit weights of any language model: near the exact ones, and refused in one line without the library."""

import importlib.util

import pytest
import torch
from tiny import tiny_backbone

from limner.backbone.attention import packed_causal_mask
from limner.backbone.eight_bits import to_eight_bits


def hidden_states(backbone) -> torch.Tensor:
    embeddings = torch.randn(2, 5, backbone.d_model, generator=torch.Generator().manual_seed(0))
    mask = packed_causal_mask(torch.ones(2, 5, dtype=torch.long), dtype=torch.float32)
    positions = torch.arange(5).expand(2, 5)
    with torch.no_grad():
        return backbone.hidden_states(embeddings, positions=positions, mask=mask)


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_eight_bits_are_near_and_leave_the_output_matrix_alone(family: str) -> None:
    pytest.importorskip("torchao")
    backbone = tiny_backbone(family)
    expected, head = hidden_states(backbone), backbone.language_model.get_output_embeddings().weight
    to_eight_bits(backbone.language_model)
    found = hidden_states(backbone)
    assert 0.0 < (found - expected).abs().max() < 0.05 * expected.abs().max()
    assert backbone.language_model.get_output_embeddings().weight is head


def test_without_the_library_the_hint_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r'need torchao; it is not installed\nhint: pip install "limner\[int8\]"'):
        to_eight_bits(tiny_backbone("llama").language_model)
