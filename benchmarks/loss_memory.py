"""Peak memory of the text loss, forward and backward, against that of full logits.

    python -m benchmarks loss_memory

Two measures of each. *Tensors*: every storage that an operator allocates, from its birth to its death, seen by a
dispatch mode; temporary memory inside an operator is not seen. *Process*: the growth of the peak resident memory of a
forked process, which sees everything. Not counted in either is what there is before (hidden states, weights) and what
stays in the end and every way of computing the loss must leave: the gradients.
"""

import argparse
import multiprocessing
import resource
import weakref
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import LlamaConfig, LlamaForCausalLM

from limner.backbone.hf import Backbone
from limner.model.losses import text_loss
from limner.tokens.batch import IGNORED, Batch

Loss = Callable[[Backbone, Tensor, Batch], Tensor]
MIB = 2**20


class LiveStorages(TorchDispatchMode):
    """Bytes of the storages that were born inside and still live, and the most there ever were."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        found = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(found):
            if isinstance(tensor, Tensor) and tensor.untyped_storage()._cdata not in given:
                self._count(tensor.untyped_storage())
        return found

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size


def chunked(backbone: Backbone, hidden: Tensor, batch: Batch) -> Tensor:
    """Limner's loss."""
    return text_loss(backbone, hidden, batch).sum


def full(backbone: Backbone, hidden: Tensor, batch: Batch) -> Tensor:
    """The same out of the logits of all supervised positions."""
    rows, columns = torch.nonzero(batch.labels[:, 1:] != IGNORED, as_tuple=True)
    logits = backbone.logits(hidden[rows, columns])
    return F.cross_entropy(logits, batch.labels[rows, columns + 1], reduction="sum")


LOSSES: dict[str, Loss] = {"full logits": full, "chunked": chunked}


def main(arguments: list[str]) -> None:
    """Measure both losses, with the output matrix trained and frozen."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks loss_memory")
    parser.add_argument("--tokens", type=int, default=8192, help="supervised positions")
    parser.add_argument("--vocabulary", type=int, default=32768)
    parser.add_argument("--d-model", type=int, default=384)
    options = parser.parse_args(arguments)
    logits = options.tokens * options.vocabulary * 4
    print(f"{options.tokens} positions x {options.vocabulary} tokens: logits of {logits / MIB:.0f} MiB in float32\n")
    print("| output matrix | loss | peak, tensors | peak, process | of the logits |")
    print("|---|---|---|---|---|")
    worst = 0.0
    for trained in (False, True):
        for name in LOSSES:
            tensors = _in_a_process(_tensors, name, trained, options)
            process = _in_a_process(_resident, name, trained, options)
            share = max(tensors, process) / logits
            worst = max(worst, share) if name == "chunked" else worst
            matrix = "trained" if trained else "frozen"
            print(f"| {matrix} | {name} | {tensors / MIB:.0f} MiB | {process / MIB:.0f} MiB | {share:.2f} |")
    print(f"\nchunked: at most {worst:.3f} of the logits (target: 0.25)")


def _in_a_process(measure: Callable[..., int], name: str, trained: bool, options: argparse.Namespace) -> int:
    # The peak of a process is never lowered again, so each measurement has its own; this one computes nothing.
    with multiprocessing.get_context("fork").Pool(1) as pool:
        return pool.apply(measure, (name, trained, options))


def _tensors(name: str, trained: bool, options: argparse.Namespace) -> int:
    backbone, hidden, batch = _problem(trained, options)
    with LiveStorages() as storages:
        LOSSES[name](backbone, hidden, batch).backward()
        kept = storages.live
    return storages.peak - kept


def _resident(name: str, trained: bool, options: argparse.Namespace) -> int:
    backbone, hidden, batch = _problem(trained, options)
    # Gradients that are there before are added to in place: what remains to be measured is the loss.
    for tensor in [hidden, *backbone.output_parameters]:
        tensor.grad = torch.zeros_like(tensor)
    small = Batch(batch.ids[:, :64], batch.positions[:, :64], batch.documents[:, :64], batch.labels[:, :64])
    LOSSES[name](backbone, hidden[:, :64], small).backward()  # libraries and threads have started
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    LOSSES[name](backbone, hidden, batch).backward()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024


def _problem(trained: bool, options: argparse.Namespace) -> tuple[Backbone, Tensor, Batch]:
    """A language model of one layer (none is run), hidden states and labels."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=options.vocabulary,
        hidden_size=options.d_model,
        intermediate_size=options.d_model,
        num_hidden_layers=1,
        num_attention_heads=1,
        tie_word_embeddings=True,
    )
    backbone = Backbone(LlamaForCausalLM(config), num_added=3)
    backbone.requires_grad_(trained)
    hidden = torch.randn(1, options.tokens + 1, options.d_model).requires_grad_()
    ids = torch.randint(options.vocabulary, (1, options.tokens + 1))
    ones = torch.ones_like(ids)
    return backbone, hidden, Batch(ids, ones.cumsum(1) - 1, ones, ids)
