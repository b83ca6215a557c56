"""Workers and signals: they outlive a SIGTERM to everybody, and never the main process."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PROGRAM = """
import signal, sys, time
sys.path[:0] = {paths!r}
from tiny import Pages, tiny_model
from limner.data.collate import Collator
from limner.data.loader import Loader
from limner.data.mixture import Mixture

model, told = tiny_model(), []
signal.signal(signal.SIGTERM, lambda *_: told.append(True))
mixture = Mixture({{"a": Pages()}})
loader = Loader(
    mixture, render=model.render, collate=Collator(model), row_length=96, num_rows=2, window=16, num_workers=2
)
loader.next_batch()
print("reading", flush=True)
while not told:
    time.sleep(0.01)
for _ in range(20):
    loader.next_batch()
print("saved", flush=True)
raise SystemExit(3)
"""


@pytest.fixture
def process():
    """A main process with two workers, in a process group of its own."""
    tests = Path(__file__).parents[1]
    program = PROGRAM.format(paths=[str(tests.parent / "src"), str(tests)])
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as started:
        assert started.stdout.readline() == "reading\n"
        yield started
        started.kill()


def _is_alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.slow
def test_after_a_signal_to_the_whole_group_the_main_process_reads_on_and_ends_by_itself(process) -> None:
    os.killpg(process.pid, signal.SIGTERM)
    assert process.stdout.readline() == "saved\n"
    # Iterators are open at its end: nobody waits for anybody.
    assert process.wait(timeout=60) == 3


@pytest.mark.slow
def test_workers_of_a_killed_process_end(process) -> None:
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + 60
    while _is_alive(process.pid) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not _is_alive(process.pid)
