"""Eight-bit weights of language models that `fused.py` does not run: on GPUs, and of other families. By torchao."""

import importlib.util
from typing import Any

from torch import nn


def to_eight_bits(language_model: Any) -> None:
    """Hold the matrices of all linear layers in eight bits with a scale per output row, in place; not exact. The output
    matrix stays: it is often the input matrix too. Raises ValueError for a model that is held in few bits already, and
    where torchao is missing."""
    if getattr(language_model, "is_quantized", False):
        raise ValueError(
            "the language model is held in few bits already; eight-bit weights are made of exact ones\n"
            "hint: take the weights as they are"
        )
    if importlib.util.find_spec("torchao") is None:
        raise ValueError(
            "eight-bit weights of this language model, on this device, need torchao; it is not installed\n"
            'hint: pip install "limner[int8]", or take exact weights'
        )
    from torchao.quantization import Int8WeightOnlyConfig, quantize_  # pyright: ignore[reportMissingImports]

    head = language_model.get_output_embeddings()

    def is_within(module: nn.Module, name: str) -> bool:
        del name
        return type(module) is nn.Linear and module is not head

    quantize_(language_model, Int8WeightOnlyConfig(), filter_fn=is_within)
