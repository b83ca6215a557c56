"""Metrics against their official implementations: values that those gave, and cases worked by hand."""

import math

import numpy
import pytest
import torch

from limner.evaluate.metrics import anls, caption, vqa, yes_no
from limner.evaluate.metrics.features import frechet_distance, kernel_distance
from limner.modalities.noise import keyed_generator


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("The Red, blue!", "red blue"),
        ("x-ray", "x ray"),
        ("1,000 people, maybe", "1000 people maybe"),
        ("none", "0"),
        ("Ten.", "10"),
        ("3.5", "3.5"),
        ("dont", "don't"),
        ("couldnt've", "couldn't've"),
        ("a", ""),
        ("yes/no", "yes no"),
        ("left / right", "left right"),
    ],
)
def test_answers_take_the_official_form(answer: str, expected: str) -> None:
    assert vqa.normalised(answer) == expected


def test_an_answer_counts_as_many_people_agree_with_it() -> None:
    answers = ["red"] * 2 + ["dark red"] * 8
    # Leaving out one who said it: 1 of 3 others agree (twice); leaving out another: 2 of 3 (eight times).
    assert vqa.accuracy("Red.", answers) == pytest.approx((2 * 1 / 3 + 8 * 2 / 3) / 10)
    assert vqa.accuracy("dark red", answers) == 1.0
    assert vqa.accuracy("blue", answers) == 0.0


def test_where_all_agree_nothing_is_normalised() -> None:
    assert vqa.accuracy("The cat", ["cat"] * 10) == 0.0
    assert vqa.accuracy("The cat", ["cat"] * 9 + ["dog"]) == 1.0


@pytest.mark.parametrize(
    ("prediction", "answers", "expected"),
    [
        ("Total 42", ["total  42"], 1.0),
        ("kitten", ["sitting"], 1.0 - 3 / 7),
        ("ab", ["cd"], 0.0),
        ("abcd", ["abxy"], 0.0),  # exactly half of it differs
        ("", ["a"], 0.0),
        ("1998", ["1989", "1998"], 1.0),
    ],
)
def test_similarity_of_read_answers(prediction: str, answers: list[str], expected: float) -> None:
    assert anls.similarity(prediction, answers) == pytest.approx(expected)


def test_yes_and_no_are_read_off_the_first_sentence() -> None:
    replies = ["Yes, there is.", "No, there is none.", "There is not. Yes.", "I see one. No doubt.", "no"]
    assert [yes_no.says_yes(reply) for reply in replies] == [True, False, False, True, False]


def test_yes_or_no_scores_worked_by_hand() -> None:
    found = yes_no.score(["yes", "yes", "no", "no"], [True, False, True, False])
    assert found == yes_no.YesNo(accuracy=0.5, precision=0.5, recall=0.5, f1=0.5, yes_ratio=0.5)
    assert yes_no.score(["no"], [False]) == yes_no.YesNo(1.0, 0.0, 0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A man's dog can't run; it's 5:30 p.m.", "a man 's dog ca n't run it 's 5:30 p.m."),
        ("Two (2) red, ripe apples -- on a table.", "two -lrb- 2 -rrb- red ripe apples on a table"),
        ("the U.S. flag... and a t-shirt", "the u.s. flag and a t-shirt"),
        ("It costs $5.00 and 50% off!", "it costs $ 5.00 and 50 % off"),
        ("He said: \"I'd've\"", "he said i 'd 've"),
        ("A man cannot do it, they're here", "a man can not do it they 're here"),
        ("Mr. Smith's car isn't", "mr. smith 's car is n't"),
        ("mother-in-law's house", "mother-in-law 's house"),
        ("end of line.Next", "end of line.next"),
    ],
)
def test_words_are_those_of_the_official_tokeniser(text: str, expected: str) -> None:
    assert " ".join(caption.words(text)) == expected


CIDER = [4.69212387, 2.00990559, 10.0]
"""What pycocoevalcap 1.2 gives for the captions below."""


def test_cider_is_the_official_one() -> None:
    references = [
        ["a red ball on the grass", "a ball lies on green grass"],
        ["two dogs run along a beach", "dogs playing on the beach", "two brown dogs run"],
        ["a man rides a horse"],
    ]
    captions = ["a red ball on green grass", "two dogs on a beach", "a man rides a horse"]
    found = caption.cider([one.split() for one in captions], [[one.split() for one in group] for group in references])
    assert found == pytest.approx(CIDER, abs=1e-8)


def test_a_caption_without_references_is_refused() -> None:
    with pytest.raises(ValueError, match="references for each"):
        caption.cider([["a"]], [[]])


def test_frechet_distance_of_known_gaussians() -> None:
    # In one dimension: (m - m')^2 + (s - s')^2.
    one = torch.tensor([[-1.0], [1.0]])
    other = torch.tensor([[1.0], [5.0]])
    assert frechet_distance(one, other) == pytest.approx(9.0 + (math.sqrt(2) - math.sqrt(8)) ** 2)


def test_distances_are_zero_between_the_same_and_grow() -> None:
    features = torch.randn(200, 6, generator=keyed_generator("features"))
    assert frechet_distance(features, features) == pytest.approx(0.0, abs=1e-6)
    near = kernel_distance(features, features + 0.1, num_subsets=10, subset_size=100)
    far = kernel_distance(features, features + 1.0, num_subsets=10, subset_size=100)
    assert near.mean < far.mean
    assert frechet_distance(features, features + 0.1) < frechet_distance(features, features + 1.0)


def test_kernel_distance_worked_by_hand() -> None:
    one, other = torch.tensor([[0.0], [1.0]]), torch.tensor([[1.0], [1.0]])
    # k(x, y) = (xy + 1)^3: within 1 and 8, between (1 + 8 + 1 + 8) / 4.
    found = kernel_distance(one, other, num_subsets=3)
    assert found.mean == pytest.approx(1.0 + 8.0 - 2.0 * 4.5)


def test_distances_are_those_of_torch_fidelity() -> None:
    """What torch-fidelity 0.4.0 gives for the same features: fid_statistics_to_metric, kid_features_to_metric."""
    one = torch.from_numpy(numpy.random.RandomState(0).randn(64, 8))
    other = torch.from_numpy(numpy.random.RandomState(1).randn(80, 8) * 1.5 + 0.3)
    assert frechet_distance(one, other) == pytest.approx(4.0420465147995195, abs=1e-6)
    found = kernel_distance(one, other, num_subsets=20, subset_size=32)
    assert found.mean == pytest.approx(1.5304808612071787, abs=1e-6)


def test_one_item_has_no_spread() -> None:
    with pytest.raises(ValueError, match="two items or more"):
        frechet_distance(torch.zeros(1, 2), torch.zeros(3, 2))
