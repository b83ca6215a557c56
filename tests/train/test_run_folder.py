"""A run writes down what it is, and is held to it."""

import json
from pathlib import Path

import plans
import pytest
from tiny import model_call

from limner.config.call import Call
from limner.config.overrides import apply_overrides
from limner.train.run_folder import (
    begun_changes,
    check_unchanged,
    git_revision,
    record_run,
    record_stage,
    stage_recipe,
    write_text,
)


def _recipe(stage: Call, *, model: Call | None = None) -> dict:
    return stage_recipe(stage, model=model or model_call(), seed=0)


def test_a_run_records_its_recipe_its_defaults_and_every_start(tmp_path: Path) -> None:
    plan = plans.plan(plans.together())
    record_run(tmp_path, plan)
    record_run(tmp_path, plan)
    assert (tmp_path / "plan.txt").read_text().startswith("Plan(\n")
    assert "max_gradient_norm" not in (tmp_path / "plan.txt").read_text()
    assert "max_gradient_norm=1.0" in (tmp_path / "resolved.txt").read_text()
    assert json.loads((tmp_path / "plan.json").read_text())["_target_"] == "limner.train.plan.Plan"
    starts = [json.loads(line) for line in (tmp_path / "launches.jsonl").read_text().splitlines()]
    assert len(starts) == 2
    assert {"time", "arguments", "git", "versions", "cpus", "gpus"} <= set(starts[0])
    assert "torch" in starts[0]["versions"]


def test_changes_of_recipe_and_model_are_listed_by_key(tmp_path: Path) -> None:
    record_stage(_recipe(plans.together()), directory=tmp_path / "together")
    same = _recipe(plans.together(max_gradient_norm=1.0))
    assert begun_changes(same, directory=tmp_path / "together") == []  # written out, but the default
    changed = _recipe(apply_overrides(plans.together(), ["num_steps=9"]), model=model_call(num_queries=4))
    assert begun_changes(changed, directory=tmp_path / "together") == [
        "stage.num_steps: 6 -> 9",
        "model.num_queries: 3 -> 4",
    ]
    with pytest.raises(ValueError, match=r"another recipe or model: 2 changed.*\nhint: .*--allow-changes\n  stage.num"):
        check_unchanged({"together": changed}, output=tmp_path)


def test_a_recipe_whose_code_is_gone_is_compared_as_it_is_written(tmp_path: Path) -> None:
    record_stage(_recipe(plans.together()), directory=tmp_path)
    file = tmp_path / "stage.json"
    file.write_text(file.read_text().replace("limner.train.objectives.Multimodal", "limner.train.objectives.Gone"))
    lines = begun_changes(_recipe(plans.together()), directory=tmp_path)
    assert len(lines) == 1
    assert "Gone" in lines[0]


def test_a_record_without_a_model_is_taken_over(tmp_path: Path) -> None:
    recipe = _recipe(plans.together())
    (tmp_path / "stage.json").write_text(json.dumps({key: recipe[key] for key in ("seed", "stage")}))
    record_stage(recipe, directory=tmp_path)
    assert json.loads((tmp_path / "stage.json").read_text()) == json.loads(json.dumps(recipe))


def test_accepted_changes_are_written_down_and_a_finished_stage_keeps_its_record(tmp_path: Path) -> None:
    record_stage(_recipe(plans.together()), directory=tmp_path)
    record_stage(_recipe(plans.together(num_steps=9)), directory=tmp_path)
    assert (tmp_path / "changes.txt").read_text().endswith("stage.num_steps: 6 -> 9\n")
    (tmp_path / "checkpoint").mkdir()
    record_stage(_recipe(plans.together(num_steps=10)), directory=tmp_path)
    assert json.loads((tmp_path / "stage.json").read_text())["stage"]["num_steps"] == 9


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    (tmp_path / "stage.json").write_text("{")
    with pytest.raises(ValueError, match=r"stage.json` is damaged .*\nhint: "):
        begun_changes(_recipe(plans.together()), directory=tmp_path)


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def fail(self: Path, text: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", fail)
    with pytest.raises(OSError, match="No space"):
        write_text(path, "new")
    assert path.read_text() == "old"


def test_outside_of_a_repository_there_is_no_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert git_revision() is None
    monkeypatch.setenv("PATH", "")
    assert git_revision() is None
