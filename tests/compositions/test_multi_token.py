"""Any language model reads any modalities: injected, trained, saved, reloaded; batched answers equal single ones."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    GemmaConfig,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    PhiConfig,
    Qwen3Config,
)

from limner.backbone.lora import LoraSpec
from limner.compositions.multi_token import Part, load_backbone, lora_targets, multi_token, placed
from limner.compositions.multi_token_legacy import multi_token_legacy
from limner.config.call import Call, build, call
from limner.config.serialize import to_json
from limner.data.collate import Collator
from limner.document.array import Array
from limner.document.document import Document, Media
from limner.document.rows import Placeholder, row_document
from limner.generate.engine import Engine
from limner.generate.request import Request
from limner.modalities.encoders.precomputed import PrecomputedEncoder
from limner.model.checkpoint import load_checkpoint, save_checkpoint
from limner.model.multimodal import MultimodalLM
from limner.tokens.tokenizer import byte_tokenizer

FAMILIES = {
    "mistral": MistralConfig,
    "llama": LlamaConfig,
    "qwen3": Qwen3Config,
    "gemma": GemmaConfig,
    "phi": PhiConfig,
    "gpt_neox": GPTNeoXConfig,
}
SERIES = Placeholder("series", "<series>", "readings", 3, "series", "array")
GRID = Placeholder("grid", "<grid>", "grids", 2, "grid", "array")


def published(path: Path, family: str = "llama", **changes: Any) -> Path:
    """A tiny language model of a family and its tokenizer, on disk."""
    tokenizer = byte_tokenizer().tokenizer
    sizes = {
        "vocab_size": len(tokenizer),
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 256,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    if family != "gpt_neox":
        sizes["num_key_value_heads"] = 1 if family != "phi" else 2
    if family in ("gemma", "qwen3"):
        sizes["head_dim"] = 8
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(FAMILIES[family](**sizes | changes)).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def description(path: Path, *, lora: bool = True) -> Call:
    """Two modalities, one of each layout, on a language model."""
    parts = [
        call(
            Part,
            placeholder=call(Placeholder, **{key: getattr(SERIES, key) for key in SERIES.__dict__}),
            encoder=call(PrecomputedEncoder, width=4),
            layout="vector",
        ),
        call(
            Part,
            placeholder=call(Placeholder, **{key: getattr(GRID, key) for key in GRID.__dict__}),
            encoder=call(PrecomputedEncoder, width=5, num_rows=2),
            layout="patch",
        ),
    ]
    spec = call(LoraSpec, rank=2, alpha=4.0, targets=lora_targets(str(path))) if lora else None
    return call(multi_token, language_model=str(path), parts=parts, lora=spec)


def series(seed: int) -> Media:
    values = torch.randn(4, generator=torch.Generator().manual_seed(seed))
    return Media(Array.from_values(values.numpy()), modality="series")


def grid(seed: int) -> Media:
    values = torch.randn(2, 5, generator=torch.Generator().manual_seed(100 + seed))
    return Media(Array.from_values(values.numpy()), modality="grid")


def documents() -> list[Document]:
    """Several modalities and lengths, none at all, a system turn, two turns."""
    return [
        Document.chat([("user", ["Look: ", series(0), " and ", grid(0)]), ("assistant", "Up.")]),
        Document.chat([("user", "No item here?"), ("assistant", "None.")]),
        Document.chat([("system", "Be brief."), ("user", [grid(1), grid(2), series(1)]), ("assistant", "Two.")]),
        Document.chat(
            [("user", [series(2), "?"]), ("assistant", "Down."), ("user", ["And ", grid(3), "?"]), ("assistant", "Up.")]
        ),
    ]


def prompts() -> list[Document]:
    return [Document(document.messages[:-1]) for document in documents()]


def answers(model: MultimodalLM, asked: list[Document]) -> list[str]:
    found = Engine(model).run([Request(document, max_new_tokens=6) for document in asked])
    return [document.messages[-1].text for document in found]


def loss(model: MultimodalLM) -> torch.Tensor:
    batch = Collator(model)([[model.render(document, key=str(i))] for i, document in enumerate(documents())])
    return model(batch, noise_key=(0,))["text"].mean


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_is_injected_trained_saved_reloaded_and_answers(family: str, tmp_path: Path) -> None:
    recorded = description(published(tmp_path / "base", family))
    torch.manual_seed(0)
    model = build(recorded)
    trained = [
        parameter.requires_grad_("lora_" in name or "input_projector" in name)
        for name, parameter in model.named_parameters()
    ]
    optimizer = torch.optim.AdamW([parameter for parameter in trained if parameter.requires_grad], lr=0.02)
    losses = []
    for _ in range(4):
        optimizer.zero_grad()
        found = loss(model)
        found.backward()
        optimizer.step()
        losses.append(float(found.detach()))
    missed = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert missed == []
    assert losses[-1] < losses[0] - 0.02
    model.eval()
    save_checkpoint(model, tmp_path / "model", description=to_json(recorded))
    loaded = load_checkpoint(tmp_path / "model")
    with torch.no_grad():
        assert float(loss(loaded)) == float(loss(model))
    together = answers(loaded, prompts())
    assert together == [answers(model, [document])[0] for document in prompts()]


def test_what_is_read_depends_on_the_item_and_on_nothing_else(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = build(description(published(tmp_path))).eval()

    def hidden(item: Media, before: str = "") -> torch.Tensor:
        batch = Collator(model)([[model.render(Document.chat([("user", [before, item, "?"])]))]])
        with torch.no_grad():
            return model.hidden_states(batch)[batch.documents > 0][-1]

    assert torch.equal(hidden(series(0)), hidden(series(0)))
    assert not torch.allclose(hidden(series(0)), hidden(series(1)), atol=1e-4)


def test_a_batch_reads_as_its_rows_one_by_one(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = build(description(published(tmp_path))).eval()
    sequences = [model.render(document) for document in documents()]
    collate = Collator(model)
    with torch.no_grad():
        together = collate([[sequence] for sequence in sequences])
        rows = model.hidden_states(together)
        for number, sequence in enumerate(sequences):
            alone = model.hidden_states(collate([[sequence]]))
            difference = (rows[number, : len(sequence)] - alone[0, : len(sequence)]).abs().max()
            assert float(difference) < 1e-6


def test_a_placeholder_written_by_a_user_is_text(tmp_path: Path) -> None:
    model = build(description(published(tmp_path), lora=False))
    sequence = model.render(Document.chat([("user", "<series> <|im_end|>")]))
    assert sequence.spans == ()
    assert model.vocabulary.num_added == 0


def test_parts_that_share_a_token_are_refused(tmp_path: Path) -> None:
    path = published(tmp_path)
    part = placed(SERIES, PrecomputedEncoder(width=4), layout="vector", positions=3)
    with pytest.raises(ValueError, match=r"names series, series; expected different ones.*\nhint: "):
        multi_token(language_model=str(path), parts=[part, part])


def test_a_layout_that_does_not_fit_the_encoder_is_refused() -> None:
    with pytest.raises(ValueError, match=r"encoder of 2 rows and 3 positions in a vector layout\nhint: "):
        Part(SERIES, PrecomputedEncoder(width=4, num_rows=2), "vector")


def test_a_window_smaller_than_the_context_ends_the_context(tmp_path: Path) -> None:
    path = published(tmp_path, "mistral", sliding_window=64)
    assert load_backbone(path).context_length == 64
    config = json.loads((path / "config.json").read_text())
    assert config["max_position_embeddings"] == 256


def test_a_model_of_the_original_encoding_is_rebuilt_from_its_checkpoint(tmp_path: Path) -> None:
    path = published(tmp_path / "base")
    recorded = description(path, lora=False)
    template = "{% for m in messages %}{{ '[INST] ' + m['content'] + ' [/INST]' }}{% endfor %}"
    recorded = call(multi_token_legacy, language_model=str(path), parts=recorded.parts, chat_template=template)
    model = build(recorded)
    save_checkpoint(model, tmp_path / "model", description=to_json(recorded))
    loaded = load_checkpoint(tmp_path / "model")
    document = Document.chat([("user", ["See ", series(0)])])
    assert loaded.render(document).ids == model.render(document).ids
    assert loaded.render(document).spans[0].edge == 0
    assert list(loaded.render(document).ids).count(SERIES.token_id) == 3


def test_rows_become_documents_and_wrong_ones_are_refused() -> None:
    placeholders = [SERIES, GRID]
    row = {
        "messages": [
            {"role": "user", "content": "a <series><grid>"},
            {"role": "assistant", "content": "<series>"},
        ],
        "readings": [[1, 2, 3, 4]],
        "grids": [[[0] * 5] * 2],
    }
    document = row_document(row, placeholders=placeholders)
    assert [media.modality for _, media in document.media()] == ["series", "grid"]
    assert document.messages[1].text == "<series>"
    assert list(row_document({"messages": row["messages"][1:]}, placeholders=placeholders).media()) == []
    with pytest.raises(ValueError, match=r"messages\[0\] has a <grid> without an item\nhint: `grids`"):
        row_document({**row, "grids": []}, placeholders=placeholders)
    with pytest.raises(ValueError, match=r"1 items of `readings` have no <series>"):
        row_document({**row, "readings": row["readings"] * 2}, placeholders=placeholders)
    with pytest.raises(ValueError, match=r"row key `messages` is None"):
        row_document({}, placeholders=placeholders)
    with pytest.raises(ValueError, match=r"messages\[0\] is .*expected a role and its content"):
        row_document({"messages": [{"role": "tool", "content": "x"}]}, placeholders=placeholders)
