"""lm-eval over a tiny model: tasks made on the spot, no network. Skipped where lm-eval is not installed."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tiny import tiny_model

pytest.importorskip("lm_eval", reason="needs the extra `language`")

from limner.evaluate.adapters.lm_eval_adapter import LimnerLM, _items, _measures, _scores, cut
from limner.evaluate.runner import evaluate
from limner.evaluate.tasks import open_task
from limner.generate.engine import Engine

pytestmark = pytest.mark.filterwarnings("default")  # third parties say what they like

CHOICES = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: "{data}"}}}}
output_type: multiple_choice
test_split: test
doc_to_text: "Question: {{{{question}}}}\\nAnswer:"
doc_to_target: answer
doc_to_choice: choices
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
"""
WRITTEN = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: "{data}"}}}}
output_type: generate_until
test_split: test
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{choices[answer]}}}}"
generation_kwargs: {{until: ["\\n"], max_gen_toks: 5, do_sample: false}}
metric_list:
  - {{metric: exact_match, aggregation: mean, higher_is_better: true}}
"""
ROWS = [
    {"question": "is it red?", "choices": ["yes", "no"], "answer": 0},
    {"question": "is it blue?", "choices": ["yes", "no"], "answer": 1},
    {"question": "which?", "choices": ["one", "two", "three", "four"], "answer": 2},
]


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(tiny_model())


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    own = tmp_path / "data" / "lm_eval"
    own.mkdir(parents=True)
    (own / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    for name, text in (("made", CHOICES), ("written", WRITTEN)):
        (own / f"{name}.yaml").write_text(text.format(name=name, data=own / "rows.jsonl"))
    return tmp_path / "data"


def by_transformers(engine: Engine, context: str, continuation: str) -> float:
    model = engine.model
    start = len(model.tokenizer.markup_ids(context))
    ids = torch.tensor([model.tokenizer.markup_ids(context + continuation)])
    with torch.inference_mode():
        scores = model.backbone.language_model(input_ids=ids).logits[0].float().log_softmax(dim=-1)
    return float(scores[start - 1 : -1].gather(1, ids[0, start:, None]).sum())


def asked(*arguments: object) -> SimpleNamespace:
    return SimpleNamespace(args=arguments)


def test_likelihoods_are_those_of_transformers(engine: Engine) -> None:
    pairs = [("a red square", " is blue"), ("what?", " no"), ("ends in a space ", "so")]
    found = LimnerLM(engine, batch_size=2).loglikelihood([asked(*pair) for pair in pairs], disable_tqdm=True)
    pairs[-1] = ("ends in a space", " so")  # lm-eval moves it, so that words stay whole
    for (context, continuation), (one, _) in zip(pairs, found, strict=True):
        assert one == pytest.approx(by_transformers(engine, context, continuation), abs=1e-4)


def test_a_long_text_is_scored_in_windows(engine: Engine) -> None:
    model = engine.model
    text = "once upon a time " * 40
    ids = model.tokenizer.markup_ids(text)
    longest = model.backbone.context_length
    assert len(ids) > 2 * longest
    start = [model.tokenizer.tokenizer.bos_token_id]
    expected, rows = 0.0, [*start, *ids]
    with torch.inference_mode():
        for first in range(0, len(ids), longest):
            count = min(longest, len(ids) - first)
            window = rows[max(0, first + count - longest) : first + count]
            scores = model.backbone.language_model(input_ids=torch.tensor([window])).logits[0].float().log_softmax(-1)
            targets = torch.tensor(ids[first : first + count])
            expected += float(scores[-count:].gather(1, targets[:, None]).sum())
    (found,) = LimnerLM(engine).loglikelihood_rolling([asked(text)], disable_tqdm=True)
    assert found == pytest.approx(expected, rel=1e-5)


def test_texts_are_written_as_transformers_would(engine: Engine) -> None:
    model = engine.model
    ids = torch.tensor([model.tokenizer.text_ids("once upon")])
    with torch.inference_mode():
        whole = model.backbone.language_model.generate(ids, max_new_tokens=6, do_sample=False, eos_token_id=None)
    expected = model.tokenizer.decode(whole[0, ids.shape[1] :].tolist())
    options = {"until": [], "max_gen_toks": 6}
    (found,) = LimnerLM(engine).generate_until([asked("once upon", options)], disable_tqdm=True)
    assert found == expected
    assert cut("one\ntwo, three", ["\n", ","]) == "one"


@pytest.mark.parametrize("wanted", [6, 1000])
def test_a_context_that_does_not_fit_loses_its_beginning_and_leaves_room_for_the_reply(wanted: int) -> None:
    engine = Engine(tiny_model(), context_length=64)
    model = engine.model
    assert model.backbone.context_length > 64
    count = min(wanted, 32)
    context = "once upon a time " * 40
    ids = torch.tensor([model.tokenizer.text_ids(context)[-(64 - count - 8) :]])
    with torch.inference_mode():
        whole = model.backbone.language_model.generate(ids, max_new_tokens=count, do_sample=False, eos_token_id=None)
    expected = model.tokenizer.decode(whole[0, ids.shape[1] :].tolist())
    options = {"until": [], "max_gen_toks": wanted}
    (found,) = LimnerLM(engine).generate_until([asked(context, options)], disable_tqdm=True)
    assert found
    assert found == expected


def test_a_task_of_ones_own_is_scored_and_kept(engine: Engine, folder: Path, tmp_path: Path) -> None:
    lm = LimnerLM(engine)
    chosen = []
    for row in ROWS:
        pairs = [asked(f"Question: {row['question']}\nAnswer:", f" {choice}") for choice in row["choices"]]
        values = [one for one, _ in lm.loglikelihood(pairs, disable_tqdm=True)]
        chosen.append(values.index(max(values)))
    expected = sum(place == row["answer"] for place, row in zip(chosen, ROWS, strict=True)) / len(ROWS)

    tasks = [open_task(f"lm_eval:{name}", folder=folder) for name in ("made", "written")]
    options = {"engine": engine, "model_name": "tiny", "model_key": "0", "output": tmp_path / "out"}
    report = evaluate(tasks, **options)
    data = json.loads((tmp_path / "out" / "results.json").read_text())
    made, written = data["benchmarks"]
    (score,) = made["scores"]
    assert score["name"] == "made: acc"
    assert score["value"]["mean"] == pytest.approx(expected)
    assert score["baseline"] == pytest.approx((1 / 2 + 1 / 2 + 1 / 4) / 3)
    assert score["shuffled"] is not None
    assert [item["score"] for item in made["items"]] == [
        float(a == r["answer"]) for a, r in zip(chosen, ROWS, strict=True)
    ]
    assert written["scores"][0]["name"] == "written: exact_match"
    assert "lm_eval.made" in report

    class Silent:
        model = engine.model

        def run(self, requests: object, /) -> list:
            raise AssertionError("asked again")

    assert evaluate(tasks, **{**options, "engine": Silent()}) == report


def sample(number: int, kind: str, **metrics: object) -> dict:
    options = [[-1.0, True], [-2.0, False]]
    return {
        "doc_id": number, "filter": kind, "target": number % 2, "filtered_resps": options, "metrics": list(metrics),
        **metrics,
    }  # fmt: skip


def test_filters_are_scored_apart_and_what_is_no_mean_is_named() -> None:
    rows = [sample(number, kind, hit=float(kind == "loose")) for number in range(4) for kind in ("strict", "loose")]
    text = [sample(number, "none", perplexity=-2.0, words=(-2.0, 3)) for number in range(4)]
    results = {"sums": {"hit,strict": 0.0, "hit,loose": 1.0}, "text": {"perplexity,none": 7.39, "words,none": 1.9}}
    measures, left_out = _measures({"sums": rows, "text": text}, results)
    assert left_out == ["text: perplexity", "text: words"]
    scores = _scores(measures, seed=0)
    assert [(score.name, score.value.mean, score.num_items) for score in scores] == [
        ("sums: hit (strict)", 0.0, 4),
        ("sums: hit (loose)", 1.0, 4),
    ]
    assert len({item["key"] for item in _items("sums", rows)}) == len(rows)


def test_the_shuffled_control_is_of_drawn_questions_and_of_acc_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    # The first half wants the likeliest choice, the second the other: the first questions alone would be all luck.
    rows = [{**sample(n, "none", acc=float(n < 50), acc_norm=1.0), "target": int(n >= 50)} for n in range(100)]
    measures, _ = _measures({"made": rows}, {"made": {"acc,none": 0.5, "acc_norm,none": 1.0}})
    monkeypatch.setattr("limner.evaluate.adapters.lm_eval_adapter.MOST_SHUFFLED", 40)
    plain, normed = _scores(measures, seed=0)
    assert plain.shuffled is not None
    assert 0.2 < plain.shuffled.mean < 0.8
    assert (plain.baseline, normed.baseline, normed.shuffled) == (0.5, 0.5, None)
    assert _scores(measures, seed=0)[0] == plain


def test_several_ranks_are_refused(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="lm_eval tasks run on one rank\nhint: start without torchrun"):
        open_task("lm_eval:boolq", folder=tmp_path).run(engine, limit=None, seed=0)


def test_the_preset_says_how_many_examples(tmp_path: Path) -> None:
    assert open_task("lm_eval:mmlu", folder=tmp_path, preset="5-shot").num_shots == 5
    with pytest.raises(ValueError, match="no preset `dreamllm`"):
        open_task("lm_eval:mmlu", folder=tmp_path, preset="dreamllm")
