"""Many prompts from a file: answered once each, whatever happens in between."""

import json
import os
import shutil
from pathlib import Path

import pytest

from limner.cli.generate_rows import Row
from limner.document.document import Document, Media

QUICK = ("--steps", "2", "--max-new-tokens", "4")


def rows_of(path: Path, *rows: object) -> None:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))


def answers_of(path: Path) -> dict[int, dict]:
    return {answer["line"]: answer for answer in map(json.loads, path.read_text(encoding="utf-8").splitlines())}


def test_rows_are_answered_as_they_would_be_alone(limner, checkpoint, picture, tmp_path):
    rows_of(
        tmp_path / "rows.jsonl", {"prompt": "Draw.", "pictures": "now", "seed": 3, "id": ["a", 1]},
        {"prompt": "What?", "images": [picture.name]}, "", {"prompt": "Say.", "pictures": "none", "max_new_tokens": 2},
    )  # fmt: skip
    result = limner("generate", checkpoint, "--input", "rows.jsonl", "--together", "2", *QUICK)
    assert (result.code, result.out) == (0, "answers.jsonl\n")
    answers = answers_of(tmp_path / "answers.jsonl")
    assert sorted(answers) == [1, 2, 4]
    assert answers[1]["id"] == ["a", 1]
    documents = {line: Document.from_json(answer["document"]) for line, answer in answers.items()}
    assert [type(part) for part in documents[2].messages[0].parts][:1] == [Media]
    one = ("--prompt", "Draw.", "--pictures", "now", "--seed", 3, "--output", "-")
    alone = limner("generate", checkpoint, *one, *QUICK)
    expected = Document.from_json(json.loads(alone.out))
    assert documents[1].messages[-1].text == expected.messages[-1].text == answers[1]["text"]
    assert next(documents[1].media())[1].content == next(expected.media())[1].content


def test_what_was_answered_before_a_kill_is_not_asked_again(limner, checkpoint, tmp_path, monkeypatch):
    rows_of(tmp_path / "rows.jsonl", *({"prompt": f"Say {number}.", "pictures": "none"} for number in range(5)))
    command = ("generate", checkpoint, "--input", "rows.jsonl", "--output", "out.jsonl", *QUICK)
    limner(*command)
    whole = (tmp_path / "out.jsonl").read_text()
    lines = whole.splitlines(keepends=True)
    (tmp_path / "out.jsonl").write_text("".join(lines[:2]) + lines[2][:20])  # cut in the middle of a line
    from limner.generate.running import Running

    asked = []
    add = Running.add
    monkeypatch.setattr(Running, "add", lambda self, requests: asked.extend(requests) or add(self, requests))
    assert limner(*command).code == 0
    assert len(asked) == 3
    assert answers_of(tmp_path / "out.jsonl") == {answer["line"]: answer for answer in map(json.loads, lines)}
    assert limner(*command).code == 0
    assert len(asked) == 3


def test_bad_rows_are_named_by_their_line_and_others_are_answered(limner, checkpoint, tmp_path):
    rows_of(
        tmp_path / "rows.jsonl", "{no json", {"prompt": "Say."}, {"prompt": " "}, {"promt": "x"}, [1],
        {"prompt": "x", "images": ["none.png"]}, {"prompt": "x", "seed": "y"}, {"prompt": "word " * 2000},
        {"prompt": "x", "pictures": "maybe"}, {"prompt": "\udcff"}, {"prompt": "x", "images": ["x" * 300]},
    )  # fmt: skip
    result = limner("generate", checkpoint, "--input", "rows.jsonl", "--pictures", "none", *QUICK)
    assert result.code == 1
    told = [line for line in result.err.splitlines() if line.startswith("line ")]
    assert [line.partition(":")[0] for line in told] == [
        f"line {number}" for number in (1, 3, 4, 5, 7, 9, 10, 6, 8, 11)
    ]
    assert "10 rows of `rows.jsonl` have no answer: lines 1, 3, 4, 5, 6 ..." in result.err
    assert list(answers_of(tmp_path / "answers.jsonl")) == [2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected --prompt or --input"),
        (["--prompt", "x", "--input", "rows.jsonl"], "expected --prompt or --input"),
        (["--input", "none.jsonl"], "no such file: `none.jsonl`"),
        (["--input", "rows.jsonl", "--output", "page.html"], "cannot write answers to `page.html`"),
        (["--input", "rows.jsonl", "--output", "other.jsonl"], "`other.jsonl` is no file of answers"),
        (["--input", "rows.jsonl", "--image", "a.png"], "--image with --input"),
        (["--input", "rows.jsonl", "--output", "./rows.jsonl"], "--input and --output are one file: `rows.jsonl`"),
        (["--input", "rows.jsonl", "--output", "mine.jsonl"], "`mine.jsonl` is no file of answers"),
        (["--input", "rows.jsonl", "--output", "lists.jsonl"], "`lists.jsonl` is no file of answers"),
        (["--input", "rows.jsonl", "--output", "beyond.jsonl"], "`beyond.jsonl` answers another row 2"),
    ],
)
def test_what_cannot_be_is_told_before_a_model_is_loaded(limner, tmp_path, arguments, message):
    rows_of(tmp_path / "rows.jsonl", {"prompt": "x"})
    (tmp_path / "other.jsonl").write_text("something\n")
    (tmp_path / "mine.jsonl").write_text('{"prompt": "one line, and no end of it"}')
    (tmp_path / "lists.jsonl").write_text('{"line": [], "key": ""}\n')
    (tmp_path / "beyond.jsonl").write_text('{"line": 2, "key": "0"}\n')
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    result = limner("generate", "nothing", *arguments)
    assert result.code in (1, 2)
    assert message in result.err
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_answers_to_other_rows_are_not_taken_for_these(limner, checkpoint, tmp_path):
    rows_of(tmp_path / "rows.jsonl", {"prompt": "x", "pictures": "none"})
    command = ("generate", checkpoint, "--input", "rows.jsonl", *QUICK)
    assert limner(*command).code == 0
    result = limner(*command, "--seed", "1")
    assert result.code == 1
    assert "`answers.jsonl` answers another row 1, or it was asked otherwise\nhint: " in result.err


def test_answers_about_other_pictures_or_by_other_weights_are_not_taken_for_these(
    limner, checkpoint, picture, tmp_path
):
    model = shutil.copytree(checkpoint, tmp_path / "model")
    rows_of(tmp_path / "rows.jsonl", {"prompt": "x", "images": [picture.name], "pictures": "none"})
    for changed in (picture, next(model.glob("*.safetensors"))):
        command = ("generate", model, "--input", "rows.jsonl", "--output", f"{changed.name}.jsonl", *QUICK)
        assert [limner(*command).code for _ in range(2)] == [0, 0]
        os.utime(changed, (1, 1))
        assert "answers another row 1" in limner(*command).err


def test_a_row_that_waits_for_its_place_is_read_once(limner, checkpoint, tmp_path, monkeypatch):
    beams = {"prompt": "x", "pictures": "none", "beams": 2}
    rows_of(tmp_path / "rows.jsonl", {"prompt": "y", "pictures": "none"}, beams, beams)
    built = []
    request = Row.request
    monkeypatch.setattr(Row, "request", lambda self, engine: built.append(self.line) or request(self, engine))
    assert limner("generate", checkpoint, "--input", "rows.jsonl", "--together", "2", *QUICK).code == 0
    assert built == [1, 2, 3]
