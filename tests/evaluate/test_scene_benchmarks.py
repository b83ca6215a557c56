"""What is scored are replies, so perfect and broken ones can be made by hand; a random model shows the whole way."""

import re

import pytest
from PIL import Image as PillowImage
from tiny import tiny_model

from limner.data.scene_grammar import WORDS, SceneGrammar, stated
from limner.data.scenes import Scene, Shape, render
from limner.document.document import Media, Message, Text
from limner.document.media import Image
from limner.evaluate.benchmark import Benchmark
from limner.evaluate.benchmarks.scene_prompts import CATEGORIES, Prompt, ScenePrompts
from limner.evaluate.benchmarks.scenes import SceneDrawing, ScenePages, SceneReading
from limner.evaluate.metrics.scenes import marks, read, said_shape
from limner.generate.engine import Engine

RED = Shape((0, 0), "circle", "red", "large")
BLUE = Shape((2, 1), "star", "blue", "small")
PAIR = Scene((RED, BLUE))


def values(outcome):
    return {score.name: score.value.mean for score in outcome.scores}


def perfect(documents):
    return [document.messages[1] for document in documents]


def turned(replies):
    """Every reply is that of the next document."""
    return replies[1:] + replies[:1]


def test_a_picture_is_read_and_marked_by_hand():
    assert read(Image.from_pil(render(PAIR, side=64))) == PAIR
    assert read(Image.from_pil(PillowImage.new("RGB", (64, 48)))) is None
    assert read(None) is None
    assert not any(marks(None, PAIR).values())
    green = Scene((RED, Shape((2, 1), "star", "green", "small")))
    assert marks(green, PAIR) == {
        "count": True, "shapes": True, "colors": False, "sizes": True,
        "binding": False, "relations": False, "cells": False,
    }  # fmt: skip


def test_a_small_picture_is_enlarged_before_it_is_read():
    found = read(Image.from_pil(render(PAIR, side=48).resize((24, 24))))
    assert found is not None
    assert len(found.shapes) == 2


def test_the_last_sentence_says_what_a_picture_should_show():
    assert said_shape(" Northwest a large red circle. South a small blue star.") == BLUE
    assert said_shape(f" {stated(RED)}.") == RED
    assert said_shape(" South a blue star.") is None
    assert said_shape("") is None


def test_perfect_replies_score_one_everywhere():
    for benchmark in (SceneReading(), SceneDrawing(), ScenePages()):
        documents = benchmark.documents(limit=20, seed=0)
        outcome = benchmark.score(documents, perfect(documents))
        assert set(values(outcome).values()) == {1.0}
        assert all(score.shuffled.mean < 0.7 for score in outcome.scores if score.shuffled and score.num_items > 9)


def test_reading_counts_word_for_word():
    benchmark = SceneReading()
    documents = benchmark.documents(limit=4, seed=0)
    said = perfect(documents)
    # One description without its full stop, one answer in capitals: 2 of 4 are right.
    said[0] = Message("assistant", (Text(said[0].text.rstrip(".")),))
    said[3] = Message("assistant", (Text(said[3].text.upper()),))
    found = values(benchmark.score(documents, said))
    assert (found["exact match"], found["descriptions"], found["questions"]) == (0.5, 0.5, 0.5)


def test_drawing_counts_aspects_and_whole_scenes_by_hand():
    benchmark = SceneDrawing(grammar=SceneGrammar(max_shapes=1))
    documents = benchmark.documents(limit=2, seed=0)
    replies = perfect(documents)
    wanted = read(next(documents[1].media())[1].content)
    assert wanted is not None
    (shape,) = wanted.shapes
    moved = Shape(((shape.cell[0] + 1) % 3, shape.cell[1]), shape.kind, shape.color, shape.size)
    drawing = Media(Image.from_pil(render(Scene((moved,)), side=48)))
    replies[1] = Message("assistant", (drawing,))
    found = values(benchmark.score(documents, replies))
    # The second has another cell: 6 of its 7 aspects are right (one shape stands in no relation).
    assert found["stated aspects"] == pytest.approx((1 + 6 / 7) / 2)
    assert found["whole scenes"] == 0.5
    assert found["cells"] == 0.5


def test_no_reply_at_all_and_no_picture_score_zero():
    empty = Message("assistant", ())
    for benchmark in (SceneReading(), SceneDrawing()):
        documents = benchmark.documents(limit=6, seed=0)
        assert set(values(benchmark.score(documents, [empty] * len(documents))).values()) == {0.0}
    documents = ScenePages().documents(limit=6, seed=0)
    found = values(ScenePages().score(documents, [empty] * 6))
    assert found["layout F1"] == 0.0
    assert found["texts"] == 0.0
    assert "pictures: whole scenes" not in found


def test_right_pictures_in_wrong_places_and_wrong_pictures_in_right_places_are_told_apart():
    benchmark = ScenePages()
    documents = benchmark.documents(limit=12, seed=0)
    first = [
        Message("assistant", tuple(sorted(one.parts, key=lambda part: isinstance(part, Text))))
        for one in perfect(documents)
    ]
    found = values(benchmark.score(documents, first))
    assert found["layout F1"] == 0.0
    assert found["texts"] == 1.0
    white = Media(Image.from_pil(PillowImage.new("RGB", (48, 48), "white")))
    blank = [
        Message("assistant", tuple(white if isinstance(part, Media) else part for part in one.parts))
        for one in perfect(documents)
    ]
    found = values(benchmark.score(documents, blank))
    assert found["layout F1"] == 1.0
    assert found["pictures: whole scenes"] == 0.0


def test_replies_to_other_items_score_like_the_shuffled_control():
    for benchmark in (SceneReading(), SceneDrawing(), ScenePages()):
        documents = benchmark.documents(limit=40, seed=0)
        outcome = benchmark.score(documents, turned(perfect(documents)))
        for score in outcome.scores:
            # Pictures are held against the text of their own page, which is no other's.
            if score.shuffled is not None and score.num_items >= 20 and not score.name.startswith("pictures"):
                assert abs(score.value.mean - score.shuffled.mean) < 0.25, score.name


def test_a_random_model_scores_as_broken_and_twice_alike():
    engine = Engine(tiny_model())
    drawing = (SceneDrawing(num_inference_steps=2), ScenePrompts(num_inference_steps=2))
    for benchmark in (SceneReading(), *drawing, ScenePages(num_inference_steps=2)):
        assert isinstance(benchmark, Benchmark)
        outcome = benchmark.run(engine, limit=4, seed=1)
        assert benchmark.run(engine, limit=4, seed=1).scores == outcome.scores
        found = values(outcome)
        for name in ("exact match", "whole scenes", "layout F1", "texts", "pictures: whole scenes"):
            assert found.get(name, 0.0) == 0.0


def shown(scene, side=48):
    return Message("assistant", (Media(Image.from_pil(render(scene, side=side))),))


def test_prompts_have_categories_whose_scores_are_worked_by_hand():
    benchmark = ScenePrompts()
    prompts = benchmark.prompts(limit=len(CATEGORIES) * 20, seed=0)
    assert [prompt.category for prompt in prompts[: len(CATEGORIES)]] == [*CATEGORIES]
    whole = benchmark.score(prompts, [shown(prompt.scene) for prompt in prompts])
    assert values(whole) == {"all": 1.0, **{category.name: 1.0 for category in CATEGORIES}}
    assert all(score.shuffled.mean < 0.5 for score in whole.scores)
    # All shapes red: what colours and binding state is gone, unless red was meant; nothing else is.
    red = [
        Scene(tuple(Shape(s.cell, s.kind, "red", s.size) for s in prompt.scene.shapes), prompt.scene.background)
        for prompt in prompts
    ]
    meant = [prompt.scene.shapes[0].color == "red" for prompt in prompts if prompt.category.name == "colours"]
    found = values(benchmark.score(prompts, list(map(shown, red))))
    assert found["colours"] == pytest.approx(sum(meant) / 20)
    assert found["binding"] == 0.0
    assert {found[name] for name in ("one object", "two objects", "counts", "positions", "sizes")} == {1.0}


@pytest.mark.parametrize(
    ("name", "told", "right", "wrong"),
    [
        ("one object", "Draw a circle.", [RED], [RED, BLUE]),
        ("two objects", "Draw a circle, a star.", [RED, Shape((1, 1), "star", "red", "large")], [RED]),
        (
            "counts",
            "Draw two circles.",
            [RED, Shape((1, 1), "circle", "blue", "small")],
            [RED, *(Shape((2, c), "circle", "red", "large") for c in (0, 2))],
        ),
        ("colours", "Draw a red circle.", [Shape((2, 2), "circle", "red", "small")], [BLUE]),
        (
            "positions",
            "Draw northwest a circle, south a star.",
            [Shape((0, 0), "circle", "blue", "small"), BLUE],
            [Shape((2, 1), "circle", "red", "large"), Shape((0, 0), "star", "blue", "small")],
        ),
        (
            "binding",
            "Draw a red circle, a blue star.",
            [Shape((2, 2), "circle", "red", "small"), BLUE],
            [Shape((0, 0), "circle", "blue", "large"), Shape((2, 1), "star", "red", "small")],
        ),
        (
            "sizes",
            "Draw a large circle, a small star.",
            [Shape((1, 1), "circle", "green", "large"), BLUE],
            [Shape((0, 0), "circle", "red", "small"), Shape((2, 1), "star", "blue", "large")],
        ),
    ],
)
def test_a_category_counts_what_it_states_and_nothing_else(name, told, right, wrong):
    category = next(category for category in CATEGORIES if category.name == name)
    scene = PAIR if "star" in told else Scene((RED,))
    if name == "counts":
        scene = Scene((RED, Shape((2, 1), "circle", "red", "large")))
    prompt = Prompt(category, scene)
    assert prompt.text == told
    assert prompt.holds(read(shown(Scene(tuple(right))).parts[0].content))
    assert not prompt.holds(read(shown(Scene(tuple(wrong))).parts[0].content))
    assert not prompt.holds(None)


def test_every_word_of_a_prompt_is_of_the_grammar():
    said = {word for one in ScenePrompts().prompts(limit=400, seed=3) for word in re.findall(r"\w+", one.text)}
    assert said <= {*WORDS}
