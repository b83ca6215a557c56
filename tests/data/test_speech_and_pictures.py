"""The data set of spoken phrases and pictures: what is held out is held out, and what is asked has one answer."""

import io
import json
import random
import re
import wave
import zipfile
from collections import Counter
from pathlib import Path

import numpy
import pytest
from tiny import picture

from limner.data.builders import speech_and_pictures as builder
from limner.data.builders.spoken_phrases import (
    COLORS,
    HELDOUT_PAIRS,
    HELDOUT_TEMPLATES,
    HELDOUT_VOICES,
    SHAPES,
    TEMPLATES,
    Phrase,
    clips,
    phonemes,
    phrases,
    wav,
)
from limner.data.sources.opening import open_source

COUNTS = {"num_train_clips": 280, "num_heldout_clips": 96}


def questions() -> dict[str, list]:
    """Every colour and shape twice, in the words of easy-VQA."""
    pairs = [(color, shape) for color in COLORS for shape in SHAPES] * 2
    found = []
    for number, (color, shape) in enumerate(pairs):
        found += [
            ("what color is the shape?", color, number),
            (f"is there not a {shape}?", "no", number),
            (f"is there a {SHAPES[SHAPES.index(shape) - 1]}?", "no", number),
        ]
    return dict.fromkeys(builder.SPLITS, found)


@pytest.fixture(scope="module")
def recorded():
    return clips(num_train=COUNTS["num_train_clips"], num_heldout=COUNTS["num_heldout_clips"])


@pytest.fixture(scope="module")
def rows(recorded):
    return dict(builder.all_rows(questions(), recorded))


def test_no_held_out_voice_template_or_pair_is_trained_on(recorded):
    train = [clip for clip in recorded if clip.split == "train"]
    held = [clip for clip in recorded if clip.split != "train"]
    assert not {clip.voice for clip in train} & set(HELDOUT_VOICES)
    assert {clip.voice for clip in held} <= set(HELDOUT_VOICES)
    assert not {(clip.phrase.color, clip.phrase.shape) for clip in train} & set(HELDOUT_PAIRS)
    said = {clip.phrase.text for clip in train}
    assert not said & {phrase.text for phrase in phrases(HELDOUT_TEMPLATES)}
    assert not said & {clip.phrase.text for clip in held if clip.split == "phrases"}
    assert {clip.phrase.text for clip in held if clip.split == "voices"} <= {one.text for one in phrases(TEMPLATES)}


def test_recordings_are_a_pure_function_of_their_number_and_fewer_are_among_more(recorded):
    assert recorded == clips(num_train=280, num_heldout=96)
    assert {clip.key for clip in clips(num_train=100, num_heldout=20)} <= {clip.key for clip in recorded}
    assert len({clip.key for clip in recorded}) == len(recorded) == 376
    with pytest.raises(ValueError, match="recordings of split `voices` are wanted"):
        clips(num_train=10, num_heldout=10_000)


def test_every_phrase_can_be_pronounced():
    assert all(phonemes(phrase.text) for phrase in phrases((*TEMPLATES, *HELDOUT_TEMPLATES)))
    with pytest.raises(ValueError, match="`purple` has no pronunciation"):
        phonemes("a purple circle")


def test_what_a_picture_shows_is_told_by_its_questions_and_denials():
    found = builder.pictures(questions()["train"], split="train")
    assert [(one.color, one.shape) for one in found] == [(color, shape) for color in COLORS for shape in SHAPES] * 2
    assert builder.pictures([("is there a circle?", "no", 0)], split="train") == []


def test_comparisons_are_balanced_and_their_answers_true(rows):
    for name in ("compare.train", "compare.heldout"):
        verdicts = Counter(row["messages"][1]["content"].split()[-1] for row in rows[name])
        assert verdicts["yes"] == verdicts["no"] == len(rows[name]) // 2
    explained = [row["messages"][1]["content"] for row in rows["explain.heldout"]]
    for text in explained:
        shown, said, fits = re.fullmatch(r"shown: (.*); said: (.*); fits: (yes|no)", text).groups()  # type: ignore
        keys = set(said.split()) & {*COLORS, *SHAPES}
        assert (keys <= set(shown.split())) == (fits == "yes")


def test_a_picture_that_does_not_fit_is_wrong_in_colour_in_shape_or_in_both():
    clip = clips(num_train=1, num_heldout=0)[0].__class__("train", Phrase("a red circle", "red", "circle"), "v", 1.0)
    among = builder.pictures(questions()["test"], split="test")
    draw = random.Random(0)
    wrong = [builder.picture_for(clip, among, fits=False, draw=draw) for _ in range(200)]
    kinds = Counter((one.color == "red", one.shape == "circle") for one in wrong)
    assert set(kinds) == {(False, True), (True, False), (False, False)}
    assert min(kinds.values()) > 40
    assert builder.picture_for(clip, among, fits=True, draw=draw).color == "red"
    with pytest.raises(ValueError, match="no picture for"):
        builder.picture_for(clip, [], fits=True, draw=draw)


def test_another_rate_changes_the_head_of_a_recording_alone():
    data = wav(numpy.concatenate([numpy.zeros(5000), numpy.ones(100) * 0.5, numpy.zeros(5000)]))
    faster = builder.at_rate(data, 1.1)
    with wave.open(io.BytesIO(data)) as first, wave.open(io.BytesIO(faster)) as second:
        assert (first.getframerate(), second.getframerate()) == (24_000, 26_400)
        assert first.readframes(10_000) == second.readframes(10_000)
        assert first.getnframes() == 100 + 2 * 1200 - 1  # silence is cut but for a margin


def packages(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with a small easy-vqa, and the checksum that goes with it; no other package is needed."""
    wheel = folder / builder.PICTURES.filename
    with zipfile.ZipFile(wheel, "w") as archive:
        for split in builder.SPLITS:
            archive.writestr(f"easy_vqa/data/{split}/questions.json", json.dumps(questions()[split]))
            for number in range(48):
                archive.writestr(f"easy_vqa/data/{split}/images/{number}.png", picture().data)
    checked = builder.Wheel("easy-vqa", "1.0", builder.sha256_of(wheel), "MIT")
    monkeypatch.setattr(builder, "PICTURES", checked)
    monkeypatch.setattr(builder, "_wheels", lambda: (checked,))


def test_building_writes_rows_that_the_recipe_reads_and_makes_nothing_twice(tmp_path, monkeypatch):
    source, output = tmp_path / "packages", tmp_path / "data"
    source.mkdir()
    packages(source, monkeypatch)
    for clip in clips(num_train=6, num_heldout=4):
        (output / "speech").mkdir(parents=True, exist_ok=True)
        (output / "speech" / f"{clip.key}.wav").write_bytes(wav(numpy.ones(100)))
    (output / "whisper-base").mkdir()
    (output / "whisper-base" / "config.json").write_text("{}")
    manifest = builder.build(output, source=source, num_train_clips=6, num_heldout_clips=4)
    assert manifest["clips"] == {"train": 6, "voices": 2, "phrases": 2}
    assert manifest["rows"]["listen.train"] == 18
    for name, count in manifest["rows"].items():
        opened = open_source(str(output / f"{name}.jsonl"), format="keyed_chat")
        assert len(opened) == count
        assert all(opened[index].messages[1].text for index in range(count))


def test_what_was_broken_off_is_made_again(tmp_path, monkeypatch):
    packages(tmp_path, monkeypatch)
    wheel = tmp_path / builder.PICTURES.filename
    builder._unpack_pictures(wheel, tmp_path / "easy_vqa")
    whole = {path: path.read_bytes() for path in (tmp_path / "easy_vqa").rglob("*") if path.is_file()}
    assert len(whole) == 2 * 49
    cut, gone = tmp_path / "easy_vqa/test/images/3.png", tmp_path / "easy_vqa/train/images/4.png"
    cut.write_bytes(cut.read_bytes()[:20])
    gone.unlink()
    builder._unpack_pictures(wheel, tmp_path / "easy_vqa")
    assert {path: path.read_bytes() for path in (tmp_path / "easy_vqa").rglob("*") if path.is_file()} == whole

    def killed(data: bytes, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        (folder / "config.json").write_text("{}")
        raise KeyboardInterrupt

    def saved(data: bytes, folder: Path) -> None:
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").write_bytes(data)

    monkeypatch.setattr(builder, "WHISPER", ())
    monkeypatch.setattr("limner.modalities.encoders.ctranslate2.save_whisper", killed)
    with pytest.raises(KeyboardInterrupt):
        builder._unpack_whisper({}, tmp_path / "whisper-base")
    monkeypatch.setattr("limner.modalities.encoders.ctranslate2.save_whisper", saved)
    builder._unpack_whisper({}, tmp_path / "whisper-base")
    assert {path.name for path in (tmp_path / "whisper-base").iterdir()} == {"config.json", "model.safetensors"}
    assert not (tmp_path / ".whisper-base.part").exists()


def test_a_missing_or_damaged_package_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"has no easy_vqa-1\.0"):
        builder.locate(builder.PICTURES, folder=tmp_path, fetch=False)
    (tmp_path / builder.PICTURES.filename).write_bytes(b"damaged")
    with pytest.raises(ValueError, match="has sha256"):
        builder.locate(builder.PICTURES, folder=tmp_path, fetch=False)
