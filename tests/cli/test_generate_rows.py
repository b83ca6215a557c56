"""Many prompts from a file: answered once each, whatever happens in between."""

import json
from pathlib import Path

import pytest

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
        {"prompt": "x", "pictures": "maybe"},
    )  # fmt: skip
    result = limner("generate", checkpoint, "--input", "rows.jsonl", "--pictures", "none", *QUICK)
    assert result.code == 1
    told = [line for line in result.err.splitlines() if line.startswith("line ")]
    assert [line.partition(":")[0] for line in told] == [f"line {number}" for number in (1, 3, 4, 5, 7, 9, 6, 8)]
    assert "8 rows of `rows.jsonl` have no answer: lines 1, 3, 4, 5, 6 ..." in result.err
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
    ],
)
def test_what_cannot_be_is_told_before_a_model_is_loaded(limner, tmp_path, arguments, message):
    rows_of(tmp_path / "rows.jsonl", {"prompt": "x"})
    (tmp_path / "other.jsonl").write_text("something\n")
    result = limner("generate", "nothing", *arguments)
    assert result.code in (1, 2)
    assert message in result.err


def test_answers_to_other_rows_are_not_taken_for_these(limner, checkpoint, tmp_path):
    rows_of(tmp_path / "rows.jsonl", {"prompt": "x", "pictures": "none"})
    command = ("generate", checkpoint, "--input", "rows.jsonl", *QUICK)
    assert limner(*command).code == 0
    result = limner(*command, "--seed", "1")
    assert result.code == 1
    assert "`answers.jsonl` answers another row 1, or it was asked otherwise\nhint: " in result.err
