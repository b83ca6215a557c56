"""Rows that spell: connectionist temporal classification against the words of the language model."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from limner.backbone.hf import Backbone
from limner.compositions.multi_token import Part, wire
from limner.data.mixture import FunctionSource, Mixture
from limner.document.array import Array
from limner.document.document import Direction, Document, Media, Text
from limner.document.rows import Placeholder
from limner.modalities.encoders.precomputed import PrecomputedEncoder
from limner.tokens.template import Template
from limner.tokens.tokenizer import byte_tokenizer
from limner.train.alignment import ConnectionistAlignment
from limner.train.stage import Packed

WORDS = ("ab", "ba", "c", "a")
ROWS, WIDTH = 5, 8


def documents(index: int) -> Document:
    """The sound of a word is the same five rows each time, and what is said about it the word."""
    rows = torch.randn(ROWS, WIDTH, generator=torch.Generator().manual_seed(index % len(WORDS)))
    sound = Media(Array.from_values(rows.numpy()), modality="sound")
    return Document.chat([("user", [sound, Text("Which?")]), ("assistant", WORDS[index % len(WORDS)])])


@pytest.fixture
def model():
    placeholder = Placeholder("sound", "<sound>", "sounds", ROWS, "sound", "array")
    tokenizer = byte_tokenizer()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer.tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=1,
        num_attention_heads=2, max_position_embeddings=128,
    )  # fmt: skip
    part = Part(placeholder, PrecomputedEncoder(width=WIDTH, num_rows=ROWS), "patch")
    return wire(
        Backbone(LlamaForCausalLM(config)),
        tokenizer=tokenizer,
        template=Template.from_tokenizer(tokenizer.tokenizer, system=""),
        parts=[part],
    )


@pytest.fixture
def batch(model):
    mixture = Mixture({"words": FunctionSource(documents, 40)})
    return Packed(row_length=128, num_rows=2).loader(mixture, model=model).next_batch()


def test_the_rows_of_an_item_come_to_spell_the_word_behind_it(model, batch):
    objective = ConnectionistAlignment("sound")
    projector = model.reader("sound").input_projector
    optimizer = torch.optim.Adam(projector.parameters(), lr=1e-2)
    losses = []
    for _ in range(200):
        term = objective(model, batch, noise_key=(0, 0))["text"]
        losses.append(term.mean.item())
        optimizer.zero_grad()
        term.mean.backward()
        optimizer.step()
    assert losses[-1] < 0.2 * losses[0]
    spans = batch.spans["sound", Direction.IN]
    rows = projector(model.features("sound", spans)).values
    letters = model.tokenizer.text_ids("abc\n")
    near = (
        torch.nn.functional.normalize(rows, dim=-1)
        @ torch.nn.functional.normalize(model.backbone.embed(torch.tensor([letters]))[0], dim=-1).T
    )
    spelled = ["".join("abc "[letter] for letter in item) for item in near.argmax(dim=-1).view(-1, ROWS)]
    collapsed = ["".join(a for a, b in zip(text, " " + text, strict=False) if a not in (b, " ")) for text in spelled]
    said = [WORDS[int(key.split("/")[1]) % len(WORDS)] for row in batch.keys for key in row]
    assert collapsed == said


def test_the_term_counts_items_before_any_forward_and_rows_are_all_it_trains(model, batch):
    objective = ConnectionistAlignment("sound")
    items = len(batch.spans["sound", Direction.IN].lengths)
    assert objective.count(batch) == {"text": float(items)}
    term = objective(model, batch, noise_key=(0, 0))["text"]
    assert term.count.item() == items
    term.sum.backward()
    assert all(parameter.grad is not None for parameter in model.reader("sound").input_projector.parameters())
    assert objective.count(type(batch)(batch.ids, batch.positions, batch.documents, batch.labels)) == {}
