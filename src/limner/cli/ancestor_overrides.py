"""The originals' names of settings, as their users write them on the command line: training.learning_rate=2e-5, or
--learning_rate 2e-5 (train_flags.py).

They stand for keys of a recipe; those of a stage are understood where the recipe has one stage. Names that an original
has and this table has not have no counterpart, or one that means something else (docs/dreamllm.md,
docs/multi_token.md).
"""

from collections.abc import Sequence

from limner.config.call import Call

_OF_STAGE = {
    "training.learning_rate": "learning_rate",
    "training.max_steps": "num_steps",
    "training.warmup_ratio": "schedule.warmup_steps",
    "training.warmup_steps": "schedule.warmup_steps",
    "training.max_grad_norm": "max_gradient_norm",
    "training.save_steps": "save_every",
    "training.save_total_limit": "keep_last",
    "training.per_device_train_batch_size": "batching.num_rows",
    "training.model_max_length": "batching.row_length",
    "training.bf16": "precision",
    "model.loss_weight_lm": "loss_weights.text",
    "model.loss_weight_vm": "loss_weights.image",
    "pretrained_model_name_or_path": "start_from",
}
_OF_PLAN = {
    "training.output_dir": "output",
    "training.seed": "seed",
    "model.model_name_or_path": "model.language_model",
    "model.lora_r": "model.lora.rank",
    "model.lora_alpha": "model.lora.alpha",
}
_PRECISIONS = {"true": "bfloat16", "false": "float32"}


def translated(overrides: Sequence[str], *, plan: Call) -> list[str]:
    """The overrides in a recipe's own keys. Raises ValueError for a stage's setting where there are several stages."""
    return [_translated(text, plan=plan) for text in overrides]


def _translated(text: str, *, plan: Call) -> str:
    key, equals, value = text.partition("=")
    if not equals or key not in _OF_STAGE | _OF_PLAN:
        return text
    if key in _OF_PLAN:
        return f"{_OF_PLAN[key]}={value}"
    own, stages = _OF_STAGE[key], getattr(plan, "stages", ())
    if own == "precision":
        value = _PRECISIONS.get(value.lower(), value)
    if len(stages) != 1:
        names = ", ".join(f"{number} {stage.name}" for number, stage in enumerate(stages))
        raise ValueError(
            f"`{key}` is a setting of a stage, and the recipe has {len(stages)} of them ({names})\n"
            f"hint: say which one, as in stages.0.{own}={value}"
        )
    return f"stages.0.{own}={value}"
