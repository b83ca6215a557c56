"""Language-model loss over supervised positions only: unsupervised ones never reach the output matrix.

Logits exist for one chunk of positions at a time, in the forward and in the backward pass alike: a chunk's gradients
are taken as soon as its loss is known, so its logits are computed once and freed before the next chunk's. What stays
until the backward pass is the gradient of the hidden states and of the trainable parameters behind them.
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from limner.backbone.hf import Backbone
from limner.modalities.base import LossTerm
from limner.tokens.batch import Batch

MIN_CHUNK, MAX_CHUNK = 64, 1024
"""Positions whose logits exist at the same time: enough for a matrix product, and never gigabytes."""
NUM_CHUNKS = 64
"""Between these bounds, the share of a batch that one chunk is. Some three copies of a chunk's logits are alive."""


def text_loss(backbone: Backbone, hidden: Float[Tensor, "batch seq d_model"], batch: Batch) -> LossTerm:
    """Cross entropy in nats of the targets that are words: sum and number. The label at i is predicted from hidden
    i - 1."""
    return _loss_at(backbone, hidden, batch, where=batch.words())


def code_loss(
    backbone: Backbone, hidden: Float[Tensor, "batch seq d_model"], batch: Batch, *, modality: str
) -> LossTerm:
    """The same of the targets that are codes of a modality, among all that might be said there."""
    return _loss_at(backbone, hidden, batch, where=batch.codes_of(modality))


def _loss_at(backbone: Backbone, hidden: Tensor, batch: Batch, *, where: Bool[Tensor, "batch seq"]) -> LossTerm:
    rows, columns = torch.nonzero(where[:, 1:], as_tuple=True)
    targets = batch.labels[rows, columns + 1]
    states = hidden[rows, columns]
    if torch.is_grad_enabled():
        # The parameters are named here so that autograd knows whose gradients it will get.
        total, losses = _ChunkedCrossEntropy.apply(backbone, states, targets, *backbone.output_parameters)
    else:
        losses = _losses(backbone, states, targets)
        total = losses.sum()
    by_source = {}
    if batch.source_ids is not None:
        by_source = sums_by_source(losses, batch.source_ids[rows, columns + 1], names=batch.sources)
    return LossTerm(total, total.new_tensor(float(len(targets))), by_source)


def sums_by_source(
    losses: Float[Tensor, " items"], source_ids: Int[Tensor, " items"], *, names: tuple[str, ...]
) -> dict[str, tuple[Tensor, Tensor]]:
    """Sum and count of `losses` for each source, both 0 where it has none; the id -1 is no source."""
    known = source_ids >= 0
    places = source_ids[known].long()
    sums = losses.new_zeros(len(names)).index_add(0, places, losses[known])
    counts = losses.new_zeros(len(names)).index_add(0, places, torch.ones_like(losses[known]))
    return {name: (sums[index], counts[index]) for index, name in enumerate(names)}


def _losses(backbone: Backbone, states: Tensor, targets: Tensor) -> Float[Tensor, " targets"]:
    """Loss of each target, without gradients."""
    size = _chunk_size(len(targets))
    pieces = zip(states.split(size), targets.split(size), strict=True)
    return torch.cat([F.cross_entropy(backbone.logits(chunk), target, reduction="none") for chunk, target in pieces])


def _chunk_size(num_targets: int) -> int:
    return min(MAX_CHUNK, max(MIN_CHUNK, -(-num_targets // NUM_CHUNKS)))


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Sum of the losses, and each of them (not differentiable)."""

    @staticmethod
    def forward(
        ctx: Any, backbone: Backbone, states: Tensor, targets: Tensor, *parameters: Tensor
    ) -> tuple[Tensor, Tensor]:
        size = _chunk_size(len(targets))
        losses = states.new_zeros(len(targets), dtype=torch.float32)
        states_gradient = torch.zeros_like(states)
        # In float32: in bfloat16 the later of many chunks would be lost against the sum of the earlier.
        sums = [torch.zeros_like(parameter, dtype=torch.float32) for parameter in parameters]
        for start in range(0, len(targets), size):
            place = slice(start, start + size)
            with torch.enable_grad():
                chunk = states[place].detach().requires_grad_()
                found = F.cross_entropy(backbone.logits(chunk), targets[place], reduction="none")
                gradients = torch.autograd.grad(found.sum(), [chunk, *parameters])
            losses[place] = found.detach()
            states_gradient[place] = gradients[0]
            for total, gradient in zip(sums, gradients[1:], strict=True):
                total += gradient
            del found, gradients, chunk  # before the next chunk's logits, not after
        ctx.gradients = [states_gradient, *sums]
        ctx.dtypes = [states.dtype, *(parameter.dtype for parameter in parameters)]
        ctx.mark_non_differentiable(losses)
        return losses.sum(), losses

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore
        kept, ctx.gradients = ctx.gradients, None
        assert kept is not None, "gradients of the text loss are scaled in place, so only once"
        scaled = [kept.pop(0).mul_(gradients[0]).to(dtype) for dtype in ctx.dtypes]
        return None, scaled[0], None, *scaled[1:]
