"""Two processes that train one tiny model: workers that tests start, and the loop that they run."""

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as processes
from tiny import COLOURS, picture, tiny_model

from limner.data.collate import Collator
from limner.document.document import Document
from limner.model.checkpoint import owned_state
from limner.tokens.batch import Batch
from limner.train.objectives import Multimodal
from limner.train.optim import MovingAverage
from limner.train.parallel import (
    ObjectiveModule,
    Parallel,
    World,
    accumulating,
    clip_gradients,
    whole,
)
from limner.train.state import StateStore

WEIGHTS = {"text": 1.0, "image": 0.5}
NUM_BATCHES = 2
"""Batches of a step, over all ranks. Every second one holds text alone."""


def run(worker: Callable, *arguments: Any, num_ranks: int, directory: Path) -> list[Any]:
    """What `worker(world, *arguments)` returns on each of `num_ranks` new processes, in rank order."""
    directory.mkdir(parents=True, exist_ok=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = processes.start_processes(
        _enter, args=(num_ranks, port, directory, worker, arguments), nprocs=num_ranks, join=False, start_method="fork"
    )
    assert context is not None
    while not context.join(timeout=30.0):
        pass
    return [torch.load(directory / f"{rank}.pt", weights_only=True) for rank in range(num_ranks)]


def _enter(rank: int, num_ranks: int, port: int, directory: Path, worker: Callable, arguments: tuple) -> None:
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(num_ranks), "LOCAL_RANK": str(rank)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    world = World.join(timeout_seconds=60.0)
    result = worker(world, *arguments)
    torch.save(result, directory / f"{rank}.pt")
    world.barrier()
    world.leave()


def batch_of(model: Any, step: int, number: int) -> Batch:
    """Batch `number` of a step: a read picture, a made picture and text; only text where the number is odd."""
    colour = COLOURS[step % len(COLOURS)]
    if number % 2:
        texts = [Document.page([f"Only words, {step}."]), Document.page(["And more " + colour])]
        return _collated(model, texts, step, number)
    asked = Document.chat([("user", ["What?", picture(colour)]), ("assistant", f"A {colour} one.")])
    return _collated(model, [asked, Document.page([f"{step} ", picture(colour), "!"])], step, number)


def _collated(model: Any, documents: list[Document], step: int, number: int) -> Batch:
    sequences = [model.render(document, key=f"{step}/{number}/{i}") for i, document in enumerate(documents)]
    return Collator(model)([[sequence] for sequence in sequences])


class Run:
    """A model with everything that trains it, on this rank."""

    def __init__(
        self,
        world: World,
        *,
        parallel: Parallel,
        frozen: tuple[str, ...] = ("modalities.image.encoder", "modalities.image.decoder.autoencoder"),
        optimizer: Callable = torch.optim.AdamW,
        num_batches: int = NUM_BATCHES,
        weights: dict[str, float] = WEIGHTS,
    ) -> None:
        self.world = world
        self.weights = weights
        self.num_batches = num_batches
        self.model = tiny_model()
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(not name.startswith(frozen))
        self.objective = Multimodal()
        self.module = parallel.wrap(ObjectiveModule(self.model, self.objective, terms=tuple(weights)), world=world)
        self.parameters = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        self.optimizer = optimizer(self.parameters.values(), lr=1e-3)
        self.average = MovingAverage(self.parameters, decay=0.9)

    def step(self, step: int) -> list[float]:
        """Loss, terms and norm of a step: what the trainer does, without its checks."""
        world = self.world
        mine = range(world.rank, self.num_batches, world.size)
        batches = [batch_of(self.model, step, number) for number in mine]
        counted = [self.objective.count(batch) for batch in batches]
        local = {name: sum(count.get(name, 0.0) for count in counted) for name in self.weights}
        counts = {name: max(1.0, value) for name, value in world.sum_counts(local).items()}
        sums = dict.fromkeys(self.weights, 0.0)
        self.optimizer.zero_grad(set_to_none=True)
        for batch, count in zip(batches, counted, strict=True):
            with accumulating(self.module, last=batch is batches[-1]):
                terms = self.module(batch, (0, step))
                means = {name: term.mean * count.get(name, 0.0) / counts[name] for name, term in terms.items()}
                loss = torch.stack([self.weights[n] * mean for n, mean in means.items() if self.weights[n]]).sum()
                (loss * world.size).backward()
            for name, mean in means.items():
                sums[name] += float(mean.detach())
        sums = world.sum_counts(sums)
        norm = clip_gradients(self.parameters.values(), max_norm=1.0)
        self.optimizer.step()
        self.average.update(self.parameters)
        return [sum(self.weights[name] * value for name, value in sums.items()), *sums.values(), float(norm)]

    def weights_now(self) -> dict[str, torch.Tensor]:
        """Trained parameters and moving average, whole."""
        values = {name: whole(parameter.detach()).clone() for name, parameter in self.parameters.items()}
        return values | {f"average.{name}": whole(value).clone() for name, value in self.average.values.items()}

    def tensors(self) -> dict[str, dict[str, torch.Tensor]]:
        """What a state holds."""
        owned = owned_state(self.model)
        buffers = {name: buffer for name, buffer in self.model.named_buffers() if name in owned}
        return {"parameters": dict(self.parameters), "buffers": buffers, "average": self.average.values}


def train(
    world: World, parallel: Parallel, num_steps: int, options: dict[str, Any], directory: Path | None = None
) -> dict[str, Any]:
    """Train to `num_steps`, from the state in `directory` where there is one; save at the end."""
    run = Run(world, parallel=parallel, **options)
    first = 0
    if directory is not None:
        store = StateStore(directory, world=world)
        restored = store.load(tensors=run.tensors(), optimizer=run.optimizer)
        if restored is not None:
            first, run.average.num_updates = restored.step, restored.values["num_updates"]
    metrics = [run.step(step) for step in range(first, num_steps)]
    if directory is not None:
        values = {"num_updates": run.average.num_updates}
        store.save(num_steps, tensors=run.tensors(), optimizer=run.optimizer, values=values)
    return {"metrics": metrics, "weights": run.weights_now()}
