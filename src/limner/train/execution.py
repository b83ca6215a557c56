"""Execution of a run: on what device, by how many processes, how compiled, how much memory is traded for time.

None of it belongs to the recipe: it changes speed, memory and the last bits of rounding, so a run may be continued with
other settings than it was begun with. The dtype policy of training stands here too: trained weights are float32
(master weights), whatever the published ones were; the forward runs under autocast where that pays.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import nn

from limner.backbone.hf import Backbone
from limner.model.multimodal import MultimodalLM
from limner.train.parallel import Parallel, Replicate, World, transformer_blocks
from limner.train.profiling import Profile

Precision = Literal["auto", "float32", "bfloat16"]


@dataclass(frozen=True)
class Execution:
    """Fields:

    device:                   where the model computes.
    world:                    the processes that train together, this one among them.
    parallel:                 how the model is laid over them.
    activation_checkpointing: keep no activations inside the language model's layers; the backward runs them again.
    num_workers:              processes that read data ahead; 0 reads between the steps.
    compile_backend:          torch.compile of the language model's layers ("inductor"); None computes eagerly.
    profile:                  steps of each stage to profile; None for none.
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    world: World = field(default_factory=World)
    parallel: Parallel = field(default_factory=Replicate)
    activation_checkpointing: bool = False
    num_workers: int = 0
    compile_backend: str | None = None
    profile: Profile | None = None

    def prepare(self, model: MultimodalLM) -> None:
        """Bring a model to the device and switch on what is asked for, in place."""
        model.to(self.device)
        if self.activation_checkpointing:
            _checkpoint_activations(model.backbone)
        if self.compile_backend is not None:
            # Block by block: they are alike, so one compilation serves all, and sharding wraps the same blocks.
            for block in transformer_blocks(model):
                block.compile(backend=self.compile_backend)


def widen(parameters: Iterable[nn.Parameter]) -> bool:
    """Make 16-bit parameters float32, in place; whether there were any.

    Updates of a thousandth are lost in bfloat16: its numbers lie 1/256 apart.
    """
    narrow = [parameter for parameter in parameters if parameter.dtype in (torch.bfloat16, torch.float16)]
    for parameter in narrow:
        parameter.data = parameter.data.float()
    return bool(narrow)


def uses_bfloat16(precision: Precision, *, device: torch.device, widened: bool) -> bool:
    """Whether the forward runs under autocast. "auto": on a GPU, and where master weights stand beside 16-bit ones.

    Raises ValueError for float32 where the published weights are kept in 16 bit and trained in part.
    """
    if precision == "float32" and widened:
        raise ValueError(
            "the stage computes in float32 and trains weights that the model keeps in 16 bit\n"
            "hint: take precision=auto (the trained weights are kept in float32), or build the model in float32"
        )
    return precision == "bfloat16" or (precision == "auto" and (device.type == "cuda" or widened))


def set_training(model: nn.Module) -> None:
    """Training mode for what is trained alone: frozen parts neither drop out nor move running statistics."""
    model.train()
    for module in model.modules():
        parameters = list(module.parameters())
        if parameters and not any(parameter.requires_grad for parameter in parameters):
            module.eval()
    for module in model.modules():
        # transformers checkpoints activations of layers in training mode only; the mode of the layer itself decides
        # nothing else, dropout lies in its children.
        if getattr(module, "gradient_checkpointing", False):
            module.training = True


def _checkpoint_activations(backbone: Backbone) -> None:
    language_model = backbone.language_model
    # Newer versions of transformers have renamed the method.
    newer = getattr(language_model, "activation_checkpointing_enable", None)
    (newer or language_model.gradient_checkpointing_enable)({"use_reentrant": False})
    # Only reentrant checkpoints need a gradient at their input.
    language_model.disable_input_require_grads()
