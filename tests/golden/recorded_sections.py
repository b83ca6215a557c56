"""The sections of a recorded directory, computed by the stock modules of `recorder.Original`."""

import json
from collections.abc import Mapping
from typing import Any

import torch
from golden.recorder import BEGIN, END, Recording
from torch import Tensor, nn

STEPS, GUIDANCE = 4, 3.0
KEPT = ("cond", "uncond", "cond_projected", "latents", "noisy_latents", "target", "model_pred")


def write_sections(recording: Recording) -> None:
    """All sections and cases.json."""
    original = recording.original
    recording.section("images", {"list": []}, recording.pixels)
    recording.section(
        "model",
        {
            "checkpoint": "checkpoint",
            "vocab_size": original.llm.config.vocab_size,
            "num_dream_queries": original.sizes.num_queries,
            "num_image_patches": original.num_patches,
            "tokenizer_legacy": original.sizes.legacy,
            "special_tokens": {**original.ids, "<s>": BEGIN, "</s>": END},
            "sd_resolution": original.sizes.resolution,
        },
    )
    samples(recording)
    batches = write_batches(recording)
    vision(recording)
    losses(recording, batches)
    text_to_image(recording)
    image_to_text(recording)
    training(recording, batches)
    (recording.directory / "cases/cases.json").write_text(json.dumps(recording.sections))


def samples(recording: Recording) -> None:
    """One of three kinds each, laid out by hand."""
    read, made = recording.original.block("im"), recording.original.block("dream")
    (long, long_ids), (short, short_ids) = recording.texts
    skip = [-100] * len(read)
    entries = [
        (
            "read",
            "image_text_pair",
            "comprehension_only",
            {"image": "one", "text": long},
            [BEGIN, *read, *long_ids, END],
            [BEGIN, *skip, *long_ids, END],
            ["one"],
            [],
        ),
        (
            "made",
            "image_text_pair",
            "creation_only",
            {"image": "two", "text": short},
            [BEGIN, *short_ids, *made, END],
            None,
            [],
            ["two"],
        ),
        (
            "both",
            "interleaved",
            "joint",
            {"images": ["three"], "texts": [short, long], "matched_text_index": [0]},
            [BEGIN, *short_ids, *made, *read, *long_ids, END],
            [BEGIN, *short_ids, made[0], *[-100] * (len(made) - 1), *skip, *long_ids, END],
            ["three"],
            ["three"],
        ),
    ]
    recording.section(
        "samples",
        [
            {
                "name": name,
                "kind": kind,
                "mode": mode,
                "input": given,
                "expected": {
                    "any": {
                        "input_ids": ids,
                        "labels": labels or [-100] * len(ids),
                        "clip_images": clip,
                        "sd_images": drawn,
                    }
                },
            }
            for name, kind, mode, given, ids, labels, clip, drawn in entries
        ],
    )


def write_batches(recording: Recording) -> dict[str, dict[str, Any]]:
    """Right-padded batches of the samples."""
    found: dict[str, dict[str, Any]] = {}
    tensors: dict[str, Tensor] = {}
    listed = []
    by_name = {sample["name"]: sample["expected"]["any"] for sample in recording.sections["samples"]}
    for name, members in (("mixed", ["both", "made", "read"]), ("reading", ["read"])):
        chosen = [by_name[member] for member in members]
        length = max(len(sample["input_ids"]) for sample in chosen)
        filled = lambda key, pad: torch.tensor([s[key] + [pad] * (length - len(s[key])) for s in chosen])  # noqa: B023, E731
        lengths = torch.tensor([len(sample["input_ids"]) for sample in chosen])
        batch = {
            "ids": filled("input_ids", recording.original.ids["[PAD]"]),
            "mask": (torch.arange(length) < lengths[:, None]).long(),
            "labels": filled("labels", -100),
        }
        clip = [picture for sample in chosen for picture in sample["clip_images"]]
        drawn = [picture for sample in chosen for picture in sample["sd_images"]]
        tensors |= {
            f"{name}.{key}": batch[own]
            for key, own in (("input_ids", "ids"), ("attention_mask", "mask"), ("labels", "labels"))
        }
        found[name] = {**batch, "clip": recording.stack("clip", clip), "sd": recording.stack("sd", drawn)}
        listed.append(
            {
                "name": name,
                "samples": members,
                "clip_images": clip,
                "sd_images": drawn,
                "shape": list(batch["ids"].shape),
                "images_shape": list(found[name]["clip"].shape),
                "images_dm_shape": list(found[name]["sd"].shape) if drawn else None,
            }
        )
    recording.section("batches", {"list": listed}, tensors)
    return found


@torch.no_grad()
def vision(recording: Recording) -> None:
    """Features, latents, one UNet call."""
    original, tensors = recording.original, {}
    for name in ("one", "two"):
        pixels = recording.stack("clip", [name])
        states = original.clip(pixels, output_hidden_states=True).hidden_states
        tensors[f"penultimate.{name}"] = states[original.sizes.select_layer][0, 1:]
        tensors[f"projected.{name}"] = original.features(pixels)[0]
        tensors[f"all_hidden_states.{name}"] = torch.cat(states)
        moments = original.vae.encode(recording.stack("sd", [name])).latent_dist
        tensors[f"vae_mean.{name}"], tensors[f"vae_logvar.{name}"] = moments.mean[0], moments.logvar[0]
        tensors[f"vae_decode_of_mean.{name}"] = original.vae.decode(moments.mean).sample[0]
    draws = recording.draws(2)
    condition = recording.normal(2, original.sizes.num_queries, original.unet.config.cross_attention_dim)
    tensors |= {
        "unet.sample": draws["noise"],
        "unet.timesteps": draws["timesteps"],
        "unet.encoder_hidden_states": condition,
    }
    tensors["unet.output"] = original.unet(draws["noise"], draws["timesteps"], condition).sample
    tensors["scheduler.alphas_cumprod"] = original.scheduler.alphas_cumprod
    tensors["dream_queries"] = original.queries[0]
    recording.section("vision", {"images": ["one", "two"], "vae_images": ["one", "two"]}, tensors)


def losses(recording: Recording, batches: Mapping[str, Any]) -> None:
    """Losses under overrides, and gradients of everything."""
    original = recording.original
    tensors: dict[str, Tensor] = {}
    gradients: dict[str, Tensor] = {}
    forward, graded = [], []
    for name, batch, overrides in (
        ("reading", "reading", {}),
        ("mixed", "mixed", {}),
        ("dropped", "mixed", {"drop_prob": 0.5, "noise_offset": 0.2, "loss_weight_vm": 2.0}),
    ):
        draws = recording.draws(len(batches[batch]["sd"]), **overrides) if len(batches[batch]["sd"]) else {}
        original.llm.zero_grad()
        parameters = original.parameters()
        for parameter in parameters.values():
            parameter.grad = torch.zeros_like(parameter)
        found = original.losses(batches[batch], draws, overrides)
        found["loss"].backward()
        values = {key: float(found[key].detach()) for key in ("lm_loss", "vm_loss", "loss")}
        forward.append({"name": name, "batch": batch, "mode": "train", "overrides": overrides, **values})
        tensors[f"{name}.logits"] = found["logits"][batches[batch]["mask"] > 0]
        tensors |= {f"{name}.{key}": found[key] for key in KEPT if key in found}
        tensors |= {f"{name}.draw.{key}": value for key, value in draws.items()}
        norms = {key: float(parameter.grad.norm()) for key, parameter in parameters.items()}
        total = float(torch.tensor(list(norms.values())).norm())
        entry = {"name": name, "batch": batch, "overrides": overrides, **values, "total_grad_norm": total}
        graded.append({**entry, "grad_norms": norms, "embedding_rows": sorted(original.ids.values())})
        gradients |= {f"{name}.draw.{key}": value for key, value in draws.items()}
        for key in ("model.dream_embedding.dream_queries", "model.layers.0.self_attn.k_proj.weight"):
            gradients[f"{name}.grad.{key}"] = parameters[key].grad
        rows = parameters["model.embed_tokens.weight"].grad[sorted(original.ids.values())]
        gradients[f"{name}.grad_rows.model.embed_tokens.weight"] = rows
    recording.section("forward", {"list": forward}, tensors)
    recording.section("gradients", {"list": graded}, gradients)


@torch.no_grad()
def text_to_image(recording: Recording) -> None:
    """Two prompts, right-padded, guided."""
    original, scheduler = recording.original, recording.original.scheduler
    (long, long_ids), (short, short_ids) = recording.texts
    prompts = [[BEGIN, *short_ids], [BEGIN, *long_ids]]
    length = max(map(len, prompts))
    ids = torch.tensor([row + [original.ids["[PAD]"]] * (length - len(row)) for row in prompts])
    mask = (torch.arange(length) < torch.tensor([[len(row)] for row in prompts])).long()
    block = torch.tensor([original.block("dream")] * 2)

    def states(ids: Tensor, mask: Tensor) -> Tensor:
        whole = torch.cat([ids, block], dim=1)
        return original.slots(whole, original.hidden(whole, torch.cat([mask, torch.ones_like(block)], 1), read=None))

    begins = torch.full((2, 1), BEGIN)
    embeds = {"prompt_embeds": states(ids, mask), "negative_embeds": states(begins, torch.ones_like(begins))}
    condition = original.head(torch.cat([embeds["negative_embeds"], embeds["prompt_embeds"]]))
    latents = recording.draws(2)["noise"]
    tensors = {"both.prompt_ids": ids, "both.prompt_mask": mask, "both.initial_latents": latents}
    tensors |= {f"both.{key}": value for key, value in embeds.items()}
    scheduler.set_timesteps(STEPS)
    noises, after = [], []
    for number, time in enumerate(scheduler.timesteps):
        below, above = original.unet(torch.cat([latents] * 2), time, condition).sample.chunk(2)
        guided = below + GUIDANCE * (above - below)
        noises.append(torch.randn(latents.shape, generator=torch.Generator().manual_seed(number)))
        latents = scheduler.step(guided, time, latents, generator=torch.Generator().manual_seed(number)).prev_sample
        after.append(latents)
    decoded = original.vae.decode(latents / original.vae.config.scaling_factor).sample
    tensors |= {"both.step_noise": torch.stack(noises), "both.latents_after_step": torch.stack(after)}
    tensors |= {"both.final_latents": latents, "both.decoded": decoded, "both.image": (decoded / 2 + 0.5).clamp(0, 1)}
    size = original.sizes.resolution
    case = {
        "name": "both",
        "prompt": [short, long],
        "negative_prompt": None,
        "padding_side": "right",
        "height": size,
        "width": size,
        "num_inference_steps": STEPS,
        "guidance_scale": GUIDANCE,
        "guidance_rescale": 0.0,
        "timesteps": scheduler.timesteps.tolist(),
    }
    tables = {}
    for steps in (1, 3, 7, 50):
        scheduler.set_timesteps(steps)
        tables[steps] = scheduler.timesteps.tolist()
    recording.section("text_to_image", {"list": [case], "timestep_tables": tables}, tensors)


@torch.no_grad()
def image_to_text(recording: Recording) -> None:
    """Greedy continuations by transformers' own generate, of two left-padded prompts of which one has a picture."""
    from limner.compositions.sentencepiece_text import SentencePieceText

    original, (long, long_ids) = recording.original, recording.texts[0]
    prompts = [[BEGIN, *long_ids], [BEGIN, *original.block("im")]]
    length = max(map(len, prompts))
    pad = original.ids["[PAD]"]
    ids = torch.tensor([[pad] * (length - len(row)) + row for row in prompts])
    mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in prompts])
    rows = original.llm.get_input_embeddings()(ids)
    features = original.features(recording.stack("clip", ["two"]))[0]
    start = length - len(prompts[1]) + 2
    rows[1, start : start + len(features)] = features
    found = original.llm.generate(
        inputs_embeds=rows,
        attention_mask=mask,
        max_new_tokens=6,
        do_sample=False,
        return_dict_in_generate=True,
        output_logits=True,
        pad_token_id=pad,
    )
    tokenizer = SentencePieceText.from_directory(recording.directory / "checkpoint")
    new = found.sequences.tolist()
    case = {
        "name": "pair",
        "prompts": [long, "".join(tokenizer.tokens_of_ids(prompts[1][1:]))],
        "clip_images": ["two"],
        "max_new_tokens": 6,
        "num_beams": 1,
        "eos_token_id": None,
        "pad_token_id": pad,
        "prompt_ids": ids.tolist(),
        "attention_mask": mask.tolist(),
        "new_ids": new,
        "text": [tokenizer.decode(row) for row in new],
    }
    recording.section("image_to_text", {"list": [case]}, {"pair.logits": torch.stack(found.logits, dim=1)})


def training(recording: Recording, batches: Mapping[str, Any]) -> None:
    """Three steps of everything; ends with the original's weights changed."""
    original = recording.original
    parameters = original.parameters()
    before = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    settings = {"type": "AdamW", "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.0, "max_grad_norm": 1.0}
    optimizer = torch.optim.AdamW(list(parameters.values()), betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0)
    tensors: dict[str, Tensor] = {}
    steps = []
    for number, (name, rate) in enumerate((("mixed", 0.0), ("reading", 5e-4), ("mixed", 2e-4))):
        batch = batches[name]
        draws = recording.draws(len(batch["sd"])) if len(batch["sd"]) else {}
        for parameter in parameters.values():
            parameter.grad = torch.zeros_like(parameter)
        found = original.losses(batch, draws, {})
        found["loss"].backward()
        norm = nn.utils.clip_grad_norm_(list(parameters.values()), 1.0)
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
        members = next(entry["samples"] for entry in recording.sections["batches"]["list"] if entry["name"] == name)
        values = {key: float(found[key].detach()) for key in ("lm_loss", "vm_loss", "loss")}
        steps.append({"samples": members, **values, "grad_norm_before_clipping": float(norm), "learning_rate": rate})
        tensors |= {f"all.step{number}.draw.{key}": value for key, value in draws.items()}
    tensors |= {f"all.final.{name}": parameter.detach() for name, parameter in parameters.items()}
    change = {name: float((parameter.detach() - before[name]).norm()) for name, parameter in parameters.items()}
    case = {"name": "all", "trainable": list(parameters), "optimizer": settings, "steps": steps, "change_norm": change}
    case |= {"loss_weight_lm": 1.0, "loss_weight_vm": 10.0}
    recording.section("training", {"list": [case]}, tensors)
