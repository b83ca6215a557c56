"""Multimodal suites through lmms-eval (run with 0.7.3), asked of our models.

lmms-eval brings some eighty packages, older ones of `av` and `protobuf` than constraints.txt holds among them: install
it in an environment of its own. Prompts, data and rules of scoring are lmms-eval's; a question is the pictures, then
the text, as a user's turn. Tasks of one's own are read from `<data>/lmms_eval/*.yaml`. Data flow:

    lmms-eval's requests -> chats with pictures -> engine | likelihoods -> its metrics per question -> Outcome
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
from lmms_eval.api import instance  # pyright: ignore[reportMissingImports]
from lmms_eval.api.model import lmms  # pyright: ignore[reportMissingImports]

from limner.document.document import Document
from limner.document.media import Image
from limner.evaluate.answers import Respondent
from limner.evaluate.benchmark import Outcome, Score, Unit
from limner.evaluate.intervals import Interval, bootstrap, share
from limner.evaluate.likelihoods import reply_likelihoods
from limner.generate.request import Pictures, Request
from limner.generate.sampling import Sampling

MAX_NEW_TOKENS = 256
BATCH_SIZE = 16


class LimnerLMMS(lmms):
    """A respondent as lmms-eval asks models."""

    def __init__(self, engine: Respondent) -> None:
        super().__init__()
        self.engine = engine

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """Replies in words, cut before the first of their stop strings."""
        found: list[str] = []
        for start in range(0, len(requests), BATCH_SIZE):
            part = [request.args for request in requests[start : start + BATCH_SIZE]]
            asked = []
            for context, options, to_pictures, number, task, split in part:
                temperature = float(options.get("temperature") or 0.0) if options.get("do_sample") else 0.0
                asked.append(
                    Request(
                        Document.chat([("user", self._parts(context, to_pictures, number, task, split))]),
                        max_new_tokens=int(options.get("max_new_tokens") or MAX_NEW_TOKENS),
                        pictures=Pictures.NONE,
                        sampling=Sampling(temperature=temperature),
                    )
                )
            for (_, options, *_), reply in zip(part, self.engine.run(asked), strict=True):
                found.append(_cut(reply.messages[-1].text.strip(), options.get("until") or []))
        return found

    def loglikelihood(self, requests: Sequence[Any]) -> list[Any]:
        """The mean loss of each target as the reply, in nats per token, and whether it would be said.

        What lmms-eval calls a log-likelihood is a loss: it takes the choice for which this is least.
        """
        documents = []
        for request in requests:
            context, to_target, to_pictures, number, task, split = request.args
            document = self.task_dict[task][split][number]
            target = to_target if isinstance(to_target, str) else to_target(document)
            parts = self._parts(context, to_pictures, number, task, split)
            documents.append(Document.chat([("user", parts), ("assistant", str(target).strip())]))
        found = reply_likelihoods(self.engine.model, documents)
        return [_kept_whole((-one.log_probability / one.num_tokens, one.is_greedy)) for one in found]

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
        """Not offered."""
        raise ValueError("tasks of several rounds are not supported\nhint: choose tasks of one question each")

    def _parts(self, context: str, to_pictures: Any, number: int, task: str, split: str) -> list[Image | str]:
        shown = to_pictures(self.task_dict[task][split][number]) or []
        text = context.replace("<image>", "").strip()
        return [*(Image.from_pil(picture.convert("RGB")) for picture in shown), *([text] if text else [])]


def _kept_whole(pair: tuple[float, bool]) -> Any:
    """lmms-eval 0.7 makes text of every answer but those in this wrapping, pairs of numbers too."""
    wrapping = getattr(instance, "GenerationResult", None)
    return pair if wrapping is None else wrapping(text=pair)


def _cut(text: str, until: str | Sequence[str]) -> str:
    for mark in [until] if isinstance(until, str) else until:
        text = text.partition(mark)[0] if mark else text
    return text.strip()


@dataclass(frozen=True)
class MultimodalTask:
    """A task or group of lmms-eval by its name."""

    task: str
    folder: Path

    @property
    def name(self) -> str:
        """lmms_eval.<task>."""
        return f"lmms_eval.{self.task}"

    def run(self, engine: Respondent, *, limit: int | None, seed: int) -> Outcome:
        """Ask `limit` questions. What is generated is kept as every answer is; likelihoods are not."""
        from lmms_eval.evaluator import simple_evaluate  # pyright: ignore[reportMissingImports]

        found: Any = simple_evaluate(
            LimnerLMMS(engine),
            tasks=[self.task],
            limit=limit,
            task_manager=self._known_tasks(),
            bootstrap_iters=100,
            random_seed=seed,
            numpy_random_seed=seed,
            torch_random_seed=seed,
            fewshot_random_seed=seed,
        )
        return Outcome(
            name=self.name,
            setup=(
                f"lmms-eval's `{self.task}`: its prompts, data and rules. Intervals by question; where a metric is no "
                "mean over questions, 1.96 of lmms-eval's standard errors."
            ),
            baseline="",
            scores=tuple(scores_of(found)),
            items=tuple(item for name, rows in found.get("samples", {}).items() for item in items_of(name, rows)),
            settings={"seed": seed},
        )

    def _known_tasks(self) -> Any:
        """The folder's own tasks; lmms-eval's, which take seconds to list, only for one that the folder has not."""
        from lmms_eval.tasks import TaskManager  # pyright: ignore[reportMissingImports]

        has_own = (self.folder / f"{self.task}.yaml").is_file()
        return TaskManager(include_path=str(self.folder) if has_own else None, include_defaults=not has_own)


def scores_of(found: Mapping[str, Any]) -> list[Score]:
    """The metrics of lmms-eval's results, task by task."""
    scores = []
    for task, values in found["results"].items():
        rows = found.get("samples", {}).get(task, [])
        count = int(found.get("n-samples", {}).get(task, {}).get("effective", 0)) or len(rows)
        for key, value in values.items():
            metric = key.partition(",")[0]
            if "_stderr" in metric or isinstance(value, bool) or not isinstance(value, int | float):
                continue
            own = [row[metric] for row in rows if isinstance(row.get(metric), int | float)]
            if own and math.isclose(float(numpy.mean(own)), value, rel_tol=1e-6, abs_tol=1e-9):
                is_share = min(own) >= 0.0 and max(own) <= 1.0
                interval = (share if is_share else bootstrap)(own, clusters=range(len(own)))
                scores.append(Score(f"{task}: {metric}", interval, len(own), Unit.SHARE if is_share else Unit.NUMBER))
                continue
            error = values.get(key.replace(metric, f"{metric}_stderr", 1))
            spread = 1.96 * error if isinstance(error, int | float) else 0.0
            interval = Interval(float(value), float(value) - spread, float(value) + spread)
            scores.append(Score(f"{task}: {metric}", interval, count, Unit.NUMBER))
    return scores


def items_of(task: str, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Each question with its answer, and its first metric that is a number as the score."""
    found = []
    for row in rows:
        item = {"key": f"{task}/{row['doc_id']}", "target": str(row["target"]), "reply": str(row["filtered_resps"])}
        told = ("doc_id", "doc", "target", "arguments", "resps", "filtered_resps", "token_counts", "doc_hash")
        metrics = [name for name, value in row.items() if name not in told and isinstance(value, int | float)]
        found.append({**item, "metric": metrics[0], "score": float(row[metrics[0]])} if metrics else item)
    return found


def load(task: str, *, folder: Path, preset: str = "", split: str = "") -> MultimodalTask:
    """A task by lmms-eval's name."""
    for kind, given in (("preset", preset), ("split", split)):
        if given:
            raise ValueError(f"`lmms_eval:{task}` has no {kind} `{given}`\nhint: leave --{kind} out")
    return MultimodalTask(task, folder / "lmms_eval")
