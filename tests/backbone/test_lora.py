"""Four-bit weights under the adapters (QLoRA), and one clear line where their library is missing."""

import importlib.util
from pathlib import Path

import pytest
import torch

from limner.backbone.attention import packed_causal_mask
from limner.backbone.hf import Backbone
from limner.backbone.lora import FourBit, LoraSpec, can_merge, merge_lora

SPEC = LoraSpec(rank=4, alpha=8.0, quantization=FourBit())
needs_library = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="needs bitsandbytes: pip install bitsandbytes"
)
IDS = torch.tensor([[1, 7, 3, 9, 2, 40, 49, 51]])


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """A Llama whose matrices are large enough for four-bit blocks of 64."""
    from transformers import LlamaConfig, LlamaForCausalLM

    path = tmp_path_factory.mktemp("llama")
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(path)
    return path


def _loaded(path: Path, lora: LoraSpec | None) -> Backbone:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        backbone = Backbone.from_pretrained(path, num_added=3, lora=lora)
    for name, parameter in backbone.named_parameters():
        parameter.requires_grad_("lora_" in name or name.startswith("added"))
    return backbone


def _hidden(backbone: Backbone) -> torch.Tensor:
    documents = torch.ones_like(IDS)
    positions = torch.arange(IDS.shape[1])[None]
    return backbone.packed_hidden_states(backbone.embed(IDS), positions=positions, documents=documents)


def test_without_the_library_the_error_says_what_to_install(saved, monkeypatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "bitsandbytes" else found(name))
    with pytest.raises(
        ValueError, match=r'nf4, which needs bitsandbytes; it is not installed\nhint: pip install "limner\[qlora\]"'
    ):
        Backbone.from_pretrained(saved, lora=SPEC)


@needs_library
def test_four_bit_weights_are_a_quarter_and_compute_nearly_the_same(saved) -> None:
    plain, quantized = _loaded(saved, None), _loaded(saved, SPEC)
    matrix = quantized.language_model.get_decoder().layers[0].mlp.up_proj.get_base_layer().weight
    assert matrix.dtype == torch.uint8
    assert matrix.numel() == 128 * 256 // 2
    with torch.no_grad():
        expected, found = _hidden(plain), _hidden(quantized)
    difference = (found - expected).norm() / expected.norm()
    assert 1e-4 < float(difference) < 0.3


@needs_library
def test_adapters_learn_over_four_bit_weights_that_stand_still(saved) -> None:
    backbone = _loaded(saved, SPEC).train()
    frozen = {name: p.clone() for name, p in backbone.named_parameters() if not p.requires_grad}
    trained = [p for p in backbone.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-2)
    target = torch.randn(IDS.shape[1], 128, generator=torch.Generator().manual_seed(2))
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        loss = (_hidden(backbone)[0] - target).square().mean()
        loss.backward()
        assert all(p.grad is not None for p in trained)
        optimizer.step()
        losses.append(float(loss.detach()))
        backbone.eval()
        with torch.no_grad():
            _hidden(backbone)  # an evaluation between steps changes nothing
        backbone.train()
    assert losses[-1] < 0.9 * losses[0]
    assert all(torch.equal(p, frozen[name]) for name, p in backbone.named_parameters() if name in frozen)


@needs_library
def test_four_bit_weights_are_segmented_and_masked_alike(saved, monkeypatch) -> None:
    backbone = _loaded(saved, SPEC)
    assert backbone.segmented
    with torch.no_grad():
        found = _hidden(backbone)
        mask = packed_causal_mask(torch.ones_like(IDS), dtype=backbone.dtype)
        positions = torch.arange(IDS.shape[1])[None]
        expected = backbone.hidden_states(backbone.embed(IDS), positions=positions, mask=mask)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


@needs_library
def test_adapters_are_not_merged_into_four_bits(saved) -> None:
    backbone = _loaded(saved, SPEC)
    assert not can_merge(backbone.language_model)
    with pytest.raises(ValueError, match=r"holds four-bit weights[\s\S]*\nhint: "):
        merge_lora(backbone.language_model)
    assert any("lora_" in name for name, _ in backbone.named_parameters())
