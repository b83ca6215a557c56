"""Builders read public sources as published and write rows that a model's format reads; what is left is named."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pyarrow
import pytest
import torch
from pyarrow import parquet

from limner.data.builders import bound, documents, games
from limner.data.builders.building import MANIFEST, ROWS, SKIPPED, Given, Left, Question, built, unasked, write_rows
from limner.data.builders.listing import LISTED
from limner.data.builders.table import MAKERS, maker
from limner.document.audio import Audio
from limner.document.media import Image
from limner.document.text_file import TextFile
from limner.document.video import Video


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIMNER_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def media(tmp_path: Path) -> Path:
    """Two pictures, a sound, two films that nobody decodes."""
    folder = tmp_path / "media"
    for name, colour in (("00/red.jpg", "red"), ("coco/train/train/blue.jpg", "blue")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.new("RGB", (8, 6), colour).save(folder / name)
    for name in ("bell.wav", "one.mp3"):
        (folder / name).write_bytes(Audio.from_samples(np.zeros(8), rate=8).data)
    for name in ("abc_0-00-01.0_0-00-02.5.mp4", "v_xyz.mp4"):
        (folder / name).write_bytes(b"\0\0\0\x18ftypmp42")
    return folder


def turns(*contents: str) -> list[dict[str, str]]:
    return [{"from": ("human", "gpt")[number % 2], "value": content} for number, content in enumerate(contents)]


PAIRS = [
    {"id": "a", "image": "00/red.jpg", "conversations": turns("What is it?\n<image>", "a red square")},
    {"id": "b", "image": "coco/train/blue.jpg", "conversations": turns("<image>\nSee the image?", "I see it.")},
    {"id": "c", "conversations": turns("Hello.", "Hello!", "And?", "Nothing.")},
    {"id": "d", "image": "00/none.jpg", "conversations": turns("<image>", "gone")},
    {"id": "e", "image": "00/red.jpg", "conversations": turns("No placeholder.", "so")},
    {"id": "f", "image": "00/red.jpg", "conversations": [{"from": "dog", "value": "x"}]},
    {"id": "g", "image": "00/red.jpg", "conversations": turns("<image>\nWhat color is it?", "Red.")},
]


def given(path: Path, content: Any, media: Path, **options: Any) -> Given:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return Given(sources=(path,), media=media, **options)


def made(name: str, source: Given) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """(rows, name of what was left -> why) of a builder."""
    outcomes = list(maker(name)(source))
    rows = [outcome for outcome in outcomes if isinstance(outcome, dict)]
    return rows, {outcome.key: outcome.reason for outcome in outcomes if isinstance(outcome, Left)}


def test_every_listed_data_set_has_its_builder() -> None:
    assert set(LISTED) - {"game-episodes"} == set(MAKERS)
    with pytest.raises(ValueError, match="no builder `lava-pretrain`\nhint: did you mean `llava-pretrain`"):
        maker("lava-pretrain")


def test_conversations_are_kept_to_the_letter_and_text_only_ones_too(tmp_path: Path, media: Path) -> None:
    source = given(tmp_path / "llava.json", PAIRS, media)
    manifest = write_rows(
        unasked(maker("llava-finetune")(source)), output=tmp_path / "out", name="x", media=media, seed=0
    )
    rows = [json.loads(line) for line in (tmp_path / "out" / ROWS).read_text().splitlines()]
    assert [row["id"] for row in rows] == ["a", "b", "c", "g"]
    assert rows[0]["messages"][0] == {"role": "user", "content": "What is it?\n<image>"}
    # The archive was unpacked into a folder of its own name.
    assert (rows[1]["images"], "images" in rows[2]) == (["coco/train/train/blue.jpg"], False)
    assert manifest["samples"] == {"train": 4}
    assert manifest["skipped"] == {"does not fit": 1, "missing file": 1, "no conversation": 1}
    left = [json.loads(line) for line in (tmp_path / "out" / SKIPPED).read_text().splitlines()]
    assert left[1] == {"id": "e", "reason": "does not fit", "detail": "0 <image> for 1 `images`"}
    read = built(tmp_path / "out")
    assert [len(list(read[number].media())) for number in range(len(read))] == [1, 1, 0, 1]
    assert next(read[0].media())[1].content.size == (6, 8)
    assert not list((tmp_path / "out").glob(".*"))


def test_a_build_is_a_function_of_its_source_and_its_seed(tmp_path: Path, media: Path) -> None:
    pairs = [{**PAIRS[1], "id": str(number)} for number in range(20)]
    for name, seed in (("one", 0), ("two", 0), ("three", 1)):
        source = given(tmp_path / "llava.json", pairs, media, seed=seed)
        outcomes = unasked(maker("imagebind-pretrain")(source))
        write_rows(outcomes, output=tmp_path / name, name="x", media=media, seed=seed)
    for file in (ROWS, SKIPPED, MANIFEST):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    assert (tmp_path / "one" / ROWS).read_bytes() != (tmp_path / "three" / ROWS).read_bytes()


def test_a_name_that_leads_out_of_the_media_folder_is_no_file(tmp_path: Path, media: Path) -> None:
    (tmp_path / "secret.jpg").write_bytes((media / "00" / "red.jpg").read_bytes())
    source = Given(sources=(), media=media)
    assert source.found("../secret.jpg", str(tmp_path / "secret.jpg"), "") is None
    assert source.found("../secret.jpg", "00/red.jpg") == "00/red.jpg"


def test_rows_may_be_limited_and_an_asking_builder_needs_somebody_to_ask(tmp_path: Path, media: Path) -> None:
    source = given(tmp_path / "llava.json", PAIRS, media)
    outcomes = unasked(maker("llava-pretrain")(source))
    assert write_rows(outcomes, output=tmp_path, name="x", media=media, seed=0, limit=2)["samples"] == {"train": 2}
    with pytest.raises(ValueError, match="is to be written by another model\nhint: give --endpoint"):
        list(unasked(maker("multi-image-finetune")(source)))


def test_imagebind_rows_speak_of_one_sense_in_whole_words(tmp_path: Path, media: Path) -> None:
    rows, left = made("imagebind-finetune", given(tmp_path / "llava.json", PAIRS, media))
    assert left["g"] == "of places or colours"
    assert rows[0]["imagebinds"] == ["00/red.jpg"]
    assert rows[0]["messages"][0]["content"] == "What is it?\n<imagebind>"
    heard = bound.reworded("<image>\nSee the seesaw? An Image to see.", bound.WORDINGS["sound"])
    assert heard == "<imagebind>\nHear the seesaw? An Sound to hear."
    said = {row["messages"][0]["content"] for seed in range(12) for row in _bound(tmp_path, media, seed)}
    assert {"<imagebind>\nSee the image?", "<imagebind>\nHear the sound?", "<imagebind>\nRead the text?"} <= said


def _bound(tmp_path: Path, media: Path, seed: int) -> list[dict[str, Any]]:
    return made("imagebind-pretrain", given(tmp_path / "llava.json", PAIRS, media, seed=seed))[0]


def test_spoken_sentences_are_asked_for(tmp_path: Path, media: Path) -> None:
    table = tmp_path / "validated.tsv"
    with table.open("w", newline="") as stream:
        writer = csv.writer(stream, delimiter="\t", quoting=csv.QUOTE_NONE, quotechar=None)
        writer.writerows(
            [["client_id", "path", "sentence"], ["x", "one.mp3", 'He said "no'], ["y", "two.mp3", "Gone."]]
        )
    rows, left = made("whisper-pretrain", Given(sources=(table,), media=media))
    assert left == {"two": "missing file"}
    assert rows[0]["messages"][0]["content"].count("<speech>") == 1
    assert (rows[0]["messages"][1]["content"], rows[0]["speech_audios"]) == ('He said "no', ["one.mp3"])
    question = next(maker("whisper-finetune")(Given(sources=(table,), media=media)))
    assert isinstance(question, Question)
    row = question.finish({"question": "Who spoke?", "answer": "He."})
    assert row["messages"][0]["content"].replace("<speech>", "").strip() == "Who spoke?"


def test_captions_and_questions_about_films_show_the_film(tmp_path: Path, media: Path) -> None:
    clip = {"YoutubeID": "abc", "Start_timestamp": "0:00:01.0", "End_timestamp": "0:00:02.5", "Caption": "A dog runs."}
    lines = "\n".join(json.dumps(row) for row in (clip, clip | {"YoutubeID": "none"}, clip | {"Caption": ""}))
    rows, left = made("xclip-pretrain", given(tmp_path / "clips.jsonl", lines, media))
    assert (rows[0]["videos"], rows[0]["messages"][1]["content"]) == (["abc_0-00-01.0_0-00-02.5.mp4"], "A dog runs.")
    assert set(left.values()) == {"missing file", "no text"}
    asked = [{"video_id": "v_xyz", "q": "Who?", "a": "A dog."}, {"video_id": "v_none", "q": "Who?", "a": "A dog."}]
    rows, left = made("xclip-finetune", given(tmp_path / "films.json", asked, media))
    assert (rows[0]["messages"][0]["content"], rows[0]["videos"]) == ("<video>\nWho?", ["v_xyz.mp4"])
    assert list(left.values()) == ["missing file"]


LONG = " ".join(f"Sentence number {number} stands here and says a little." for number in range(80))


def test_texts_to_be_repeated_come_as_documents_of_whole_sentences(tmp_path: Path, media: Path) -> None:
    table = tmp_path / "wiki.parquet"
    parquet.write_table(pyarrow.table({"id": ["1", "2"], "text": [LONG, " "]}), table)
    rows, left = made("document-pretrain", Given(sources=(table,), media=media, max_items=3))
    assert left == {"2": "no text"}
    row = rows[0]
    assert row["messages"][1]["content"] == " ".join(row["documents"])
    assert row["messages"][0]["content"].count("<document>") == len(row["documents"])
    assert " ".join(documents.pieces(LONG)) == LONG
    assert all(len(piece.split()) <= documents.MAX_WORDS and piece.endswith(".") for piece in documents.pieces(LONG))
    assert [len(piece.split()) for piece in documents.pieces("word " * 700)] == [300, 300, 100]


@pytest.mark.parametrize(
    "record",
    [
        {"instruction": f"Below is a paper. The paper begins.\n{LONG}\nNow the paper ends.\nWhy so?", "output": "So."},
        {"instruction": "Why so?", "input": LONG, "output": "So."},
        {"instruction": f"{LONG}\nWhy so?", "output": "So."},
        {"text": f"{LONG}\nQuestion: Why so?\nAnswer: So."},
    ],
)
def test_a_question_about_a_long_text_is_taken_apart(record: dict[str, str]) -> None:
    assert documents.taken_apart(record) == (LONG, "Why so?", "So.")


def test_records_without_a_long_text_are_named(tmp_path: Path, media: Path) -> None:
    told = [{"instruction": "Why?", "output": "So."}, {"instruction": f"{LONG}\nWhy?", "output": "So."}]
    rows, left = made("document-finetune", given(tmp_path / "long.json", told, media, max_items=8))
    assert left == {"long.json:0": "no long text found"}
    assert rows[0]["messages"][0]["content"] == "<document>" * 3 + "\nWhy?"
    _, left = made("document-finetune", given(tmp_path / "long.json", told, media, max_items=1))
    assert left["long.json:1"] == "too long"


def test_sounds_are_found_by_the_last_part_of_their_address(tmp_path: Path, media: Path) -> None:
    told = [
        {"url": "https://host/sounds/bell.wav?x=1", "tags": ["bell", "church"]},
        {"audio": {"path": "bell.wav"}, "tags": "bell"},
        {"audio": "gone.wav", "tags": "bell"},
        {"audio": "bell.wav"},
        {"url": "https://host/other/bell.wav", "tags": "bell"},
        {"url": "https://host/sounds/bell.wav?x=1", "tags": "again"},
    ]
    outcomes = list(maker("clap-finetune")(given(tmp_path / "tags.json", told, media)))
    questions = [item for item in outcomes if isinstance(item, Question)]
    assert questions[0].messages[1]["content"] == "tags: bell, church"
    row = questions[0].finish({"question": " What rings? <sound>", "answer": "A bell."})
    assert (row["sounds"], row["messages"][0]["content"].count("<sound>")) == (["bell.wav"], 1)
    left = [item for item in outcomes if isinstance(item, Left)]
    assert [item.reason for item in left] == ["missing file", "no text", "same name"]
    assert left[-1].detail == "https://host/other/bell.wav ends as https://host/sounds/bell.wav?x=1"
    assert len(questions) == 3
    with pytest.raises(ValueError, match="the answer has no `answer`"):
        questions[0].finish({"question": "What?"})


def test_questions_about_several_pictures_show_as_many_as_they_tell_of(tmp_path: Path, media: Path) -> None:
    source = given(tmp_path / "llava.json", PAIRS, media, max_items=3)
    questions = [item for item in maker("multi-image-finetune")(source) if isinstance(item, Question)]
    counts = set()
    for question in questions:
        row = question.finish({"question": "Which is red?", "answer": "Picture 1."})
        content = row["messages"][0]["content"]
        counts.add(len(row["images"]))
        assert content.replace("<image>", "").strip() == "Which is red?"
        assert content.count("<image>") == len(row["images"]) == question.messages[1]["content"].count("Picture ")
    assert len(counts) > 1


class Corridor:
    """A game of gymnasium's kind: one walks to the right until the end."""

    def __init__(self) -> None:
        self.place = 0

    def reset(self, *, seed: int) -> tuple[Any, dict]:
        self.place = seed % 2
        return np.array([self.place, 1.0]), {}

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict]:
        self.place += 1 if action == 1 else -1
        return np.array([self.place, 1.0]), 0.0, self.place >= 3, False, {}

    def render(self) -> Any:
        return np.full((4, 6, 3), self.place * 40, dtype=np.uint8)


def test_a_game_becomes_frames_with_the_action_of_a_policy(tmp_path: Path) -> None:
    state = {"actor.0.weight": torch.eye(2), "actor.0.bias": torch.zeros(2)}
    state |= {"actor.2.weight": torch.tensor([[0.0, 0.0], [0.0, 1.0]]), "actor.2.bias": torch.zeros(2)}
    torch.save(state | {"critic.0.weight": torch.zeros(1)}, tmp_path / "ppo.cleanrl_model")
    policy = games.load_policy(tmp_path / "ppo.cleanrl_model")
    source = Given(sources=(), media=tmp_path / "frames")
    play: Callable[..., Any] = games.episodes
    rows = list(play(source, environment=Corridor(), policy=policy, actions=("left", "right"), rounds=2, share=1.0))
    assert {row["messages"][1]["content"] for row in rows} == {"[right]"}
    assert all("[left]" in row["messages"][0]["content"] for row in rows)
    assert Image.from_path(tmp_path / "frames" / rows[0]["images"][0]).size == (4, 6)
    with pytest.raises(ValueError, match="takes action 1 of 1\nhint: name all of --actions"):
        list(play(source, environment=Corridor(), policy=policy, actions=("left",), rounds=1, share=1.0))
    with pytest.raises(ValueError, match=r"holds no actor .*\nhint: "):
        games.load_policy(tmp_path / "none")


def test_payloads_of_built_rows_are_of_their_kind(tmp_path: Path, media: Path) -> None:
    tokens = {"images": "<image>", "sounds": "<sound>", "videos": "<video>", "documents": "<document>"}
    items = {"images": ["00/red.jpg"], "sounds": ["bell.wav"], "videos": ["v_xyz.mp4"], "documents": ["Words."]}
    row = {"id": "1", "messages": [{"role": "user", "content": "".join(tokens.values())}], **items}
    row["messages"].append({"role": "assistant", "content": "Yes."})
    write_rows([row], output=tmp_path / "out", name="x", media=media, seed=0)
    payloads = [item.payload for _, item in built(tmp_path / "out")[0].media()]
    assert [type(payload) for payload in payloads] == [Image, Audio, Video, TextFile]
    with pytest.raises(ValueError, match="is no data set that was built here"):
        built(tmp_path)
