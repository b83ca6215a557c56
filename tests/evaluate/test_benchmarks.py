"""End to end on the tiny random model: what it says is noise, what is counted is not."""

import json

import pytest
from tiny import COLOURS, picture, tiny_model

from limner.data.stories import Library, Record
from limner.document.document import Media, Text
from limner.evaluate.benchmark import Benchmark, Unit
from limner.evaluate.benchmarks.drawing import Drawing, prompt
from limner.evaluate.benchmarks.emoji import gallery
from limner.evaluate.benchmarks.naming import Naming, question
from limner.evaluate.benchmarks.stories import Stories, named_pictures
from limner.evaluate.metrics.retrieval import Judge
from limner.evaluate.report import environment, markdown, write
from limner.generate.engine import Engine

NAMES = {
    "fox": "animal-mammal", "red apple": "food-fruit", "pear": "food-fruit",
    "pizza": "food-prepared", "owl": "animal-bird", "tulip": "plant-flower",
    "whale": "animal-marine",
    "train": "other", "ship": "other", "rocket": "other", "mountain": "other", "castle": "other",
    "star": "other", "coat": "other", "ring": "other", "hammer": "other", "kite": "other",
    "tornado": "other", "candle": "other", "violin": "musical-instrument", "cookie": "food-sweet",
    "ant": "animal-bug", "carrot": "food-vegetable", "duck": "animal-bird", "robot": "other",
}  # fmt: skip


def record(name, style, colour):
    key = f"{name.replace(' ', '-')}-{style}"
    words = ("stuff", name.split()[-1])
    return Record(key, name, words, name, style, "group", NAMES[name], picture(colour))


def library(*styles):
    return Library(
        record(name, style, COLOURS[(number + shift) % len(COLOURS)])
        for shift, style in enumerate(styles)
        for number, name in enumerate(NAMES)
    )


@pytest.fixture(scope="module")
def engine():
    return Engine(tiny_model())


@pytest.fixture(scope="module")
def judge(engine):
    modality = engine.model.modality("image")
    pictures = gallery(library("flat"), decoder=modality.decoder)
    return Judge("own", modality.encoder, gallery=pictures)


@pytest.fixture(scope="module")
def benchmarks(judge):
    return [
        Naming(styles=library("soft", "hard"), concepts=library("soft")),
        Drawing(library("flat"), library("old"), lambda model: [judge]),
        Stories(library("flat"), lambda model: judge),
    ]


def test_each_benchmark_runs_twice_alike_and_is_written(engine, benchmarks, tmp_path):
    outcomes = [benchmark.run(engine, limit=3, seed=1) for benchmark in benchmarks]
    assert all(isinstance(benchmark, Benchmark) for benchmark in benchmarks)
    again = [benchmark.run(engine, limit=3, seed=1) for benchmark in benchmarks]
    assert [o.scores for o in again] == [o.scores for o in outcomes]
    for score in (score for outcome in outcomes for score in outcome.scores):
        assert score.value.low <= score.value.mean <= score.value.high
        assert score.unit is Unit.NUMBER or 0 <= score.value.low <= score.value.high <= 1
    write(outcomes, facts=environment(), output=tmp_path)
    data = json.loads((tmp_path / "results.json").read_text())
    assert [b["name"] for b in data["benchmarks"]] == ["naming", "drawing", "stories"]
    assert {"results.md", "naming.png", "drawing.png", "stories.png"} <= {path.name for path in tmp_path.iterdir()}
    table = markdown(outcomes, facts=environment())
    assert "| withheld style, soft: exact name |" in table
    assert "best constant reply" in table


def test_a_broken_model_scores_as_broken(engine, benchmarks):
    """The tiny model knows nothing: wherever there is a control of luck, it is no better."""
    for benchmark in benchmarks:
        outcome = benchmark.run(engine, limit=8, seed=0)
        asked = [s for s in outcome.scores if s.shuffled is not None and "bound" not in s.name and s.unit is Unit.SHARE]
        assert asked or benchmark.name == "stories"
        for score in asked:
            assert score.value.low <= max(score.shuffled.high, score.baseline or 0.0), score.name


def test_naming_counts_what_the_model_says(engine, monkeypatch):
    """A model that says the first name always: right for that one, never by luck."""
    import limner.evaluate.benchmarks.naming as module
    from limner.document.document import Message

    said = [Message("assistant", (Text("This is an ant."),))] * len(NAMES)
    monkeypatch.setattr(module, "answer", lambda engine, requests: said[: len(requests)])
    outcome = Naming(library("soft"), library("soft")).run(engine, limit=None, seed=0)
    exact = outcome.scores[0]
    assert exact.name == "withheld style: exact name"
    assert exact.value.mean == pytest.approx(1 / len(NAMES))
    assert exact.baseline == pytest.approx(1 / len(NAMES))
    # Against other pictures it is right as often as the only "ant" comes up for another reply.
    assert exact.shuffled.mean == pytest.approx(1 / len(NAMES), abs=0.01)
    assert outcome.scores[1].baseline == 1.0  # "stuff" is a keyword of all.


def test_questions_and_prompts_use_held_out_words_and_the_form_of_training():
    from limner.data.story_text import HELD_OUT

    shown = record("fox", "soft", "red")
    (message,) = question(shown, seed=0).messages
    media, text = message.parts
    assert media.payload == shown.image()
    assert any(text.text in template for template in HELD_OUT["describe"])
    (message,) = prompt(shown, seed=0).messages
    assert message.role == "user"
    assert "a fox" in message.text


def test_the_bounds_of_drawing_are_reported_for_every_judge(engine, benchmarks):
    names = [score.name for score in benchmarks[1].run(engine, limit=2, seed=0).scores]
    for kind in ("drawn", "bound, autoencoder", "bound, other edition"):
        assert f"judge: own; {kind}: name R@1" in names
        assert f"judge: own; {kind}: mean rank" in names


def test_a_picture_belongs_to_the_longest_name_since_the_picture_before():
    first, second, third = (Media(picture(colour)) for colour in ("red", "blue", "green"))
    parts = [
        Text("A fox ate a Red Apple. "),
        first,
        Text(" Then"),
        second,
        Text(" a foxy owl! "),
        third,
    ]
    found = named_pictures(parts, names=["fox", "apple", "red apple", "owl"])
    assert found == [(first, "red apple"), (second, ""), (third, "owl")]


def test_pictures_of_stories_are_held_against_their_texts(judge):
    """Gallery pictures under their own names fit; under names of other places they do not."""
    from limner.evaluate.benchmarks.stories import Place

    stories = Stories(library("flat"), lambda model: judge)
    records = [stories.library.records[number] for number in (0, 5, 9)]
    places = [Place(n, r.image(), r.name) for n, r in enumerate(records)]
    scores, found = stories._fits([*places, Place(3, places[0].picture, "")], judge=judge)
    named, fits, bound = scores
    assert named.value.mean == 0.75
    assert found[-1] == float("inf")
    assert fits.num_items == 4
    assert bound.value.mean > 0.8
