"""The published layout of LaVIT: which file holds what under which names.

The weights carry the LaVIT Community License on top of Llama 2's: read both before you use or pass on what was loaded
from them. Nothing of them is shipped here.

Sizes are read off the tensors. A file that lacks a tensor, or holds one that nobody asks for, is refused by name.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

LICENCE = "LaVIT Community License and Llama 2 Community License"

Renames = Sequence[tuple[str, str]]
"""(pattern over a published name, its replacement): the first that matches is applied."""

MERGER: Renames = (
    (r"^causal_encoder\.(.*)\.token_causal_attn\.", r"\1.causal."),
    (r"^causal_encoder\.(.*)\.token_cross_attn\.", r"\1.cross."),
    (r"^causal_encoder\.ln_vision\.", "norm_source."),
    (r"^causal_encoder\.", ""),
)
SELECTOR: Renames = (
    (r"^token_predictor\.in_conv\.0\.", "norm."),
    (r"^token_predictor\.in_conv\.1\.", "local."),
    (r"^token_predictor\.out_conv\.", "out."),
)
CODE_HEAD: Renames = ((r"^encode_task_layer\.", ""),)
CODEBOOK: Renames = ((r"^quantize\.embedding\.weight$", "vectors"),)
PROJECTION: Renames = ((r"^vit_proj\.", ""),)
FEATURE_DECODER: Renames = (
    (r"^pos_embed$", "positions"),
    (r"^query_embed$", "queries"),
    (r"^decode_task_layer\.", "out."),
    (r"^(in_proj|blocks|norm)\b", r"\1"),
)
ATTENTION_POOL: Renames = (
    (r"^unet_attnpool\.positional_embedding$", "positions"),
    (r"^unet_attnpool\.q_proj\.", "query."),
    (r"^unet_attnpool\.k_proj\.", "key."),
    (r"^unet_attnpool\.v_proj\.", "value."),
    (r"^unet_attnpool\.c_proj\.", "out."),
)
ENCODER: Renames = (
    (r"^cls_token$", "class_row"),
    (r"^pos_embed$", "positions"),
    (r"^patch_embed\.proj\.", "patches."),
    (r"^(blocks)\b", r"\1"),
)
UNUSED_OF_ENCODER = r"^(norm|head)\."
"""The encoder's final norm and classifier, which LaVIT never runs."""


def read_tensors(file: Path) -> dict[str, Tensor]:
    """The tensors of a published .bin file, in float32. Nothing but tensors is unpickled."""
    if not file.is_file():
        raise ValueError(f"`{file}` is missing\nhint: fetch the whole folder of the published model")
    return {name: tensor.float() for name, tensor in torch.load(file, map_location="cpu", weights_only=True).items()}


def part(tensors: Mapping[str, Tensor], renames: Renames) -> dict[str, Tensor]:
    """The tensors that belong to one of our parts, under its own names."""
    found = {}
    for name, tensor in tensors.items():
        for pattern, replacement in renames:
            if re.search(pattern, name):
                found[re.sub(pattern, replacement, name)] = tensor
                break
    return found


def encoder_part(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The encoder's: separate biases of queries and values (keys have none) become one."""
    found = part({name: tensor for name, tensor in tensors.items() if not re.search(UNUSED_OF_ENCODER, name)}, ENCODER)
    for name in [name for name in found if name.endswith(".attn.q_bias")]:
        block = name.removesuffix("q_bias")
        queries, values = found.pop(name), found.pop(f"{block}v_bias")
        found[f"{block}qkv.bias"] = torch.cat([queries, torch.zeros_like(queries), values])
    return found


def fill(module: nn.Module, tensors: Mapping[str, Tensor], *, source: str, left: Sequence[str] = ()) -> None:
    """Load all of a part. `left` are tensors of ours that the published file has none for.

    Raises ValueError that names what is missing, surplus or of another shape.
    """
    own = {name: value for name, value in module.state_dict().items() if name not in left}
    for title, names in (
        ("lacks", set(own) - set(tensors)),
        ("holds unknown", set(tensors) - set(own)),
        ("has other shapes for", {n for n in set(own) & set(tensors) if tensors[n].shape != own[n].shape}),
    ):
        if names:
            shown = ", ".join(sorted(names)[:4]) + (" ..." if len(names) > 4 else "")
            raise ValueError(f"`{source}` {title} {len(names)} tensors: {shown}\nhint: is it the file of this model?")
    module.load_state_dict(dict(tensors), strict=not left)
