from collections import Counter

import numpy
import pytest
from PIL import Image as PillowImage
from PIL import ImageFilter

from limner.data.scene_parser import parse, score
from limner.data.scenes import (
    ASPECTS,
    DRAW_REQUESTS,
    HELD_OUT_DRAW_REQUESTS,
    NUMBERS,
    Scene,
    Shape,
    caption_document,
    captions,
    creation_document,
    question,
    question_document,
    relation,
    render,
    sample_scene,
)
from limner.document.document import Media

RED = Shape((0, 0), "circle", "red", "large")
BLUE = Shape((0, 2), "square", "blue", "small")
PAIR = Scene((RED, BLUE), "white")


def noisy(picture, *, deviation, seed):
    values = numpy.asarray(picture, dtype=float)
    values = values + numpy.random.default_rng(seed).normal(0, deviation, values.shape)
    return PillowImage.fromarray(values.clip(0, 255).astype("uint8"))


def test_a_scene_is_a_pure_function_of_its_index_and_seed():
    assert sample_scene(7, seed=1) == sample_scene(7, seed=1)
    assert len({sample_scene(i, seed=1).key for i in range(200)}) > 190
    assert sample_scene(7, seed=1) != sample_scene(7, seed=2)


def test_train_and_test_share_no_scene():
    keys = {
        split: {sample_scene(index, seed=seed, split=split).key for index in range(800)}
        for seed, split in ((0, "train"), (5, "test"))
    }
    assert not keys["train"] & keys["test"]


def test_an_unknown_split_is_refused():
    with pytest.raises(ValueError, match="hint: pass split"):
        sample_scene(0, seed=0, split="dev")


def test_scenes_are_equal_whatever_the_order_of_their_shapes():
    assert Scene((BLUE, RED), "white") == PAIR


@pytest.mark.parametrize(("start", "stop"), [(0, 1000), pytest.param(1000, 6000, marks=pytest.mark.slow)])
def test_parsing_a_rendered_scene_gives_the_scene_back(start, stop):
    for index in range(start, stop):
        scene = sample_scene(index, seed=3, split=("train", "test")[index % 2])
        assert parse(render(scene)) == scene


@pytest.mark.parametrize("side", [48, 96, 128])
def test_parsing_is_exact_at_other_sizes(side):
    for index in range(40):
        scene = sample_scene(index, seed=4)
        assert parse(render(scene, side=side)) == scene


@pytest.mark.parametrize("deviation", [8, 20])
def test_parsing_survives_noise(deviation):
    for index in range(120):
        scene = sample_scene(index, seed=5)
        assert parse(noisy(render(scene), deviation=deviation, seed=index)) == scene


def test_parsing_survives_light_blur():
    for index in range(120):
        scene = sample_scene(index, seed=6)
        assert parse(render(scene).filter(ImageFilter.GaussianBlur(0.7))) == scene


def test_an_empty_picture_has_no_shapes():
    assert parse(PillowImage.new("RGB", (64, 64), (188, 192, 190))) == Scene((), "gray")


def test_a_picture_that_is_not_square_is_refused():
    with pytest.raises(ValueError, match="64x80 pixels"):
        parse(PillowImage.new("RGB", (80, 64)))


def test_every_scene_scores_full_marks_against_itself():
    for index in range(50):
        scene = sample_scene(index, seed=7)
        assert score(scene, scene) == dict.fromkeys(ASPECTS, True)


def test_swapped_colours_fail_binding_but_not_colors():
    swapped = Scene((Shape((0, 0), "circle", "blue", "large"), Shape((0, 2), "square", "red", "small")), "white")
    result = score(swapped, PAIR)
    assert result["colors"]
    assert result["shapes"]
    assert not result["binding"]


def test_swapped_places_fail_relations_only_where_they_are_asked():
    swapped = Scene((Shape((0, 2), "circle", "red", "large"), Shape((0, 0), "square", "blue", "small")), "white")
    assert score(swapped, PAIR, aspects=("count", "binding")) == {"count": True, "binding": True}
    assert not score(swapped, PAIR, aspects=("relations",))["relations"]


def test_relations_hold_for_other_cells_with_the_same_order():
    moved = Scene((Shape((1, 0), "circle", "red", "large"), Shape((2, 1), "square", "blue", "small")), "white")
    assert score(moved, PAIR)["relations"]
    assert not score(moved, PAIR)["cells"]


def test_an_unknown_aspect_is_refused():
    with pytest.raises(ValueError, match="unknown scene aspects"):
        score(PAIR, PAIR, aspects=("beauty",))


def test_a_relation_needs_a_shared_row_or_column():
    assert relation(RED, BLUE) == "to the left of"
    assert relation(BLUE, RED) == "to the right of"
    assert relation(RED, Shape((2, 2), "star", "pink", "small")) is None


def test_captions_count_and_place():
    texts = [caption.text for caption in captions(PAIR)]
    assert texts[0] == "a red circle and a blue square"
    assert "a red circle to the left of a blue square" in texts
    crosses = Scene(tuple(Shape((0, i), "cross", "orange", "small") for i in range(3)), "gray")
    assert captions(crosses)[1].text == "three orange crosses on a gray background"


def answer_by_looking(scene, asked):
    """The answer computed a second way, from the words of the question alone."""
    words = asked.text.rstrip("?.").split()
    if asked.topic == "count":
        noun = asked.text.split("many ")[-1].split(" are")[0].split(" do")[0]
        noun = noun.removeprefix("Count the ").rstrip(".?")
        matching = [
            s
            for s in scene.shapes
            if noun == "shapes" or noun.split()[0] == s.color or noun in (f"{s.kind}s", "crosses")
            if not (noun == "crosses" and s.kind != "cross")
        ]
        return NUMBERS[len(matching)]
    if asked.topic == "existence":
        return "yes" if words[-1] in {s.kind for s in scene.shapes} else "no"
    if asked.topic == "binding":
        return "yes" if " ".join(words[-2:]) in {s.noun for s in scene.shapes} else "no"
    by_noun = {s.noun: s for s in scene.shapes}
    if asked.topic == "relation":
        first, second = by_noun[" ".join(words[2:4])], by_noun[" ".join(words[-2:])]
        return "yes" if " ".join(words[4:-3]) == relation(first, second) else "no"
    if asked.topic == "color":
        return next(s.color for s in scene.shapes if s.kind == words[-1])
    if asked.topic == "shape":
        return next(s.kind for s in scene.shapes if s.color == words[-2])
    noun = " ".join(words[3:5] if asked.topic == "position" else words[2:4])
    return by_noun[noun].place if asked.topic == "position" else by_noun[noun].size


def test_every_answer_is_right():
    for index in range(2000):
        scene = sample_scene(index, seed=8)
        asked = question(scene, seed=index)
        assert asked.answer == answer_by_looking(scene, asked), (scene.key, asked)


def test_yes_and_no_are_balanced():
    asked = [question(sample_scene(index, seed=9), seed=0) for index in range(3000)]
    counts = Counter(q.answer for q in asked if q.answer in ("yes", "no"))
    assert 0.9 < counts["yes"] / counts["no"] < 1.1
    assert {q.topic for q in asked} == {
        "count", "existence", "binding", "color", "shape", "position", "size", "relation",
    }  # fmt: skip


def test_documents_show_and_make_the_scene():
    caption = caption_document(PAIR, seed=0)
    assert [message.role for message in caption.messages] == ["user", "assistant"]
    assert isinstance(caption.messages[0].parts[0], Media)
    assert caption.messages[1].text.startswith("A ")
    drawn = creation_document(PAIR, seed=0).messages[1].parts[0]
    assert parse(drawn.payload.pil()) == PAIR
    answer = question_document(PAIR, seed=0).messages[1].text
    assert answer == question(PAIR, seed=0).answer.capitalize() + "."


def test_the_aspects_of_a_request_are_those_that_it_states():
    document = creation_document(PAIR, seed=0)
    stated = {c.text: list(c.aspects) for c in captions(PAIR)}
    found = [text for text in stated if text in document.messages[0].text]
    assert document.meta["aspects"] == stated[max(found, key=len)]


def test_held_out_requests_are_no_training_requests():
    assert not set(HELD_OUT_DRAW_REQUESTS) & set(DRAW_REQUESTS)
    document = creation_document(PAIR, seed=0, requests=HELD_OUT_DRAW_REQUESTS)
    starts = tuple(request.split("{")[0] for request in HELD_OUT_DRAW_REQUESTS)
    assert document.messages[0].text.startswith(starts)
