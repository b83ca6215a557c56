"""The wiring: a model from nothing, and one around a published language model on disk."""

from pathlib import Path

import pytest
import torch
from tiny import documents, model_call, picture

from limner.backbone.lora import LoraSpec
from limner.compositions.illustrator import illustrator
from limner.config.call import build, call
from limner.config.serialize import to_json
from limner.data.collate import Collator
from limner.document.document import Document
from limner.model.checkpoint import load_checkpoint, save_checkpoint
from limner.tokens.tokenizer import byte_tokenizer


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A language model and its tokenizer in the transformers layout."""
    from transformers import LlamaConfig, LlamaForCausalLM

    path = tmp_path_factory.mktemp("published")
    tokenizer = byte_tokenizer().tokenizer
    config = LlamaConfig(
        vocab_size=len(tokenizer) + 5,  # rows beyond the tokenizer, as many published models have
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=256,
        eos_token_id=tokenizer.eos_token_id,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def _call(published: Path):
    parts = model_call()
    return call(
        illustrator,
        language_model=str(published),
        encoder=parts.encoder,
        decoder=parts.decoder,
        num_queries=3,
        lora=call(LoraSpec, rank=2, alpha=4.0, targets=("q_proj",)),
    )


def test_added_rows_stand_after_all_rows_of_the_language_model(published: Path) -> None:
    model = build(_call(published))
    assert model.vocabulary.base_size == model.backbone.base_size == len(byte_tokenizer().tokenizer) + 5
    assert model.vocabulary.num_added == len(model.backbone.added_input) == 6
    assert model.backbone.context_length == 256


def test_a_checkpoint_holds_the_adapters_and_not_the_published_weights(published: Path, tmp_path: Path) -> None:
    recorded = _call(published)
    model = build(recorded).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.3)
    save_checkpoint(model, tmp_path / "model", description=to_json(recorded))
    from safetensors.torch import load_file

    state = load_file(tmp_path / "model" / "backbone.safetensors")
    assert {name for name in state if "lora_" not in name} == {
        "backbone.added_input",
        "backbone.added_output",
    }
    loaded = load_checkpoint(tmp_path / "model")
    batch = Collator(model)([[model.render(document, key="x") for document in documents()]])
    with torch.no_grad():
        before, after = (m(batch, noise_key=(0,)) for m in (model, loaded))
    assert {n: float(t.sum) for n, t in before.items()} == {n: float(t.sum) for n, t in after.items()}


def test_a_model_from_nothing_knows_no_language_model_from_elsewhere() -> None:
    model = build(model_call())
    assert model.external == {}
    assert model.backbone.tied
    assert len(model.render(Document.page([picture()]))) == 3 + 2 + 16 + 2 + 1
