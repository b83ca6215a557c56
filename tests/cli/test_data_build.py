"""`limner data build` and `limner data merge`: sources on the command line, rows and counts out."""

import json

import PIL.Image
import pytest

from limner.data.builders.listing import LISTED


@pytest.fixture(autouse=True)
def source(tmp_path, monkeypatch):
    monkeypatch.setenv("LIMNER_CACHE", str(tmp_path / "cache"))
    (tmp_path / "media").mkdir()
    PIL.Image.new("RGB", (4, 4), "red").save(tmp_path / "media" / "red.jpg")
    turns = [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": "red"}]
    told = [{"id": name, "image": f"{name}.jpg", "conversations": turns} for name in ("red", "gone")]
    (tmp_path / "llava.json").write_text(json.dumps(told))


def test_without_a_name_everything_that_can_be_built_is_listed_with_its_source(limner):
    result = limner("data", "build")
    assert result.code == 0
    lines = {line.split()[0]: line for line in result.out.splitlines()[1:]}
    assert list(lines) == ["emoji", "speech-and-pictures", *LISTED]
    assert all(LISTED[name].source in line for name, line in lines.items() if name in LISTED)
    assert limner("data", "build", "lava").code == 2


def test_a_data_set_is_built_shown_and_merged(limner, tmp_path):
    result = limner("data", "build", "llava-pretrain", "llava.json", "--media", "media", "--output", "out")
    assert result.out == "out/rows.jsonl\t1 rows\nout/skipped.jsonl\t1 left out: missing file\n"
    assert limner("data", "show", "out").out.splitlines()[0] == "llava-pretrain: 1 samples"
    (tmp_path / "more.jsonl").write_text(
        '{"messages": [{"role": "user", "content": "A"}, {"role": "assistant", "content": "B"}]}'
    )
    assert (
        limner("data", "merge", "out", "more.jsonl", "--output", "all", "--seed", 1).out == "all/rows.jsonl\t2 rows\n"
    )


def test_builders_that_ask_demand_an_endpoint_and_plain_ones_have_none(limner):
    result = limner("data", "build", "multi-image-finetune", "llava.json", "--output", "out")
    assert (result.code, "Missing option '--endpoint'" in result.err) == (2, True)
    result = limner("data", "build", "llava-pretrain", "llava.json", "--output", "out", "--endpoint", "http://x")
    assert result.code == 2


def test_a_game_without_its_library_or_policy_says_so(limner):
    result = limner("data", "build", "game-episodes", "none.cleanrl_model", "--output", "out", "--media", "frames")
    assert result.code == 1
    assert "holds no actor" in result.err
