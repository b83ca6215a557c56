"""Run states: what comes back is what went in, and a crash at any moment leaves the last good one."""

import errno
import json
import multiprocessing
import os
import random
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from limner.train.state import StateStore

FORK = multiprocessing.get_context("fork")


class Small:
    """Two parameters, a buffer, an average and an optimiser that has made some steps."""

    def __init__(self, *, optimizer: Callable = torch.optim.AdamW, steps: int = 3, width: int = 5) -> None:
        generator = torch.Generator().manual_seed(0)
        self.parameters = {
            "a.weight": nn.Parameter(torch.randn(width, 4, generator=generator)),
            "b.weight": nn.Parameter(torch.randn(3, 2, generator=generator)),
        }
        self.buffers = {"a.mean": torch.randn(4, generator=generator)}
        self.average = {name: torch.randn(p.shape, generator=generator) for name, p in self.parameters.items()}
        self.optimizer = optimizer(self.parameters.values(), lr=0.1)
        for _ in range(steps):
            self.step()

    def step(self) -> None:
        """One step on a loss that is a function of the parameters alone."""
        self.optimizer.zero_grad()
        sum((p**2).sum() + p.sum() for p in self.parameters.values()).backward()
        self.optimizer.step()

    @property
    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """What is saved."""
        return {"parameters": dict(self.parameters), "buffers": self.buffers, "average": self.average}


def _save(store: StateStore, step: int, small: Small) -> Path:
    return store.save(step, tensors=small.tensors, optimizer=small.optimizer, values={"step": step})


def _load(store: StateStore, small: Small):
    return store.load(tensors=small.tensors, optimizer=small.optimizer)


@pytest.mark.parametrize(
    "optimizer",
    [
        torch.optim.AdamW,
        torch.optim.Adafactor,
        torch.optim.Muon,
        lambda parameters, lr: torch.optim.SGD(parameters, lr=lr, momentum=0.9),
        torch.optim.SGD,
    ],
)
def test_a_restored_run_goes_on_bit_for_bit(tmp_path: Path, optimizer: Callable) -> None:
    store = StateStore(tmp_path)
    small = Small(optimizer=optimizer)
    _save(store, 3, small)
    again = Small(optimizer=optimizer, steps=1)
    again.buffers["a.mean"].zero_()
    restored = _load(store, again)
    assert restored is not None
    assert (restored.step, restored.values) == (3, {"step": 3})
    for run in (small, again):
        run.step()
        run.step()
    for group, tensors in small.tensors.items():
        for name, tensor in tensors.items():
            assert torch.equal(again.tensors[group][name], tensor), name


def test_where_nothing_was_saved_nothing_is_restored(tmp_path: Path) -> None:
    store = StateStore(tmp_path)
    assert _load(store, Small()) is None
    assert store.steps() == []
    store.remove()


def test_the_newest_states_are_kept(tmp_path: Path) -> None:
    store = StateStore(tmp_path, keep_last=2)
    small = Small()
    for step in range(6):
        _save(store, step, small)
    assert store.steps() == [4, 5]
    assert {path.name for path in (tmp_path / "state").iterdir()} == {"step-00000004", "step-00000005"}
    assert _load(store, small).step == 5
    store.remove()
    assert not (tmp_path / "state").exists()


def test_a_state_that_is_there_stays(tmp_path: Path) -> None:
    store = StateStore(tmp_path)
    first = _save(store, 1, Small())
    written = (first / "values.json").stat().st_mtime_ns
    assert _save(store, 1, Small()) == first
    assert (first / "values.json").stat().st_mtime_ns == written


def test_other_tensors_or_shapes_are_refused(tmp_path: Path) -> None:
    store = StateStore(tmp_path)
    _save(store, 1, Small())
    with pytest.raises(ValueError, match=r"parameters/a.weight.*\nhint: "):
        _load(store, Small(width=6))
    fewer = Small()
    del fewer.parameters["b.weight"]
    with pytest.raises(ValueError, match=r"holds other tensors.*b.weight.*\nhint: "):
        _load(store, fewer)


@pytest.mark.parametrize("damaged", ["__0_0.distcp", ".metadata", "values.json"])
def test_a_damaged_state_is_named_and_without_it_the_one_before_serves(tmp_path: Path, damaged: str) -> None:
    store = StateStore(tmp_path)
    _save(store, 1, Small())
    newest = _save(store, 2, Small())
    data = newest / damaged
    data.write_bytes(data.read_bytes()[:20])
    with pytest.raises(ValueError, match=r"step-00000002` is damaged .*\nhint: delete it"):
        _load(store, Small())
    for file in newest.iterdir():
        file.unlink()
    newest.rmdir()
    assert _load(store, Small()).step == 1


def _save_for_ever(directory: Path) -> None:
    store, small = StateStore(directory, keep_last=1), Small()
    step = (store.steps() or [0])[-1]
    while True:
        step += 1
        _save(store, step, small)


def test_a_kill_at_any_moment_leaves_a_state_that_loads(tmp_path: Path) -> None:
    store, reached, moments = StateStore(tmp_path), 0, random.Random(0)
    _save(store, 1, Small())
    for _ in range(20):
        child = FORK.Process(target=_save_for_ever, args=(tmp_path,))
        child.start()
        time.sleep(moments.uniform(0.01, 0.15))
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        restored = _load(store, Small())
        assert restored is not None
        assert restored.step >= reached
        reached = restored.step
    assert reached > 1
    _save(store, reached + 1, Small())
    assert not list((tmp_path / "state").glob(".*")), "what crashes left is swept away"


def _save_without_room(directory: Path, answer) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1500, 1500))
    try:
        _save(StateStore(directory), 2, Small(width=500))
    except ValueError as error:
        answer.put(str(error))


def test_a_full_disk_leaves_the_state_before_and_says_so(tmp_path: Path) -> None:
    store = StateStore(tmp_path)
    _save(store, 1, Small(width=500))
    answer = FORK.SimpleQueue()
    child = FORK.Process(target=_save_without_room, args=(tmp_path, answer))
    child.start()
    message = answer.get()
    child.join()
    assert "step 2 could not be written" in message
    assert "the state of step 1 is whole\nhint: " in message
    assert message.count("\n") == 1
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["step-00000001"]
    assert _load(store, Small(width=500)).step == 1


def test_a_disk_that_fails_while_the_name_is_given_is_reported_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = StateStore(tmp_path)

    def refuse(*arguments):
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(ValueError, match=r"Disk quota exceeded; there is none before it\nhint: "):
        _save(store, 1, Small())
    assert store.steps() == []


def test_values_are_json(tmp_path: Path) -> None:
    path = _save(StateStore(tmp_path), 7, Small())
    assert json.loads((path / "values.json").read_text()) == {"step": 7, "values": {"step": 7}}
