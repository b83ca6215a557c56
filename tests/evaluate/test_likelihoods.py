"""Likelihoods of continuations against transformers' own, and how suites of others are asked for."""

import pytest
import torch
from tiny import tiny_model

from limner.document.document import Document
from limner.evaluate.likelihoods import likelihoods, reply_likelihoods
from limner.evaluate.tasks import expanded, open_task


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def by_transformers(model, context, continuation):
    """The same by one forward of the language model alone."""
    ids = torch.tensor([[*context, *continuation]])
    with torch.inference_mode():
        scores = model.backbone.language_model(input_ids=ids).logits[0].float().log_softmax(dim=-1)
    rows = scores[len(context) - 1 : -1]
    targets = torch.tensor(continuation)
    return float(rows.gather(1, targets[:, None]).sum()), bool((rows.argmax(-1) == targets).all())


def greedy(model, context, count):
    ids = torch.tensor([context])
    with torch.inference_mode():
        found = model.backbone.language_model.generate(ids, max_new_tokens=count, do_sample=False, eos_token_id=None)
    return found[0, len(context) :].tolist()


def test_likelihoods_are_those_of_transformers(model):
    contexts = [[5, 6, 7], [9], list(range(20, 60)), [1, 2]]
    pairs = [(context, [3, 4, 50][: number % 3 + 1]) for number, context in enumerate(contexts)]
    pairs.append((contexts[0], greedy(model, contexts[0], 3)))
    heard = {}
    found = likelihoods(
        model, pairs, batch_size=2, on_batch=lambda places, some: heard.update(zip(places, some, strict=True))
    )
    assert [heard[place] for place in range(len(pairs))] == found
    for (context, continuation), one in zip(pairs, found, strict=True):
        expected, is_greedy = by_transformers(model, context, continuation)
        assert one.log_probability == pytest.approx(expected, abs=1e-4)
        assert one.is_greedy == is_greedy
    assert found[-1].is_greedy


def test_a_context_that_is_too_long_loses_its_beginning(model):
    longest = model.backbone.context_length
    context = [number % 90 for number in range(longest + 30)]
    (found,) = likelihoods(model, [(context, [3, 4])])
    assert found.log_probability == pytest.approx(
        by_transformers(model, context[-(longest - 1) :], [3, 4])[0], abs=1e-4
    )


@pytest.mark.parametrize(("context", "continuation"), [([], [1]), ([1], []), ([1], [2] * 300)])
def test_what_cannot_be_scored_is_named(model, context, continuation):
    with pytest.raises(ValueError, match="pair 1 has"):
        likelihoods(model, [([1], [2]), (context, continuation)])


def test_names_that_stand_for_several_are_expanded_once():
    every = ["scene_reading", "scene_drawing", "scene_prompts", "scene_pages"]
    assert expanded(["scenes", "scene_pages"]) == every
    assert expanded(["language"])[:2] == ["lm_eval:mmlu", "lm_eval:boolq"]
    with pytest.raises(ValueError, match="no benchmark is named"):
        expanded([])
    with pytest.raises(ValueError, match="did you mean `scenes`"):
        expanded(["scene"])


def test_a_suite_that_is_not_installed_is_named(monkeypatch, tmp_path):
    import sys

    monkeypatch.setitem(sys.modules, "lm_eval", None)
    monkeypatch.delitem(sys.modules, "limner.evaluate.adapters.lm_eval_adapter", raising=False)
    with pytest.raises(ValueError, match=r"`lm_eval` is not installed\nhint: pip install"):
        open_task("lm_eval:boolq", folder=tmp_path)


def test_a_reply_is_scored_as_its_tokens_behind_the_question(model):
    document = Document.chat([("user", "colour?"), ("assistant", "red")])
    sequence = model.render(document)
    count = sum(sequence.trained)
    last = max(place for place, trained in enumerate(sequence.trained) if trained) + 1
    ids = list(sequence.ids)
    (by_ids,) = likelihoods(model, [(ids[: last - count], ids[last - count : last])])
    (found,) = reply_likelihoods(model, [document])
    assert found.log_probability == pytest.approx(by_ids.log_probability, abs=1e-4)
    assert found.is_greedy == by_ids.is_greedy
