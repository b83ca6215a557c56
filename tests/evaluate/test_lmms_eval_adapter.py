"""Our half of the adapter for lmms-eval; lmms-eval itself is replaced by the class that models derive from there."""

import importlib
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from tiny import picture, tiny_model

from limner.document.document import Document
from limner.evaluate.benchmarks.short_answers import Asked
from limner.evaluate.likelihoods import reply_likelihoods
from limner.evaluate.presets import Preset
from limner.generate.engine import Engine


class Base:
    """What lmms-eval's base class gives: documents by task and split."""

    def __init__(self) -> None:
        self.task_dict: dict[str, Any] = {}


@pytest.fixture
def adapter(monkeypatch: pytest.MonkeyPatch) -> Any:
    for name in ("lmms_eval", "lmms_eval.api", "lmms_eval.api.model"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    sys.modules["lmms_eval.api.model"].lmms = Base  # type: ignore[attr-defined]
    name = "limner.evaluate.adapters.lmms_eval_adapter"
    monkeypatch.delitem(sys.modules, name, raising=False)
    found = importlib.import_module(name)
    monkeypatch.delitem(sys.modules, name)
    return found


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(tiny_model())


def test_questions_with_pictures_are_asked_as_anybody_would(adapter: Any, engine: Engine) -> None:
    model = adapter.LimnerLMMS(engine)
    model.task_dict = {"made": {"test": [{"picture": picture("red").pil(), "answer": "red"}]}}
    options = {"max_new_tokens": 5, "until": ["\n"]}
    place = (lambda row: [row["picture"]], 0, "made", "test")
    (said,) = model.generate_until([SimpleNamespace(args=("<image>\ncolour?", options, *place))])
    preset = Preset("same", max_new_tokens=5, cut_at=("\n",))
    asked = Asked("1", picture("red"), "colour?")
    (reply,) = engine.run([preset.request(asked.image, asked.question)])
    assert said == preset.reply(reply.messages[-1])

    ((log_probability, _),) = model.loglikelihood(
        [SimpleNamespace(args=("colour?", lambda row: row["answer"], *place))]
    )
    document = Document.chat([("user", [picture("red"), "colour?"]), ("assistant", "red")])
    assert log_probability == pytest.approx(reply_likelihoods(engine.model, [document])[0].log_probability, abs=1e-4)
    with pytest.raises(ValueError, match="several rounds"):
        model.generate_until_multi_round([])


def test_its_results_are_told_with_their_errors(adapter: Any) -> None:
    found = {
        "results": {"made": {"alias": "made", "acc,none": 0.5, "acc_stderr,none": 0.1, "f1,none": 0.25}},
        "n-samples": {"made": {"effective": 4}},
    }
    first, second = adapter.scores_of(found)
    assert (first.name, first.num_items) == ("made: acc", 4)
    assert first.value == pytest.approx((0.5, 0.5 - 0.196, 0.5 + 0.196))
    assert second.value == (0.25, 0.25, 0.25)
