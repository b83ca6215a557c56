"""Language suites (MMLU, BoolQ, PIQA, SIQA, HellaSwag, WinoGrande and what else lm-eval knows), asked of our models.

Needs the extra `language`: `pip install "limner[language]"`. Prompts, data and rules of scoring are lm-eval's; what is
ours is the model behind them, and the report. Tasks of one's own are read from `<data>/lm_eval/*.yaml`; lm-eval's
fetch their data by themselves. Data flow:

    lm-eval's requests -> likelihoods | engine -> its metrics per question -> Outcome
"""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
from lm_eval import simple_evaluate, utils  # pyright: ignore[reportMissingImports]
from lm_eval.api.model import TemplateLM  # pyright: ignore[reportMissingImports]
from lm_eval.tasks import TaskManager  # pyright: ignore[reportMissingImports]

from limner.document.document import Document
from limner.evaluate.answers import KeptAnswers, Respondent
from limner.evaluate.benchmark import Outcome, Score, Unit
from limner.evaluate.intervals import Interval, bootstrap, permuted, share
from limner.evaluate.likelihoods import BATCH_SIZE, likelihoods
from limner.generate.engine import Engine
from limner.generate.request import Pictures, Request
from limner.generate.sampling import Sampling

MOST_SHUFFLED = 2000
MAX_NEW_TOKENS = 256


class LimnerLM(TemplateLM):
    """A respondent as lm-eval asks models. Texts are pages without roles, begun by a token only where empty."""

    def __init__(self, engine: Respondent, *, batch_size: int = BATCH_SIZE) -> None:
        super().__init__()
        self.engine = engine
        self.model = engine.model
        self.batch_size = batch_size
        self.tokenizer = self.model.tokenizer.tokenizer

    @property
    def eot_token_id(self) -> int:
        """What ends a text."""
        return self.model.tokenizer.eos_ids[0]

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text that has no context."""
        found = self.tokenizer.bos_token_id
        return self.eot_token_id if found is None else found

    @property
    def max_length(self) -> int:
        """Tokens that fit."""
        return self.model.backbone.context_length

    @property
    def longest_document(self) -> int:
        """Tokens of a context and its reply: the engine may hold fewer than the language model."""
        return min(self.max_length, self.engine.context_length) if isinstance(self.engine, Engine) else self.max_length

    @property
    def tokenizer_name(self) -> str:
        """Names what lm-eval keeps of prompts under a chat template."""
        return type(self.tokenizer).__name__

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """A chat as text, by the tokenizer's template."""
        return self.tokenizer.apply_chat_template(
            chat_history,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
        )

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **options: Any) -> list[int]:
        """Ids of a text. With a chat template markup counts as markup; it is the suite's own text."""
        return self.model.tokenizer.markup_ids(string)

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[tuple[str, str], list[int], list[int]]], **options: Any
    ) -> list[tuple[float, bool]]:
        def keep(places: Sequence[int], found: Sequence[tuple[float, bool]]) -> None:
            for place, one in zip(places, found, strict=True):
                if all(requests[place][0]):  # windows of a rolling text have no words of their own
                    self.cache_hook.add_partial("loglikelihood", requests[place][0], tuple(one))

        pairs = [(context, continuation) for _, context, continuation in requests]
        found = likelihoods(self.model, pairs, batch_size=self.batch_size, on_batch=keep)
        return [(one.log_probability, one.is_greedy) for one in found]

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Log-likelihoods of whole texts, in windows as long as fit, each behind one token of the one before."""
        found = []
        for request in requests:
            (text,) = request.args
            windows = utils.get_rolling_token_windows(
                token_list=self.tok_encode(text),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            )
            pairs = [utils.make_disjoint_window(window) for window in windows]
            parts = likelihoods(self.model, pairs, batch_size=self.batch_size)
            found.append(sum(part.log_probability for part in parts))
            self.cache_hook.add_partial("loglikelihood_rolling", (text,), found[-1])
        return found

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Texts that go on from contexts, cut before the first of their stop strings."""
        found = []
        for start in range(0, len(requests), self.batch_size):
            part = [request.args for request in requests[start : start + self.batch_size]]
            replies = self.engine.run([self._request(context, options) for context, options in part])
            for (context, options), reply in zip(part, replies, strict=True):
                said = cut(_continuation(reply, self._cut_context(context, options)), options.get("until") or [])
                self.cache_hook.add_partial("generate_until", (context, options), said)
                found.append(said)
        return found

    def _request(self, context: str, options: Mapping[str, Any]) -> Request:
        temperature = float(options.get("temperature") or 0.0) if options.get("do_sample") else 0.0
        return Request(
            Document.page([self._cut_context(context, options)]),
            max_new_tokens=self._max_new_tokens(options),
            pictures=Pictures.NONE,
            sampling=Sampling(temperature=temperature),
        )

    def _cut_context(self, context: str, options: Mapping[str, Any]) -> str:
        """The end of a context, as much as leaves room for the reply."""
        room = max(1, self.longest_document - self._max_new_tokens(options) - 8)  # what begins a page
        ids = self.model.tokenizer.text_ids(context)
        return context if len(ids) <= room else self.model.tokenizer.decode(ids[-room:])

    def _max_new_tokens(self, options: Mapping[str, Any]) -> int:
        """As many as are asked for, but no more than leave half of a document to its context."""
        wanted = int(options.get("max_gen_toks") or options.get("max_new_tokens") or MAX_NEW_TOKENS)
        return min(wanted, self.longest_document // 2)


def cut(text: str, until: str | Sequence[str]) -> str:
    """A text before the first of some strings."""
    for mark in [until] if isinstance(until, str) else until:
        text = text.partition(mark)[0] if mark else text
    return text


def _continuation(reply: Document, context: str) -> str:
    return reply.messages[-1].text.removeprefix(context)


@dataclass(frozen=True)
class LanguageTask:
    """A task or group of lm-eval by its name. `num_shots` None takes the task's own."""

    task: str
    folder: Path | None = None
    num_shots: int | None = None

    @property
    def name(self) -> str:
        """lm_eval.<task>."""
        return f"lm_eval.{self.task}"

    def run(self, engine: Respondent, *, limit: int | None, seed: int) -> Outcome:
        """Ask `limit` questions of each task. What was computed before an interruption is kept.

        Raises ValueError on several ranks: lm-eval tells its scores to the first alone.
        """
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise ValueError("lm_eval tasks run on one rank\nhint: start without torchrun")
        cache = str(engine.folder / f"lm_eval.{engine.model_key}") if isinstance(engine, KeptAnswers) else None
        found: Any = simple_evaluate(
            LimnerLM(engine.engine if isinstance(engine, KeptAnswers) else engine),
            tasks=[self.task],
            num_fewshot=self.num_shots,
            limit=limit,
            use_cache=cache,
            task_manager=self._known_tasks(),
            bootstrap_iters=0,
            random_seed=seed,
            numpy_random_seed=seed,
            torch_random_seed=seed,
            fewshot_random_seed=seed,
        )
        samples: Mapping[str, list[dict[str, Any]]] = found["samples"]
        measures, left_out = _measures(samples, found["results"])
        shots = sorted({found["n-shot"].get(name, 0) for name in samples})
        return Outcome(
            name=self.name,
            setup=(
                f"lm-eval's `{self.task}`, {', '.join(map(str, shots))} shots: its prompts, data and rules. Intervals "
                f"by question. Shuffled: choices held against other questions ({MOST_SHUFFLED} at most)."
                + (f" Left out, as no mean over questions: {', '.join(left_out)}." if left_out else "")
            ),
            baseline="chance",
            scores=tuple(_scores(measures, seed=seed)),
            items=tuple(item for name, rows in samples.items() for item in _items(name, rows)),
            settings={"seed": seed, "shots": shots, "versions": dict(found["versions"])},
        )

    def _known_tasks(self) -> Any:
        """The folder's own tasks; lm-eval's, which take seconds to list, only for one that the folder has not."""
        has_own = self.folder is not None and (self.folder / f"{self.task}.yaml").is_file()
        return TaskManager(include_path=str(self.folder) if has_own else None, include_defaults=not has_own)


@dataclass(frozen=True)
class _Measure:
    """One metric over the questions of a task, or of several; `name` also names lm-eval's filter where it has several.

    rows: (question, its sample), one or more.
    """

    task: str
    name: str
    metric: str
    rows: tuple[tuple[str, Mapping[str, Any]], ...]


def _measures(
    samples: Mapping[str, Sequence[Mapping[str, Any]]], results: Mapping[str, Mapping[str, Any]]
) -> tuple[list[_Measure], list[str]]:
    """What lm-eval reports as a mean over questions, by task, filter and metric; and the names of what it does not."""
    found, left_out = [], []
    for task, rows in samples.items():
        filters = list(dict.fromkeys(row["filter"] for row in rows))
        for kind in filters:
            of_kind = [row for row in rows if row["filter"] == kind]
            for metric in dict.fromkeys(metric for row in of_kind for metric in row["metrics"]):
                name = metric if len(filters) == 1 else f"{metric} ({kind})"
                scored = tuple(
                    (f"{task}/{row['doc_id']}", row) for row in of_kind if isinstance(row.get(metric), int | float)
                )
                if scored and _is_mean([row[metric] for _, row in scored], results[task].get(f"{metric},{kind}")):
                    found.append(_Measure(task, name, metric, scored))
                else:
                    left_out.append(f"{task}: {name}")
    return found, left_out


def _is_mean(values: Sequence[float], reported: Any) -> bool:
    """Whether lm-eval's own number is the mean of these: a perplexity, for one, is not."""
    if not isinstance(reported, int | float):
        return False
    return math.isclose(float(numpy.mean(values)), reported, rel_tol=1e-6, abs_tol=1e-9)


def _scores(measures: Sequence[_Measure], *, seed: int) -> list[Score]:
    """Each task's metrics; in front, where there are several tasks, those of all questions together."""
    whole: dict[str, _Measure] = {}
    if len({measure.task for measure in measures}) > 1:
        for measure in measures:
            rows = whole[measure.name].rows if measure.name in whole else ()
            whole[measure.name] = _Measure("all", measure.name, measure.metric, (*rows, *measure.rows))
    return [_score(measure, seed=seed) for measure in (*whole.values(), *measures)]


def _score(measure: _Measure, *, seed: int) -> Score:
    name = f"{measure.task}: {measure.name}"
    questions, rows = zip(*measure.rows, strict=True)
    values = [float(row[measure.metric]) for row in rows]
    if min(values) < 0.0 or max(values) > 1.0:
        return Score(name, bootstrap(values, clusters=questions), len(rows), Unit.NUMBER)
    chance = _chance(rows) if measure.metric in ("acc", "acc_norm") else None
    # What acc_norm chooses is not among the samples: it divides by lengths that they do not tell.
    shuffled = None if chance is None or measure.metric != "acc" else _luck(measure, seed=seed)
    return Score(name, share(values, clusters=questions), len(rows), shuffled=shuffled, baseline=chance)


def _chance(rows: Sequence[Mapping[str, Any]]) -> float | None:
    """Chance of a multiple choice whose targets are places; None for anything else."""
    options = [row["filtered_resps"] for row in rows]
    if not all(isinstance(row["target"], int) and len(choices) > 1 for row, choices in zip(rows, options, strict=True)):
        return None
    if not all(isinstance(one, list | tuple) and len(one) == 2 for choices in options for one in choices):
        return None
    return float(numpy.mean([1.0 / len(choices) for choices in options]))


def _luck(measure: _Measure, *, seed: int) -> Interval | None:
    """The likeliest choices held against the targets of other questions, of `MOST_SHUFFLED` drawn ones at most."""
    count = min(len(measure.rows), MOST_SHUFFLED)
    drawn = sorted(numpy.random.default_rng(seed).choice(len(measure.rows), size=count, replace=False))
    questions, rows = zip(*(measure.rows[place] for place in drawn), strict=True)
    chosen = numpy.array([numpy.argmax([likelihood for likelihood, _ in row["filtered_resps"]]) for row in rows])
    wanted = numpy.array([row["target"] for row in rows])
    return permuted(chosen[:, None] == wanted[None, :], clusters=questions, num_permutations=200)


def _items(task: str, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    has_filters = len({row["filter"] for row in rows}) > 1
    found = []
    for row in rows:
        metric = next((metric for metric in row["metrics"] if isinstance(row.get(metric), int | float)), None)
        key = f"{task}/{row['doc_id']}" + (f"/{row['filter']}" if has_filters else "")
        item = {"key": key, "target": str(row["target"])}
        found.append(item if metric is None else {**item, "metric": metric, "score": float(row[metric])})
    return found


def load(task: str, *, folder: Path, preset: str = "", split: str = "") -> LanguageTask:
    """A task by lm-eval's name. The preset says how many examples stand before a question: `5-shot`."""
    if split:
        raise ValueError(f"`lm_eval:{task}` has no split `{split}`\nhint: leave --split out")
    number = preset.removesuffix("-shot")
    if preset and not (number.isdecimal() and preset.endswith("-shot")):
        raise ValueError(f"`lm_eval:{task}` has no preset `{preset}`\nhint: say how many examples, as in 5-shot")
    return LanguageTask(task, folder / "lm_eval", int(number) if preset else None)
