"""The published layout of LaVIT: which file holds what under which names.

The weights carry the LaVIT Community License on top of Llama 2's: read both before you use or pass on what was loaded
from them. Nothing of them is shipped here.

Sizes are read off the tensors. A file that lacks a tensor, or holds one that nobody asks for, is refused by name.
"""

import math
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, LlamaConfig
from transformers.initialization import no_init_weights

from limner.compositions.weights import check_tensors, read_tensor_file
from limner.compositions.weights import read_tensors as read_shards

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

LOW_RES_HEAD: Renames = ((r"^unet_proj\.", ""),)
HIGH_RES_HEADS: tuple[Renames, Renames] = (((r"^unet_proj_1\.", ""),), ((r"^unet_proj_2\.", ""),))


class TransformerSizes(NamedTuple):
    """What the tensors of a stack of blocks say; the number of heads they do not."""

    width: int
    num_layers: int
    hidden: int


def read_tensors(file: Path, *, pattern: str = "") -> dict[str, Tensor]:
    """Those tensors of a published .bin file whose name the pattern finds, in float32.

    Nothing but tensors is unpickled, and what is not wanted stays on disk where the file's form allows it.
    Raises ValueError for a missing or damaged file.
    """
    if not file.is_file():
        raise ValueError(f"`{file}` is missing\nhint: fetch the whole folder of the published model")
    return {name: tensor.float() for name, tensor in read_tensor_file(file).items() if re.search(pattern, name)}


def refuse_unknown(tensors: Mapping[str, Tensor], known: Sequence[Renames], *, source: str) -> None:
    """Raise ValueError that names the tensors which belong to no known part."""
    patterns = [pattern for renames in known for pattern, _ in renames]
    unknown = [name for name in tensors if not any(re.search(pattern, name) for pattern in patterns)]
    if unknown:
        raise ValueError(f"`{source}` holds unknown {shown(unknown)}\nhint: is it the file of this model?")


def block_sizes(tensors: Mapping[str, Tensor], *, source: str) -> TransformerSizes:
    """Sizes of the blocks among a part's tensors. Raises ValueError where there are none."""
    layers = {int(found[1]) for name in tensors if (found := re.match(r"blocks\.(\d+)\.", name))}
    first = tensors.get("blocks.0.mlp.fc1.weight")
    if first is None:
        raise ValueError(f"`{source}` lacks blocks.0.mlp.fc1.weight\nhint: is it the file of this model?")
    return TransformerSizes(width=first.shape[1], num_layers=max(layers) + 1, hidden=first.shape[0])


def encoder_edges(tensors: Mapping[str, Tensor], *, source: str) -> tuple[int, int]:
    """Edge of a patch and of a picture, in pixels, of the encoder's tensors. Raises ValueError where they say none."""
    kernel, positions = tensors.get("patches.weight"), tensors.get("positions")
    if kernel is None or positions is None:
        raise ValueError(f"`{source}` lacks patches.weight or positions\nhint: is it the file of this model?")
    patch_size = kernel.shape[-1]
    return patch_size, patch_size * math.isqrt(positions.shape[1] - 1)


def read_language_model(folder: Path, *, dtype: torch.dtype) -> Any:
    """The causal LM of a folder in the transformers layout, whole or in shards.

    Raises ValueError that names tensors which are missing, unknown or mis-shaped.
    """
    config = LlamaConfig.from_pretrained(str(folder), local_files_only=True)
    with no_init_weights():  # every weight comes from the files
        model: Any = AutoModelForCausalLM.from_config(config, dtype=dtype)
    state, source = read_shards(folder)
    state = {name: value.to(dtype) for name, value in state.items() if not name.endswith(".rotary_emb.inv_freq")}
    own: Any = model.state_dict()
    if config.tie_word_embeddings and "lm_head.weight" not in state:
        own.pop("lm_head.weight")
    check_tensors(state, expected={name: value.shape for name, value in own.items()}, source=source)
    model.load_state_dict(state, strict=False, assign=True)
    model.tie_weights()
    return model


def linear_shape(tensors: Mapping[str, Tensor], name: str, *, source: str) -> tuple[int, int]:
    """(out, in) of a part's linear layer. Raises ValueError where it is missing."""
    weight = tensors.get(f"{name}.weight")
    if weight is None or weight.ndim != 2:
        raise ValueError(f"`{source}` lacks {name}.weight\nhint: is it the file of this model?")
    return weight.shape[0], weight.shape[1]


def linear_of(tensors: Mapping[str, Tensor], *, source: str) -> nn.Linear:
    """A linear layer with the weight and bias of a part. Raises ValueError where one is missing or does not fit."""
    weight = tensors.get("weight")
    if weight is None or weight.ndim != 2:
        raise ValueError(f"`{source}` lacks a linear layer\nhint: is it the file of this model?")
    with torch.device("meta"):
        made = nn.Linear(weight.shape[1], weight.shape[0])
    fill(made, tensors, source=source)
    return made


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
            raise ValueError(f"`{source}` {title} {shown(names)}\nhint: is it the file of this model?")
    # Assigned, not copied: the module may stand on the meta device, which costs neither memory nor initialisation.
    module.load_state_dict(dict(tensors), strict=not left, assign=True)


def shown(names: Collection[str]) -> str:
    """How many tensors, and the first few names."""
    listed = ", ".join(sorted(names)[:4]) + (" ..." if len(names) > 4 else "")
    return f"{len(names)} tensors: {listed}"
