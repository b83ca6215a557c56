import json
import os
import signal
from pathlib import Path

import PIL.Image
import pytest

RECIPE = """
import PIL.Image
from tiny import model_call

from limner.config.call import Call, call
from limner.data.mixture import FunctionSource, Mixture
from limner.document.document import Document
from limner.document.media import Image
from limner.train.plan import Plan
from limner.train.stage import Packed, Stage, Trainable


def red(index: int) -> Document:
    picture = Image.from_pil(PIL.Image.new("RGB", (32, 32), "red"))
    return Document.chat([("user", "Draw."), ("assistant", [picture])])


def source() -> FunctionSource:
    return FunctionSource(red, 4)


def config() -> Call:
    stage = call(
        Stage,
        name="all",
        mixture=call(Mixture, sources={"red": call(source)}),
        batching=call(Packed, row_length=64, num_rows=1),
        trainable=[call(Trainable, glob="modalities.image.queries.*", learning_rate=1e-3)],
        num_steps=2,
        loss_weights={"text": 1.0, "image": 1.0},
        sample_every=2,
    )
    return call(Plan, model=model_call(), stages=[stage], seed=0)


def model() -> Call:
    return model_call()
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.py"
    path.write_text(RECIPE)
    return path


def test_a_recipe_is_run_sampled_and_can_be_run_again(limner, recipe, tmp_path, monkeypatch):
    from limner.cli import samples
    from limner.generate import request

    small = lambda *values, **settings: request.Request(  # noqa: E731
        *values, num_inference_steps=2, **(settings | {"max_new_tokens": 2})
    )
    monkeypatch.setattr(samples, "Request", small)
    result = limner("train", recipe, "--output", "run")
    assert (result.code, result.out) == (0, "run/all/checkpoint\n")
    sheet = PIL.Image.open(tmp_path / "run" / "all" / "samples" / "0000002.png")
    assert sheet.size == (4 * samples.CELL, 2 * (samples.CELL + 2 * samples.LABEL))
    assert sheet.getextrema() == ((0, 255),) * 3
    again = limner("train", recipe, "--output", "run")
    assert again.out == result.out
    assert "stage all is finished" in again.err
    changed = limner("train", recipe, "stages.0.num_steps=3", "--output", "run")
    assert changed.code == 1
    assert "another recipe" in changed.err
    assert changed.err.endswith("\n  stage.num_steps: 2 -> 3\n")
    never = limner("train", recipe, "--output", "run", "--resume", "never")
    assert (never.code, never.err.splitlines()[0][:29]) == (1, "error: `run` holds a run alre")
    accepted = limner("train", recipe, "stages.0.num_steps=3", "--output", "run", "--allow-changes")
    assert accepted.code == 0
    assert "stays as it was run" in accepted.err


def test_a_signal_ends_the_run_with_its_code_and_one_line(limner, recipe, tmp_path, monkeypatch):
    from limner.cli import samples

    monkeypatch.setattr(samples, "write_samples", lambda *arguments: os.kill(os.getpid(), signal.SIGTERM))
    stopped = limner("train", recipe, "stages.0.sample_every=1", "--output", "run")
    assert (stopped.code, stopped.out) == (143, "")
    assert stopped.err.splitlines()[-1].startswith(
        "stopped by SIGTERM after step 1 of 2 of stage `all`; saved in run/all"
    )
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(samples, "write_samples", lambda *arguments: None)
    resumed = limner("train", recipe, "stages.0.sample_every=1", "--output", "run", "--resume", "required")
    assert (resumed.code, resumed.out) == (0, "run/all/checkpoint\n")
    assert "goes on at step 1" in resumed.err


def test_steps_can_be_profiled(limner, recipe, tmp_path):
    result = limner(
        "train", recipe, "stages.0.sample_every=0", "--output", "run", "--profile", "1:2", "--device", "cpu"
    )
    assert result.code == 0
    assert "Self CPU" in (tmp_path / "run" / "all" / "profile" / "operators.txt").read_text()


def test_the_recipe_may_be_named_by_an_option_and_settings_by_their_older_names(limner, recipe):
    old = ["training.learning_rate=2e-5", "training.max_steps=3", "training.max_grad_norm=0.5", "training.seed=7"]
    old += ["training.output_dir=elsewhere", "pretrained_model_name_or_path=there", "model.loss_weight_vm=4.0"]
    new = ["stages.0.learning_rate=2e-5", "stages.0.num_steps=3", "stages.0.max_gradient_norm=0.5", "seed=7"]
    new += ["output=elsewhere", "stages.0.start_from=there", "stages.0.loss_weights.image=4.0"]
    expected = limner("train", recipe, *new, "--dry-run")
    assert expected.code == 0
    for option in ("--config", "--config_file"):
        assert limner("train", option, recipe, *old, "--dry-run") == expected
    assert "learning_rate=2e-05" in expected.out
    assert 'start_from="there"' in expected.out
    nothing = limner("train", "--output", "run")
    assert nothing.code == 2
    assert nothing.err.startswith("error: Invalid value: CONFIG is missing")


def test_a_setting_of_a_stage_needs_one_stage(limner, recipe):
    recipe.write_text(RECIPE.replace("stages=[stage]", "stages=[stage, stage]"))
    result = limner("train", recipe, "training.learning_rate=2e-5", "--dry-run")
    assert result.code == 1
    assert result.err.splitlines()[1] == "hint: say which one, as in stages.0.learning_rate=2e-5"


def test_a_recipe_may_say_where_it_goes_and_one_stage_may_be_run(limner, recipe, tmp_path):
    small = "stages.0.sample_every=0"
    assert limner("train", recipe, small, "output=there", "--stage", "all").code == 0
    assert (tmp_path / "there" / "all" / "checkpoint").exists()
    other = limner("train", recipe, small, "output=there", "--stage", "other")
    assert other.code == 1
    assert other.err.startswith("error: the plan has no stage `other`\nhint: its stages are all")


def test_a_dry_run_prints_the_recipe_and_writes_nothing(limner, recipe, tmp_path):
    result = limner("train", recipe, "seed=7", "--dry-run", "--output", "run")
    assert result.code == 0
    assert result.out.startswith("Plan(\n")
    assert "seed=7" in result.out
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["none.py", "--output", "run"], 1, "error: no config file `none.py`"),
        (["recipe.py", "sead=1", "--output", "run"], 1, "error: no key `sead`"),
        (["recipe.py", "seed=x", "--output", "run"], 1, "error: `seed`: expected int"),
        (["recipe.py", "seed", "--output", "run"], 1, "error: "),
        (["recipe.py:modell", "--output", "run"], 1, "error: recipe.py has no function `modell`"),
        (["recipe.py:model", "--output", "run"], 1, "error: `recipe.py:model` describes a scratch"),
        (["recipe.py", "--output", "run", "--profile", "5"], 1, "error: --profile is `5`; expected FIRST:END"),
        (["recipe.py", "--output", "run", "--profile", "5:5"], 1, "error: cannot profile steps 5:5"),
        (["recipe.py", "--output", "run", "--resume", "required"], 1, "error: `run` holds no run of this plan"),
        (["recipe.py"], 2, "error: Invalid value: --output is missing"),
        (["recipe.py", "--output", "recipe.py"], 1, "error: cannot write to the directory"),
    ],
)
def test_bad_input_is_one_error_and_one_hint(limner, recipe, tmp_path, arguments, code, message):
    result = limner("train", *arguments)
    assert (result.code, result.out) == (code, "")
    assert result.err.startswith(message)
    assert len(result.err.splitlines()) == 2
    assert not (tmp_path / "run").exists()


def test_config_show_and_diff_read_like_the_command_line(limner, recipe):
    shown = limner("config", "show", recipe, "stages.0.num_steps=9")
    assert "num_steps=9" in shown.out
    model = f"{recipe}:model"
    assert limner("config", "diff", model, model) == (0, "", "")
    other = recipe.with_name("other.py")
    other.write_text(RECIPE.replace("return model_call()", "return model_call(num_queries=4)"))
    assert limner("config", "diff", model, f"{other}:model").out == "num_queries: 3 -> 4\n"


def test_recorded_recipes_can_be_shown_and_compared(limner, tmp_path):
    from tiny import model_call

    from limner.config.serialize import to_json

    for name, queries in (("a.json", 3), ("b.json", 4)):
        tree = {"seed": 0, "stage": to_json(model_call(num_queries=queries))}
        (tmp_path / name).write_text(json.dumps(tree))
    assert limner("config", "diff", "a.json", "b.json").out == "stage.num_queries: 3 -> 4\n"
    assert "num_queries=3" in limner("config", "show", "a.json").out


@pytest.mark.parametrize("content", [None, "{", '{"_target_": "os.system"}'])
def test_what_is_no_recorded_recipe_is_refused(limner, tmp_path, content):
    if content is not None:
        (tmp_path / "a.json").write_text(content)
    result = limner("config", "show", "a.json")
    assert result.code == 1
    assert result.err.startswith("error: ")
    assert "\nhint: " in result.err
