"""The data order is a pure function: permutations, exact shares, condition dropout."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import Pages, picture

from limner.data.mixture import FunctionSource, Mixture, null_document, permuted, uniform
from limner.document.document import Direction, Document, Media


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 300), st.integers(0, 10**6))
def test_permuted_is_a_permutation(length: int, seed: int) -> None:
    assert sorted(permuted(i, length=length, key=(seed,)) for i in range(length)) == list(range(length))


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    orders = [
        tuple(permuted(i, length=40, key=(seed, epoch)) for i in range(40)) for seed in (0, 1) for epoch in (0, 1)
    ]
    assert len(set(orders)) == 4
    assert all(order != tuple(range(40)) for order in orders)


def test_uniform_numbers_are_uniform_and_a_function_of_their_key() -> None:
    drawn = [uniform("x", i) for i in range(2000)]
    assert drawn == [uniform("x", i) for i in range(2000)]
    assert all(0 <= value < 1 for value in drawn)
    assert sum(drawn) / 2000 == pytest.approx(0.5, abs=0.02)


@settings(max_examples=12, deadline=None)
@given(st.lists(st.integers(1, 20), min_size=1, max_size=5))
def test_weights_are_honoured_over_a_cycle(weights: list[int]) -> None:
    names = {f"s{i}": float(weight) for i, weight in enumerate(weights)}
    mixture = Mixture({name: Pages() for name in names}, weights=names)
    counts = Counter(mixture.draw(position).source for position in range(1000))
    for name, weight in names.items():
        assert abs(counts[name] - 1000 * weight / sum(weights)) < 1
    early = Counter(mixture.draw(position).source for position in range(100))
    for name, weight in names.items():
        assert abs(early[name] - 100 * weight / sum(weights)) < len(names)


def test_a_source_too_light_for_the_cycle_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`rare` would never be drawn.*\nhint: "):
        Mixture({"rare": Pages(), "often": Pages()}, weights={"rare": 1e-5, "often": 1.0})


def test_each_source_is_gone_through_once_per_epoch_of_its_own() -> None:
    mixture = Mixture({"a": Pages(num_pages=5), "b": Pages(num_pages=3)}, weights={"a": 1.0, "b": 1.0})
    draws = [mixture.draw(position) for position in range(30)]
    for name, length in (("a", 5), ("b", 3)):
        own = [draw for draw in draws if draw.source == name]
        for start in range(0, len(own) - length + 1, length):
            assert {draw.index for draw in own[start : start + length]} == set(range(length))
    assert len({draw.key for draw in draws}) == 30


def test_a_position_is_answered_without_the_ones_before_it() -> None:
    def mixture() -> Mixture:
        return Mixture(
            {"a": Pages(), "b": Pages()},
            weights={"a": 3.0, "b": 1.0},
            seed=4,
            condition_dropout=0.3,
        )

    forwards = [mixture().document(position) for position in range(25)]
    one = mixture()
    assert [one.document(position) for position in reversed(range(25))] == forwards[::-1]


def test_condition_dropout_comes_as_often_as_asked_and_deterministically() -> None:
    sources = {"a": FunctionSource(lambda i: Document.page(["x", picture()]), 3000)}
    mixture = Mixture(sources, seed=1, condition_dropout=0.2)
    dropped = [len(mixture.document(i)[0].messages[0].parts) == 1 for i in range(3000)]
    assert sum(dropped) / 3000 == pytest.approx(0.2, abs=0.02)
    assert dropped[:50] == [len(mixture.document(i)[0].messages[0].parts) == 1 for i in range(50)]


def test_a_null_document_holds_one_made_picture_untrained() -> None:
    document = Document.chat([("user", [picture("black")]), ("assistant", [picture("red"), "x", picture("blue")])])
    for choice, colour in ((0.0, "red"), (0.49, "red"), (0.5, "blue"), (0.99, "blue")):
        ((_, media),) = null_document(document, choice=choice).media()
        assert media == Media(picture(colour), train=False, directions=(Direction.OUT,))
    words = Document.page(["only words"])
    assert null_document(words, choice=0.5) is words


@pytest.mark.parametrize(
    ("sources", "weights", "says"),
    [
        ({}, None, "without sources"),
        ({"a": Pages()}, {"b": 1.0}, r"\['b'\].*\['a'\]"),
        ({"a": Pages(num_pages=0)}, None, "`a` has 0 documents"),
        ({"a": Pages()}, {"a": 0.0}, "weight 0.0"),
    ],
)
def test_a_mixture_that_cannot_be_is_refused(sources, weights, says: str) -> None:
    with pytest.raises(ValueError, match=says + r".*\nhint: "):
        Mixture(sources, weights=weights)
