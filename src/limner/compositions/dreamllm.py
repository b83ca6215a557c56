"""DreamLLM as wiring: a language model that reads pictures through a vision tower and draws through learned queries.

    picture -> vision tower -> projector -> LLM -> text
                                LLM(queries) -> projector -> generator -> picture

`dreamllm` takes any parts: any causal language model of transformers, CLIP, SigLIP 2 or DINOv3, generators over
diffusers. Without a generator it is LLaVA; with a ControlNet beside it, pictures may follow a control picture. The
published sizes are `dreamllm_7b`, `dreamllm_sdxl_7b` and `llava_7b`.
Published checkpoints as they lie on disk are read by `dreamllm_checkpoint`.

On the meta device parts come from `published.ARCHITECTURES`: nothing is downloaded, and a tokenizer over bytes stands
in.
"""

import json
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.controlnets.controlnet import ControlNetModel
from diffusers.models.transformers.sana_transformer import SanaTransformer2DModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import nn

from limner import zoo
from limner.backbone.hf import Backbone
from limner.backbone.lora import LoraSpec
from limner.compositions import published
from limner.compositions.dreamllm_model import MODALITY, pooled_width, vicuna_template
from limner.compositions.sentencepiece_text import SentencePieceText
from limner.document.document import Direction
from limner.modalities.base import Decoder, Encoder, InputProjector, Modality
from limner.modalities.decoders.controlnet import ControlledDiffusion
from limner.modalities.decoders.flow import SanaDecoder
from limner.modalities.decoders.latent_diffusion import DenoisingLoss, LatentDiffusion
from limner.modalities.decoders.latent_diffusion_xl import LatentDiffusionXL, PooledCondition
from limner.modalities.decoders.queries import LearnedQueries
from limner.modalities.decoders.variational import VariationalAutoencoder
from limner.modalities.encoders.clip import ClipEncoder
from limner.modalities.encoders.dinov3 import DinoV3Encoder
from limner.modalities.encoders.siglip import SiglipEncoder
from limner.modalities.projectors import LinearProjector, MLPProjector, Rowwise
from limner.model.multimodal import MultimodalLM
from limner.tokens.template import Template
from limner.tokens.tokenizer import TextTokenizer, byte_tokenizer
from limner.tokens.vocabulary import Vocabulary, span_roles

DType = Literal["float32", "bfloat16", "float16"]


def dreamllm(
    *,
    language_model: str,
    encoder: Encoder,
    decoder: Decoder | None = None,
    num_queries: int = 64,
    input_projector: InputProjector | None = None,
    output_projector: nn.Module | None = None,
    lora: LoraSpec | None = None,
    system: str | None = None,
    dtype: DType = "float32",
) -> MultimodalLM:
    """Wire published parts. `language_model` is a zoo name or a directory of any causal language model.

    `input_projector` None is one linear map, `output_projector` None one without bias, as in the paper (section 3.2).
    `decoder` None: the model reads and does not draw. A language model without a chat template gets Vicuna's roles;
    `system` None keeps the template's system text, "" renders none. `dtype` is the language model's.
    """
    backbone, tokenizer, external = _language_model(
        language_model, num_added=3 if decoder is None else 6, lora=lora, dtype=dtype
    )
    width = backbone.d_model
    reader = input_projector or Rowwise(LinearProjector(width_in=encoder.width, width_out=width))
    directions = [Direction.IN] if decoder is None else [Direction.IN, Direction.OUT]
    if encoder.source:
        external[f"modalities.{MODALITY}.encoder"] = encoder.source
    if decoder is None:
        image = Modality(encoder=encoder, input_projector=reader)
    else:
        image = Modality(
            encoder=encoder,
            input_projector=reader,
            queries=LearnedQueries(num_queries=num_queries, width=width),
            output_projector=output_projector
            or LinearProjector(width_in=width, width_out=decoder.condition_width, bias=False),
            decoder=decoder,
        )
        external |= {f"modalities.{MODALITY}.decoder.{part}": name for part, name in decoder.sources.items()}
    return MultimodalLM(
        backbone,
        modalities={MODALITY: image},
        vocabulary=Vocabulary.grow(backbone.base_size, roles=span_roles(MODALITY, directions)),
        template=_template(tokenizer, system=system),
        tokenizer=tokenizer,
        external=external,
    )


def clip(*, weights: str = "clip-vit-large-patch14", select_layer: int = -2) -> ClipEncoder:
    """CLIP's vision tower (a zoo name or a directory)."""
    if _on_meta(weights):
        return ClipEncoder.from_config(published.ARCHITECTURES[weights]["config.json"], select_layer=select_layer)
    path = zoo.locate(weights)
    encoder = ClipEncoder(path, select_layer=select_layer)
    encoder.source = _source(weights, path)
    return encoder


def siglip2(*, weights: str = "siglip2-base", select_layer: int = -1) -> SiglipEncoder:
    """SigLIP 2's vision tower (a zoo name or a directory)."""
    path = zoo.locate(weights)
    encoder = SiglipEncoder(path, select_layer=select_layer)
    encoder.source = _source(weights, path)
    return encoder


def dinov3(*, weights: str = "dinov3-vits16", select_layer: int = -1) -> DinoV3Encoder:
    """DINOv3's vision transformer (a zoo name or a directory)."""
    path = zoo.locate(weights)
    encoder = DinoV3Encoder(path, select_layer=select_layer)
    encoder.source = _source(weights, path)
    return encoder


def stable_diffusion(
    *,
    weights: str = "sd-2.1-base",
    resolution: int = 512,
    denoising: DenoisingLoss | None = None,
) -> LatentDiffusion:
    """A published latent-diffusion generator (a zoo name or a directory with unet/, vae/ and scheduler/)."""
    parts = _generator(weights)
    autoencoder = VariationalAutoencoder(parts.autoencoder, size=resolution)
    decoder = LatentDiffusion(autoencoder, parts.unet, parts.scheduler, denoising=denoising)
    decoder.sources = parts.sources
    return decoder


def controlled_diffusion(
    *,
    weights: str = "sd-2.1-base",
    controlnet: str = "sd-2.1-controlnet-canny",
    control_scale: float = 1.0,
    resolution: int = 512,
    denoising: DenoisingLoss | None = None,
) -> ControlledDiffusion:
    """`stable_diffusion` whose pictures follow a control picture where a document shows one, else are drawn freely.

    `controlnet` is a zoo name or a directory.
    """
    parts, control = _generator(weights), _controlnet(controlnet)
    decoder = ControlledDiffusion(
        VariationalAutoencoder(parts.autoencoder, size=resolution),
        parts.unet,
        parts.scheduler,
        controlnet=control.network,
        control_scale=control_scale,
        denoising=denoising,
    )
    decoder.sources = parts.sources | control.sources
    return decoder


def stable_diffusion_xl(*, weights: str = "sdxl-base", resolution: int = 1024) -> LatentDiffusionXL:
    """The same for a UNet that takes a pooled condition and sizes; its output projector is a `pooled_condition`."""
    parts = _generator(weights)
    autoencoder = VariationalAutoencoder(parts.autoencoder, size=resolution, keep_float32=True)
    decoder = LatentDiffusionXL(autoencoder, parts.unet, parts.scheduler, pooled_width=pooled_width(parts.unet))
    decoder.sources = parts.sources
    return decoder


def pooled_condition(*, width_in: int, width_out: int = 2048, pooled: int = 1280) -> PooledCondition:
    """Linear maps, without bias, of hidden states to condition rows and of their mean to the pooled condition."""
    rows = LinearProjector(width_in=width_in, width_out=width_out, bias=False)
    return PooledCondition(rows, LinearProjector(width_in=width_in, width_out=pooled, bias=False))


def flow_transformer(
    *,
    autoencoder: str = "sd-2.1-base",
    resolution: int = 512,
    condition_width: int = 1024,
    num_layers: int = 12,
    num_heads: int = 16,
    head_width: int = 32,
    patch_size: int = 2,
) -> SanaDecoder:
    """A transformer with linear attention (Xie et al. 2024), trained by flow matching from nothing in a published
    latent space."""
    network, source = _autoencoder(autoencoder)
    latent: Any = network.config
    width = num_heads * head_width
    transformer = SanaTransformer2DModel(
        in_channels=latent.latent_channels,
        out_channels=latent.latent_channels,
        num_attention_heads=num_heads,
        attention_head_dim=head_width,
        num_layers=num_layers,
        num_cross_attention_heads=num_heads,
        cross_attention_head_dim=head_width,
        cross_attention_dim=width,
        caption_channels=condition_width,
        sample_size=resolution // 2 ** (len(latent.block_out_channels) - 1),
        patch_size=patch_size,
    )
    decoder = SanaDecoder(VariationalAutoencoder(network, size=resolution), transformer)
    decoder.sources = source
    return decoder


def dreamllm_7b(*, num_queries: int = 64, dtype: DType = "bfloat16") -> MultimodalLM:
    """The published sizes: Vicuna-7B v1.1, CLIP ViT-L/14, Stable Diffusion 2.1 base."""
    return dreamllm(
        language_model="vicuna-7b-v1.1",
        encoder=clip(),
        decoder=stable_diffusion(),
        num_queries=num_queries,
        dtype=dtype,
    )


def dreamllm_sdxl_7b(*, num_queries: int = 196, dtype: DType = "bfloat16") -> MultimodalLM:
    """The second published wiring: Vicuna-7B v1.5, CLIP ViT-L/14 behind an MLP, Stable Diffusion XL."""
    encoder = clip()
    rows = MLPProjector(width_in=encoder.width, width_out=4096, depth=2, normalise=False)
    return dreamllm(
        language_model="vicuna-7b-v1.5",
        encoder=encoder,
        decoder=stable_diffusion_xl(),
        num_queries=num_queries,
        input_projector=Rowwise(rows),
        output_projector=pooled_condition(width_in=4096),
        dtype=dtype,
    )


def llava_7b(*, depth: int = 2, dtype: DType = "bfloat16") -> MultimodalLM:
    """LLaVA 1.5's sizes: Vicuna-7B v1.5 and CLIP ViT-L/14 behind an MLP of `depth`; it reads and does not draw."""
    encoder = clip()
    rows = MLPProjector(width_in=encoder.width, width_out=4096, depth=depth, normalise=False)
    return dreamllm(language_model="vicuna-7b-v1.5", encoder=encoder, input_projector=Rowwise(rows), dtype=dtype)


class _Generator(NamedTuple):
    """Published parts of a generator; `sources` says where, part by part."""

    autoencoder: AutoencoderKL
    unet: UNet2DConditionModel
    scheduler: dict[str, Any]
    sources: dict[str, str]


def _generator(name: str) -> _Generator:
    network, sources = _autoencoder(name)
    if _on_meta(name):
        files = published.ARCHITECTURES[name]
        unet: Any = UNet2DConditionModel.from_config(files["unet/config.json"])
        return _Generator(network, unet, files["scheduler/scheduler_config.json"], {})
    path = zoo.locate(name)
    unet = UNet2DConditionModel.from_pretrained(path / "unet", local_files_only=True)
    scheduler = json.loads((path / "scheduler" / "scheduler_config.json").read_text(encoding="utf-8"))
    return _Generator(network, unet, scheduler, sources | {"unet": _source(name, path / "unet")})


class _Control(NamedTuple):
    """A published ControlNet, and where."""

    network: ControlNetModel
    sources: dict[str, str]


def _controlnet(name: str) -> _Control:
    if _on_meta(name):
        network: Any = ControlNetModel.from_config(published.ARCHITECTURES[name]["config.json"])
        return _Control(network, {})
    path = zoo.locate(name)
    network = ControlNetModel.from_pretrained(path, local_files_only=True)
    return _Control(network, {"controlnet": _source(name, path)})


def _autoencoder(name: str) -> tuple[AutoencoderKL, dict[str, str]]:
    if _on_meta(name):
        network: Any = AutoencoderKL.from_config(published.ARCHITECTURES[name]["vae/config.json"])
        return network, {}
    path = zoo.locate(name) / "vae"
    network = AutoencoderKL.from_pretrained(path, local_files_only=True)
    return network, {"autoencoder": _source(name, path)}


def _language_model(
    name: str, *, num_added: int, lora: LoraSpec | None, dtype: DType
) -> tuple[Backbone, TextTokenizer, dict[str, str]]:
    """A backbone, its tokenizer, and where its weights are published."""
    if _on_meta(name):
        from transformers import AutoConfig, AutoModelForCausalLM

        config = AutoConfig.for_model(**published.ARCHITECTURES[name]["config.json"])
        shapes = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))
        return Backbone(shapes, num_added=num_added, lora=lora), byte_tokenizer(), {}
    path = zoo.locate(name)
    backbone = Backbone.from_pretrained(path, num_added=num_added, lora=lora, dtype=getattr(torch, dtype))
    # Sentencepiece models are asked directly where there is no newer form: today's libraries give other ids.
    own = (path / "tokenizer.model").is_file() and not (path / "tokenizer.json").is_file()
    tokenizer = SentencePieceText.from_directory(path) if own else TextTokenizer.from_pretrained(path)
    return backbone, tokenizer, {"backbone.language_model": _source(name, path)}


def _template(tokenizer: TextTokenizer, *, system: str | None) -> Template:
    inner = tokenizer.tokenizer
    if getattr(inner, "chat_template", None):
        return Template.from_tokenizer(inner, system=system)
    if isinstance(tokenizer, SentencePieceText):
        begin, end = tokenizer.begin, tokenizer.end
    else:
        begin, end = inner.bos_token or "", inner.eos_token or ""
    given = {} if system is None else {"system": system}
    return vicuna_template(tokenizer, begin=begin, end=end, **given)


def _on_meta(name: str) -> bool:
    """Whether shapes alone are wanted, and known without a download."""
    known = name in published.ARCHITECTURES and not Path(name).is_dir()
    return known and torch.get_default_device().type == "meta"


def _source(name: str, path: Path) -> str:
    return f"{name}@{zoo.fingerprint(path)}"
