"""A tiny folder in LaVIT's published layout, with random weights: names and forms of files as they were published."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from originals import GOLDEN
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from limner.compositions.lavit import Heads, Lavit, read_lavit
from limner.modalities.decoders.feature_decoder import AttentionPool, FeatureDecoder
from limner.modalities.encoders.eva import EvaEncoder
from limner.modalities.quantizers.codebook import Codebook
from limner.modalities.quantizers.merger import TokenMerger
from limner.modalities.quantizers.selector import TokenSelector

HEADS = Heads(encoder=2, merger=4, feature_decoder=2, pool=4)
NUM_CODES, CODE_WIDTH, WIDTH, PATCHES, D_MODEL = 24, 6, 16, 16, 32
LOW_RES_WIDTH, HIGH_RES_WIDTHS, POOLED, NUM_UNCONDITIONAL = 12, (8, 12), 12, 5

Tensors = dict[str, Tensor]


def read_tiny(path: Path, *, heads: Heads | None = None, **options: Any) -> Lavit:
    """`read_lavit` for whoever cannot say the heads of the tiny folder."""
    return read_lavit(path, heads=heads or HEADS, **options)


def write_lavit_original(folder: Path) -> Path:
    """Write the folder. Nothing in it is like anything published but its layout."""
    torch.manual_seed(0)
    encoder = EvaEncoder(image_size=28, patch_size=7, width=WIDTH, num_layers=2, num_heads=HEADS.encoder, hidden=20)
    visual = folder / "visual_tokenizer"
    language = folder / "language_model"
    _save(_encoder(encoder.state_dict()), visual / "eva_vitg_psz14.bin")
    _save(_tokenizer_encoder(), visual / "tokenizer_encoder.bin")
    _save(_merger() | _renamed(nn.Linear(WIDTH, D_MODEL), {"": "vit_proj."}), language / "visual_weight.bin")
    low = _feature_decoder() | _renamed(nn.Linear(WIDTH, LOW_RES_WIDTH), {"": "unet_proj."})
    _save(low, visual / "tokenizer_decoder.bin")
    heads = [_renamed(nn.Linear(WIDTH, width), {"": f"unet_proj_{n}."}) for n, width in enumerate(HIGH_RES_WIDTHS, 1)]
    _save(_feature_decoder() | heads[0] | heads[1] | _pool(), visual / "highres_tokenizer_decoder.bin")
    _language_model(language)
    _diffusion(folder / "pixel_decoding", width=LOW_RES_WIDTH)
    torch.save(
        torch.randn(1, NUM_UNCONDITIONAL, LOW_RES_WIDTH).bfloat16(),
        folder / "pixel_decoding" / "uncond_embeddings.bin",
    )
    sizes = {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": POOLED + 6 * 8,
    }
    _diffusion(folder / "highres_pixel_decoding", width=sum(HIGH_RES_WIDTHS), **sizes)
    return folder


def _save(tensors: Tensors, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save({name: tensor.detach().bfloat16() for name, tensor in tensors.items()}, file)


def _renamed(module: nn.Module, names: dict[str, str]) -> Tensors:
    """A module's tensors under published names: the first of `names` that a name begins with is replaced."""
    found = {}
    for name, tensor in module.state_dict().items():
        ours = next(prefix for prefix in names if name.startswith(prefix))
        found[names[ours] + name.removeprefix(ours)] = tensor
    return found


def _encoder(state: Tensors) -> Tensors:
    names = {"class_row": "cls_token", "positions": "pos_embed", "patches.": "patch_embed.proj."}
    found: Tensors = {"norm.weight": torch.ones(WIDTH), "norm.bias": torch.zeros(WIDTH)}
    found |= {"head.weight": torch.randn(3, WIDTH), "head.bias": torch.zeros(3)}
    for name, tensor in state.items():
        if name.endswith("attn.qkv.bias"):
            block = name.removesuffix("qkv.bias")
            found |= {f"{block}{part}_bias": torch.randn(WIDTH) * 0.1 for part in "qv"}
            continue
        ours = next((prefix for prefix in names if name.startswith(prefix)), "")
        found[names.get(ours, "") + name.removeprefix(ours)] = tensor
    return found


def _tokenizer_encoder() -> Tensors:
    selector = {"norm.": "token_predictor.in_conv.0.", "local.": "token_predictor.in_conv.1."}
    head = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Linear(WIDTH, CODE_WIDTH))
    vectors = Codebook(NUM_CODES, width=CODE_WIDTH).vectors
    predictor = TokenSelector(WIDTH)
    last = predictor.out[-1]
    assert isinstance(last, nn.Linear)
    nn.init.normal_(last.weight, std=2.0)  # decisions that differ from patch to patch
    return (
        _renamed(predictor, selector | {"out.": "token_predictor.out_conv."})
        | _merger()
        | _renamed(head, {"": "encode_task_layer."})
        | {"quantize.embedding.weight": vectors}
    )


def _merger() -> Tensors:
    merger = TokenMerger(WIDTH, num_layers=2, num_heads=HEADS.merger, hidden=20)
    found = _renamed(merger, {"norm_source.": "causal_encoder.ln_vision.", "": "causal_encoder."})
    return {
        name.replace(".causal.", ".token_causal_attn.").replace(".cross.", ".token_cross_attn."): tensor
        for name, tensor in found.items()
    }


def _feature_decoder() -> Tensors:
    decoder = FeatureDecoder(
        code_width=CODE_WIDTH,
        width=WIDTH,
        num_patches=PATCHES,
        num_layers=1,
        num_heads=HEADS.feature_decoder,
        hidden=20,
        width_out=WIDTH,
    )
    return _renamed(decoder, {"positions": "pos_embed", "queries": "query_embed", "out.": "decode_task_layer.", "": ""})


def _pool() -> Tensors:
    pool = AttentionPool(WIDTH, num_rows=PATCHES, num_heads=HEADS.pool, width_out=POOLED)
    names = {"positions": "positional_embedding"}
    names |= {
        f"{ours}.": f"{theirs}_proj." for ours, theirs in zip(("query", "key", "value", "out"), "qkvc", strict=True)
    }
    return {f"unet_attnpool.{name}": tensor for name, tensor in _renamed(pool, names).items()}


def _language_model(folder: Path) -> None:
    source = GOLDEN / "checkpoint"
    for name in ("tokenizer.model", "special_tokens_map.json"):
        shutil.copy(source / name, folder / name)
    config = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "tokenizer_class": "LlamaTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    from sentencepiece import SentencePieceProcessor

    processor: Any = SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    llama = LlamaConfig(
        vocab_size=processor.get_piece_size() + 2 + NUM_CODES,
        hidden_size=D_MODEL,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=256,
        initializer_range=0.3,
    )
    model = LlamaForCausalLM(llama)
    (folder / "config.json").write_text(json.dumps(llama.to_dict()))
    state = {name: tensor.detach().bfloat16() for name, tensor in model.state_dict().items()}
    names = [f"pytorch_model-0000{number}-of-00002.bin" for number in (1, 2)]
    places = {name: names[number % 2] for number, name in enumerate(state)}
    for file in names:
        torch.save({name: tensor for name, tensor in state.items() if places[name] == file}, folder / file)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))


def _diffusion(folder: Path, *, width: int, **sizes: Any) -> None:
    unet = UNet2DConditionModel(
        sample_size=4,
        in_channels=4,
        out_channels=4,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=width,
        attention_head_dim=4,
        norm_num_groups=4,
        **sizes,
    )
    # Untyped: diffusers annotates tuples of one entry.
    kinds: Any = AutoencoderKL
    vae = kinds(
        down_block_types=("DownEncoderBlock2D", "DownEncoderBlock2D"),
        up_block_types=("UpDecoderBlock2D", "UpDecoderBlock2D"),
        block_out_channels=(4, 8),
        norm_num_groups=2,
        latent_channels=4,
    )
    unet.save_pretrained(folder / "unet", safe_serialization=False)
    vae.save_pretrained(folder / "vae")
    scheduler = {
        "_class_name": "EulerDiscreteScheduler",
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "num_train_timesteps": 1000,
        "set_alpha_to_one": False,
        "steps_offset": 1,
        "clip_sample": False,
    }
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
