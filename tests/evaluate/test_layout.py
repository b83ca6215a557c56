import pytest

from limner.document.document import Media, Text
from limner.evaluate.metrics.layout import f1, f1_interval, matched, places, precision, recall, shuffled_f1


def test_a_place_is_the_number_of_words_before_the_picture():
    picture = Media(None)
    parts = [picture, Text(" A red circle."), picture, picture, Text(" Two more"), Text(" words."), picture]
    assert places(parts) == (0, 3, 3, 6)
    assert places([Text("no picture")]) == ()


def test_two_pictures_at_one_place_count_twice_and_a_surplus_one_is_wrong():
    assert matched((3, 3), (3, 3)) == 2
    assert matched((3, 3), (3,)) == 1
    assert matched((1, 5), (5, 9)) == 1
    assert matched((), (4,)) == 0


def test_precision_recall_and_f1_are_those_computed_by_hand():
    found = [(3, 6), (2,), ()]
    wanted = [(3,), (2, 8), (5,)]
    # 2 of 3 pictures stand right, 2 of 4 wanted ones are there: F1 = 2 * 2 / (3 + 4).
    assert precision(found, wanted) == pytest.approx(2 / 3)
    assert recall(found, wanted) == pytest.approx(2 / 4)
    assert f1(found, wanted) == pytest.approx(4 / 7)
    assert f1_interval(found, wanted).mean == pytest.approx(4 / 7)


def test_pages_without_pictures_count_for_nothing_unless_one_is_drawn_there():
    assert f1([(), (4,)], [(), (4,)]) == 1.0
    assert f1([(4,), (4,)], [(), (4,)]) == pytest.approx(2 / 3)
    assert f1([()], [()]) == 1.0


def test_a_model_that_never_draws_and_one_that_draws_everywhere_are_both_punished():
    wanted = [(8,), (16,), (8, 16, 24)] * 10
    never = [() for _ in wanted]
    always = [tuple(range(25)) for _ in wanted]
    assert f1(never, wanted) == 0.0
    assert recall(always, wanted) == 1.0
    assert f1(always, wanted) < 0.15


def test_the_shuffled_control_is_what_other_pages_give():
    wanted = [(8,), (16,)] * 20
    assert shuffled_f1(wanted, wanted).mean == pytest.approx(0.5, abs=0.08)
    same = [(8,)] * 5
    assert shuffled_f1(same, same) == (1.0, 1.0, 1.0)


def test_an_interval_without_any_picture_is_refused():
    with pytest.raises(ValueError, match="hint: score pages that want some"):
        f1_interval([()], [()])
