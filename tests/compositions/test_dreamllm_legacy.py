"""What the recorded cases do not say about the published rules: refusals, limits, and what stays inert."""

from pathlib import Path

import pytest
import torch

from limner.compositions import dreamllm_legacy as legacy
from limner.compositions.dreamllm_checkpoint import read_dreamllm
from limner.compositions.dreamllm_decoding import continue_by_beams, continue_greedily
from limner.compositions.dreamllm_rows import SampleBuilder, collate, merged_texts, prompt_of, turns_of
from limner.compositions.sentencepiece_text import SentencePieceText

CHECKPOINT = Path(__file__).parents[1] / "golden" / "dreamllm" / "checkpoint"


@pytest.fixture(scope="module")
def tokenizer():
    return SentencePieceText.from_directory(CHECKPOINT)


@pytest.fixture(scope="module")
def model():
    return read_dreamllm(CHECKPOINT)


@pytest.fixture(scope="module")
def builder(tokenizer):
    return SampleBuilder(tokenizer, num_patches=9, num_queries=6, max_length=512)


def test_special_tokens_in_text_stay_characters(tokenizer):
    marked = tokenizer.markup_ids("<dream_start>")
    assert marked == [tokenizer.id_of("<dream_start>")]
    plain = tokenizer.text_ids("<dream_start>")
    assert not set(plain) & {token.id for token in tokenizer.special.values()}
    assert tokenizer.decode(plain) == "<dream_start>"


def test_the_library_object_answers_what_previews_ask(tokenizer):
    ids = tokenizer.prompt_ids("A disc.")
    assert tokenizer.id_of("<s>") in tokenizer.tokenizer.all_special_ids
    assert tokenizer.tokenizer.decode(ids, skip_special_tokens=True) == "A disc."
    assert tokenizer.tokenizer.decode(ids, clean_up_tokenization_spaces=False) == "<s>A disc."


def test_an_unknown_special_token_is_refused(tokenizer):
    with pytest.raises(ValueError, match=r"no token `<audio>`.*\n.*hint"):
        tokenizer.id_of("<audio>")


def test_an_unknown_kind_or_mode_is_refused(builder):
    with pytest.raises(ValueError, match="kind `video`"):
        builder.build("video", {})
    with pytest.raises(ValueError, match="mode `both`"):
        builder.build("interleaved", {}, mode="both")


def test_a_conversation_with_too_few_pictures_is_refused(builder):
    record = {"conversations": [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": "Yes."}]}
    with pytest.raises(ValueError, match="1 placeholders and 0 pictures"):
        builder.build("conversation", record)


def test_one_picture_serves_every_placeholder_of_a_record(builder):
    turns = [{"from": "human", "value": "<image> Again: <image>"}, {"from": "gpt", "value": "Yes."}]
    assert builder.build("conversation", {"image": "one", "conversations": turns}).read == ("one", "one")


def test_the_dream_token_is_a_target_in_documents_and_nowhere_else(builder, tokenizer):
    dream = tokenizer.id_of("<dream_start>")
    document = {"images": ["one"], "texts": ["A disc."], "matched_text_index": [0]}
    assert dream in builder.build("interleaved", document).labels
    turns = [{"from": "human", "value": "Draw."}, {"from": "gpt", "value": "<dream>"}]
    sample = builder.build("conversation", {"image": "one", "conversations": turns})
    assert dream in sample.ids
    assert dream not in sample.labels


def test_texts_are_merged_up_to_their_pictures():
    assert merged_texts([" a ", "b", "c"], matched=[1]) == ["a b", "c"]
    assert merged_texts(["a", "b"], matched=[0, 0]) == ["a", "", "b"]
    assert merged_texts(["a"], matched=[]) == ["a"]


def test_a_prompt_is_left_open_and_leading_answers_are_dropped():
    record = {"conversations": [{"from": "gpt", "value": "Hello"}, {"from": "human", "value": "Hi"}]}
    turns, _ = turns_of(record)
    assert prompt_of([*turns, None]).endswith("questions. USER: Hi ASSISTANT:")


def test_rows_are_padded_on_the_right(builder):
    short = builder.build("image_image_pair", {"source": "a", "target": "b"})
    long = builder.build("image_text_pair", {"image": "c", "text": "A large red disc."}, mode="creation_only")
    batch = collate([short, long], pad_id=416)
    assert batch.ids.shape == batch.mask.shape == batch.labels.shape
    assert batch.mask.sum(dim=1).tolist() == [len(short.ids), len(long.ids)]
    assert (batch.read, batch.made) == (("a",), ("b", "c"))


def test_pictures_and_begin_tokens_must_agree(model, builder):
    batch = collate([builder.build("image_image_pair", {"source": "a", "target": "b"})], pad_id=416)
    with pytest.raises(ValueError, match="1 begin tokens of pictures"):
        legacy.legacy_batch(model, batch.ids, mask=batch.mask, read=torch.zeros(2, 3, 42, 42))


def test_an_unknown_loss_schedule_is_refused():
    with pytest.raises(ValueError, match="loss_scale_schedule is `l3_norm`"):
        _ = legacy.LossRules(scale_schedule="l3_norm").scale


def test_other_rules_leave_the_models_decoder_as_it_is(model):
    decoder = legacy.latent_decoder(model)
    changed = legacy.decoder_with(model, legacy.LossRules(noise_offset=0.5, prediction_type="v_prediction"))
    assert (changed.denoising.noise_offset, changed.prediction_type) == (0.5, "v_prediction")
    assert (decoder.denoising.noise_offset, decoder.prediction_type) == (0.0, "epsilon")
    assert changed.unet is decoder.unet


def test_one_beam_is_greedy_and_rows_do_not_see_one_another(model, tokenizer):
    prompts = [tokenizer.prompt_ids("There is a"), tokenizer.prompt_ids("A large red disc on a")]
    options = {"read": None, "max_new_tokens": 6, "eos_id": 2, "pad_id": 416}
    together = continue_greedily(model, prompts, **options).ids
    alone = [continue_greedily(model, [prompt], **options).ids[0] for prompt in prompts]
    assert [row[: len(single)] for row, single in zip(together, alone, strict=True)] == alone
    beams = continue_by_beams(model, prompts, **options, num_beams=1).ids
    assert [row[: len(single)] for row, single in zip(beams, alone, strict=True)] == alone
