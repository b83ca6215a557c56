"""Original DreamLLM and LLaVA checkpoints: read in every form they lie on disk in, and written back.

Forms: weights of the language model as safetensors or pickle, whole or in shards; beside them one file per plugin, or
the plugins inside one file with the language model (what FSDP saves), or the three oldest files (`dream_queries.pt`,
`clip_vision_model_projector.pt`, `unet_projector.pt`), which hold only what was trained and need the base weights.

    directory --gather--> files --rebuild--> model with empty weights --fill--> model
    model + files --write_dreamllm--> directory, with the names and `_target_` strings of the original

The gathered files are the model's whole description: our own checkpoint of an imported model needs nothing else.
"""

import shutil
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from huggingface_hub import save_torch_state_dict
from torch import Tensor, nn
from transformers import CLIPVisionModel

from limner.compositions.dreamllm_model import MODALITY, rebuild
from limner.compositions.dreamllm_settings import (
    ALIASES,
    CLIP,
    HEAD,
    QUERIES,
    Settings,
    gather,
    json_of,
    part_folder,
    plugins_of,
    settings_from,
    write_small_files,
)
from limner.compositions.weights import (
    check_tensors,
    read_pickle,
    read_tensor_file,
    read_tensors,
    share_modes,
    tensor_ending,
)
from limner.config.call import Call, call, target_of
from limner.model.multimodal import MultimodalLM

DType = Literal["float32", "bfloat16", "float16"]

_INSIDE = {CLIP: f"model.{CLIP}.", QUERIES: f"model.{QUERIES}.", HEAD: f"{HEAD}."}
"""What stands before a plugin's names in a file that holds everything."""

_ROTARY = ".rotary_emb.inv_freq"
"""How the names of rotary tables end, one per layer."""

_LEGACY = {CLIP: "clip_vision_model_projector.pt", QUERIES: "dream_queries.pt", HEAD: "unet_projector.pt"}

_BASES = {CLIP: ("clip", "clip_vision_model_name_or_path"), HEAD: ("diffusion", "diffusion_name_or_path")}

_SAVE_NAMES = {
    "CLIPVisionEmbedding": "clip_vision_embedding.bin",
    "DreamEmbedding": "dream_embedding.bin",
    "StableDiffusionHead": "stable_diffusion_head.bin",
    "StableDiffusionXLHead": "stable_diffusion_xl_head.bin",
}

_PREFIXES = (
    ("backbone.language_model.", "", ""),
    (f"modalities.{MODALITY}.encoder.network.", CLIP, "clip_vision_model.vision_model."),
    (f"modalities.{MODALITY}.input_projector.norm.", CLIP, "post_layernorm."),
    (f"modalities.{MODALITY}.input_projector.projector.rows.linear.", CLIP, "projector.projector."),
    (f"modalities.{MODALITY}.input_projector.projector.rows.layers.", CLIP, "projector.projector."),
    (f"modalities.{MODALITY}.input_projector.projector.conv.", CLIP, "projector.projector."),
    (f"modalities.{MODALITY}.input_projector.rows.linear.", CLIP, "projector.projector."),
    (f"modalities.{MODALITY}.input_projector.rows.layers.", CLIP, "projector.projector."),
    (f"modalities.{MODALITY}.input_projector.conv.", CLIP, "projector.projector."),
    (f"modalities.{MODALITY}.queries.rows", QUERIES, "dream_queries"),
    (f"modalities.{MODALITY}.output_projector.linear.", HEAD, "projector.projector."),
    (f"modalities.{MODALITY}.output_projector.layers.", HEAD, "projector.projector."),
    (f"modalities.{MODALITY}.output_projector.rows.linear.", HEAD, "projector.projector."),
    (f"modalities.{MODALITY}.output_projector.rows.layers.", HEAD, "projector.projector."),
    (f"modalities.{MODALITY}.output_projector.pooled.linear.", HEAD, "global_projector.projector."),
    (f"modalities.{MODALITY}.decoder.unet.", HEAD, "unet."),
    (f"modalities.{MODALITY}.decoder.autoencoder.network.", HEAD, "vae."),
)
"""Our names -> plugin ("" for the language model) and the original's names in its file."""


class Place(NamedTuple):
    """Where a tensor lies in an original: the plugin ("" for the language model), and its name there."""

    plugin: str
    name: str


def describe_dreamllm(path: Path, *, parts: Mapping[str, Path] | None = None, dtype: DType = "float32") -> Call:
    """The recorded call that rebuilds the model of a directory, with empty weights and without the directory."""
    files, table = gather(Path(path), parts=parts), tensor_ending(Path(path), _ROTARY)
    return call(rebuild, files=files, dtype=dtype, inv_freq="" if table is None else str(table.dtype).split(".")[1])


def settings_of(description: Call) -> Settings:
    """The settings of a described model. Raises ValueError for a model that was not imported."""
    return settings_from(_files_of(description))


def read_dreamllm(path: Path, *, parts: Mapping[str, Path] | None = None, dtype: DType = "float32") -> MultimodalLM:
    """Read an original directory, in evaluation mode. `dtype` is the language model's; everything else is in float32.

    `parts` replaces recorded paths: "clip" and "diffusion" name folders with the architectures' json files, a plugin's
    name the folder that its weight file lies in. Raises ValueError for a missing file, and for tensors that are
    missing, surplus or mis-shaped.
    """
    path = Path(path)
    files = gather(path, parts=parts)
    model = rebuild(files=files, dtype=dtype)
    own = model.state_dict()
    found, source = read_tensors(path)
    inside, found = _split(found)
    _fill(own, found, plugin="", source=source)
    for plugin in plugins_of(files):
        state, source = _plugin_tensors(path, plugin, files=files, inside=inside[plugin], parts=parts)
        _fill(own, state, plugin=plugin, source=source)
    return model.eval()


def write_dreamllm(
    model: MultimodalLM,
    path: Path,
    *,
    description: Call,
    dtype: torch.dtype | None = None,
) -> None:
    """Write a model that was imported from an original (`description`) in the original's layout, replacing `path`.

    The rotary tables, which its authors' code saved and never read, are written where the original had them. `dtype`
    None keeps each tensor's. Raises ValueError for tensors that the layout has no place for (adapters, added rows).
    """
    files = _files_of(description)
    path = Path(path)
    groups: dict[str, dict[str, Tensor]] = {plugin: {} for plugin in ("", *plugins_of(files))}
    for name, value in model.state_dict().items():
        place = _place(name)
        if not value.numel() and name.startswith("backbone.added_"):
            continue
        if place is None or place.plugin not in groups:
            raise ValueError(
                f"{name} has no place in the original layout\n"
                "hint: merge adapters first, and write imported models only"
            )
        tensor = value.detach().to("cpu", dtype or value.dtype).contiguous()
        groups[place.plugin][place.name] = tensor[None] if place.plugin == QUERIES else tensor
    if description.inv_freq:
        table = _rotary_table(json_of(files, "config.json")).to(dtype or getattr(torch, description.inv_freq))
        layers = range(json_of(files, "config.json")["num_hidden_layers"])
        groups[""] |= {f"model.layers.{layer}.self_attn{_ROTARY}": table.clone() for layer in layers}
    temporary = path.with_name(f".{path.name}.writing")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    write_small_files(files, temporary)
    save_torch_state_dict(groups.pop(""), temporary, max_shard_size="10GB")
    for plugin, state in groups.items():
        torch.save(OrderedDict(sorted(state.items())), temporary / _file_name(plugin, files=files))
    share_modes(temporary, like="config.json")
    if path.exists():
        shutil.rmtree(path)
    temporary.replace(path)


def parameters_by_original_name(model: MultimodalLM) -> dict[str, nn.Parameter]:
    """The live parameters under the names of a file that holds everything ("model.dream_embedding.dream_queries")."""
    places = {name: _place(name) for name, _ in model.named_parameters()}
    return {
        _INSIDE.get(place.plugin, "") + place.name: parameter
        for name, parameter in model.named_parameters()
        if (place := places[name]) is not None
    }


def _files_of(description: Call) -> dict[str, str]:
    if not isinstance(description, Call) or target_of(description) is not rebuild:
        raise ValueError(
            "the model was not imported from this layout and cannot be written in it\n"
            "hint: only what `limner convert` read from an original can go back"
        )
    return description.files


def _place(name: str) -> Place | None:
    """Where one of our tensors lies in the original; None for what it does not have."""
    for prefix, plugin, original in _PREFIXES:
        if name.startswith(prefix) and "lora_" not in name and "base_layer" not in name:
            return Place(plugin, original + name.removeprefix(prefix))
    return None


def _split(state: dict[str, Tensor]) -> tuple[dict[str, dict[str, Tensor]], dict[str, Tensor]]:
    """Tensors of plugins by plugin, and the language model's own, without the rotary tables."""
    inside: dict[str, dict[str, Tensor]] = {plugin: {} for plugin in _INSIDE}
    own: dict[str, Tensor] = {}
    for name, value in state.items():
        plugin = next((plugin for plugin, prefix in _INSIDE.items() if name.startswith(prefix)), None)
        if plugin is not None:
            inside[plugin][name.removeprefix(_INSIDE[plugin])] = value
        elif not name.endswith(_ROTARY):
            own[name] = value
    return inside, own


def _fill(own: Mapping[str, Tensor], found: Mapping[str, Tensor], *, plugin: str, source: Path) -> None:
    """Copy a file's tensors into the model's, or none of them. Raises ValueError where they do not fit."""
    places = {place.name: own[name] for name in own if (place := _place(name)) is not None and place.plugin == plugin}
    expected = {
        name: torch.Size([1, *value.shape]) if plugin == QUERIES else value.shape for name, value in places.items()
    }
    # Older versions of the vision tower stored the numbers of its positions.
    found = {name: value for name, value in found.items() if not name.endswith("embeddings.position_ids")}
    check_tensors(found, expected=expected, source=source)
    with torch.no_grad():
        for name, value in found.items():
            places[name].copy_(value.view_as(places[name]))


def _file_name(plugin: str, *, files: Mapping[str, str]) -> str:
    return _SAVE_NAMES[ALIASES[plugins_of(files)[plugin]["_target_"]][1]]


def _plugin_tensors(
    path: Path,
    plugin: str,
    *,
    files: Mapping[str, str],
    inside: dict[str, Tensor],
    parts: Mapping[str, Path] | None,
) -> tuple[dict[str, Tensor], Path]:
    """A plugin's tensors: of its own file, else of the file that holds everything, else of the oldest form."""
    given = (parts or {}).get(plugin)
    folder = path if given is None else Path(given)
    file = folder / _file_name(plugin, files=files)
    if file.is_file():
        return read_tensor_file(file), file
    if inside and given is None:
        return inside, path
    legacy = folder / _LEGACY[plugin]
    if legacy.is_file():
        return _legacy_tensors(path, plugin, file=legacy, files=files, parts=parts), legacy
    raise ValueError(
        f"`{folder}` lacks {file.name} ({plugin})\nhint: copy it there, or say where it is, as in --part {plugin}=DIR"
    )


def _legacy_tensors(
    path: Path, plugin: str, *, file: Path, files: Mapping[str, str], parts: Mapping[str, Path] | None
) -> dict[str, Tensor]:
    """The oldest form: what was trained, over the base weights of the part's folder."""
    found = read_pickle(file)
    if plugin == QUERIES:
        if not isinstance(found, Tensor):
            raise ValueError(f"`{file}` holds a {type(found).__name__}; expected one tensor\nhint: it is another file")
        return {"dream_queries": found.detach()}
    trained = {f"projector.{name}": value for name, value in read_tensor_file(file).items()}
    part, key = _BASES[plugin]
    recorded = plugins_of(files)[plugin].get(key)
    folder = part_folder(path, part, recorded=recorded, parts=parts)
    if folder is None:
        raise ValueError(
            f"`{file}` holds a projector alone and `{recorded}`, the base weights, is not there\n"
            f"hint: say where they are, as in --part {part}=DIR"
        )
    return trained | (_clip_base(folder) if plugin == CLIP else _diffusion_base(folder))


def _clip_base(folder: Path) -> dict[str, Tensor]:
    try:
        network = CLIPVisionModel.from_pretrained(folder, local_files_only=True)
    except OSError as error:
        raise ValueError(f"`{folder}` has no weights\nhint: the oldest form needs the base weights of CLIP") from error
    return {f"clip_vision_model.vision_model.{name}": value for name, value in network.state_dict().items()}


def _diffusion_base(folder: Path) -> dict[str, Tensor]:
    networks: dict[str, Any] = {}
    for name, kind in (("vae", AutoencoderKL), ("unet", UNet2DConditionModel)):
        try:
            networks[name] = kind.from_pretrained(folder / name, local_files_only=True)
        except OSError as error:
            raise ValueError(
                f"`{folder / name}` has no weights\nhint: the oldest form needs the base weights of the generator"
            ) from error
    return {f"{part}.{name}": v for part, network in networks.items() for name, v in network.state_dict().items()}


def _rotary_table(config: Mapping[str, Any]) -> Tensor:
    """`inv_freq` of a layer (Su et al. 2021, section 3.2.2), as the original's code registers it."""
    width = config["hidden_size"] // config["num_attention_heads"]
    places = torch.arange(0, width, 2).float()
    return 1.0 / (float(config.get("rope_theta") or 10000.0) ** (places / width))
