"""Tiny directories in the original DreamLLM layout, of any sizes, written here without the code under test."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaForCausalLM

GOLDEN = Path(__file__).parent / "golden" / "dreamllm"
TOKENS = ("[PAD]", "<image>", "<im_patch>", "<im_start>", "<im_end>", "<dream>", "<dream_start>", "<dream_end>")
NUM_PIECES = 416
"""Pieces of the recorded sentencepiece model, which is used here too."""


@dataclass
class Original:
    """What was written: the directory, its modules, the ids of its tokens."""

    path: Path
    language_model: LlamaForCausalLM
    clip: CLIPVisionModel
    projector: nn.Module
    queries: Tensor
    unet: UNet2DConditionModel
    vae: AutoencoderKL
    head_projector: nn.Module
    global_projector: nn.Module | None = None
    ids: dict[str, int] = field(default_factory=dict)


def projector(kind: str, *, depth: int, width_in: int, width_out: int, bias: bool = True) -> nn.Module:
    """A projector as the original builds it, below one attribute `projector`."""
    found: nn.Module = nn.Linear(width_in, width_out, bias=bias)
    if kind == "conv":
        found = nn.Conv2d(width_in, width_out, 3, padding=1)
    if kind == "mlp":
        rest = [part for _ in range(depth - 1) for part in (nn.GELU(), nn.Linear(width_out, width_out, bias=bias))]
        found = nn.Sequential(found, *rest)
    return nn.ModuleDict({"projector": found})


def write_original(
    path: Path,
    *,
    order: Sequence[str] = TOKENS,
    hidden: int = 32,
    heads: int = 4,
    kv_heads: int = 2,
    num_queries: int = 5,
    clip_layers: int = 3,
    select_layer: int = -2,
    kind: str = "mlp",
    depth: int = 2,
    post_norm: bool = False,
    legacy: bool = False,
    sdxl: bool = False,
    seed: int = 0,
) -> Original:
    """Write a directory, `clip-small/` and `sd-small/` beside it, and return what is in it."""
    torch.manual_seed(seed)
    ids = {token: NUM_PIECES + place for place, token in enumerate(order)}
    llama = LlamaConfig(
        vocab_size=NUM_PIECES + len(order),
        hidden_size=hidden,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=160,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 5000.0},
        initializer_range=0.3,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        tie_word_embeddings=False,
    )
    clip = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=clip_layers,
        num_attention_heads=2,
        image_size=28,
        patch_size=14,
    )
    vae = {
        "block_out_channels": [8, 8],
        "down_block_types": ["DownEncoderBlock2D"] * 2,
        "up_block_types": ["UpDecoderBlock2D"] * 2,
        "norm_num_groups": 4,
        "latent_channels": 4,
        "layers_per_block": 1,
    }
    unet = {
        "sample_size": 8,
        "block_out_channels": [8, 16],
        "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "cross_attention_dim": 12,
        "attention_head_dim": 2,
    }
    if sdxl:
        unet |= {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 6 * 8 + 10,
        }
    made = Original(
        path=path,
        language_model=LlamaForCausalLM(llama).eval(),
        clip=CLIPVisionModel(clip).eval(),
        projector=projector(kind, depth=depth, width_in=16, width_out=hidden),
        queries=torch.randn(1, num_queries, hidden),
        unet=UNet2DConditionModel.from_config(unet),
        vae=AutoencoderKL.from_config(vae),
        head_projector=projector("linear", depth=1, width_in=hidden, width_out=12, bias=False),
        ids=ids,
    )
    if sdxl:
        made.global_projector = projector("linear", depth=1, width_in=hidden, width_out=10, bias=False)
    if post_norm:
        made.projector["post_layernorm"] = nn.LayerNorm(hidden)
        nn.init.normal_(made.projector["post_layernorm"].weight)
    path.mkdir(parents=True)
    _write_tokenizer(path, ids, legacy=legacy)
    _write_weights(made)
    config = _config(llama, ids, num_queries, select_layer, kind, depth, post_norm)
    if sdxl:
        target = "omni.models.dreamllm_sdxl.modeling_plugins.StableDiffusionXLHead"
        config["plugins_init_kwargs"]["stable_diffusion_head"]["_target_"] = target
    _write_json(path / "config.json", config)
    _write_json(path.parent / "clip-small" / "config.json", clip.to_dict())
    sd = path.parent / "sd-small"
    _write_json(sd / "unet" / "config.json", unet)
    _write_json(sd / "vae" / "config.json", vae)
    noise = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "num_train_timesteps": 1000}
    _write_json(sd / "scheduler" / "scheduler_config.json", {**noise, "prediction_type": "v_prediction"})
    return made


def plugin_states(made: Original) -> dict[str, dict[str, Tensor]]:
    """The tensors of the three plugin files."""
    clip = {f"clip_vision_model.vision_model.{k}": v for k, v in made.clip.state_dict().items()}
    for name, value in made.projector.state_dict().items():
        clip[name if name.startswith("post_layernorm") else f"projector.{name}"] = value
    head = {f"vae.{k}": v for k, v in made.vae.state_dict().items()}
    head |= {f"unet.{k}": v for k, v in made.unet.state_dict().items()}
    head |= {f"projector.{k}": v for k, v in made.head_projector.state_dict().items()}
    name = "stable_diffusion_head"
    if made.global_projector is not None:
        head |= {f"global_projector.{k}": v for k, v in made.global_projector.state_dict().items()}
        name = "stable_diffusion_xl_head"
    return {"clip_vision_embedding": clip, "dream_embedding": {"dream_queries": made.queries}, name: head}


def _write_weights(made: Original) -> None:
    save_file(made.language_model.state_dict(), made.path / "model.safetensors", metadata={"format": "pt"})
    for name, state in plugin_states(made).items():
        torch.save(state, made.path / f"{name}.bin")


def _config(
    llama: LlamaConfig, ids: Mapping[str, int], num_queries: int, select_layer: int, kind: str, depth: int, norm: bool
) -> dict[str, Any]:
    plain = (
        *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
        *("num_key_value_heads", "max_position_embeddings", "rms_norm_eps"),
        *("bos_token_id", "eos_token_id", "pad_token_id"),
    )
    width, target = llama.hidden_size, "omni.models.dreamllm_sdxl.modeling_plugins."
    return {
        **{key: getattr(llama, key) for key in plain},
        "model_type": "dreamllm",
        "architectures": ["DreamLLMForCausalMLM"],
        "rope_theta": 5000.0,
        "rope_scaling": None,
        "loss_weight_lm": 0.5,
        "loss_weight_vm": 3.0,
        "loss_scale_schedule": "l2_norm",
        "special_tokens2ids_dict": {"[PAD]": ids["[PAD]"], "additional_special_tokens": dict(ids)},
        "plugins_init_kwargs": {
            "clip_vision_embedding": {
                "_target_": target + "CLIPVisionEmbedding",
                "clip_vision_model_name_or_path": "/somewhere/else/clip-small",
                "embed_hidden_size": width,
                "pretrained_model_name_or_path": "/gone",
                "projector_type": kind,
                "projector_depth": depth,
                "select_layer": select_layer,
                "use_additional_post_layernorm": norm,
            },
            "dream_embedding": {
                "_target_": target + "DreamEmbedding",
                "embed_hidden_size": width,
                "num_dream_queries": num_queries,
            },
            "stable_diffusion_head": {
                "_target_": "omni.models.dreamllm.modeling_plugins.StableDiffusionHead",
                "diffusion_name_or_path": "/somewhere/else/sd-small",
                "embed_hidden_size": width,
                "resolution": 16,
                "noise_offset": 0.1,
                "snr_gamma": 5.0,
                "drop_prob": 0.1,
            },
        },
    }


def _write_tokenizer(path: Path, ids: Mapping[str, int], *, legacy: bool) -> None:
    (path / "tokenizer.model").write_bytes((GOLDEN / "checkpoint" / "tokenizer.model").read_bytes())
    base = {"<unk>": 0, "<s>": 1, "</s>": 2}
    decoder = {str(i): {"content": token, "special": True} for token, i in {**base, **ids}.items()}
    _write_json(
        path / "tokenizer_config.json",
        {
            "tokenizer_class": "LlamaTokenizer",
            "legacy": legacy,
            "bos_token": "<s>",
            "eos_token": "</s>",
            "unk_token": "<unk>",
            "pad_token": "[PAD]",
            "model_max_length": 100,
            "added_tokens_decoder": decoder,
            "additional_special_tokens": [token for token in ids if token != "[PAD]"],
        },
    )
    _write_json(path / "added_tokens.json", dict(ids))


def _write_json(file: Path, content: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))
