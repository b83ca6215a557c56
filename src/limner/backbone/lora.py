"""LoRA on the language model, through peft. The adapters are parameters named `lora_*` inside it, nothing more."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn


@dataclass(frozen=True)
class LoraSpec:
    """Rank, scale (alpha / rank multiplies the update) and the names of the linear layers that get an adapter."""

    rank: int
    alpha: float
    targets: Sequence[str] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def add_lora(model: nn.Module, spec: LoraSpec) -> None:
    """Put adapters into `model`, in place. Their B is zero: the model computes what it did before."""
    from peft import LoraConfig, inject_adapter_in_model

    alpha: Any = spec.alpha  # declared int there; only ever divided by the rank
    config = LoraConfig(r=spec.rank, lora_alpha=alpha, target_modules=list(spec.targets), lora_dropout=0.0)
    inject_adapter_in_model(config, model)


def merge_lora(model: nn.Module) -> None:
    """Fold all adapters into their linear layers, in place; the model computes the same without them."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, module in list(model.named_modules()):
        if isinstance(module, BaseTunerLayer):
            module.merge()
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, module.get_base_layer())
