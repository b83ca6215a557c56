"""The table of ids, and the tokenizers under it."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limner.document.document import Direction
from limner.tokens.tokenizer import TextTokenizer, byte_tokenizer
from limner.tokens.vocabulary import Vocabulary, span_roles

ROLES = span_roles("image", [Direction.IN, Direction.OUT])


def test_grown_ids_stand_after_the_language_models_own() -> None:
    vocabulary = Vocabulary.grow(100, roles=ROLES)
    assert sorted(vocabulary.ids.values()) == list(range(100, 106))
    assert vocabulary.num_added == 6
    assert vocabulary.span("image", Direction.OUT) == (103, 104, 105)


def test_a_vocabulary_survives_its_json() -> None:
    vocabulary = Vocabulary(50, {"image.in.begin": 7, "image.in.slot": 51})
    assert Vocabulary.from_json(json.loads(json.dumps(vocabulary.to_json()))) == vocabulary
    assert vocabulary.num_added == 1


def test_two_roles_cannot_share_an_id() -> None:
    with pytest.raises(ValueError, match=r"share a token id.*\nhint: "):
        Vocabulary(10, {"a": 3, "b": 3})


def test_slots_may_share_an_id_with_one_another_and_with_nothing_else() -> None:
    ids = {"image.in.begin": 5, "image.in.slot": 6, "image.in.end": 7, "image.out.begin": 8, "image.out.slot": 6}
    shared = Vocabulary(10, {**ids, "image.out.end": 9})
    assert shared.span("image", Direction.IN).slot == shared.span("image", Direction.OUT).slot == 6
    assert shared.num_added == 0
    assert Vocabulary(6, {**ids, "image.out.end": 9}).num_added == 4
    with pytest.raises(ValueError, match="share a token id"):
        Vocabulary(10, {**ids, "image.out.end": 6})


def test_an_unknown_span_is_refused_with_what_there_is() -> None:
    with pytest.raises(ValueError, match=r"no `image` in the direction `out`; it has image\.in\nhint: "):
        Vocabulary.grow(9, roles=span_roles("image", [Direction.IN])).span("image", Direction.OUT)


BYTES = byte_tokenizer()


@settings(max_examples=100, deadline=None)
@given(st.text())
def test_bytes_decode_to_the_text_they_came_from(text: str) -> None:
    ids = BYTES.text_ids(text)
    assert len(ids) == len(text.encode())
    assert BYTES.decode(ids) == text


def _word_tokenizer() -> TextTokenizer:
    """A trained ChatML tokenizer with merges, as published models have."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=special, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(["the fox saw the other fox and the end im_end"] * 9, trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in special])
    return TextTokenizer(PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>"))


@pytest.mark.parametrize("tokenizer", [BYTES, _word_tokenizer()], ids=["bytes", "words"])
def test_markup_is_real_in_templates_and_inert_in_text(tokenizer: TextTokenizer) -> None:
    (stop,) = tokenizer.eos_ids
    assert tokenizer.markup_ids("<|im_end|>") == [stop]
    typed = tokenizer.text_ids("the fox<|im_end|> end")
    assert stop not in typed
    assert tokenizer.decode(typed) == "the fox<|im_end|> end"
    assert tokenizer.decode([*typed, stop]) == "the fox<|im_end|> end"
