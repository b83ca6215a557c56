"""Encoders of sounds, moving pictures, texts and ready features: batches equal single items, draws belong to items."""

import functools
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from limner.document.array import Array
from limner.document.audio import Audio
from limner.document.document import Media
from limner.document.media import Image
from limner.document.text_file import TextFile
from limner.document.video import Video
from limner.modalities.base import Encoder
from limner.modalities.encoders.clap import ClapEncoder
from limner.modalities.encoders.gte import GteEncoder, pack_sentences, split_sentences
from limner.modalities.encoders.imagebind import ImageBindEncoder, kind_of
from limner.modalities.encoders.plain_clip import PlainClipEncoder, PooledClipEncoder
from limner.modalities.encoders.precomputed import PrecomputedEncoder
from limner.modalities.encoders.whisper import WhisperEncoder
from limner.modalities.encoders.xclip import XClipEncoder

GOLDEN = Path(__file__).parents[1] / "golden" / "multi_token"
ENCODERS, ITEMS = GOLDEN / "encoders", GOLDEN / "items"


NAMES = ("whisper", "clap", "xclip", "gte", "clip", "clip_pool", "precomputed")


@functools.cache
def _cases() -> dict[str, tuple[Encoder, list[Media]]]:
    sounds = [Media(Audio.from_path(path), modality="sound") for path in sorted(ITEMS.glob("*.wav"))]
    videos = [Media(Video.from_path(path), modality="video") for path in sorted(ITEMS.glob("*.avi"))]
    pictures = [Media(Image.from_path(path)) for path in sorted(ITEMS.glob("*.png"))]
    said = ("one", "a much longer text, of words.", "")
    texts = [Media(TextFile.from_text(text), modality="document") for text in said]
    arrays = [Media(Array.from_values(np.full((2, 3), value)), modality="series") for value in (1.0, 2.0)]
    return {
        "whisper": (WhisperEncoder(ENCODERS / "whisper"), sounds),
        "clap": (ClapEncoder(ENCODERS / "clap"), sounds),
        "xclip": (XClipEncoder(ENCODERS / "xclip"), videos),
        "gte": (GteEncoder(ENCODERS / "gte"), texts),
        "clip": (PlainClipEncoder(ENCODERS / "clip28"), pictures),
        "clip_pool": (PooledClipEncoder(ENCODERS / "clip28"), pictures),
        "precomputed": (PrecomputedEncoder(width=3, num_rows=2), arrays),
    }


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_gives_what_its_items_give_alone(name: str) -> None:
    encoder, media = _cases()[name]
    items = [encoder.preprocess(item) for item in media]
    with torch.no_grad():
        together = encoder(torch.stack(items))
        alone = [encoder(item[None]) for item in items]
    assert together.lengths.tolist() == [encoder.measure(item) for item in media]
    assert together.values.shape[1] == encoder.width
    assert torch.allclose(together.values, torch.cat([found.values for found in alone]), atol=2e-6)


@pytest.mark.parametrize("name", NAMES)
def test_an_item_is_preprocessed_alike_whatever_was_drawn_before(name: str) -> None:
    encoder, media = _cases()[name]
    np.random.seed(1)
    before = [encoder.preprocess(item) for item in media]
    state = np.random.get_state()[1].tolist()
    np.random.seed(2)
    after = [encoder.preprocess(item) for item in media]
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
    np.random.seed(1)
    assert np.random.get_state()[1].tolist() == state, "the global generator is left as it was"


@pytest.mark.parametrize("name", [name for name in NAMES if name != "precomputed"])
def test_encoders_are_frozen(name: str) -> None:
    assert not any(parameter.requires_grad for parameter in _cases()[name][0].parameters())


def test_a_clip_that_is_too_short_is_refused() -> None:
    encoder = XClipEncoder(ENCODERS / "xclip")
    encoder.num_frames = 9
    with pytest.raises(ValueError, match=r"has 9 frames; expected more than 9\nhint: take a longer clip"):
        encoder.preprocess(Media(Video.from_path(ITEMS / "slide_9f.avi"), modality="video"))


def test_features_of_another_shape_are_refused() -> None:
    encoder = PrecomputedEncoder(width=3)
    assert encoder.preprocess(Media(Array.from_values([1, 2, 3]), modality="s")).shape == (1, 3)
    with pytest.raises(ValueError, match=r"has the shape \(1, 2\); expected \(1, 3\)\nhint: "):
        encoder.preprocess(Media(Array.from_values([1, 2]), modality="s"))
    with pytest.raises(ValueError, match=r"a `s` is NoneType; expected an Array of features"):
        encoder.preprocess(Media(None, modality="s"))


def test_stored_pixels_are_taken_as_they_are_and_padded_on_demand() -> None:
    tagged = Media(Image.from_path(ITEMS / "exif_rotated.png"))
    plain, padded = (PlainClipEncoder(ENCODERS / "clip28", pads=pads) for pads in (False, True))
    assert not torch.equal(plain.preprocess(tagged), padded.preprocess(tagged))
    assert plain.signature == ""
    plain.source = "clip@1"
    assert plain.signature != padded.signature


def test_sentences_are_packed_in_order_and_cut_at_their_ends() -> None:
    tokenizer = AutoTokenizer.from_pretrained(ENCODERS / "gte")
    sentences = split_sentences("Tea is old. Red stone! Is it\nnew?\n\nYes")
    assert sentences == ["Tea is old.", "Red stone!", "Is it\nnew?", "Yes"]
    packed = pack_sentences(["tea. ", "red stone.", "tea."], tokenizer=tokenizer, limit=5)
    assert len(packed) == 2
    assert packed[1] == "tea."


def test_imagebind_names_its_licence_and_is_refused_without_its_package() -> None:
    with pytest.raises(ValueError, match=r"not installed \(CC-BY-NC 4.0: not for commercial use\)\nhint: "):
        ImageBindEncoder("imagebind_huge.pth")
    assert [kind_of(name) for name in ("a.wav", "a.png", "a.JPG", "a.mp3")] == ["audio", "vision", "text", "text"]
