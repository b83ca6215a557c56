"""Flags of the trainers that people come from, by their own spelling: --learning_rate 2e-5, as transformers' arguments.

Owns one table of flags that stand for a key of the recipe, and one of flags whose meaning lies elsewhere, which are
answered with the place. Others are refused by the program, with the closest name. Data flow:

    command + tables -> the same command with hidden options -> overrides -> `ancestor_overrides.translated`
"""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import typer

TAKEN: Mapping[str, str] = {
    "learning_rate": "training.learning_rate",
    "max_steps": "training.max_steps",
    "warmup_ratio": "training.warmup_ratio",
    "warmup_steps": "training.warmup_steps",
    "max_grad_norm": "training.max_grad_norm",
    "save_steps": "training.save_steps",
    "save_total_limit": "training.save_total_limit",
    "per_device_train_batch_size": "training.per_device_train_batch_size",
    "model_max_length": "training.model_max_length",
    "bf16": "training.bf16",
    "seed": "training.seed",
    "model_name_or_path": "model.model_name_or_path",
    "lora_r": "model.lora_r",
    "lora_alpha": "model.lora_alpha",
}
"""Flag -> the setting that it stands for."""

ELSEWHERE: Mapping[str, str] = {
    "dataset_path": "name the rows in the recipe's mixture, as in sources={'mine': call(built, path=...)}",
    "modality_builder": "name the modalities in the recipe, as in parts=[call(builder, name=...)]",
    "model_cls": "leave it out: any causal language model is read as it is",
    "pretrain_projectors": "give the stage trainable=[call(Trainable, glob='modalities.*.input_projector.*')]",
    "pretrained_projectors_path": "give the stage start_from=[('modalities.*.input_projector', PATH)]",
    "lora_enable": "give the model lora=call(LoraSpec, rank=64, alpha=16.0), and train the glob '*lora_*'",
    "lora_dropout": "leave it out: adapters have no dropout",
    "lora_bias": "leave it out: adapters have no biases",
    "bits": "give the adapters quantization=call(FourBit)",
    "double_quant": "give the adapters quantization=call(FourBit)",
    "quant_type": "give the adapters quantization=call(FourBit)",
    "num_train_epochs": "count steps (--max_steps); an epoch is the rows of the mixture by the rows of a step",
    "gradient_accumulation_steps": "set stages.0.accumulation, which counts the batches of all ranks together",
    "lr_scheduler_type": "name a schedule in the recipe: Schedule (a cosine), Linear, Constant",
    "weight_decay": "set weight_decay of each Trainable of the stage",
    "gradient_checkpointing": "give --activation-checkpointing",
    "deepspeed": "start with torchrun and give --parallel shard",
    "fsdp": "start with torchrun and give --parallel shard",
    "evaluation_strategy": "give the stage evaluation=call(Evaluation, ...)",
    "logging_steps": "leave it out: every step is written to metrics.jsonl",
}
"""Flag -> what to do in its place."""

SWITCHES = ("pretrain_projectors", "lora_enable", "double_quant", "gradient_checkpointing")
"""Those of `ELSEWHERE` that are also written without a value. One that follows is read as another argument."""


def with_flags(command: Callable[..., None]) -> Callable[..., None]:
    """The command with all flags as hidden options; those that are given become `overrides`.

    The command raises ValueError for a flag whose meaning lies elsewhere, with what to do.
    """
    names = [*TAKEN, *ELSEWHERE]

    @functools.wraps(command)
    def wrapped(**given: Any) -> None:
        flags = {name: value for name in names if (value := given.pop(f"flag_{name}")) is not None}
        for name in flags:
            if name in ELSEWHERE:
                raise ValueError(f"--{name} is not set on the command line\nhint: {ELSEWHERE[name]}")
        overrides = [f"{TAKEN[name]}={value}" for name, value in flags.items()]
        # What the recipe's own keys say comes last, and wins.
        given["overrides"] = [*overrides, *(given["overrides"] or [])]
        command(**given)

    kinds: dict[str, Any] = {name: bool | None if name in SWITCHES else str | None for name in names}
    hidden = {name: Annotated[kind, typer.Option(f"--{name}", hidden=True)] for name, kind in kinds.items()}
    signature = inspect.signature(command)
    added = [
        inspect.Parameter(f"flag_{name}", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
        for name, annotation in hidden.items()
    ]
    described: Any = wrapped
    described.__signature__ = signature.replace(parameters=[*signature.parameters.values(), *added])
    described.__annotations__ = command.__annotations__ | {f"flag_{name}": kind for name, kind in hidden.items()}
    return wrapped
