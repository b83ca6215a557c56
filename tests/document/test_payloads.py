"""Sounds, moving pictures, texts and arrays: decoded once, identified by their bytes, written to JSON and back."""

import builtins
import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from limner.document.array import Array
from limner.document.audio import Audio
from limner.document.document import Document, Media
from limner.document.media import File, Image
from limner.document.text_file import TextFile
from limner.document.video import Video

ITEMS = Path(__file__).parents[1] / "golden" / "multi_token" / "items"


def test_samples_survive_and_are_resampled_to_the_rate_asked_for() -> None:
    samples = np.sin(np.arange(4000) / 20, dtype=np.float32)
    sound = Audio.from_samples(np.stack([samples, samples], axis=1), rate=8000)
    assert (sound.rate, sound.seconds, sound.samples().shape) == (8000, 0.5, (4000, 2))
    assert np.array_equal(sound.mono(8000), samples)
    assert len(sound.mono(16000)) == 8000
    assert np.array_equal(sound.mono(16000)[1000:-1000:2].round(2), samples[500:-500].round(2))
    assert sound.samples() is sound.samples()


def test_stereo_is_the_mean_of_its_channels() -> None:
    sound = Audio.from_samples([[0.5, -0.5], [1.0, 0.0]], rate=16000)
    assert sound.mono(16000).tolist() == [0.0, 0.5]
    assert Audio.from_path(ITEMS / "chirp_22k_stereo.wav").samples().shape[1] == 2


@pytest.mark.parametrize(("samples", "rate"), [([], 16000), ([0.0], 0), ([[[0.0]]], 16000)])
def test_what_is_no_wave_is_refused(samples: Any, rate: int) -> None:
    with pytest.raises(ValueError, match=r"expected \[samples\] or \[samples, channels\]\nhint: "):
        Audio.from_samples(samples, rate=rate)


def test_frames_of_a_video_are_counted_and_taken_by_number() -> None:
    video = Video.from_path(ITEMS / "stripes_9f.avi")
    assert video.num_frames == 9
    frames = video.frames([3, 1])
    assert frames.dtype == np.uint8
    assert frames.shape[0] == 2
    assert frames.shape[3] == 3
    assert np.array_equal(frames[1], video.frames([1])[0])
    with pytest.raises(ValueError, match=r"ends before frame 9\nhint: ask for frames below 9"):
        video.frames([9])


@pytest.mark.parametrize("payload", [Audio.from_bytes(b"noise"), Video.from_bytes(b"noise")])
def test_damaged_bytes_are_refused_when_they_are_decoded(payload: Audio | Video) -> None:
    with pytest.raises(ValueError, match=r"that can be read .*\nhint: "):
        payload.mono(16000) if isinstance(payload, Audio) else payload.frames([0])


@pytest.mark.parametrize(
    ("library", "extra", "decode"),
    [
        ("soundfile", "audio", lambda: Audio.from_path(ITEMS / "tone_16k.wav").mono(16000)),
        ("soxr", "audio", lambda: Audio.from_path(ITEMS / "tone_16k.wav").mono(48000)),
        ("av", "video", lambda: Video.from_path(ITEMS / "slide_9f.avi").frames([0])),
    ],
)
def test_a_missing_library_is_named_with_the_extra_that_has_it(
    monkeypatch: pytest.MonkeyPatch, library: str, extra: str, decode: Any
) -> None:
    real_import, real_load = builtins.__import__, importlib.import_module

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.split(".")[0] == library:
            raise ImportError(name)
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    monkeypatch.setattr(importlib, "import_module", lambda name: refuse(name) if name == library else real_load(name))
    with pytest.raises(ValueError, match=rf"is not installed\nhint: pip install \"limner\[{extra}\]\""):
        decode()


def test_text_and_arrays_are_what_they_were() -> None:
    assert TextFile.from_text("Über 你好").text == "Über 你好"
    assert Array.from_values([[1, 2], [3, 4]]).values().tolist() == [[1, 2], [3, 4]]
    with pytest.raises(ValueError, match=r"no UTF-8 text"):
        TextFile.from_bytes(b"\xff\xfe\xff")
    with pytest.raises(ValueError, match=r"no array of numbers .*\nhint: "):
        Array.from_values([[1, 2], [3]])
    with pytest.raises(ValueError, match=r"cannot be read as numbers"):
        Array.from_bytes(b"noise").values()


@pytest.mark.parametrize("kind", [Audio, Video, TextFile, Array])
def test_missing_files_and_addresses_are_refused(kind: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no such file: .*\nhint: check the path"):
        kind.from_path(tmp_path / "absent")
    with pytest.raises(ValueError, match=r"is an address.*\nhint: download it first"):
        kind.from_path("https://example.org/a.wav")


def test_payloads_are_equal_when_their_bytes_are() -> None:
    one = Audio.from_path(ITEMS / "tone_16k.wav")
    assert one == Audio.from_bytes(one.data, name="other.wav") == File(one.data)
    assert len({one, Audio.from_bytes(one.data)}) == 1
    assert Audio.of(File(one.data, name="x.wav")).rate == one.rate


@pytest.mark.parametrize("kind", [Audio, Video, TextFile])
def test_a_picture_is_no_other_payload(kind: Any) -> None:
    with pytest.raises(ValueError, match=r"Image is no (sound|video|text)\nhint: give an? "):
        kind.of(Image.from_path(ITEMS / "red_square.png"))


def test_a_document_keeps_the_kind_of_its_payloads_in_json() -> None:
    payloads = [
        Audio.from_path(ITEMS / "tone_16k.wav"),
        Video.from_path(ITEMS / "slide_9f.avi"),
        TextFile.from_text("words"),
    ]
    features = Media(Array.from_values([1.0, 2.0]), modality="series")
    document = Document.chat([("user", ["Compare ", *payloads, features])])
    again = Document.from_json(document.to_json())
    found = [media for _, media in again.media()]
    assert [media.modality for media in found] == ["sound", "video", "document", "series"]
    assert [type(media.payload) for media in found] == [Audio, Video, TextFile, Array]
    assert [media.payload for media in found] == [*payloads, features.payload]


def test_a_payload_that_says_no_modality_is_refused_among_parts() -> None:
    with pytest.raises(ValueError, match=r"does not say which modality reads it\nhint: write Media\(Array"):
        Document.page([Array.from_values([1.0])])
