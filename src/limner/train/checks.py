"""What a stage refuses before it has cost anything: at its start, and after its first batch and step."""

from collections.abc import Collection, Mapping

from torch import nn
from torch.distributed.tensor import DTensor

from limner.train.optim import Optimizers
from limner.train.stage import Stage

UNSHARDED = ("Adafactor", "Rprop")
"""Optimisers whose step torch refuses over shards: of parts they cannot compute what they need of the whole."""


def check_shared(stage: Stage, *, num_ranks: int) -> None:
    """Raise ValueError where ranks cannot share a step evenly."""
    if stage.accumulation % num_ranks:
        raise ValueError(
            f"stage `{stage.name}` has {stage.accumulation} batches per step, which {num_ranks} ranks cannot share\n"
            f"hint: make accumulation a multiple of {num_ranks}, with smaller batches if the step is to stay as it is"
        )


def check_sharded(optimizer: Optimizers, *, stage: str) -> None:
    """Raise ValueError where an optimiser cannot step over parameters that are sharded."""
    for part in optimizer.parts:
        name = type(part).__name__
        sharded = any(isinstance(parameter, DTensor) for group in part.param_groups for parameter in group["params"])
        if sharded and name in UNSHARDED:
            raise ValueError(
                f"stage `{stage}` uses {name}, which cannot step over sharded parameters\n"
                "hint: run it with --parallel replicate, or take another optimizer"
            )


def check_terms(terms: Collection[str], *, stage: Stage) -> None:
    """Raise ValueError where the objective's terms and the loss weights do not have the same names."""
    if set(terms) != set(stage.loss_weights):
        raise ValueError(
            f"stage `{stage.name}` has loss weights for {sorted(stage.loss_weights)}, "
            f"its objective gives {sorted(terms)}\nhint: weight 0 leaves a term out"
        )


def check_reached(parameters: Mapping[str, nn.Parameter], *, stage: str) -> None:
    """Raise ValueError where a trained tensor got no gradient in the first step."""
    lost = sorted(name for name, parameter in parameters.items() if parameter.grad is None)
    if lost:
        raise ValueError(
            f"stage `{stage}` trains {len(lost)} tensors that its objective never reaches: "
            f"{lost[0]} ...\nhint: do not train them, or give the term that reaches them a weight"
        )


def check_band(loss: float, *, stage: Stage) -> None:
    """Raise ValueError where the first loss is not what the recipe expects."""
    band = stage.expected_loss
    if band is not None and not band[0] <= loss <= band[1]:
        raise ValueError(
            f"stage `{stage.name}` starts with a loss of {loss:.3f}; the recipe expects "
            f"{band[0]} to {band[1]}\nhint: check that the parts it starts from were loaded"
        )
