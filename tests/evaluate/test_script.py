"""The script behind the README's numbers, on the tiny random model and the real held-out pictures."""

import json
from pathlib import Path

import pytest
from tiny import model_call, tiny_model

from limner.config.serialize import to_json
from limner.model.checkpoint import save_checkpoint

ROOT = Path(__file__).parents[2]


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks import limner_tiny_quality

    return limner_tiny_quality


def test_the_script_prints_a_table_and_writes_every_reply(script, tmp_path, capsys):
    save_checkpoint(tiny_model(), tmp_path / "model", description=to_json(model_call()))
    output = tmp_path / "out"
    model = str(tmp_path / "model")
    script.main(["--model", model, "--tasks", "naming", "--limit", "3", "--output", str(output)])
    printed = capsys.readouterr().out
    assert "| withheld style: exact name | 3 |" in printed
    assert str(tmp_path) not in printed
    data = json.loads((output / "results.json").read_text())
    assert len(data["benchmarks"][0]["items"]) == 6
    assert str(tmp_path) not in json.dumps(data["facts"])
    assert (output / "naming.png").is_file()


def test_shuffled_projectors_read_and_draw_other_things_and_are_kept_apart(script, tmp_path, capsys):
    save_checkpoint(tiny_model(), tmp_path / "model", description=to_json(model_call()))
    whole, broken = tiny_model(), tiny_model()
    script.break_projectors(broken)
    changed = {name for name, value in broken.state_dict().items() if not value.equal(whole.state_dict()[name])}
    assert {name.split(".")[2] for name in changed} == {"input_projector", "output_projector"}
    options = ["--model", str(tmp_path / "model"), "--tasks", "scenes", "--limit", "2"]
    script.main([*options, "--broken", "--output", str(tmp_path / "out")])
    assert "tiny (projectors shuffled)" in capsys.readouterr().out.replace("model (", "tiny (")
    lines = (tmp_path / "out" / "answers" / "scene-drawing" / "answers.0.jsonl").read_text().splitlines()
    script.main([*options, "--output", str(tmp_path / "out")])
    assert len((tmp_path / "out" / "answers" / "scene-drawing" / "answers.0.jsonl").read_text().splitlines()) == 4
    assert len(lines) == 2


def test_the_readmes_table_is_printed_from_what_is_there(script, tmp_path, capsys, monkeypatch):
    save_checkpoint(tiny_model(), tmp_path / "model", description=to_json(model_call()))
    monkeypatch.setattr(script, "BROKEN", tmp_path / "broken")
    options = ["--model", str(tmp_path / "model"), "--tasks", "naming,scene_prompts", "--limit", "7"]
    script.main([*options, "--output", str(tmp_path / "out")])
    script.main([*options, "--broken"])
    capsys.readouterr()
    script.main(["--summary", str(tmp_path / "out")])
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].startswith("| names a drawing in a style it was never shown: exact name | 7 | 0.0 % [0.0 %, ")
    assert lines[5].startswith("| scenes: one thing asked (count, colour, place, size, binding) | 7 |")
    assert all(line.count("|") == 7 for line in lines[:6])
    assert lines[-1].endswith(script.key_of(str(tmp_path / "model")) + ".")


def test_the_table_in_the_readme_is_that_of_the_page():
    """Every value of the README's table stands in docs/limner_tiny/quality.md."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    page = (ROOT / "docs" / "limner_tiny" / "quality.md").read_text(encoding="utf-8")
    table = readme.partition("<!-- quality")[2].partition("<!-- /quality -->")[0]
    rows = [[cell.strip() for cell in line.split("|")] for line in table.splitlines() if line.startswith("| ")][1:]
    assert len(rows) > 10
    for row in rows:
        count, value, shuffled = row[2].replace(",", ""), row[3], row[4]
        assert f"| {count} | {value} | {shuffled} |" in page, row
