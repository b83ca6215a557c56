"""Every metric gives what its official implementation gave for the same inputs, as record_official_scores.py wrote."""

import json
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

from limner.evaluate.metrics import anls, caption, vqa, yes_no
from limner.evaluate.metrics.features import frechet_distance, kernel_distance

OFFICIAL: dict[str, Any] = json.loads((Path(__file__).parent / "official_scores.json").read_text())


def test_answers_are_normalised_as_by_the_vqa_challenge() -> None:
    for text, form in OFFICIAL["vqa"]["normalised"]:
        assert vqa.normalised(text) == form, text


def test_accuracies_are_those_of_the_vqa_challenge() -> None:
    scores = [score for _, _, score in OFFICIAL["vqa"]["accuracy"]]
    assert 0.2 < numpy.mean(scores) < 0.8
    for reply, answers, score in OFFICIAL["vqa"]["accuracy"]:
        # The official evaluation rounds to two digits of per cent.
        assert round(100 * vqa.accuracy(reply, answers), 2) == pytest.approx(100 * score, abs=1e-6)


def test_yes_and_no_count_as_by_pope() -> None:
    for made in OFFICIAL["pope"]:
        found = yes_no.score(made["replies"], [label == "yes" for label in made["labels"]])
        assert list(found) == pytest.approx(made["scores"], abs=1e-6)


def test_captions_score_as_by_pycocoevalcap() -> None:
    made = OFFICIAL["cider"]
    found = caption.cider(
        [text.split() for text in made["captions"]], [[text.split() for text in group] for group in made["references"]]
    )
    assert found == pytest.approx(made["scores"], abs=1e-6)


def test_read_answers_are_as_similar_as_by_anls() -> None:
    for reply, answers, score in OFFICIAL["anls"]:
        assert anls.similarity(reply, answers) == pytest.approx(score, abs=1e-6), (reply, answers)


@pytest.mark.parametrize("made", OFFICIAL["distances"], ids=lambda made: f"{made['items']}x{made['width']}")
def test_distances_are_those_of_torch_fidelity(made: dict[str, Any]) -> None:
    one = torch.from_numpy(numpy.random.RandomState(0).randn(made["items"], made["width"]))
    other = torch.from_numpy(numpy.random.RandomState(1).randn(made["others"], made["width"]) * 1.5 + 0.3)
    assert frechet_distance(one, other) == pytest.approx(made["fid"], rel=1e-6, abs=1e-6)
    found = kernel_distance(one, other, num_subsets=20, subset_size=32)
    assert found.mean == pytest.approx(made["kid"], rel=1e-6, abs=1e-6)
