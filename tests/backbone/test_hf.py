"""The adapter: any family without a table, added rows beside the original matrices, LoRA."""

import pytest
import torch
from tiny import causal_lm, tiny_backbone

from limner.backbone.attention import packed_causal_mask
from limner.backbone.hf import Backbone
from limner.backbone.lora import LoraSpec, merge_lora

FAMILIES = [("llama", True), ("llama", False), ("qwen2", True), ("gpt_neox", False)]
TARGETS = {"llama": ("q_proj", "down_proj"), "gpt_neox": ("query_key_value",)}


def _hidden(backbone, ids: torch.Tensor) -> torch.Tensor:
    documents = torch.ones_like(ids)
    positions = torch.arange(ids.shape[1]).expand_as(ids)
    mask = packed_causal_mask(documents, dtype=backbone.dtype)
    return backbone.hidden_states(backbone.embed(ids), positions=positions, mask=mask)


IDS = torch.tensor([[1, 7, 3, 9, 2, 40, 49], [5, 5, 6, 0, 1, 2, 3]])


@pytest.mark.parametrize(("family", "tied"), FAMILIES)
def test_old_logits_are_those_of_the_language_model_alone(family: str, tied: bool) -> None:
    backbone, plain = tiny_backbone(family, tied=tied), causal_lm(family, tied=tied)
    with torch.no_grad():
        hidden = _hidden(backbone, IDS)
        ours = backbone.logits(hidden.flatten(0, 1)).unflatten(0, IDS.shape)
        torch.testing.assert_close(ours[..., :50], plain(IDS).logits, atol=1e-5, rtol=1e-5)
    assert ours.shape[-1] == 53
    assert backbone.tied is tied
    assert backbone.context_length == 64


@pytest.mark.parametrize("tied", [True, False])
def test_added_rows_are_read_and_scored_as_if_they_stood_in_the_matrices(tied: bool) -> None:
    backbone = tiny_backbone(tied=tied)
    plain = causal_lm(tied=tied)
    ids = torch.tensor([[1, 50, 51, 2, 52]])
    with torch.no_grad():
        plain.resize_token_embeddings(53, mean_resizing=False)
        plain.get_input_embeddings().weight[50:] = backbone.added_input
        if not tied:
            plain.get_output_embeddings().weight[50:] = backbone.added_output
        ours = backbone.logits(_hidden(backbone, ids)[0])
        torch.testing.assert_close(ours, plain(ids).logits[0], atol=1e-5, rtol=1e-5)


def test_added_rows_have_a_zero_gradient_where_no_id_names_them() -> None:
    backbone = tiny_backbone(tied=False)
    backbone.embed(IDS).sum().backward()
    assert backbone.added_input.grad is not None
    assert not backbone.added_input.grad.any()


def test_new_rows_start_near_the_mean_and_apart() -> None:
    backbone = tiny_backbone(num_added=3)
    mean = backbone.language_model.get_input_embeddings().weight.mean(dim=0)
    rows = backbone.added_input.detach()
    spread = backbone.language_model.get_input_embeddings().weight.std()
    assert (rows - mean).std() < 0.2 * spread
    assert (rows[0] - rows[1]).abs().max() > 0


@pytest.mark.parametrize("family", ["llama", "gpt_neox"])
def test_lora_starts_as_the_model_without_it(family: str) -> None:
    spec = LoraSpec(rank=2, alpha=4.0, targets=TARGETS[family])
    with torch.no_grad():
        adapted = _hidden(tiny_backbone(family, lora=spec), IDS)
        torch.testing.assert_close(adapted, _hidden(tiny_backbone(family), IDS))


@pytest.mark.parametrize("family", ["llama", "gpt_neox"])
def test_merged_lora_computes_what_unmerged_does(family: str) -> None:
    backbone = tiny_backbone(family, lora=LoraSpec(rank=2, alpha=4.0, targets=TARGETS[family]))
    adapters = [p for name, p in backbone.named_parameters() if "lora_" in name]
    assert adapters
    with torch.no_grad():
        for parameter in adapters:
            parameter.normal_(std=0.3, generator=torch.Generator().manual_seed(0))
        unmerged = _hidden(backbone, IDS)
        assert (unmerged - _hidden(tiny_backbone(family), IDS)).abs().max() > 1e-2
        merge_lora(backbone.language_model)
        torch.testing.assert_close(_hidden(backbone, IDS), unmerged, atol=1e-5, rtol=1e-5)
    assert not any("lora_" in name for name, _ in backbone.named_parameters())


def test_lora_alone_gets_gradients_when_it_alone_is_trained() -> None:
    backbone = tiny_backbone(lora=LoraSpec(rank=2, alpha=4.0, targets=TARGETS["llama"]))
    for name, parameter in backbone.named_parameters():
        parameter.requires_grad_("lora_" in name)
    _hidden(backbone, IDS).square().sum().backward()
    assert {name for name, p in backbone.named_parameters() if p.grad is not None} == {
        name for name, _ in backbone.named_parameters() if "lora_" in name
    }


@pytest.mark.parametrize("family", ["gemma2", "cohere", "granite"])
def test_what_a_family_does_to_its_logits_is_done_to_added_rows_too(family: str) -> None:
    plain = causal_lm(family)
    backbone = tiny_backbone(family)
    ids = torch.tensor([[1, 7, 3, 9, 2, 40, 49]])
    with torch.no_grad():
        hidden = _hidden(backbone, ids)[0]
        bare = plain.get_output_embeddings()(hidden)
        plain.resize_token_embeddings(53, mean_resizing=False)
        plain.get_input_embeddings().weight[50:] = backbone.added_input
        expected = plain(ids).logits[0]
        torch.testing.assert_close(backbone.logits(hidden), expected, atol=1e-5, rtol=1e-4)
    assert (bare - expected[:, :50]).abs().max() > 1e-2


@pytest.mark.parametrize(
    ("family", "changes", "says"),
    [
        ("gemma2", {"sliding_window": 32}, "layers that see 32 of 64 positions"),
        ("qwen2", {"layer_types": ["full_attention", "chunked_attention"]}, "layers of chunked_attention"),
        ("llama", {"logits_scaling": 2.0}, "changes its logits by `logits_scaling` = 2.0"),
    ],
)
def test_a_family_that_needs_what_we_do_not_do_is_refused(family: str, changes: dict, says: str) -> None:
    model = causal_lm(family)
    for key, value in changes.items():
        setattr(model.config, key, value)
    with pytest.raises(ValueError, match=says + r"[\s\S]*\nhint: "):
        Backbone(model)


@pytest.mark.parametrize(("given", "stops"), [(None, ()), (2, (2,)), ([2, 7], (2, 7))])
def test_the_language_model_s_own_stop_ids_are_known(given: int | list[int] | None, stops: tuple[int, ...]) -> None:
    model = causal_lm()
    model.generation_config.eos_token_id = given
    assert Backbone(model).stop_ids == stops


@torch.no_grad()
def test_a_checkpoint_s_own_rows_need_no_added_ones():
    backbone, plain = tiny_backbone(num_added=0, tied=False), causal_lm(tied=False)
    ids = torch.tensor([[3, 49, 7]])
    torch.testing.assert_close(backbone.embed(ids), plain.get_input_embeddings()(ids), rtol=0, atol=0)
    hidden = torch.randn(2, 16)
    torch.testing.assert_close(backbone.logits(hidden), plain.lm_head(hidden), rtol=0, atol=0)
    assert backbone.added_input.shape == backbone.added_output.shape == (0, 16)
    with torch.enable_grad():
        backbone.logits(_hidden(backbone, ids)[0]).sum().backward()
    assert [name for name, parameter in backbone.named_parameters() if parameter.grad is None] == []
