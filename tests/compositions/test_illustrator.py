"""The wiring: a model from nothing, and one around a published language model on disk."""

import shutil
from pathlib import Path

import pytest
import torch
from tiny import Pages, documents, model_call, picture

from limner.backbone.lora import LoraSpec
from limner.cli.loading import open_engine
from limner.cli.options import Device
from limner.compositions.illustrator import illustrator
from limner.config.call import Call, build, call
from limner.config.serialize import to_json
from limner.data.collate import Collator
from limner.data.mixture import Mixture
from limner.document.document import Document
from limner.model.checkpoint import load_checkpoint, save_checkpoint
from limner.model.multimodal import MultimodalLM
from limner.tokens.tokenizer import byte_tokenizer
from limner.train.plan import Plan, run_plan
from limner.train.stage import Packed, Stage, Trainable
from limner.train.trainer import Trainer


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


def _call(published: Path, **changes) -> Call:
    parts = model_call()
    options = {"lora": call(LoraSpec, rank=2, alpha=4.0, targets=("q_proj",))} | changes
    return call(
        illustrator,
        language_model=str(published),
        encoder=parts.encoder,
        decoder=parts.decoder,
        num_queries=3,
        **options,
    )


def _stage(name: str, glob: str) -> Call:
    return call(
        Stage,
        name=name,
        mixture=call(Mixture, sources={"pages": call(Pages)}),
        batching=call(Packed, row_length=96, num_rows=2),
        trainable=[call(Trainable, glob=glob, learning_rate=1e-2)],
        num_steps=2,
        loss_weights={"text": 1.0, "image": 1.0},
    )


def _logits(model: MultimodalLM) -> torch.Tensor:
    batch = Collator(model)([[model.render(document, key="x") for document in documents()]])
    with torch.no_grad():
        return model.backbone.logits(model.hidden_states(batch)[0])


def _losses(model: MultimodalLM) -> dict[str, float]:
    batch = Collator(model)([[model.render(document, key="x") for document in documents()]])
    with torch.no_grad():
        return {name: float(term.sum) for name, term in model(batch, noise_key=(0,)).items()}


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
    assert _losses(loaded) == _losses(model)
    # Whoever opens it to use it gets the adapters folded in.
    used = open_engine(str(tmp_path / "model"), device=Device.CPU).model
    assert not any("lora_" in name for name, _ in used.named_parameters())
    assert _losses(used) == pytest.approx(_losses(model), rel=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_language_model_that_is_trained_whole_stays_as_trained_whatever_is_published(
    published: Path, tmp_path: Path, dtype: str
) -> None:
    from safetensors.torch import load_file, save_file

    elsewhere = tmp_path / "published"
    shutil.copytree(published, elsewhere)
    recorded = _call(elsewhere, lora=None, dtype=dtype)
    stages = [_stage("all", "backbone.language_model*"), _stage("projector", "modalities.image.input_projector.*")]
    # The second stage freezes the language model, and starts from what the first made of it.
    first, second = (run_plan(call(Plan, model=recorded, stages=stages[:n]), output=tmp_path / "run") for n in (1, 2))
    trained = load_file(first / "backbone.safetensors")
    weights = load_file(elsewhere / "model.safetensors")
    name = "model.layers.0.mlp.up_proj.weight"
    assert not torch.equal(trained[f"backbone.language_model.{name}"], weights[name].float())
    assert all(value.dtype == torch.float32 for value in trained.values())  # master weights
    before = _logits(load_checkpoint(first))
    save_file({key: value + 1.0 for key, value in weights.items()}, elsewhere / "model.safetensors", {"format": "pt"})
    for path in (first, second):
        loaded = load_checkpoint(path)
        assert "backbone.language_model" not in loaded.external
        assert loaded.backbone.dtype == getattr(torch, dtype)
        for name, value in loaded.backbone.language_model.state_dict().items():
            assert torch.equal(value, trained[f"backbone.language_model.{name}"].to(value.dtype)), name
    assert torch.equal(_logits(load_checkpoint(first)), before)


def test_a_checkpoint_computes_what_the_trained_model_computed(published: Path, tmp_path: Path) -> None:
    recorded = _call(published, lora=None)
    model = build(recorded)
    trainer = Trainer(model, stage=build(_stage("all", "backbone.*")), directory=tmp_path / "run", seed=0)
    trainer.run()
    save_checkpoint(model, tmp_path / "model", description=to_json(recorded))
    loaded = load_checkpoint(tmp_path / "model")
    assert torch.equal(_logits(loaded), _logits(model))
    assert _losses(loaded) == _losses(model)


def test_a_model_from_nothing_knows_no_language_model_from_elsewhere() -> None:
    model = build(model_call())
    assert model.external == {}
    assert model.backbone.tied
    assert len(model.render(Document.page([picture()]))) == 3 + 2 + 16 + 2 + 1
