"""Run state: what a stage needs to go on exactly where it stopped, on any number of ranks.

    <stage>/state/step-00000500/   __<rank>_0.distcp, .metadata   tensors, in torch.distributed.checkpoint's format
                                   values.json                    everything else: step, loader position, counts

Trained parameters, what was measured, moving average and optimiser are tensors by name, so a state does not know how
many ranks wrote it, nor whether they were sharded. No random state: every draw in a run comes from generators keyed by
(seed, step, item).

A state is written to a hidden directory, flushed to disk and then renamed: whatever stands under its own name is whole,
and a crash at any byte leaves the states before it.
"""

import json
import os
import re
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from limner.train.parallel import World

DIRECTORY = "state"
PARAMETERS = "parameters"
OPTIMIZER = "optimizer"
VALUES = "values.json"
_NAME = re.compile(r"step-(\d{8,})")

Tensors = Mapping[str, Mapping[str, Tensor]]
"""Tensors by group and name. The group "parameters" holds what the optimiser trains; others are up to the caller."""


@dataclass(frozen=True)
class Restored:
    """What `StateStore.load` found: the number of steps done, and the values given to `save`."""

    step: int
    values: dict[str, Any]


@dataclass(frozen=True)
class StateStore:
    """The saved states of the stage in `directory`. Every rank calls the same methods in the same order.

    keep_last: newest states that are kept.
    """

    directory: Path
    keep_last: int = 2
    world: World = field(default_factory=World)

    def save(
        self,
        step: int,
        *,
        tensors: Tensors,
        optimizer: torch.optim.Optimizer,
        values: Mapping[str, Any],
    ) -> Path:
        """Write the state after `step` steps and return its directory; a state of that step that is there stays.

        `tensors` may be plain (equal on all ranks) or sharded DTensors. `values` is JSON; the first rank's is written.
        Raises ValueError when the state cannot be written (disk full); the states before it stay.
        """
        target = self._path(step)
        if self.world.any(target.exists()):
            return target
        temporary = target.with_name(f".{target.name}.writing")
        if self.world.is_first:
            self._sweep()
        self.world.barrier()
        error = self._write(temporary, _flat(tensors, optimizer))
        if self.world.is_first and error is None:
            record = {"step": step, "values": dict(values)}
            error = _attempt(lambda: _commit(temporary, target, json.dumps(record) + "\n"))
        failed = next((found for found in self.world.gather(error) if found is not None), None)
        if failed is not None:
            if self.world.is_first:
                shutil.rmtree(temporary, ignore_errors=True)
            last = self.steps()
            raise ValueError(
                f"the state of step {step} could not be written to {target.parent}: {failed}; "
                f"{f'the state of step {last[-1]} is whole' if last else 'there is none before it'}\n"
                "hint: make room or give another --output, then run the same command again"
            )
        if self.world.is_first:
            self._prune()
        return target

    def load(self, *, tensors: Tensors, optimizer: torch.optim.Optimizer) -> Restored | None:
        """Restore the newest state into `tensors` and `optimizer`, in place; None where there is none.

        Raises ValueError when the state holds other tensors than those given, or is damaged.
        """
        steps = self.steps()
        if not steps:
            return None
        source = self._path(steps[-1])
        try:
            record = json.loads((source / VALUES).read_text())
            reader = FileSystemReader(source)
            saved = {
                name: entry
                for name, entry in reader.read_metadata().state_dict_metadata.items()
                if isinstance(entry, TensorStorageMetadata)
            }
            wanted = _named(tensors)
            _check(wanted, saved, source=source)
            state = _optimizer_state(saved, tensors[PARAMETERS])
            wanted |= {
                f"{OPTIMIZER}/{name}/{key}": value for name, entries in state.items() for key, value in entries.items()
            }
            with _one_process_is_fine():
                load(wanted, storage_reader=reader, no_dist=self.world.size == 1)
        except (OSError, EOFError, UnpicklingError, json.JSONDecodeError, RuntimeError, CheckpointException) as error:
            raise ValueError(
                f"`{source}` is damaged ({_reason(error)})\nhint: delete it; the run then goes on from the state before"
            ) from error
        for name, parameter in tensors[PARAMETERS].items():
            if name in state:
                optimizer.state[parameter] = state[name]
        return Restored(int(record["step"]), record["values"])

    def steps(self) -> list[int]:
        """Steps of the whole states, rising."""
        found = (_NAME.fullmatch(path.name) for path in (self.directory / DIRECTORY).glob("step-*"))
        return sorted(int(match[1]) for match in found if match)

    def remove(self) -> None:
        """Delete all states: the stage is finished."""
        if self.world.is_first:
            shutil.rmtree(self.directory / DIRECTORY, ignore_errors=True)

    def _path(self, step: int) -> Path:
        return self.directory / DIRECTORY / f"step-{step:08d}"

    def _write(self, path: Path, flat: dict[str, Tensor]) -> str | None:
        """Write the tensors; the reason where that fails, on some rank at least."""

        writer = FileSystemWriter(path)  # flushes each file to disk
        with _one_process_is_fine():
            return _attempt(lambda: save(flat, storage_writer=writer, no_dist=self.world.size == 1))

    def _sweep(self) -> None:
        """Delete what crashes left."""
        for leftover in (self.directory / DIRECTORY).glob(".step-*"):
            shutil.rmtree(leftover, ignore_errors=True)

    def _prune(self) -> None:
        for step in self.steps()[: -self.keep_last]:
            # Out of sight first: a half-deleted state would pass for a whole one.
            hidden = self._path(step).with_name(f".step-{step:08d}.deleted")
            self._path(step).replace(hidden)
            shutil.rmtree(hidden, ignore_errors=True)


def _named(tensors: Tensors) -> dict[str, Tensor]:
    """Tensors under one name each; they share memory with those given."""
    return {
        f"{group}/{name}": tensor.detach() for group, entries in tensors.items() for name, tensor in entries.items()
    }


def _flat(tensors: Tensors, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """All tensors under one name each."""
    flat = _named(tensors)
    for name, parameter in tensors[PARAMETERS].items():
        for key, value in optimizer.state.get(parameter, {}).items():
            if value is None:
                continue
            assert isinstance(value, Tensor), f"the optimiser keeps `{key}`, which is no tensor"
            flat[f"{OPTIMIZER}/{name}/{key}"] = value
    return flat


def _optimizer_state(saved: Mapping[str, TensorStorageMetadata], parameters: Mapping[str, Tensor]) -> dict[str, dict]:
    """Empty tensors for the saved state of each parameter: laid out like the parameter, or of a shape of their own."""
    state: dict[str, dict[str, Tensor]] = {}
    for full_name, entry in saved.items():
        group, _, rest = full_name.partition("/")
        if group != OPTIMIZER:
            continue
        name, _, key = rest.rpartition("/")
        parameter = parameters[name]
        like = entry.size == parameter.shape and parameter.ndim > 0
        state.setdefault(name, {})[key] = (
            torch.empty_like(parameter, dtype=entry.properties.dtype, requires_grad=False)
            if like
            else torch.empty(entry.size, dtype=entry.properties.dtype)
        )
    return state


def _check(wanted: Mapping[str, Tensor], saved: Mapping[str, TensorStorageMetadata], *, source: Path) -> None:
    """Raise ValueError when a state holds other tensors than the recipe has, or other shapes."""
    held = {name for name in saved if not name.startswith(f"{OPTIMIZER}/")}
    changed = sorted(set(wanted) ^ held)
    changed += sorted(name for name in set(wanted) & held if wanted[name].shape != saved[name].size)
    if changed:
        raise ValueError(
            f"`{source}` holds other tensors than the recipe, {len(changed)} in all: {', '.join(changed[:4])} ...\n"
            "hint: a changed recipe needs a new output directory"
        )


def _commit(temporary: Path, target: Path, record: str) -> None:
    """Give a written state its name, once everything of it is on disk."""
    with (temporary / VALUES).open("w") as stream:
        stream.write(record)
        stream.flush()
        os.fsync(stream.fileno())
    _flush_directory(temporary)
    temporary.replace(target)
    _flush_directory(target.parent)


def _flush_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _one_process_is_fine() -> Iterator[None]:
    """Without the warning that torch gives for a checkpoint of a single process, even where that was asked for."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled", category=UserWarning)
        yield


def _attempt(action: Callable[[], object]) -> str | None:
    """Run it; the reason where the disk (or what wrote to it) refuses."""
    try:
        action()
    except (OSError, CheckpointException) as error:
        return _reason(error)
    return None


def _reason(error: BaseException) -> str:
    """One line: what went wrong on the first rank where something did."""
    if isinstance(error, CheckpointException):
        error, _ = next(iter(error.failures.values()))
    return (str(error) or type(error).__name__).splitlines()[0]
