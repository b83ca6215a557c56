"""Multimodal suites through lmms-eval, asked of our models.

lmms-eval's pins and ours exclude one another, so there is no extra: install it beside limner in another environment.
Prompts, data and rules of scoring are lmms-eval's; a question is the pictures, then the text, as a user's turn. Tasks
of one's own are read from `<data>/lmms_eval/*.yaml`. Data flow:

    lmms-eval's requests -> chats with pictures -> engine | likelihoods -> its metrics -> Outcome
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmms_eval.api.model import lmms  # pyright: ignore[reportMissingImports]

from limner.document.document import Document
from limner.document.media import Image
from limner.evaluate.answers import Respondent
from limner.evaluate.benchmark import Outcome, Score, Unit
from limner.evaluate.intervals import Interval
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

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Of each target as the reply."""
        documents = []
        for request in requests:
            context, to_target, to_pictures, number, task, split = request.args
            document = self.task_dict[task][split][number]
            target = to_target if isinstance(to_target, str) else to_target(document)
            parts = self._parts(context, to_pictures, number, task, split)
            documents.append(Document.chat([("user", parts), ("assistant", str(target))]))
        found = reply_likelihoods(self.engine.model, documents)
        return [(one.log_probability, one.is_greedy) for one in found]

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
        """Not offered."""
        raise ValueError("tasks of several rounds are not supported\nhint: choose tasks of one question each")

    def _parts(self, context: str, to_pictures: Any, number: int, task: str, split: str) -> list[Image | str]:
        shown = to_pictures(self.task_dict[task][split][number]) or []
        text = context.replace("<image>", "").strip()
        return [*(Image.from_pil(picture.convert("RGB")) for picture in shown), *([text] if text else [])]


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
        from lmms_eval.tasks import TaskManager  # pyright: ignore[reportMissingImports]

        found: Any = simple_evaluate(
            LimnerLMMS(engine),
            tasks=[self.task],
            limit=limit,
            task_manager=TaskManager(include_path=str(self.folder) if self.folder.is_dir() else None),
            bootstrap_iters=100,
            random_seed=seed,
            numpy_random_seed=seed,
            torch_random_seed=seed,
            fewshot_random_seed=seed,
        )
        return Outcome(
            name=self.name,
            setup=f"lmms-eval's `{self.task}`: its prompts, data and rules. Intervals: 1.96 of its standard errors.",
            baseline="",
            scores=tuple(scores_of(found)),
            settings={"seed": seed},
        )


def scores_of(found: Mapping[str, Any]) -> list[Score]:
    """The metrics of lmms-eval's results, task by task."""
    scores = []
    for task, values in found["results"].items():
        count = int(found.get("n-samples", {}).get(task, {}).get("effective", 0))
        for key, value in values.items():
            metric = key.partition(",")[0]
            if metric.endswith("_stderr") or not isinstance(value, int | float):
                continue
            error = values.get(key.replace(metric, f"{metric}_stderr", 1))
            spread = 1.96 * error if isinstance(error, int | float) else 0.0
            interval = Interval(float(value), float(value) - spread, float(value) + spread)
            scores.append(Score(f"{task}: {metric}", interval, count, Unit.NUMBER))
    return scores


def load(task: str, *, folder: Path, preset: str = "", split: str = "") -> MultimodalTask:
    """A task by lmms-eval's name."""
    for kind, given in (("preset", preset), ("split", split)):
        if given:
            raise ValueError(f"`lmms_eval:{task}` has no {kind} `{given}`\nhint: leave --{kind} out")
    return MultimodalTask(task, folder / "lmms_eval")
