"""The flags of older trainers: those with a counterpart set it, the others say where theirs is, unknown ones end it."""

from pathlib import Path

import pytest

from limner.cli.train_flags import ELSEWHERE, TAKEN

RECIPE = """
from tiny import model_call

from limner.backbone.lora import LoraSpec
from limner.compositions.multi_token import multi_token
from limner.config.call import Call, call
from limner.data.builders.building import built
from limner.data.mixture import Mixture
from limner.train.plan import Plan
from limner.train.stage import Packed, Schedule, Stage, Trainable


def config() -> Call:
    model = call(multi_token, language_model="base", parts=[], lora=call(LoraSpec, rank=64, alpha=16.0))
    stage = call(
        Stage,
        name="projectors",
        mixture=call(Mixture, sources={"mine": call(built, path="rows")}),
        batching=call(Packed, row_length=64, num_rows=1),
        trainable=[call(Trainable, glob="modalities.*.input_projector.*")],
        num_steps=2,
        schedule=call(Schedule),
        loss_weights={"text": 1.0},
    )
    return call(Plan, model=model, stages=[stage], seed=0)
"""


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "recipe.py"
    path.write_text(RECIPE)
    return path


def test_flags_of_older_trainers_set_the_keys_of_the_recipe(limner, recipe):
    old = "--learning_rate 1e-5 --max_steps 7 --warmup_ratio 0.03 --max_grad_norm 0.5 --save_steps 10 --seed 3"
    old += " --save_total_limit 1 --per_device_train_batch_size 4 --model_max_length 2048 --bf16 True"
    old += " --model_name_or_path other --lora_r 8 --lora_alpha 32 --output_dir out --dataloader_num_workers 2"
    result = limner("train", recipe, *old.split(), "--dry-run")
    assert result.code == 0, result.err
    for said in (
        "learning_rate=1e-05", "num_steps=7", "warmup_steps=0.03", "max_gradient_norm=0.5", "save_every=10", "seed=3",
        "keep_last=1", "num_rows=4", "row_length=2048", 'precision="bfloat16"', 'language_model="other"', "rank=8",
    ):  # fmt: skip
        assert said in result.out, said
    assert limner("train", recipe, "--seed", "1", "seed=2", "--dry-run").out.count("seed=2") == 1


@pytest.mark.parametrize(
    ("flag", "says"),
    [
        ("--pretrain_projectors", "hint: give the stage trainable="),
        ("--dataset_path", "hint: name the rows in the recipe's mixture"),
        ("--bits", "hint: give the adapters quantization="),
        ("--deepspeed", "hint: start with torchrun"),
    ],
)
def test_a_flag_whose_meaning_lies_elsewhere_says_where(limner, recipe, flag, says):
    result = limner("train", recipe, flag, "x", "--dry-run")
    assert result.code == 1
    assert result.err.startswith(f"error: {flag} is not set on the command line\n{says}")


def test_a_flag_whose_meaning_lies_elsewhere_may_be_written_bare(limner, recipe):
    for arguments in ((recipe, "--gradient_checkpointing", "--dry-run"), (recipe, "--dry-run", "--lora_enable")):
        result = limner("train", *arguments)
        assert result.code == 1
        assert "is not set on the command line\nhint: give" in result.err


def test_an_unknown_flag_is_refused_with_the_closest(limner, recipe):
    result = limner("train", recipe, "--lerning_rate", "1", "--dry-run")
    assert result.code == 2
    assert "No such option: --lerning_rate" in result.err
    assert "--learning_rate" in result.err.partition("--lerning_rate")[2]


def test_flags_of_older_trainers_do_not_fill_the_help(limner):
    assert "--warmup_ratio" not in limner("train", "--help").out


def test_the_page_tells_of_every_flag():
    page = (Path(__file__).parents[2] / "docs" / "multi_token.md").read_text(encoding="utf-8")
    assert [name for name in (*TAKEN, *ELSEWHERE) if f"--{name}" not in page] == []
