"""Language-model loss over supervised positions only: unsupervised ones never reach the output matrix."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from limner.backbone.hf import Backbone
from limner.modalities.base import LossTerm
from limner.tokens.batch import IGNORED

CHUNK = 1024
"""Positions whose logits exist at the same time."""


def text_loss(
    backbone: Backbone,
    hidden: Float[Tensor, "batch seq d_model"],
    labels: Int[Tensor, "batch seq"],
) -> LossTerm:
    """Cross entropy in nats: sum over targets, and their number. The label at i is predicted from hidden i - 1."""
    rows, columns = torch.nonzero(labels[:, 1:] != IGNORED, as_tuple=True)
    targets = labels[rows, columns + 1]
    states = hidden[rows, columns]
    total = hidden.new_zeros((), dtype=torch.float32)
    for chunk, target in zip(states.split(CHUNK), targets.split(CHUNK), strict=True):
        total = total + F.cross_entropy(backbone.logits(chunk), target, reduction="sum")
    return LossTerm(total, total.new_tensor(float(len(targets))))
