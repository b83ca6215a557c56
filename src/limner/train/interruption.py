"""Stopping a run from outside: SIGTERM (schedulers) and SIGINT (Ctrl-C) end it after the step, saved.

The exit code says that the run is not done: 128 + the signal's number, 143 for SIGTERM and 130 for SIGINT. A scheduler
that looks at codes (Kubernetes, torchrun, a shell loop) then starts the job again, which goes on where it stopped; with
0 it would count the job as finished. Slurm requeues after preemption whatever the code is.
"""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any


class Stopped(Exception):
    """The run was asked to stop and has saved its state. The message says where it stands."""

    def __init__(self, message: str, *, received: signal.Signals) -> None:
        super().__init__(message)
        self.received = received

    @property
    def exit_code(self) -> int:
        """What a program leaves with that a signal ended."""
        return 128 + self.received.value


class StopSignals:
    """While entered, signals are noted in `received`. A second Ctrl-C interrupts at once.

    Outside of the main thread, which alone may handle signals, nothing is ever noted.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received is signal.SIGINT and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = signal.Signals(number)
