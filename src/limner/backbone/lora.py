"""LoRA on the language model, through peft. The adapters are parameters named `lora_*` inside it, nothing more.

With `quantization` the matrices under the adapters are loaded in four bits (QLoRA, Dettmers et al. 2023) by
bitsandbytes: frozen, a quarter of bfloat16's memory, dequantized matrix by matrix as they are used.
"""

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn


@dataclass(frozen=True)
class FourBit:
    """Four-bit weights: NormalFloat ("nf4") or floating point ("fp4"), their scales quantized once more."""

    kind: Literal["nf4", "fp4"] = "nf4"


@dataclass(frozen=True)
class LoraSpec:
    """Rank, scale (alpha / rank multiplies the update) and the names of the linear layers that get an adapter.

    `quantization` is how the weights of all linear layers but the output matrix are loaded, None as they are.
    """

    rank: int
    alpha: float
    targets: Sequence[str] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    quantization: FourBit | None = None


def loading_options(spec: LoraSpec | None, *, dtype: torch.dtype) -> dict[str, Any]:
    """What transformers' `from_pretrained` is told. Raises ValueError where the library for four bits is missing."""
    if spec is None or spec.quantization is None:
        return {}
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ValueError(
            f"lora.quantization is {spec.quantization.kind}, which needs bitsandbytes; it is not installed\n"
            'hint: pip install "limner[qlora]", or leave quantization out'
        )
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=spec.quantization.kind,
        bnb_4bit_compute_dtype=dtype,
        bnb_4bit_use_double_quant=True,
    )
    return {"quantization_config": config}


def add_lora(model: nn.Module, spec: LoraSpec) -> None:
    """Put adapters into `model`, in place. Their B is zero: the model computes what it did before."""
    from peft import LoraConfig, inject_adapter_in_model

    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            # A four-bit layer that was evaluated on CPU packs itself for a kernel that lets no gradient through.
            module.support_avx512bf16_for_cpu = False  # pyright: ignore
    alpha: Any = spec.alpha  # declared int there; only ever divided by the rank
    config = LoraConfig(r=spec.rank, lora_alpha=alpha, target_modules=list(spec.targets), lora_dropout=0.0)
    inject_adapter_in_model(config, model)


def merge_lora(model: nn.Module) -> None:
    """Fold all adapters into their linear layers, in place; the model computes the same without them.

    Raises ValueError for four-bit layers: rounded to four bits, the sum would not be the same.
    """
    adapted = _adapted(model)
    for name, module in adapted:
        if _is_four_bit(module):
            raise ValueError(
                f"`{name}` holds four-bit weights, which cannot take its adapter in\n"
                "hint: load the language model without quantization and merge there"
            )
    for name, module in adapted:
        module.merge()
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, module.get_base_layer())


def can_merge(model: nn.Module) -> bool:
    """Whether `merge_lora` may be called: there are no adapters on four-bit layers."""
    return not any(_is_four_bit(module) for _, module in _adapted(model))


def _adapted(model: nn.Module) -> list[tuple[str, Any]]:
    from peft.tuners.tuners_utils import BaseTunerLayer

    return [(name, module) for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)]


def _is_four_bit(module: Any) -> bool:
    return not next(module.get_base_layer().parameters()).is_floating_point()
