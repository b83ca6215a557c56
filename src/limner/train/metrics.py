"""Metrics of a run: one JSON line per step in metrics.jsonl, TensorBoard where it is installed, a progress bar.

A line holds `loss`, `loss/<term>`, `loss/<term>/<source>`, `gradient_norm`, `learning_rate_factor`, `tokens`, `images`
(and other modalities), `pack_efficiency`, the loader's counters so far (`drawn/<source>`, `tokens/<source>`,
`cut/<source>`, `skipped/<source>/<reason>`, `skipped_documents` in all), `skipped_steps` so far, and what was
evaluated. Values that begin with `seconds` or `per_second` depend on the machine; all others are the same in every run
of the recipe, resumed or not. A loss that is no number is null.

A resumed run cuts metrics.jsonl back to the step it resumes from, so that no step stands there twice.
"""

import json
import logging
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from limner.tokens.batch import Batch
from limner.train.parallel import World
from limner.train.run_folder import write_text

logger = logging.getLogger(__name__)

Values = dict[str, int | float]
"""Metrics by name."""

LOG_EVERY = 30.0
"""Seconds between two lines of the log where there is no terminal for a bar."""


class Metrics:
    """Writer of one stage's metrics. Use as a context manager."""

    def __init__(self, directory: Path, *, stage: str, num_steps: int, first_step: int = 0) -> None:
        self.file = directory / "metrics.jsonl"
        self.stage = stage
        self.num_steps = num_steps
        self._cut(first_step)
        self._tensorboard = _summary_writer(directory, first_step=first_step)
        console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[status]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task(stage, total=num_steps, completed=first_step, status="")
        self._logged = time.monotonic()

    def __enter__(self) -> "Metrics":
        self._stream = self.file.open("a")
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()
        self._stream.close()
        if self._tensorboard is not None:
            self._tensorboard.close()

    def write(self, step: int, values: Values) -> None:
        """Record one step."""
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        line = {"stage": self.stage, "step": step, **{name: finite.get(name) for name in values}}
        self._stream.write(json.dumps(line) + "\n")
        self._stream.flush()
        if self._tensorboard is not None:
            for name, value in finite.items():
                self._tensorboard.add_scalar(name, value, step)
        status = summary(values)
        self._progress.update(self._task, completed=step + 1, status=status)
        if self._progress.disable and time.monotonic() - self._logged > LOG_EVERY:
            self._logged = time.monotonic()
            logger.info("%s %d/%d  %s", self.stage, step + 1, self.num_steps, status)

    def _cut(self, first_step: int) -> None:
        if not self.file.exists():
            return
        lines = self.file.read_text().splitlines(keepends=True)
        kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] < first_step]
        write_text(self.file, "".join(kept))


def contents(batches: Sequence[Batch], *, seconds: float, waited: float, world: World | None = None) -> Values:
    """What a step's batches held, those of other ranks too, and how fast it was.

    `seconds` in all, `waited` of them for data; both on this rank.
    """
    counts: Values = {"tokens": sum(batch.num_tokens for batch in batches)}
    for batch in batches:
        for (modality, _), spans in batch.spans.items():
            counts[f"{modality}s"] = counts.get(f"{modality}s", 0) + len(spans.lengths)
        for modality in batch.codes:
            key = f"{modality}_codes"
            counts[key] = counts.get(key, 0) + int(batch.codes_of(modality).sum())
    counts["room"] = sum(batch.capacity or batch.ids.numel() for batch in batches)
    counts = (world or World()).sum_counts(counts)
    room = counts.pop("room")
    return {
        **counts,
        **({"pack_efficiency": counts["tokens"] / room} if room else {}),
        "seconds": seconds,
        "seconds/data": waited,
        **{f"per_second/{name}": count / seconds for name, count in counts.items()},
    }


def documents_so_far(loader: Mapping[str, Any]) -> Values:
    """What a loader has counted by source, out of its state: documents drawn, cut and skipped, tokens."""
    counters = {what: counts for what, counts in loader.items() if isinstance(counts, dict)}
    return {
        **{f"{what}/{source}": number for what, counts in counters.items() for source, number in counts.items()},
        "skipped_documents": sum(counters.get("skipped", {}).values()),
    }


def summary(values: Values) -> str:
    """A step in one line: losses per term, speed, how full the rows are, how long data was waited for."""
    # Terms, not their sources: `loss/text`, not `loss/text/web`.
    losses = [(name, value) for name, value in values.items() if name.startswith("loss") and name.count("/") < 2]
    parts = [" ".join(f"{name.removeprefix('loss/')} {value:.4g}" for name, value in losses)]
    if "evaluation/loss" in values:
        parts.append(f"held-out {values['evaluation/loss']:.4g}")
    for name, value in values.items():
        if name.startswith("per_second/") and value:
            parts.append(f"{value:,.{0 if value >= 10 else 1}f} {name.removeprefix('per_second/')}/s")
    if "pack_efficiency" in values:
        parts.append(f"packed {values['pack_efficiency']:.0%}")
    if values.get("seconds"):
        parts.append(f"waited {values['seconds/data'] / values['seconds']:.0%}")
    for name, label in (("skipped_documents", "bad documents"), ("skipped_steps", "skipped steps")):
        if values.get(name):
            parts.append(f"{values[name]:.0f} {label}")
    return " · ".join(part for part in parts if part)


def _summary_writer(directory: Path, *, first_step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        logger.info("tensorboard is not installed; metrics go to metrics.jsonl alone")
        return None
    # What an interrupted run wrote after its last saved step is not shown.
    return SummaryWriter(str(directory / "tensorboard"), purge_step=first_step or None)
