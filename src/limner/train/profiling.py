"""Profiles of some steps of a stage, for those who want to know where the time goes.

<stage>/profile/trace.json, operators.txt   torch.profiler: to be opened in Perfetto or chrome://tracing
<stage>/profile/calls.html                  pyinstrument: the Python call tree, sampled
"""

import importlib
import logging
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, Protocol, runtime_checkable

import torch

logger = logging.getLogger(__name__)

Tool = Literal["torch", "pyinstrument"]


@dataclass(frozen=True)
class Profile:
    """Steps `first` <= step < `end` of each stage, looked at by `tool`."""

    first: int
    end: int
    tool: Tool = "torch"

    def __post_init__(self) -> None:
        if not 0 <= self.first < self.end:
            raise ValueError(
                f"cannot profile steps {self.first}:{self.end}\nhint: give the first and the end, as 10:15"
            )


@runtime_checkable
class _Recorder(Protocol):
    def start(self) -> None: ...

    def finish(self, directory: Path) -> None: ...


class StepProfiler:
    """Told of every step, it records those of `profile`. Use as a context manager around the loop."""

    def __init__(self, profile: Profile | None, *, directory: Path) -> None:
        self.profile = profile
        self.directory = directory / "profile"
        self._recorder: _Recorder | None = None

    def __enter__(self) -> "StepProfiler":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._finish()

    def before(self, step: int) -> None:
        """A step begins."""
        if self.profile is None:
            return
        if step == self.profile.end:
            self._finish()
        elif self._recorder is None and self.profile.first <= step < self.profile.end:
            self._recorder = _Torch() if self.profile.tool == "torch" else _Pyinstrument()
            self._recorder.start()

    def _finish(self) -> None:
        if self._recorder is None:
            return
        self.directory.mkdir(parents=True, exist_ok=True)
        self._recorder.finish(self.directory)
        self._recorder = None
        logger.info("profile: %s", self.directory)


class _Torch:
    def __init__(self) -> None:
        activities = [torch.profiler.ProfilerActivity.CPU]
        if torch.cuda.is_available():
            activities.append(torch.profiler.ProfilerActivity.CUDA)
        self.profiler = torch.profiler.profile(activities=activities, record_shapes=True)

    def start(self) -> None:
        self.profiler.start()

    def finish(self, directory: Path) -> None:
        self.profiler.stop()
        self.profiler.export_chrome_trace(str(directory / "trace.json"))
        by = "self_cuda_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
        table = self.profiler.key_averages().table(sort_by=by, row_limit=40)
        (directory / "operators.txt").write_text(table)


class _Pyinstrument:
    def __init__(self) -> None:
        try:
            module = importlib.import_module("pyinstrument")
        except ImportError as error:
            raise ValueError(
                "pyinstrument is not installed\nhint: pip install pyinstrument, or profile with torch"
            ) from error
        self.profiler = module.Profiler()

    def start(self) -> None:
        self.profiler.start()

    def finish(self, directory: Path) -> None:
        self.profiler.stop()
        (directory / "calls.html").write_text(self.profiler.output_html())
