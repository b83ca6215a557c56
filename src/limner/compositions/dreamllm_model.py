"""The model that an original DreamLLM or LLaVA directory describes, with empty weights.

Owns `rebuild`, the call that a checkpoint of an imported model records, and the template of its conversations. Nothing
is read from disk: the directory's small files are the argument.
"""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import nn
from transformers import AutoModelForCausalLM, GenerationConfig, LlamaConfig
from transformers.initialization import no_init_weights

from limner.backbone.hf import Backbone
from limner.compositions.dreamllm_settings import (
    CLIP,
    DIFFUSION_FILES,
    HEAD,
    Settings,
    json_of,
    settings_from,
    write_small_files,
)
from limner.compositions.sentencepiece_text import SentencePieceText
from limner.modalities.base import Decoder, InputProjector, Modality
from limner.modalities.decoders.latent_diffusion import DenoisingLoss, LatentDiffusion
from limner.modalities.decoders.latent_diffusion_xl import LatentDiffusionXL, PooledCondition
from limner.modalities.decoders.queries import LearnedQueries
from limner.modalities.decoders.variational import VariationalAutoencoder
from limner.modalities.encoders.clip import ClipEncoder
from limner.modalities.projectors import (
    ConvProjector,
    LinearProjector,
    MLPProjector,
    NormalisedProjector,
    Rowwise,
)
from limner.model.multimodal import MultimodalLM
from limner.tokens.template import RoleStrings, Template
from limner.tokens.tokenizer import TextTokenizer
from limner.tokens.vocabulary import Vocabulary

MODALITY = "image"

VICUNA_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)

_LLAMA_KEYS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "hidden_act",
    "max_position_embeddings",
    "initializer_range",
    "rms_norm_eps",
    "pad_token_id",
    "bos_token_id",
    "eos_token_id",
    "tie_word_embeddings",
    "attention_bias",
)


def rebuild(
    *, files: dict[str, str], dtype: Literal["float32", "bfloat16", "float16"] = "float32", inv_freq: str = ""
) -> MultimodalLM:
    """The model that gathered files describe. Its weights are empty memory, to be filled by whoever calls.

    `inv_freq` is the type of the rotary tables among the original's weights, "" where it has none. No model has use for
    them: whoever writes the original again does.

    Raises ValueError for files that contradict each other or describe what is not supported.
    """
    settings = settings_from(files)
    config = json_of(files, "config.json")
    # Every weight is overwritten: initialising them would take minutes at published sizes.
    with no_init_weights():
        language_model = _language_model(config, json_of(files, "generation_config.json"), dtype=getattr(torch, dtype))
        backbone = Backbone(language_model)
        image = _modality(files, settings, width=backbone.d_model)
    tokenizer = _tokenizer(files)
    return MultimodalLM(
        backbone,
        modalities={MODALITY: image},
        vocabulary=_vocabulary(settings, size=backbone.base_size),
        template=vicuna_template(tokenizer, begin="<s>", end="</s>"),
        tokenizer=tokenizer,
    )


def vicuna_template(tokenizer: TextTokenizer, *, begin: str, end: str, system: str = VICUNA_SYSTEM) -> Template:
    """The conversation of Vicuna 1.1: "<begin>system USER: question ASSISTANT: answer<end>USER: ...".

    Sentencepiece models put a space before each piece by themselves; for others it is written out.
    """
    word = tokenizer.text_ids("a")
    space = "" if tokenizer.decode([*word, *word]) == "a a" else " "
    return Template(
        roles={
            "system": RoleStrings("", "", space),
            "user": RoleStrings("USER:" + space, "", space),
            "assistant": RoleStrings("ASSISTANT:" + space, end),
            "page": RoleStrings("", end),
        },
        begin=begin,
        system=system,
    )


def projector_of(kind: str, *, depth: int, bias: bool, width_in: int, width_out: int) -> nn.Module:
    """A projector of the original by its type: "linear" and "mlp" map rows, "conv" is an input projector.

    Raises ValueError for other types and depths.
    """
    if kind == "linear" and depth == 1:
        return LinearProjector(width_in=width_in, width_out=width_out, bias=bias)
    if kind == "mlp" and depth > 1:
        return MLPProjector(width_in=width_in, width_out=width_out, depth=depth, normalise=False, bias=bias)
    if kind == "conv" and depth == 1 and bias:
        return ConvProjector(width_in=width_in, width_out=width_out)
    raise ValueError(
        f"config.json has a projector of type {kind!r}, depth {depth}{'' if bias else ', without bias'}; expected "
        "linear or conv of depth 1, or mlp of depth 2 or more\nhint: the original reads no other either"
    )


def _language_model(config: Mapping[str, Any], generation: Mapping[str, Any], *, dtype: torch.dtype) -> Any:
    rope = {"rope_type": "default", **(config.get("rope_scaling") or {})}
    rope["rope_type"] = rope.pop("type", rope["rope_type"])
    sizes = {key: config[key] for key in _LLAMA_KEYS if config.get(key) is not None}
    llama = LlamaConfig(
        **{"pad_token_id": None, **sizes},
        rope_parameters={**rope, "rope_theta": float(config.get("rope_theta") or 10000.0)},
    )
    model = AutoModelForCausalLM.from_config(llama, dtype=dtype)
    if generation:
        model.generation_config = GenerationConfig.from_dict(dict(generation))
    return model


def _tokenizer(files: Mapping[str, str]) -> SentencePieceText:
    with tempfile.TemporaryDirectory() as name:
        write_small_files(files, Path(name))
        return SentencePieceText.from_directory(Path(name))


def _vocabulary(settings: Settings, *, size: int) -> Vocabulary:
    """Ids of the checkpoint's own: all of them are rows of the language model, none is added."""
    ids = settings.special_ids
    roles = {"in.begin": "<im_start>", "in.slot": "<im_patch>", "in.end": "<im_end>"}
    if settings.num_queries:
        # What stands at a slot is overwritten; the first model family has no token of its own for it.
        slot = "<dream_patch>" if "<dream_patch>" in ids else "<im_patch>"
        roles |= {"out.begin": "<dream_start>", "out.slot": slot, "out.end": "<dream_end>"}
    return Vocabulary(size, {f"{MODALITY}.{role}": ids[token] for role, token in roles.items()})


def _modality(files: Mapping[str, str], settings: Settings, *, width: int) -> Modality:
    clip = settings.plugins[CLIP]
    encoder = ClipEncoder.from_config(
        json_of(files, "clip/config.json"),
        select_layer=int(clip.get("select_layer", -2)),
        processor=json_of(files, "clip/preprocessor_config.json"),
    )
    network: Any = encoder.network
    projector = _input_projector(clip, width_in=encoder.width, width_out=width, eps=network.config.layer_norm_eps)
    if not settings.num_queries:
        return Modality(encoder=encoder, input_projector=projector)
    head = settings.plugins[HEAD]
    decoder = _decoder(files, settings)
    output = projector_of(
        head.get("projector_type", "linear"),
        depth=int(head.get("projector_depth", 1)),
        bias=False,
        width_in=width,
        width_out=decoder.condition_width,
    )
    if isinstance(decoder, LatentDiffusionXL):
        # Its authors' code could not build this projector; without bias, like the one beside it.
        output = PooledCondition(output, LinearProjector(width_in=width, width_out=decoder.pooled_width, bias=False))
    return Modality(
        encoder=encoder,
        input_projector=projector,
        queries=LearnedQueries(num_queries=settings.num_queries, width=width),
        output_projector=output,
        decoder=decoder,
    )


def _input_projector(arguments: Mapping[str, Any], *, width_in: int, width_out: int, eps: float) -> InputProjector:
    kind, depth = arguments.get("projector_type", "linear"), int(arguments.get("projector_depth", 1))
    rows = projector_of(kind, depth=depth, bias=True, width_in=width_in, width_out=width_out)
    projector = rows if isinstance(rows, InputProjector) else Rowwise(rows)
    if arguments.get("use_additional_post_layernorm"):
        return NormalisedProjector(projector, width=width_out, eps=eps)
    return projector


def _decoder(files: Mapping[str, str], settings: Settings) -> Decoder:
    configs = {name: json_of(files, f"diffusion/{file}") for name, file in DIFFUSION_FILES.items()}
    network: Any = AutoencoderKL.from_config(configs["vae"])
    unet: Any = UNet2DConditionModel.from_config(configs["unet"])
    loss = DenoisingLoss(
        noise_offset=settings.noise_offset,
        input_perturbation=settings.input_perturbation,
        snr_gamma=settings.snr_gamma,
    )
    if not settings.is_sdxl:
        autoencoder = VariationalAutoencoder(network, size=settings.resolution)
        return LatentDiffusion(autoencoder, unet, configs["scheduler"], denoising=loss)
    autoencoder = VariationalAutoencoder(network, size=settings.resolution, keep_float32=True)
    return LatentDiffusionXL(autoencoder, unet, configs["scheduler"], pooled_width=pooled_width(unet), denoising=loss)


def pooled_width(unet: UNet2DConditionModel) -> int:
    """Width of the pooled condition that a UNet of the SDXL kind takes beside six embedded sizes."""
    config: Any = unet.config
    return config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
