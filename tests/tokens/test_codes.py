"""Codes in the vocabulary and in sequences: a block of their own, written as ids, learned with their end, never cut."""

import json

import pytest
from tiny import picture
from tiny_codes import PALETTE, code_documents, said, tiny_code_model

from limner.document.document import Direction, Document, Media, null_prompt
from limner.tokens.vocabulary import Vocabulary, edge_roles, span_roles

MODEL, READING = tiny_code_model(), tiny_code_model(reads=True)
BEGIN, END = MODEL.vocabulary.edges("image")
IDS = MODEL.vocabulary.code_ids("image")
(STOP,) = MODEL.tokenizer.eos_ids
RED = [IDS[1]] * 9


def _grown() -> Vocabulary:
    return Vocabulary.grow(100, roles=edge_roles("image") + edge_roles("motion"), codes={"image": 8, "motion": 4})


def test_a_block_of_codes_stands_behind_the_roles_and_counts_as_added() -> None:
    vocabulary = _grown()
    assert vocabulary.edges("image") == (100, 101)
    assert vocabulary.code_ids("image") == range(104, 112)
    assert vocabulary.code_ids("motion") == range(112, 116)
    assert vocabulary.num_added == 16
    assert Vocabulary(200, vocabulary.ids, vocabulary.codes).num_added == 0


def test_blocks_survive_json_and_a_table_without_them_is_written_as_before() -> None:
    assert Vocabulary.from_json(json.loads(json.dumps(_grown().to_json()))) == _grown()
    assert set(Vocabulary.grow(9, roles=["a"]).to_json()) == {"base_size", "ids"}


def test_what_is_read_and_what_is_said_may_have_the_same_edges() -> None:
    ids = {"image.in.begin": 5, "image.in.slot": -1, "image.in.end": 6, "image.out.begin": 5, "image.out.end": 6}
    vocabulary = Vocabulary(20, ids, {"image": (7, 4)})
    assert vocabulary.span("image", Direction.IN) == (5, -1, 6)
    assert vocabulary.edges("image") == (5, 6)
    assert vocabulary.num_added == 0


@pytest.mark.parametrize(
    ("ids", "codes", "said"),
    [
        ({"image.out.begin": 1, "image.out.end": 2}, {"image": (2, 3)}, "lies within the codes"),
        ({"image.out.begin": 1}, {"image": (2, 3)}, r"need the role `image\.out\.end`"),
        ({"image.out.begin": 1, "image.out.end": 2}, {"image": (8, 4)}, "old rows and new ones"),
        (
            {"a.out.begin": 1, "a.out.end": 2, "b.out.begin": 3, "b.out.end": 4},
            {"a": (10, 4), "b": (13, 2)},
            "overlap",
        ),
    ],
)
def test_a_block_that_cannot_be_is_refused(ids, codes, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Vocabulary(10, ids, codes)


def test_a_picture_that_is_made_is_written_once_as_its_codes_and_not_read_again() -> None:
    for model in (MODEL, READING):
        begin, end = model.vocabulary.edges("image")
        codes = [model.vocabulary.code_ids("image")[1]] * 9
        sequence = model.render(Document.page(["a", picture("red"), "b"]))
        (span,) = sequence.spans
        assert span.coded
        assert list(sequence.ids[slice(*span.outer)]) == [begin, *codes, end]
        assert all(sequence.trained[slice(*span.outer)])
        assert len(sequence.media) == 1


def test_what_a_user_shows_is_codes_where_nothing_reads_and_never_a_target() -> None:
    document = Document.chat([("user", [picture("red")]), ("assistant", "x")])
    (span,) = MODEL.render(document).spans
    assert span.coded
    assert list(MODEL.render(document).ids[span.start : span.start + span.length]) == RED
    assert not any(MODEL.render(document).trained[slice(*span.outer)])
    (read,) = READING.render(document).spans
    assert not read.coded
    assert read.length == 16


def test_the_same_picture_shown_twice_is_written_twice() -> None:
    media = Media(picture("red"))
    page = Document.page([media, media])
    assert [span.item for span in MODEL.render(page).spans] == [0, 1]
    shown = Document.chat([("user", [media, media]), ("assistant", [media]), ("user", [media])])
    assert len(MODEL.render(shown).spans) == 4


def test_lengths_are_those_of_the_picture_and_may_be_none() -> None:
    lengths = [span.length for document in code_documents() for span in MODEL.render(document).spans]
    assert lengths == [9, 9, 9, 0]


def test_the_null_prompt_is_learned_but_not_when_to_draw() -> None:
    sequence = MODEL.render(null_prompt(Media(picture("red"))))
    assert list(sequence.ids) == [BEGIN, *RED, END, STOP]
    assert list(sequence.trained) == [False] + [True] * 11


def test_what_is_still_to_be_made_has_no_codes_and_is_no_target() -> None:
    sequence = MODEL.render(null_prompt(Media(None)))
    assert list(sequence.ids) == [BEGIN, END, STOP]
    assert list(sequence.trained) == [False, False, True]


def test_a_cut_never_splits_codes() -> None:
    sequence = MODEL.render(Document.page(["a ", picture("red"), " b", picture("blue")]))
    first, last = sequence.spans[0].outer
    for length in range(first, last):
        assert len(sequence.cut(length)) == first
    assert len(sequence.cut(last)) == last
    assert sequence.cut(last).media == sequence.media[:1]


def test_text_cannot_say_codes() -> None:
    sequence = MODEL.render(Document.page(["<|image.out.begin|> 3 4"]))
    assert max(sequence.ids) < MODEL.vocabulary.base_size


def test_a_block_of_another_size_than_the_quantizer_is_refused() -> None:
    modality, tokenizer = MODEL.modalities["image"], MODEL.tokenizer
    for codes in ({"image": len(PALETTE) + 1}, {}):
        vocabulary = Vocabulary.grow(MODEL.backbone.base_size, roles=span_roles("image", list(Direction)), codes=codes)
        with pytest.raises(ValueError, match=f"has {len(PALETTE)} codes"):
            type(MODEL)(
                MODEL.backbone,
                modalities={"image": modality},
                vocabulary=vocabulary,
                template=MODEL.render.template,
                tokenizer=tokenizer,
            )


def test_a_part_that_is_only_said_is_rendered_like_one_that_is_made() -> None:
    assert MODEL.render(Document.page([said("red")])).ids == (BEGIN, *RED, END, STOP)
