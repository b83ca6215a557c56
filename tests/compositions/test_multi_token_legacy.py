"""The original's encoding: what may stand where, and what is refused instead of trained wrongly."""

from pathlib import Path

import pytest

from limner.compositions.multi_token_builders import BUILDERS, PLACEHOLDERS, builder
from limner.compositions.multi_token_legacy import LegacyRenderer, collate, encode_messages, legacy_messages
from limner.document.array import Array
from limner.document.document import Document, Media
from limner.document.rows import Placeholder, placeholder_id
from limner.evaluate.golden.multi_token_files import Files
from limner.tokens.batch import IGNORED

GOLDEN = Path(__file__).parents[1] / "golden" / "multi_token"
TOY = Placeholder("toy", "<toy>", "toys", 3, "toy", "array")


def _toy() -> Media:
    return Media(Array.from_values([0.0] * 5), modality="toy")


def _renderer() -> LegacyRenderer:
    model = Files(GOLDEN).toy_model()
    assert isinstance(model.render, LegacyRenderer)
    return model.render


def test_ids_of_placeholders_are_those_of_the_original() -> None:
    ids = {name: placeholder.token_id for name, placeholder in PLACEHOLDERS.items()}
    assert ids == {
        "vision_clip": -1626,
        "audio_whisper": -8565,
        "audio_clap": -9634,
        "video_xclip": -8680,
        "imagebind": -2755,
        "document_gte": -7240,
    }
    assert placeholder_id("<toy>") == -335
    assert len(BUILDERS) == 8


def test_a_document_becomes_a_sequence_whose_spans_are_its_items() -> None:
    sequence = _renderer()(Document.chat([("user", ["See ", _toy(), _toy()]), ("assistant", "Yes.")]), key="k")
    assert [(span.length, span.item, span.edge) for span in sequence.spans] == [(3, 0, 0), (3, 1, 0)]
    for span in sequence.spans:
        assert set(sequence.ids[span.start : span.start + span.length]) == {-335}
    assert not sequence.trained[0]
    assert len(sequence.cut(sequence.spans[1].start + 1).spans) == 1


def test_a_placeholder_written_by_a_user_is_refused() -> None:
    with pytest.raises(ValueError, match=r"<toy> is written out in a user's text\nhint: give the item itself"):
        _renderer()(Document.chat([("user", "See <toy>")]))


def test_what_the_original_cannot_say_is_refused() -> None:
    render = _renderer()
    with pytest.raises(ValueError, match=r"a page has no roles"):
        render(Document.page(["x"]))
    with pytest.raises(ValueError, match=r"refuses these roles.*\nhint: let user and assistant take turns"):
        render(Document.chat([("assistant", "x")]))
    with pytest.raises(ValueError, match=r"an answer cannot be continued"):
        render(Document.chat([("user", "x"), ("assistant", "y")]), reply=True)
    with pytest.raises(ValueError, match=r"stands outside of what the user asks"):
        render(Document.chat([("user", ["[/INST]", _toy()])]))
    with pytest.raises(ValueError, match=r"has no modality `image`; it has toy"):
        legacy_messages(
            Document.chat([("user", [Media(None, modality="image")])]),
            placeholders=[TOY],
        )


def test_padding_is_masked_and_ignored() -> None:
    files = Files(GOLDEN)
    rows = [
        encode_messages([{"role": "user", "content": text}], placeholders=[TOY], tokenizer=files.tokenizer)
        for text in ("a", "a much longer question")
    ]
    batch = collate(rows, pad_id=files.pad_id)
    short = len(rows[0].input_ids)
    assert batch.attention_mask[0].tolist() == [True] * short + [False] * (batch.input_ids.shape[1] - short)
    assert set(batch.labels[0, short:].tolist()) == {IGNORED}
    assert collate(rows, pad_id=files.pad_id, max_length=4).input_ids.shape == (2, 4)


def test_an_unknown_builder_and_missing_weights_are_refused() -> None:
    with pytest.raises(ValueError, match=r"there is no builder `vision`; there are vision_clip, "):
        builder("vision")
    part = builder("vision_clip", weights=str(GOLDEN / "encoders" / "clip28"))
    assert (part.layout, part.placeholder.num_positions) == ("patch", 4)
    part = builder("vision_clip_pool", weights=str(GOLDEN / "encoders" / "clip28"))
    assert (part.layout, part.placeholder.num_positions) == ("vector", 10)
