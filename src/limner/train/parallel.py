"""Ranks: the processes that train one model together, and how the model is laid over them.

Owns the process group (torchrun's environment: gloo for tensors on the CPU, NCCL for those on CUDA), the module that
is wrapped, and the two ways to wrap it: `Replicate` (DistributedDataParallel) and `Shard` (FSDP2's `fully_shard`).

    every rank:  batch -> ObjectiveModule -> terms -> loss * world.size -> backward (gradients averaged) -> clip -> step

Assumes that all ranks call the same things in the same order; nothing here depends on what a rank's batch holds. Terms
are divided by counts that are summed over ranks before the forward, and the loss is multiplied by the number of ranks
because both wrappers average gradients: the gradient is that of one process that saw all batches.

One process without torchrun is a world of one: no process group, nothing wrapped.
"""

import os
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from limner.modalities.base import LossTerm
from limner.model.anchor import anchor
from limner.model.checkpoint import owned_state
from limner.model.multimodal import MultimodalLM
from limner.tokens.batch import Batch
from limner.train.objectives import NoiseKey, Objective

Key = TypeVar("Key", bound=Hashable)

SHARDING = "2.13"
"""The first torch whose FSDP2 has all that `Shard` and `gathered` ask of it."""


@dataclass(frozen=True)
class World:
    """This process among all that train together: rank in [0, size), and where it computes."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @staticmethod
    def join(*, device: torch.device | str = "cpu", timeout_seconds: float = 1800.0) -> "World":
        """The world that torchrun describes in the environment, or a world of one.

        `device` is a kind ("cpu", "cuda"); the CUDA device of a rank is its number on its machine. Joining twice is
        joining once. A collective that waits longer than the timeout raises RuntimeError on every rank.
        """
        kind = torch.device(device)
        size, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
        if kind.type == "cuda" and kind.index is None:
            kind = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        if kind.type == "cuda":
            torch.cuda.set_device(kind)
        if size > 1 and not dist.is_initialized():
            # Counts and states of the run travel as CPU tensors, so gloo is there beside NCCL.
            backend = "cpu:gloo,cuda:nccl" if kind.type == "cuda" else "gloo"
            dist.init_process_group(backend, timeout=timedelta(seconds=timeout_seconds))
        return World(rank, size, kind)

    @property
    def is_first(self) -> bool:
        """Whether this is the rank that writes files and speaks."""
        return self.rank == 0

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self.size > 1:
            # On the CPU: a barrier of NCCL would claim a device and wait for its kernels.
            dist.all_reduce(torch.zeros(1))

    def sum_counts(self, counts: Mapping[Key, int | float]) -> dict[Key, int | float]:
        """Sums over ranks by name. A rank may lack a name; the sums are the same, to the bit, on every rank."""
        total: dict[Key, int | float] = {}
        for one in self.gather(dict(counts)):
            for name, value in one.items():
                total[name] = total.get(name, 0) + value
        return total

    def any(self, flag: bool) -> bool:
        """Whether the flag is up on one rank at least: for decisions that all must take together."""
        return any(self.gather(flag))

    def gather(self, value: Any) -> list[Any]:
        """The (picklable) value of every rank, in rank order."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def leave(self) -> None:
        """Close the process group."""
        if self.size > 1 and dist.is_initialized():
            dist.destroy_process_group()


class ObjectiveModule(nn.Module):
    """A model and what it is trained on, as the one module whose forward gives the terms named in `terms`."""

    def __init__(self, model: MultimodalLM, objective: Objective, *, terms: Sequence[str]) -> None:
        super().__init__()
        self.model = model
        self.objective = objective
        self.terms = tuple(terms)

    def forward(self, batch: Batch, noise_key: NoiseKey) -> dict[str, LossTerm]:
        """Terms of a batch. Where the objective counts nothing in it, zeros that reach every trainable parameter."""
        if self.objective.count(batch):
            return self.objective(self.model, batch, noise_key=noise_key)
        nothing = torch.zeros((), device=self.model.device)
        return {name: LossTerm(anchor([self.model], device=self.model.device), nothing) for name in self.terms}


@runtime_checkable
class Parallel(Protocol):
    """How a module is laid over the ranks. In a world of one it is left as it is."""

    def wrap(self, module: ObjectiveModule, *, world: World) -> nn.Module: ...


@dataclass(frozen=True)
class Replicate:
    """Every rank holds the whole model (DistributedDataParallel)."""

    def wrap(self, module: ObjectiveModule, *, world: World) -> nn.Module:
        """The same module; gradients are averaged in buckets while the backward pass runs."""
        if world.size == 1:
            return module
        devices = [world.device] if world.device.type == "cuda" else None
        return DistributedDataParallel(module, device_ids=devices, gradient_as_bucket_view=True)


@dataclass(frozen=True)
class Shard:
    """What is trained, its gradients, moving average and optimiser are split over the ranks (FSDP2).

    One group per transformer block of the language model that has something to train, one for all other parameters
    that train. What is frozen stays whole on every rank: feature caches and frozen blocks then run without any
    collective, whenever a rank likes. Wrap before the optimiser is built: parameters are other objects afterwards.
    """

    def wrap(self, module: ObjectiveModule, *, world: World) -> nn.Module:
        """The same module, its parameters now DTensors outside of its forward. Raises ValueError where torch is older
        than what this was made for."""
        if world.size == 1:
            return module
        if not hasattr(FSDPModule, "reset_iter_state"):
            raise ValueError(
                f"sharding needs torch {SHARDING} or later; this is {torch.__version__}\n"
                "hint: upgrade torch, or run with --parallel replicate"
            )
        mesh = init_device_mesh(world.device.type, (world.size,))
        blocks = [block for block in transformer_blocks(module.model) if _trains(block)]
        held = {parameter for block in blocks for parameter in block.parameters()}
        frozen = {p for p in module.parameters() if not p.requires_grad and p not in held}
        for block in blocks:
            fully_shard(block, mesh=mesh)
            block.register_forward_pre_hook(_attach_input, prepend=True, with_kwargs=True)
        fully_shard(module, mesh=mesh, ignored_params=frozen)
        return module


def transformer_blocks(model: MultimodalLM) -> list[nn.Module]:
    """The layers of the language model, in order."""
    decoder = model.backbone.language_model.get_decoder()
    lists = [child for child in decoder.children() if isinstance(child, nn.ModuleList)]
    return list(max(lists, key=len, default=nn.ModuleList()))


@contextmanager
def accumulating(module: nn.Module, *, last: bool) -> Iterator[None]:
    """Around forward and backward of one batch of a step: gradients are reduced with the last one alone."""
    if isinstance(module, FSDPModule):
        module.set_requires_gradient_sync(last)
    replicated = isinstance(module, DistributedDataParallel)
    with module.no_sync() if replicated and not last else nullcontext():
        yield


@contextmanager
def gathered(module: nn.Module) -> Iterator[None]:
    """Inside, every rank holds the whole model and may run parts of it alone (sampling, measuring), without gradients.

    All ranks enter and leave together. Values written to parameters inside are lost under `Shard`.
    """
    groups = [part for part in module.modules() if isinstance(part, FSDPModule)]
    for group in groups:
        # As its own forward would, once for all: the first module that runs would else pass for the root.
        group._get_fsdp_state()._lazy_init()
    for group in groups:
        group.set_reshard_after_forward(False, recurse=False)
        group.unshard()
    try:
        with torch.no_grad():
            yield
    finally:
        for group in groups:
            group.set_reshard_after_forward(group is not module, recurse=False)
        if isinstance(module, FSDPModule):
            # Reshards, and forgets which blocks ran inside: the order of the next backward follows from that, and the
            # ranks may have run different ones.
            module.reset_iter_state()


@contextmanager
def rewritten(module: nn.Module) -> Iterator[None]:
    """As `gathered`, but what is written to parameters, alike on every rank, stays."""
    written: dict[str, Tensor] = {}
    with gathered(module):
        yield
        if isinstance(module, FSDPModule):
            written = {name: parameter.detach().clone() for name, parameter in module.named_parameters()}
    for name, parameter in module.named_parameters():
        if isinstance(parameter, DTensor):
            mesh, placements = parameter.device_mesh, parameter.placements
            local = distribute_tensor(written[name], mesh, placements, src_data_rank=None)
            parameter.detach().copy_(local)


def whole(tensor: Tensor) -> Tensor:
    """The full value of a tensor that may be sharded. All ranks call it together."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def whole_state(model: MultimodalLM, *, world: World) -> dict[str, Tensor]:
    """What a checkpoint of the model holds, whole and on the CPU of the first rank. All ranks call it together."""
    state: dict[str, Tensor] = {}
    for name, value in owned_state(model).items():
        # One after another: no rank ever holds more than one whole tensor beside its shards.
        tensor = whole(value.detach())
        if world.is_first:
            state[name] = tensor.cpu()
    return state


def clip_gradients(parameters: Iterable[nn.Parameter], *, max_norm: float) -> Tensor:
    """Scale all gradients so that their common norm is at most `max_norm`; return the norm before, whole."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = whole(nn.utils.get_total_norm(gradients))
    factor = (max_norm / (norm + 1e-6)).clamp(max=1.0)
    for gradient in gradients:
        local = gradient.to_local() if isinstance(gradient, DTensor) else gradient
        local.mul_(factor)
    return norm


def _trains(module: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters())


def _attach_input(block: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
    """Make a block's input require a gradient even where nothing before it does (a batch without pictures, say).

    The order in which blocks are reduced then is the same on every rank, whatever its batch holds.
    """
    if not torch.is_grad_enabled():
        return args, kwargs
    hidden = args[0] if args else kwargs["hidden_states"]
    if not hidden.requires_grad:
        hidden = hidden.detach().requires_grad_()
    return ((hidden, *args[1:]), kwargs) if args else ((), kwargs | {"hidden_states": hidden})
