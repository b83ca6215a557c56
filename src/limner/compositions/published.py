"""Architectures of published parts, in numbers: what is known of them without a download.

Owns `ARCHITECTURES`: name -> file -> what that file of the published directory says, as far as it decides the
architecture. A wiring on the meta device, and a checkpoint whose parts lie nowhere, are built from these.
"""

from typing import Any

_CLIP_LARGE: dict[str, Any] = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 224,
    "patch_size": 14,
    "projection_dim": 768,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
}

_VICUNA_7B: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "tie_word_embeddings": False,
}

_AUTOENCODER: dict[str, Any] = {
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 4,
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "act_fn": "silu",
}

_UNET: dict[str, Any] = {
    "in_channels": 4,
    "out_channels": 4,
    "layers_per_block": 2,
    "use_linear_projection": True,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "downsample_padding": 1,
    "norm_num_groups": 32,
    "norm_eps": 1e-5,
    "act_fn": "silu",
}

_LEVELS: dict[str, Any] = {
    # Heads, whatever the key's name: a width of 64 each.
    "attention_head_dim": [5, 10, 20, 20],
    "block_out_channels": [320, 640, 1280, 1280],
}
"""Of Stable Diffusion 2."""

_NOISE: dict[str, Any] = {
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "clip_sample": False,
    "steps_offset": 1,
}

ARCHITECTURES: dict[str, dict[str, dict[str, Any]]] = {
    "vicuna-7b-v1.1": {"config.json": _VICUNA_7B},
    "vicuna-7b-v1.5": {"config.json": {**_VICUNA_7B, "max_position_embeddings": 4096, "rms_norm_eps": 1e-5}},
    "clip-vit-large-patch14": {"config.json": {"vision_config": _CLIP_LARGE}},
    "sd-2.1-base": {
        "vae/config.json": {**_AUTOENCODER, "sample_size": 512, "scaling_factor": 0.18215},
        "unet/config.json": {
            **_UNET,
            "sample_size": 64,
            **_LEVELS,
            "cross_attention_dim": 1024,
            "down_block_types": [*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"],
            "up_block_types": ["UpBlock2D", *["CrossAttnUpBlock2D"] * 3],
        },
        "scheduler/scheduler_config.json": _NOISE,
    },
    "sd-2.1-controlnet-canny": {
        "config.json": {
            **_LEVELS,
            "in_channels": 4,
            "layers_per_block": 2,
            "use_linear_projection": True,
            "cross_attention_dim": 1024,
            "down_block_types": [*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"],
            "conditioning_embedding_out_channels": [16, 32, 96, 256],
        },
    },
    "sdxl-base": {
        "vae/config.json": {**_AUTOENCODER, "sample_size": 1024, "scaling_factor": 0.13025},
        "unet/config.json": {
            **_UNET,
            "sample_size": 128,
            "attention_head_dim": [5, 10, 20],
            "block_out_channels": [320, 640, 1280],
            "cross_attention_dim": 2048,
            "transformer_layers_per_block": [1, 2, 10],
            "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
            "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
        },
        "scheduler/scheduler_config.json": _NOISE,
    },
}

ALSO_CALLED = {
    "stable-diffusion-2-1-base": "sd-2.1-base",
    "stable-diffusion-xl-base-1.0": "sdxl-base",
}
"""Last components of the paths that published configs record."""
