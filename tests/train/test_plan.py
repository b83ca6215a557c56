"""Plans end to end: stages hand over, a resumed run is the uninterrupted one, errors are early."""

import errno
import json
from pathlib import Path

import plans
import pytest
import torch
from tiny import model_call

from limner.config.call import build, call
from limner.config.overrides import apply_overrides
from limner.model.checkpoint import load_checkpoint, read_components, read_index
from limner.train.plan import run_plan
from limner.train.stage import Evaluation, Trainable
from limner.train.state import StateStore


def _state(path: Path) -> dict[str, torch.Tensor]:
    return read_components(path, index=read_index(path))


def _start() -> dict[str, torch.Tensor]:
    """The model as a plan of seed 0 builds it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build(model_call()).state_dict()


def _metrics(directory: Path) -> list[dict]:
    lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    return [
        {key: value for key, value in line.items() if not key.startswith(("seconds", "per_second"))} for line in lines
    ]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The plan of two stages, run without a break."""
    output = tmp_path_factory.mktemp("finished")
    run_plan(plans.plan(plans.reconstruction(), plans.together()), output=output)
    return output


def test_two_stages_run_and_leave_what_they_promise(finished: Path) -> None:
    assert {file.name for file in (finished / "together").iterdir()} >= {
        "checkpoint",
        "metrics.jsonl",
        "trainable.json",
    }
    assert not (finished / "together" / "state").exists()
    lines = _metrics(finished / "together")
    assert [line["step"] for line in lines] == list(range(6))
    assert {"loss", "loss/text", "loss/image", "gradient_norm", "tokens"} <= set(lines[0])
    assert lines[0]["loss"] == pytest.approx(lines[0]["loss/text"] + 0.5 * lines[0]["loss/image"])
    assert lines[-1]["loss/text"] < lines[0]["loss/text"]
    # An untrained flow predicts 0; its targets, noise minus latents of unit variance, average 2.
    assert 1.0 < lines[0]["loss/image"] < 4.0
    table = json.loads((finished / "together" / "trainable.json").read_text())
    assert table["trainable"][0]["glob"] == "modalities.image.decoder.transformer.*"
    assert all(row["parameters"] > 0 for row in table["trainable"])
    components = table["components"]
    assert components["image.encoder"] == {
        "parameters": components["image.encoder"]["parameters"], "trainable": 0, "learning_rates": []
    }  # fmt: skip
    assert components["backbone"]["trainable"] == components["backbone"]["parameters"]
    assert sum(row["trainable"] for row in components.values()) == sum(row["parameters"] for row in table["trainable"])
    origins = json.loads((finished / "together" / "start.json").read_text())
    assert set(origins.values()) == {"stage pictures"}
    assert set(json.loads((finished / "pictures" / "start.json").read_text()).values()) == {"as built"}


def test_a_stage_starts_from_the_one_before_and_keeps_what_it_does_not_train(
    finished: Path,
) -> None:
    start = _start()
    first, second = (
        _state(finished / "pictures" / "checkpoint"),
        _state(finished / "together" / "checkpoint"),
    )
    changed = {name for name in first if not torch.equal(first[name], start[name])}
    assert changed
    assert {name for name in changed if not name.startswith("modalities.image.decoder.autoencoder.")} == set()
    assert any(name.endswith("latent_std") for name in changed)  # calibrated at the end
    later = {name for name in second if not torch.equal(first[name], second[name])}
    trained = (
        "backbone.",
        "modalities.image.decoder.transformer.",
        "modalities.image.input_projector.",
    )
    assert all(name.startswith(trained) for name in later)
    assert {name.split(".")[0] for name in later} == {"backbone", "modalities"}
    assert load_checkpoint(finished / "together" / "checkpoint")


class _Killed(Exception):
    pass


@pytest.mark.parametrize("moment", [3, 5])
def test_a_resumed_run_is_the_uninterrupted_one_bit_by_bit(finished: Path, tmp_path: Path, moment: int) -> None:
    recipe = plans.plan(plans.reconstruction(), plans.together())

    def kill(model: object, at: Path, step: int) -> None:
        if at.parent.name == "together" and step == moment:
            raise _Killed

    with pytest.raises(_Killed):
        run_plan(recipe, output=tmp_path, on_sample=kill)
    assert StateStore(tmp_path / "together").steps()
    run_plan(recipe, output=tmp_path)
    assert _metrics(tmp_path / "together") == _metrics(finished / "together")
    whole, resumed = (_state(path / "together" / "checkpoint") for path in (finished, tmp_path))
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_finished_plan_is_not_run_again(finished: Path) -> None:
    def never(model: object, at: Path, step: int) -> None:
        raise AssertionError

    before = (finished / "together" / "checkpoint" / "limner.json").read_text()
    path = run_plan(plans.plan(plans.reconstruction(), plans.together()), output=finished, on_sample=never)
    assert path == finished / "together" / "checkpoint"
    assert (path / "limner.json").read_text() == before


def test_a_changed_recipe_in_the_same_directory_is_refused(finished: Path) -> None:
    with pytest.raises(ValueError, match=r"another recipe.*\nhint: "):
        run_plan(plans.plan(plans.reconstruction(num_steps=4), plans.together()), output=finished)
    with pytest.raises(ValueError, match=r"another recipe.*\nhint: .*\n  seed: 0 -> 1"):
        run_plan(plans.plan(plans.reconstruction(), plans.together(), seed=1), output=finished)
    assert json.loads((finished / "plan.json").read_text())["seed"] == 0


def test_a_changed_model_in_the_same_directory_is_refused_with_its_changes(finished: Path) -> None:
    recipe = apply_overrides(plans.plan(plans.reconstruction(), plans.together()), ["model.num_queries=4"])
    with pytest.raises(
        ValueError, match=r"another recipe or model: 1 changed.*\nhint: .*\n  model.num_queries: 3 -> 4"
    ):
        run_plan(recipe, output=finished)


def test_an_allowed_change_goes_on_from_the_saved_state(tmp_path: Path) -> None:
    def kill(model: object, at: Path, step: int) -> None:
        if step == 3:
            raise _Killed

    with pytest.raises(_Killed):
        run_plan(plans.plan(plans.together()), output=tmp_path, on_sample=kill)
    longer = apply_overrides(
        plans.plan(plans.together()), ["stages.0.num_steps=8", "stages.0.trainable.2.learning_rate=0"]
    )
    run_plan(longer, output=tmp_path, allow_changes=True)
    assert [line["step"] for line in _metrics(tmp_path / "together")] == list(range(8))
    assert len((tmp_path / "together" / "changes.txt").read_text().splitlines()) == 2
    # Finished now: a further change is named, and nothing is run.
    run_plan(plans.plan(plans.together(num_steps=9)), output=tmp_path, allow_changes=True)
    assert len(_metrics(tmp_path / "together")) == 8


def test_resume_may_be_forbidden_or_demanded(finished: Path, tmp_path: Path) -> None:
    recipe = plans.plan(plans.reconstruction(num_steps=1))
    with pytest.raises(ValueError, match=r"holds no run .*\nhint: "):
        run_plan(recipe, output=tmp_path / "new", resume="required")
    assert not (tmp_path / "new").exists()
    run_plan(recipe, output=tmp_path / "new", resume="never")
    with pytest.raises(ValueError, match=r"holds a run already .*\nhint: "):
        run_plan(recipe, output=tmp_path / "new", resume="never")
    assert run_plan(recipe, output=tmp_path / "new", resume="required")


def test_the_weights_with_the_lowest_held_out_loss_are_kept(tmp_path: Path) -> None:
    evaluation = call(Evaluation, mixture=plans.mixture(seed=5), every=1, num_batches=2)
    # So fast that it gets worse soon.
    wild = [call(Trainable, glob="backbone.*", learning_rate=0.2)]
    stage = plans.together(evaluation=evaluation, ema_decay=None, trainable=wild, sample_every=0)
    last = run_plan(plans.plan(stage), output=tmp_path)
    losses = [line["evaluation/loss"] for line in _metrics(tmp_path / "together")]
    meta = read_index(tmp_path / "together" / "best")["meta"]
    assert meta["held_out_loss"] == min(losses)
    assert meta["step"] == losses.index(min(losses)) + 1 < len(losses)
    assert load_checkpoint(tmp_path / "together" / "best")
    assert read_index(last)["meta"]["stage"] == "together"


@pytest.mark.parametrize("what", ["state", "checkpoint"])
def test_a_full_disk_ends_in_one_line_and_the_last_good_state_goes_on(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    from limner.model import checkpoint
    from limner.train import state

    recipe = plans.plan(plans.reconstruction(), plans.together())
    commits = 0

    def full(*arguments: object, **settings: object) -> None:
        nonlocal commits
        commits += 1
        if commits > limit:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*arguments, **settings)

    owner, name, limit = (state, "_commit", 1) if what == "state" else (checkpoint, "save_file", 8)
    real = getattr(owner, name)
    monkeypatch.setattr(owner, name, full)
    with pytest.raises((ValueError, OSError), match="No space left on device"):
        run_plan(recipe, output=tmp_path)
    monkeypatch.undo()
    assert commits > limit
    assert StateStore(tmp_path / "together").steps() == ([2] if what == "state" else [2, 4])
    run_plan(recipe, output=tmp_path)
    assert _metrics(tmp_path / "together") == _metrics(finished / "together")
    whole, resumed = (_state(path / "together" / "checkpoint") for path in (finished, tmp_path))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_components_come_from_the_stages_that_the_recipe_names(finished: Path, tmp_path: Path) -> None:
    third = plans.together(
        name="third",
        num_steps=1,
        trainable=[call(Trainable, glob="modalities.image.queries.*", learning_rate=0.0)],
        start_from=[("image.decoder.*", "pictures"), ("backbone", "together")],
        ema_decay=None,
    )
    run_plan(plans.plan(plans.reconstruction(), plans.together(), third), output=finished)
    start = _start()
    first, second, found = (_state(finished / name / "checkpoint") for name in ("pictures", "together", "third"))
    for name, value in found.items():
        part = ".".join(name.split(".")[:3])
        source = {"modalities.image.decoder": first}.get(part, second if name.startswith("backbone.") else start)
        assert torch.equal(value, source[name]), name


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"trainable": [call(Trainable, glob="modalities.image.quieries.*", learning_rate=1.0)]},
            "matches no parameter",
        ),
        ({"loss_weights": {"text": 1.0}}, "loss weights for"),
        ({"loss_weights": {"text": 1.0, "image": 1.0, "sound": 1.0}}, "loss weights for"),
        ({"start_from": [("*", "later")]}, "no stage before it and no checkpoint"),
        ({"expected_loss": (0.0, 0.01)}, "recipe expects"),
    ],
)
def test_a_recipe_that_cannot_be_meant_is_refused(tmp_path: Path, changes: dict, says: str) -> None:
    with pytest.raises(ValueError, match=says + r"[\s\S]*\nhint: "):
        run_plan(plans.plan(plans.together(**({"num_steps": 1} | changes))), output=tmp_path)


def test_a_start_that_matches_no_component_is_refused(tmp_path: Path) -> None:
    stages = (
        plans.reconstruction(num_steps=1),
        plans.together(start_from=[("image.decodr", "pictures")]),
    )
    with pytest.raises(ValueError, match=r"matches no component\nhint: .*image\.decoder"):
        run_plan(plans.plan(*stages), output=tmp_path)


def test_components_come_from_checkpoints_that_the_recipe_names(finished: Path, tmp_path: Path) -> None:
    still = [call(Trainable, glob="modalities.image.queries.*", learning_rate=0.0)]
    told = {"num_steps": 1, "trainable": still, "ema_decay": None}
    checkpoint = str(finished / "together" / "checkpoint")
    alone = plans.together(start_from=checkpoint, **told)
    run_plan(plans.plan(alone), output=tmp_path / "alone")
    found, expected = (
        _state(tmp_path / "alone" / "together" / "checkpoint"),
        _state(finished / "together" / "checkpoint"),
    )
    assert all(torch.equal(value, expected[name]) for name, value in found.items())
    origins = json.loads((tmp_path / "alone" / "together" / "start.json").read_text())
    assert set(origins.values()) == {f"checkpoint {checkpoint}"}
    part = plans.together(start_from=[("backbone", checkpoint)], **told)
    run_plan(plans.plan(part), output=tmp_path / "part")
    start = _start()
    for name, value in _state(tmp_path / "part" / "together" / "checkpoint").items():
        assert torch.equal(value, (expected if name.startswith("backbone.") else start)[name]), name


def test_stages_that_run_apart_are_those_that_run_together(finished: Path, tmp_path: Path) -> None:
    beside = plans.together(name="beside", start_from="as built", num_steps=1, ema_decay=None)
    recipe = plans.plan(plans.reconstruction(), beside)
    for name in ("beside", "pictures"):
        run_plan(recipe, output=tmp_path / "apart", only=[name])
    begun = {path.name for path in (tmp_path / "apart").iterdir() if path.is_dir()}
    assert begun == {"pictures", "beside"}
    run_plan(recipe, output=tmp_path / "apart")
    run_plan(recipe, output=tmp_path / "whole")
    for name in ("pictures", "beside"):
        apart, whole = (_state(tmp_path / run / name / "checkpoint") for run in ("apart", "whole"))
        assert all(torch.equal(apart[key], whole[key]) for key in whole)
    assert set(json.loads((tmp_path / "apart" / "beside" / "start.json").read_text()).values()) == {"as built"}
    with pytest.raises(ValueError, match=r"no stage `later`\nhint: "):
        run_plan(recipe, output=tmp_path / "apart", only=["later"])


def test_a_stage_alone_needs_what_it_starts_from(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"pictures/checkpoint[\s\S]*\nhint: "):
        run_plan(plans.plan(plans.reconstruction(), plans.together()), output=tmp_path, only=["together"])


def test_stages_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"names repeat.*\nhint: "):
        run_plan(plans.plan(plans.together(), plans.together()), output=tmp_path)
