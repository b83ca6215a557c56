import numpy
import pytest

from limner.data.stories import Record
from limner.document.media import Image
from limner.evaluate.metrics.naming import best_constant, hints, hits, normalized


def record(name, *keywords):
    picture = Image(data=b"")
    return Record("key", name, keywords, "concept", "style", "group", "subgroup", picture)


@pytest.mark.parametrize(
    ("reply", "name", "is_right"),
    [
        ("This is a red apple.", "red apple", True),
        ("A Red Apple!", "red apple", True),
        ("An apple that is red.", "red apple", False),
        ("This is a caravan.", "car", False),
        ("I see a T-shirt", "t-shirt", True),
        ("the man's cap", "man s cap", True),
        ("", "car", False),
    ],
)
def test_an_exact_name_is_all_its_words_in_order(reply, name, is_right):
    assert hits([reply], [[normalized(name)]]).item() is is_right


def test_hints_are_the_name_its_telling_words_and_the_keywords():
    found = hints(record("man with red hat", "hat", "person", "top hat", "up", "Headwear"))
    assert found == ("man with red hat", "red", "hat", "top hat", "headwear")


def test_a_word_that_says_nothing_is_no_hint():
    assert not hits(["A picture of a person with a face."], [hints(record("woman with veil", "person"))]).any()


def test_replies_are_scored_against_every_item_by_hand():
    records = [record("red apple", "fruit"), record("lemon", "fruit", "sour"), record("car")]
    table = hits(["a lemon", "some fruit", "a red car"], [hints(r) for r in records])
    expected = [[False, True, False], [True, True, False], [True, False, True]]
    assert numpy.array_equal(table, expected)


def test_the_best_constant_is_the_word_that_most_items_share():
    phrases = [
        hints(record("red apple", "fruit")),
        hints(record("lemon", "fruit")),
        hints(record("car")),
    ]
    assert best_constant(["a car", "fruit", "lemon"], phrases) == ("fruit", pytest.approx(2 / 3))
