"""The anchor: what stands in for a modality that a batch does not hold.

A batch without pictures computes no gradient for what reads or makes pictures. Alone that is harmless; among several
ranks it is a deadlock, because gradients are reduced in collectives that every rank must enter. So the model adds, for
each side of a modality that its batch lacks, a zero that hangs on the trainable parameters of that side: they get a
zero gradient instead of none, on every rank the same collectives run, and the loss is unchanged to the bit.

This is the only place where an absent modality is handled; no encoder, projector or decoder has a branch for it. What
computes a term from hidden states anchors these too: the backward pass then goes through the language model on every
rank, whatever its batch holds.
"""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor, nn


def anchor(parts: Iterable[nn.Module], *, device: torch.device, also: Tensor | None = None) -> Float[Tensor, ""]:
    """Zero in float32, attached to every trainable parameter of `parts` and to `also` (a tensor of the graph).

    One element of each is enough, so the forward reads nothing whole.
    """
    zero = torch.zeros((), device=device)
    tensors = [parameter for part in parts for parameter in part.parameters() if parameter.requires_grad]
    for tensor in [*tensors, *([] if also is None else [also])]:
        # Of no element for parameters without any (no added rows): the sum of nothing is 0 and still attached.
        zero = zero + 0.0 * tensor.reshape(-1)[:1].float().sum()
    return zero
