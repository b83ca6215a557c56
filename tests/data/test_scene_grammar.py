import pytest
from tiny import tiny_model

from limner.data.scene_grammar import (
    CELLS,
    MAKERS,
    WORDS,
    GrammarTask,
    SceneGrammar,
    is_held_out,
    question,
    stated,
    text_of,
)
from limner.data.scene_parser import parse
from limner.data.scenes import Scene, Shape
from limner.document.document import Direction, Media
from limner.tokens.words import word_tokenizer

RED = Shape((0, 0), "circle", "red", "large")
BLUE = Shape((2, 1), "star", "blue", "small")
GRAMMAR = SceneGrammar()


def texts(document):
    return [part.text for message in document.messages for part in message.parts if not isinstance(part, Media)]


EVERY = {
    stated(shape): shape
    for cell in CELLS
    for kind in GRAMMAR.kinds
    for color in GRAMMAR.colors
    for size in ("small", "large")
    for shape in [Shape(cell, kind, color, size)]
}


def shapes_named(document):
    """Every shape that a document shows or states."""
    found = [shape for _, media in document.media() for shape in parse(media.content.pil()).shapes]
    written = " " + " ".join(texts(document)).lower()
    return found + [shape for text, shape in EVERY.items() if f" {text}" in written]


def test_a_scene_is_a_pure_function_of_its_index_seed_and_split():
    assert GRAMMAR.scene(7, seed=1) == GRAMMAR.scene(7, seed=1)
    assert GRAMMAR.scene(7, seed=1) != GRAMMAR.scene(7, seed=2)
    with pytest.raises(ValueError, match="hint: pass split"):
        GRAMMAR.scene(0, seed=0, split="dev")


@pytest.mark.parametrize("task", MAKERS)
def test_no_training_document_shows_or_names_a_held_out_combination(task):
    source = GrammarTask(task=task, length=40)
    for index in range(40):
        for shape in shapes_named(source[index]):
            assert not is_held_out(shape.color, shape.kind, shape.cell)


@pytest.mark.parametrize("task", MAKERS)
def test_every_test_document_has_a_held_out_combination(task):
    source = GrammarTask(task=task, length=40, split="test")
    for index in range(40):
        assert any(is_held_out(shape.color, shape.kind, shape.cell) for shape in shapes_named(source[index]))


def test_one_combination_in_ten_is_held_out_and_every_look_and_cell_is_trained():
    train, test = GRAMMAR.combinations["train"], GRAMMAR.combinations["test"]
    assert not set(train) & set(test)
    assert 0.05 < len(test) / (len(train) + len(test)) < 0.15
    for place in range(3):
        assert {each[place] for each in train} == {each[place] for each in (*train, *test)}


def test_pictures_are_read_back_exactly_at_the_grammars_side():
    scenes = [GRAMMAR.scene(index, seed=0) for index in range(60)]
    assert [parse(GRAMMAR.picture(scene).content.pil()) for scene in scenes] == scenes


def test_a_scene_is_stated_in_reading_order_with_nothing_left_out():
    assert text_of(Scene((BLUE, RED))) == "northwest a large red circle, south a small blue star"


def test_questions_have_the_answer_that_the_scene_gives():
    scene = Scene((RED, BLUE, Shape((1, 1), "circle", "blue", "small")))
    asked = {(one := question(scene, seed=seed)).text: one for seed in range(600)}
    for text, answer in {
        "How many shapes are there?": "three",
        "How many circles are there?": "two",
        "How many blue shapes are there?": "two",
        "What color is the northwest shape?": "red",
        "What is the center shape?": "circle",
        "What is the red shape?": "circle",
        "What color is the star?": "blue",
        "Where is the blue star?": "south",
        "Is the red circle small or large?": "large",
    }.items():
        assert asked[text].answer == answer
    assert {one.topic for one in asked.values()} == {"count", "color", "shape", "size", "position"}


def test_a_pages_pictures_follow_the_sentences_that_its_instruction_names():
    source, seen = GrammarTask(task="page", length=150), set()
    for index in range(150):
        document = source[index]
        wanted = document.messages[0].text.partition(" of: ")[0].removeprefix("Show ")
        seen.add(wanted)
        parts = document.messages[1].parts
        sentences = [n for n, part in enumerate(parts) if not isinstance(part, Media)]
        shown = [n + 1 < len(parts) and isinstance(parts[n + 1], Media) for n in sentences]
        assert shown == document.meta["shown"]
        for number, is_shown in zip(sentences, shown, strict=True):
            text = parts[number].text
            if is_shown:
                assert f" {stated(parse(parts[number + 1].content.pil()).shapes[0])}." == text[0] + text[1:].lower()
        if wanted == "all but the last":
            assert shown == [True] * (len(shown) - 1) + [False]
    assert len(seen) == 7


def test_what_is_asked_to_be_drawn_is_not_read_back():
    (_, media) = next(GrammarTask(task="creation", length=1)[0].media())
    assert media.directions == (Direction.OUT,)


def test_an_unknown_task_is_refused():
    with pytest.raises(ValueError, match="hint: tasks are describe"):
        GrammarTask(task="paint", length=1)


def test_every_word_of_every_document_is_one_token():
    tokenizer = word_tokenizer(WORDS)
    for task in MAKERS:
        source = GrammarTask(task=task, length=60)
        for index in range(60):
            for text in texts(source[index]):
                ids = tokenizer.text_ids(text)
                assert tokenizer.decode(ids).strip() == text.strip()
                pieces = tokenizer.tokenizer.convert_ids_to_tokens(ids)
                assert all(len(piece) > 1 or piece in ".,?:" for piece in pieces), text


def test_a_text_of_other_words_survives_the_word_tokenizer():
    tokenizer = word_tokenizer(WORDS)
    text = " Größe of 7 zebras <|end|>!"
    assert tokenizer.decode(tokenizer.text_ids(text)) == text
    assert tokenizer.eos_ids[0] not in tokenizer.text_ids(text)


def test_documents_are_rendered_by_a_model():
    assert len(tiny_model().render(GrammarTask(task="page", length=1)[0])) > 20
