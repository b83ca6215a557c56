"""Records cases in the format of golden/dreamllm at other sizes, over stock modules of transformers and diffusers.

Nothing of Limner computes an expected value here: pictures are spliced by loops, losses are written out. Pixels and
weights are random. Text is not tokenised (ids come from recorded strings), because no stock library still can.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaForCausalLM

BEGIN, END = 1, 2
PLUGINS = "omni.models.dreamllm.modeling_plugins"


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What the recorded model looks like; `tokens` are the special tokens in the order of their ids."""

    tokens: tuple[str, ...]
    pieces: int = 416
    legacy: bool = False
    num_queries: int = 5
    select_layer: int = -3
    projector_depth: int = 2
    head_depth: int = 1
    llm: Mapping[str, Any] = field(default_factory=dict)
    clip: Mapping[str, Any] = field(default_factory=dict)
    vae: Mapping[str, Any] = field(default_factory=dict)
    unet: Mapping[str, Any] = field(default_factory=dict)
    scheduler: Mapping[str, Any] = field(default_factory=dict)
    resolution: int = 32
    seed: int = 0


class Original:
    """The stock modules, put together by the rules of the original."""

    def __init__(self, sizes: Sizes) -> None:
        torch.manual_seed(sizes.seed)
        self.sizes = sizes
        self.ids = {token: sizes.pieces + index for index, token in enumerate(sizes.tokens)}
        vocab = sizes.pieces + len(sizes.tokens)
        config = LlamaConfig(vocab_size=vocab, pad_token_id=None, **sizes.llm)
        self.llm = LlamaForCausalLM(config).eval()
        self.llm.generation_config.eos_token_id = None
        self.clip = CLIPVisionModel(CLIPVisionConfig(**sizes.clip)).eval()
        self.vae = AutoencoderKL(**sizes.vae).eval()
        self.unet = UNet2DConditionModel(**sizes.unet).eval()
        width = config.hidden_size
        self.projector = mlp(self.clip.config.hidden_size, width, sizes.projector_depth, bias=True)
        self.head = mlp(width, sizes.unet["cross_attention_dim"], sizes.head_depth, bias=False)
        self.queries = nn.Parameter(torch.randn(1, sizes.num_queries, width) * 0.3)
        self.num_patches = (self.clip.config.image_size // self.clip.config.patch_size) ** 2

    @property
    def scheduler(self) -> DDPMScheduler:
        """A fresh scheduler."""
        return DDPMScheduler(**self.sizes.scheduler)

    def block(self, kind: str) -> list[int]:
        """Ids of a picture that is read ("im") or made ("dream")."""
        length = self.num_patches if kind == "im" else self.sizes.num_queries
        return [self.ids[f"<{kind}_start>"], *[self.ids["<im_patch>"]] * length, self.ids[f"<{kind}_end>"]]

    def parameters(self) -> dict[str, nn.Parameter]:
        """Trainable parameters by the original's names."""
        named = dict(self.llm.named_parameters())
        named |= {"model.clip_vision_embedding." + n: p for n, p in self.projector.named_parameters()}
        named |= {"stable_diffusion_head." + n: p for n, p in self.head.named_parameters()}
        return named | {"model.dream_embedding.dream_queries": self.queries}

    def features(self, pixels: Tensor) -> Tensor:
        """Rows of pictures that are read."""
        states = self.clip(pixels, output_hidden_states=True).hidden_states
        return self.projector(states[self.sizes.select_layer][:, 1:])

    def hidden(self, ids: Tensor, mask: Tensor, *, read: Tensor | None, queries: bool = True) -> Tensor:
        """Final hidden states, pictures and queries spliced in row by row."""
        rows = self.llm.get_input_embeddings()(ids)
        features = iter(self.features(read) if read is not None and len(read) else ())
        spliced = []
        for row, row_ids in zip(rows, ids, strict=True):
            parts, place = [], 0
            for at in torch.nonzero((row_ids == self.ids["<im_start>"]) | (row_ids == self.ids["<dream_start>"])):
                start, makes = int(at) + 1, int(row_ids[at]) == self.ids["<dream_start>"]
                if makes and not queries:
                    continue
                values = self.queries[0] if makes else next(features)
                parts += [row[place:start], values]
                place = start + len(values)
            spliced.append(torch.cat([*parts, row[place:]]))
        positions = torch.arange(ids.shape[1])[None].expand_as(ids)
        return self.llm.model(
            inputs_embeds=torch.stack(spliced), attention_mask=mask, position_ids=positions
        ).last_hidden_state

    def slots(self, ids: Tensor, hidden: Tensor) -> Tensor:
        """Hidden states at the queries of all pictures to be made."""
        found = torch.nonzero(ids == self.ids["<dream_start>"])
        return torch.stack([hidden[row, at + 1 : at + 1 + self.sizes.num_queries] for row, at in found.tolist()])

    def losses(
        self, batch: Mapping[str, Tensor], draws: Mapping[str, Tensor], overrides: Mapping[str, Any]
    ) -> dict[str, Tensor]:
        """Losses and what lies between."""
        hidden = self.hidden(batch["ids"], batch["mask"], read=batch["clip"])
        logits = self.llm.lm_head(hidden)
        targets = batch["labels"][:, 1:].reshape(-1)
        kept = targets != -100
        each = F.cross_entropy(
            logits[:, :-1].reshape(-1, logits.shape[-1]), targets, reduction="none", ignore_index=-100
        )
        found = {"hidden": hidden, "logits": logits, "lm_loss": each.sum() / kept.sum().clamp(min=1)}
        found |= self._creation(batch, hidden, draws, overrides)
        weights = overrides.get("loss_weight_lm", 1.0), overrides.get("loss_weight_vm", 10.0)
        found["loss"] = weights[0] * found["lm_loss"] + weights[1] * found["vm_loss"]
        return found

    def _creation(
        self, batch: Mapping[str, Tensor], hidden: Tensor, draws: Mapping[str, Tensor], overrides: Mapping[str, Any]
    ) -> dict[str, Tensor]:
        if not len(batch["sd"]):
            return {"vm_loss": torch.zeros(())}
        scheduler, found = self.scheduler, {"cond": self.slots(batch["ids"], hidden)}
        condition = found["cond"]
        if "drop_mask" in draws:
            empty = torch.tensor([[BEGIN, *self.block("dream"), END]])
            states = self.hidden(empty, torch.ones_like(empty), read=None, queries=False)
            found["uncond"] = states[0, 2 : 2 + self.sizes.num_queries]
            drop = draws["drop_mask"][:, None, None]
            condition = (1 - drop) * condition + drop * found["uncond"]
        found["cond_projected"] = self.head(condition)
        moments = self.vae.encode(batch["sd"]).latent_dist
        latents = (moments.mean + moments.std * draws["vae_noise"]) * self.vae.config.scaling_factor
        noise = draws["noise"] + overrides.get("noise_offset", 0.0) * draws.get("offset_noise", torch.zeros(()))
        noisy = scheduler.add_noise(latents, noise, draws["timesteps"])
        epsilon = scheduler.config.prediction_type == "epsilon"
        target = noise if epsilon else scheduler.get_velocity(latents, noise, draws["timesteps"])
        predicted = self.unet(noisy, draws["timesteps"], found["cond_projected"]).sample
        found |= {"latents": latents, "noisy_latents": noisy, "target": target, "model_pred": predicted}
        return found | {"vm_loss": F.mse_loss(predicted, target)}


def mlp(width_in: int, width_out: int, depth: int, *, bias: bool) -> nn.Module:
    """A projector with the original's names: `projector.projector.weight`, or `projector.projector.0.weight`, ..."""
    layers: list[nn.Module] = [nn.Linear(width_in, width_out, bias=bias)]
    for _ in range(depth - 1):
        layers += [nn.GELU(), nn.Linear(width_out, width_out, bias=bias)]
    holder = nn.Sequential()
    inner = nn.Sequential()
    inner.add_module("projector", layers[0] if depth == 1 else nn.Sequential(*layers))
    holder.add_module("projector", inner)
    return holder


def write_checkpoint(original: Original, directory: Path, *, tokenizer_model: Path) -> None:
    """The original's layout, with architecture folders beside it."""
    sizes, folder = original.sizes, directory / "checkpoint"
    width, ids = original.llm.config.hidden_size, original.ids
    for path in (
        folder,
        directory / "see",
        directory / "draw/vae",
        directory / "draw/unet",
        directory / "draw/scheduler",
    ):
        path.mkdir(parents=True)
    (folder / "tokenizer.model").write_bytes(tokenizer_model.read_bytes())
    own = {"<unk>": 0, "<s>": 1, "</s>": 2}
    decoder = {str(index): {"content": token, "special": True} for token, index in {**own, **ids}.items()}
    others = [token for token in ids if token != "[PAD]"]
    files: dict[str, Any] = {
        "checkpoint/added_tokens.json": ids,
        "checkpoint/tokenizer_config.json": {
            "bos_token": "<s>",
            "eos_token": "</s>",
            "unk_token": "<unk>",
            "pad_token": "[PAD]",
            "legacy": sizes.legacy,
            "additional_special_tokens": others,
            "added_tokens_decoder": decoder,
            "model_max_length": 128,
            "tokenizer_class": "LlamaTokenizer",
        },
        "checkpoint/config.json": {
            **{
                key: value
                for key, value in original.llm.config.to_dict().items()
                if isinstance(value, int | float | str | None)
            },
            "rope_theta": 10000.0,
            "model_type": "dreamllm",
            "loss_weight_lm": 1.0,
            "loss_weight_vm": 10.0,
            "special_tokens2ids_dict": {
                **own,
                "[PAD]": ids["[PAD]"],
                "additional_special_tokens": {t: ids[t] for t in others},
            },
            "plugins_init_kwargs": plugins(sizes, width=width),
            "plugins_type": {
                "clip_vision_embedding": "embedding",
                "dream_embedding": "embedding",
                "stable_diffusion_head": "head",
            },
        },
        "see/config.json": {**original.clip.config.to_dict()},
        "draw/vae/config.json": dict(original.vae.config),
        "draw/unet/config.json": dict(original.unet.config),
        "draw/scheduler/scheduler_config.json": {"_class_name": "PNDMScheduler", **sizes.scheduler},
    }
    for name, content in files.items():
        (directory / name).write_text(json.dumps(content, default=list))
    save_file(
        {name: value.contiguous().clone() for name, value in original.llm.state_dict().items()},
        folder / "model.safetensors",
    )
    vision = {f"clip_vision_model.vision_model.{name}": value for name, value in original.clip.state_dict().items()}
    heads = {f"vae.{name}": value for name, value in original.vae.state_dict().items()}
    heads |= {f"unet.{name}": value for name, value in original.unet.state_dict().items()}
    for name, state in (
        ("clip_vision_embedding", {**vision, **original.projector.state_dict()}),
        ("dream_embedding", {"dream_queries": original.queries.detach()}),
        ("stable_diffusion_head", {**heads, **original.head.state_dict()}),
    ):
        torch.save(state, folder / f"{name}.bin")


def plugins(sizes: Sizes, *, width: int) -> dict[str, Any]:
    """`plugins_init_kwargs`, with paths of nowhere."""
    linear = lambda depth: {"projector_type": "mlp" if depth > 1 else "linear", "projector_depth": depth}  # noqa: E731
    return {
        "clip_vision_embedding": {
            "_target_": f"{PLUGINS}.CLIPVisionEmbedding",
            "clip_vision_model_name_or_path": "/nowhere/see",
            "embed_hidden_size": width,
            "select_layer": sizes.select_layer,
            **linear(sizes.projector_depth),
        },
        "dream_embedding": {
            "_target_": f"{PLUGINS}.DreamEmbedding",
            "embed_hidden_size": width,
            "num_dream_queries": sizes.num_queries,
        },
        "stable_diffusion_head": {
            "_target_": f"{PLUGINS}.StableDiffusionHead",
            "diffusion_name_or_path": "/nowhere/draw",
            "embed_hidden_size": width,
            "resolution": sizes.resolution,
            **linear(sizes.head_depth),
        },
    }


class Recording:
    """The cases of a directory while they are made. `texts`: strings and their ids, without the begin token."""

    def __init__(self, original: Original, directory: Path, *, texts: Sequence[tuple[str, list[int]]]) -> None:
        self.original, self.directory, self.texts = original, directory, texts
        self.generator = torch.Generator().manual_seed(original.sizes.seed + 1)
        clip = original.clip.config.image_size
        self.pixels: dict[str, Tensor] = {}
        for name in ("one", "two", "three"):
            self.pixels[f"clip.{name}"] = self.normal(3, clip, clip)
            self.pixels[f"sd.{name}"] = self.normal(3, original.sizes.resolution, original.sizes.resolution).clamp(
                -1, 1
            )
        self.sections: dict[str, Any] = {}

    def normal(self, *shape: int) -> Tensor:
        """Recorded noise."""
        return torch.randn(*shape, generator=self.generator)

    def section(self, name: str, content: Any, tensors: Mapping[str, Tensor] | None = None) -> None:
        """Keep a section and write its tensors."""
        if tensors is not None:
            content = {**content, "file": f"cases/{name}.safetensors"}
            (self.directory / "cases").mkdir(exist_ok=True)
            kept = {key: value.detach().contiguous().clone() for key, value in tensors.items()}
            save_file(kept, self.directory / content["file"])
        self.sections[name] = content

    def stack(self, view: str, names: Sequence[str]) -> Tensor:
        """Pixels of pictures."""
        return torch.stack([self.pixels[f"{view}.{name}"] for name in names]) if names else torch.zeros(0, 3, 1, 1)

    def draws(self, num_items: int, **wanted: Any) -> dict[str, Tensor]:
        """What a loss draws for pictures to be made."""
        original = self.original
        edge = original.sizes.resolution // 2 ** (len(original.vae.config.block_out_channels) - 1)
        shape = (num_items, original.vae.config.latent_channels, edge, edge)
        steps = original.scheduler.config.num_train_timesteps
        found = {"vae_noise": self.normal(*shape), "noise": self.normal(*shape)}
        found["timesteps"] = torch.randint(0, steps, (num_items,), generator=self.generator)
        if "noise_offset" in wanted:
            found["offset_noise"] = self.normal(*shape[:2], 1, 1)
        if "drop_prob" in wanted:
            found["drop_mask"] = (torch.arange(num_items) % 2).float()
        return found


def record(sizes: Sizes, directory: Path, *, tokenizer_model: Path, texts: Sequence[tuple[str, list[int]]]) -> None:
    """Write a whole directory."""
    from golden.recorded_sections import write_sections

    original = Original(sizes)
    write_checkpoint(original, directory, tokenizer_model=tokenizer_model)
    write_sections(Recording(original, directory, texts=texts))
