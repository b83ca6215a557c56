"""The adapter for lmms-eval: our half with lmms-eval replaced by the class that models derive from there; the whole, on
tasks of our own, where lmms-eval is installed."""

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from tiny import picture, tiny_model

from limner.document.document import Document
from limner.evaluate.benchmarks.short_answers import Asked
from limner.evaluate.likelihoods import reply_likelihoods
from limner.evaluate.presets import Preset
from limner.evaluate.runner import evaluate
from limner.evaluate.tasks import open_task
from limner.generate.engine import Engine


class Base:
    """What lmms-eval's base class gives: documents by task and split."""

    def __init__(self) -> None:
        self.task_dict: dict[str, Any] = {}


@pytest.fixture
def adapter(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    for name in ("lmms_eval", "lmms_eval.api", "lmms_eval.api.instance", "lmms_eval.api.model"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    sys.modules["lmms_eval.api"].instance = sys.modules["lmms_eval.api.instance"]  # type: ignore[attr-defined]
    sys.modules["lmms_eval.api.model"].lmms = Base  # type: ignore[attr-defined]
    name = "limner.evaluate.adapters.lmms_eval_adapter"
    monkeypatch.delitem(sys.modules, name, raising=False)
    yield importlib.import_module(name)
    del sys.modules[name]


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

    ((loss, _),) = model.loglikelihood([SimpleNamespace(args=("colour?", lambda row: row["answer"], *place))])
    document = Document.chat([("user", [picture("red"), "colour?"]), ("assistant", "red")])
    (wanted,) = reply_likelihoods(engine.model, [document])
    assert loss == pytest.approx(-wanted.log_probability / wanted.num_tokens, abs=1e-4)
    with pytest.raises(ValueError, match="several rounds"):
        model.generate_until_multi_round([])


def test_its_results_are_told_with_their_errors(adapter: Any) -> None:
    rows = [{"doc_id": n, "target": "red", "filtered_resps": ["red"], "acc": float(n < 2)} for n in range(4)]
    found = {
        "results": {
            "made": {
                "alias": "made", "acc,none": 0.5, "acc_stderr,none": 0.1, "acc_stderr_clt,none": 0.2,
                "f1,none": 0.25, "f1_stderr,none": 0.01,
            }
        },
        "samples": {"made": rows},
        "n-samples": {"made": {"effective": 4}},
    }  # fmt: skip
    first, second = adapter.scores_of(found)
    assert (first.name, first.num_items, first.value.mean) == ("made: acc", 4, 0.5)
    assert first.value.low < 0.5 < first.value.high
    assert (second.name, second.value) == ("made: f1", pytest.approx((0.25, 0.25 - 0.0196, 0.25 + 0.0196)))
    items = adapter.items_of("made", rows)
    assert [(item["key"], item["score"]) for item in items[:3:2]] == [("made/0", 1.0), ("made/2", 0.0)]


TASK = """
task: {name}
dataset_path: parquet
dataset_kwargs:
  data_files:
    test: {data}
test_split: test
doc_to_visual: !function made.pictures
doc_to_text: "<image>{{{{question}}}}"
{more}
"""
WRITTEN = """
output_type: generate_until
doc_to_target: answer
generation_kwargs:
  max_new_tokens: 6
  until: ["\\n"]
process_results: !function made.right
metric_list:
  - metric: right
    aggregation: mean
    higher_is_better: true
"""
CHOSEN = """
output_type: multiple_choice
doc_to_choice: ["red", "blue"]
doc_to_target: "{{answer}}"
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
"""
FUNCTIONS = """
def pictures(row):
    return [row["picture"]]

def right(row, replies):
    return {"right": float(len(replies[0]) % 2)}
"""


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    """Two tasks of lmms-eval with five pictures, as a user writes them."""
    import datasets

    folder = tmp_path / "data" / "lmms_eval"
    folder.mkdir(parents=True)
    answers = ["red", "blue", "red", "blue", "red"]
    rows = [{"picture": picture(one).pil(), "question": f"colour {n}?", "answer": one} for n, one in enumerate(answers)]
    kinds = {"picture": datasets.Image(), "question": datasets.Value("string"), "answer": datasets.Value("string")}
    data = tmp_path / "rows.parquet"
    datasets.Dataset.from_list(rows, features=datasets.Features(kinds)).to_parquet(str(data))
    for name, more in (("made_written", WRITTEN), ("made_chosen", CHOSEN)):
        (folder / f"{name}.yaml").write_text(TASK.format(name=name, data=data, more=more))
    (folder / "made.py").write_text(FUNCTIONS)
    return tmp_path / "data"


@pytest.mark.skipif(importlib.util.find_spec("lmms_eval") is None, reason="lmms-eval is not installed")
@pytest.mark.filterwarnings("ignore")
def test_tasks_of_lmms_eval_itself_are_asked_and_reported(tasks: Path, engine: Engine, tmp_path: Path) -> None:
    written, chosen = (open_task(f"lmms_eval:made_{kind}", folder=tasks) for kind in ("written", "chosen"))
    report = evaluate(
        [written, chosen], engine=engine, model_name="tiny", model_key="a", output=tmp_path / "out", limit=None
    )
    assert "| made_written: right | 5 |" in report
    assert "| made_chosen: acc | 5 |" in report

    said = [
        engine.run([Preset("same", max_new_tokens=6, cut_at=("\n",)).request(picture(colour), f"colour {number}?")])
        for number, colour in enumerate(("red", "blue", "red", "blue", "red"))
    ]
    texts = [one.messages[-1].text.strip().partition("\n")[0].strip() for (one,) in said]
    found = written.run(engine, limit=None, seed=0)
    assert [item["reply"] for item in found.items] == [str([text]) for text in texts]
    assert found.scores[0].value.mean == pytest.approx(sum(len(text) % 2 for text in texts) / 5)

    # The choice whose words the model finds likelier, per token, is the one that counts.
    right = []
    for number, colour in enumerate(("red", "blue", "red", "blue", "red")):
        asked = ("user", [picture(colour), f"colour {number}?"])
        both = [Document.chat([asked, ("assistant", word)]) for word in ("red", "blue")]
        losses = [-one.log_probability / one.num_tokens for one in reply_likelihoods(engine.model, both)]
        right.append(("red", "blue")[losses.index(min(losses))] == colour)
    assert [item["score"] for item in chosen.run(engine, limit=None, seed=0).items] == list(map(float, right))
