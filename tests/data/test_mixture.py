"""The data order is a pure function: permutations, exact shares, condition dropout."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import Pages, picture

from limner.data.mixture import (
    FunctionSource,
    Mixture,
    TokenShares,
    mean_tokens,
    null_document,
    permuted,
    source_of,
    uniform,
)
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


def test_a_light_source_is_met_as_often_as_it_should_be() -> None:
    mixture = Mixture({"rare": Pages(), "often": Pages()}, weights={"rare": 1.0, "often": 2999.0})
    counts = Counter(mixture.draw(position).source for position in range(9000))
    assert counts == {"rare": 3, "often": 8997}


def test_a_source_too_light_for_the_longest_cycle_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`rare` would be drawn once in 10000\d+ documents.*\nhint: "):
        Mixture({"rare": Pages(), "often": Pages()}, weights={"rare": 1e-6, "often": 1.0})


def test_weights_go_by_size_unless_they_are_given() -> None:
    sources = {"a": Pages(num_pages=6), "b": Pages(num_pages=2)}

    def shares(mixture: Mixture) -> dict[str, int]:
        return dict(Counter(mixture.draw(position).source for position in range(1000)))

    assert shares(Mixture(sources)) == {"a": 750, "b": 250}
    # A source may stand for more documents than lie at hand.
    assert shares(Mixture(sources, sizes={"a": 1_000_000, "b": 4_000_000})) == {"a": 200, "b": 800}


@pytest.mark.parametrize(("exhaustion", "ends_with"), [("first_exhausted", "b"), ("all_exhausted", "a")])
def test_an_order_that_ends_does_so_with_the_first_or_the_last_source(exhaustion, ends_with: str) -> None:
    sources = {"a": Pages(num_pages=9), "b": Pages(num_pages=2)}
    mixture = Mixture(sources, weights={"a": 2.0, "b": 1.0}, exhaustion=exhaustion)
    number = mixture.num_documents
    draws = [mixture.draw(position) for position in range(number)]
    assert {draw.index for draw in draws if draw.source == ends_with} == set(range(len(sources[ends_with])))
    last = draws.pop()
    assert (last.source, last.key.split("/")[2]) == (ends_with, "0")
    if exhaustion == "first_exhausted":
        assert all(draw.key.endswith("/0") for draw in draws)
    with pytest.raises(ValueError, match=rf"ends after {number} documents\nhint: "):
        mixture.draw(number)
    assert Mixture(sources).num_documents is None


def _long(index: int) -> Document:
    if index % 4 == 0:
        raise ValueError("bad\nhint: none")
    return Document.page(["x" * 100])


def _text_length(document: Document) -> int:
    return len(document.messages[0].text)


def test_shares_of_tokens_become_weights_by_the_mean_lengths() -> None:
    sources = {
        "short": FunctionSource(lambda index: Document.page(["x" * 25]), 400),
        "long": FunctionSource(_long, 400),
    }
    shares = TokenShares({"short": 1.0, "long": 1.0})
    assert mean_tokens(sources["short"], length=_text_length) == 25
    # A bad document is a draw without a token.
    assert mean_tokens(sources["long"], length=_text_length) == pytest.approx(75, abs=10)
    unmeasured = Mixture(sources, weights=shares)
    with pytest.raises(ValueError, match=r"mean lengths for \[\]\nhint: give `mean_tokens`"):
        unmeasured.draw(0)
    mixture = unmeasured.measured(_text_length)
    assert mixture.measured(_text_length) is mixture
    given = Mixture(sources, weights=TokenShares(shares.shares, mean_tokens=mixture.weights.mean_tokens), seed=0)
    tokens: Counter[str] = Counter()
    for position in range(1000):
        draw = mixture.draw(position)
        assert draw == given.draw(position)
        bad = draw.source == "long" and draw.index % 4 == 0
        tokens[draw.source] += 0 if bad else _text_length(sources[draw.source][draw.index])
    assert tokens["short"] / tokens["long"] == pytest.approx(1.0, abs=0.1)


def test_a_source_of_which_nothing_can_be_measured_is_refused() -> None:
    mixture = Mixture({"a": FunctionSource(lambda index: _long(0), 5)}, weights=TokenShares({"a": 1.0}))
    with pytest.raises(ValueError, match=r"no document of `a` can be measured\nhint: "):
        mixture.measured(_text_length)


def test_sizes_that_do_not_fit_the_sources_are_called_sizes() -> None:
    with pytest.raises(ValueError, match=r"^sizes are given for \['b'\].*\nhint: give every source a size$"):
        Mixture({"a": Pages()}, sizes={"b": 5})
    with pytest.raises(ValueError, match=r"the size 0\nhint: .* a positive size$"):
        Mixture({"a": Pages()}, sizes={"a": 0})


def test_weights_and_sizes_exclude_one_another() -> None:
    with pytest.raises(ValueError, match=r"by weights or by sizes.*\nhint: "):
        Mixture({"a": Pages()}, weights={"a": 1.0}, sizes={"a": 5})


def test_sizes_are_written_as_people_write_them() -> None:
    sources = {"a": Pages(), "b": Pages()}
    written = Mixture(sources, sizes={"a": "2K", "b": "0.5K"})
    counted = Mixture(sources, sizes={"a": 2000, "b": 500})
    assert [written.draw(position) for position in range(100)] == [counted.draw(position) for position in range(100)]
    with pytest.raises(ValueError, match=r"a size is `some`.*\nhint: "):
        Mixture(sources, sizes={"a": "some", "b": 1})


def test_a_key_says_its_source() -> None:
    mixture = Mixture({"shelf/books": Pages()})
    assert source_of(mixture.draw(3).key) == "shelf/books"


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
        ({"a": Pages()}, {"a": 0.0}, "the weight 0"),
    ],
)
def test_a_mixture_that_cannot_be_is_refused(sources, weights, says: str) -> None:
    with pytest.raises(ValueError, match=says + r".*\nhint: "):
        Mixture(sources, weights=weights)
