"""Metrics of a run: one JSON line per step in metrics.jsonl, TensorBoard where it is installed, a progress bar.

A resumed run cuts metrics.jsonl back to the step it resumes from, so that no step stands there twice.
"""

import json
import logging
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

logger = logging.getLogger(__name__)


class Metrics:
    """Writer of one stage's metrics. Use as a context manager."""

    def __init__(self, directory: Path, *, stage: str, num_steps: int, first_step: int = 0) -> None:
        self.file = directory / "metrics.jsonl"
        self.stage = stage
        self._cut(first_step)
        self._tensorboard = _summary_writer(directory)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[status]}"),
            console=Console(stderr=True),
        )
        self._task = self._progress.add_task(stage, total=num_steps, completed=first_step, status="")

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

    def write(self, step: int, values: dict[str, Any]) -> None:
        """Record one step."""
        self._stream.write(json.dumps({"stage": self.stage, "step": step, **values}) + "\n")
        self._stream.flush()
        if self._tensorboard is not None:
            for name, value in values.items():
                self._tensorboard.add_scalar(name, value, step)
        status = " ".join(f"{name} {value:.4f}" for name, value in values.items() if "loss" in name)
        self._progress.update(self._task, completed=step + 1, status=status)

    def _cut(self, first_step: int) -> None:
        if not self.file.exists():
            return
        lines = self.file.read_text().splitlines(keepends=True)
        kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] < first_step]
        self.file.write_text("".join(kept))


def _summary_writer(directory: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        logger.info("tensorboard is not installed; metrics go to metrics.jsonl alone")
        return None
    return SummaryWriter(str(directory / "tensorboard"))
