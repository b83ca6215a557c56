import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import limner as package
from limner.document.document import Document, Media
from limner.document.html import from_html

QUICK = ("--steps", "2", "--max-new-tokens", "4")


def test_a_prompt_becomes_a_page(limner, checkpoint, tmp_path):
    result = limner(
        "generate", checkpoint, "--prompt", "Draw <it>.", "--pictures", "now", "--output",
        "new/page.html", *QUICK,
    )  # fmt: skip
    assert (result.code, result.out) == (0, "new/page.html\n")
    document = from_html((tmp_path / "new" / "page.html").read_text(encoding="utf-8"))
    assert document.messages[0].text == "Draw <it>."
    assert any(isinstance(part, Media) for part in document.messages[1].parts)


def test_a_document_as_json_goes_to_stdout_alone(limner, checkpoint, picture):
    arguments = ("generate", checkpoint, "--prompt", "What?", "--image", picture, *QUICK)
    result = limner(*arguments, "--output", "-")
    document = Document.from_json(json.loads(result.out))
    assert result.code == 0
    assert [type(part).__name__ for part in document.messages[0].parts] == ["Media", "Text"]
    assert limner(*arguments, "--output", "-").out == result.out


def test_a_document_as_json_goes_to_a_file(limner, checkpoint, tmp_path):
    limner("generate", checkpoint, "--prompt", "x", "--output", "a.json", "--pictures", "none", *QUICK)
    document = Document.from_json(json.loads((tmp_path / "a.json").read_text()))
    assert [message.role for message in document.messages] == ["user", "assistant"]


def test_the_seed_decides_what_is_drawn_by_chance(limner, checkpoint):
    def reply(seed: int) -> str:
        return limner(
            "generate", checkpoint, "--prompt", "x", "--temperature", "1", "--top-p", "0.9",
            "--pictures", "none", "--seed", seed, "--output", "-", *QUICK,
        ).out  # fmt: skip

    assert reply(1) == reply(1) != reply(2)


def damaged(checkpoint: Path, target: Path, name: str, content: bytes) -> Path:
    shutil.copytree(checkpoint, target)
    (target / name).write_bytes(content)
    return target


def test_a_damaged_checkpoint_is_named(limner, checkpoint, tmp_path):
    for number, (name, content) in enumerate(
        [("limner.json", b"{"), ("limner.json", b'{"format": 99}'), ("backbone.safetensors", b"x")]
    ):
        broken = damaged(checkpoint, tmp_path / str(number), name, content)
        result = limner("generate", broken, "--prompt", "x")
        error, hint = result.err.splitlines()[-2:]
        assert result.code == 1
        assert error.startswith("error: ")
        assert str(broken) in error
        assert hint.startswith("hint: ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--prompt", "  "], "--prompt is empty"),
        (["--prompt", "\udcff"], "--prompt is not valid UTF-8"),
        (["--prompt", "x", "--image", "none.png"], "no such image file: `none.png`"),
        (["--prompt", "x", "--image", "text.png"], "`text.png` is not a picture"),
        (["--prompt", "x", "--image", "cut.png"], "`cut.png` is damaged"),
        (["--prompt", "x", "--output", "page.txt"], "cannot write `page.txt`"),
        (["--prompt", "x", "--output", "folder.html"], "`folder.html` is a directory"),
        (["--prompt", "x", "--output", "text.png/a.html"], "cannot write to the directory"),
        (["--prompt", "x" * 2000], "tokens; the context holds 256"),
        (["--prompt", "x", "--size", "9"], "size is `9`; expected HEIGHTxWIDTH"),
        (["--prompt", "x", "--sampler", "magic"], "magic"),
        (["--prompt", "x", "--beams", "2"], "beam search with pictures `auto`"),
        (["--prompt", "x", "--guidance-scale", "1", "--negative", "y"], "a negative prompt is given"),
        (["--prompt", "x", "--best-of", "2", "--scorer", "."], "no CLIP in `.`"),
        (["--prompt", "x", "--top-p", "0"], "top_p is 0.0; expected in (0, 1]"),
    ],
)
def test_bad_input_is_one_error_one_hint_and_no_page(limner, checkpoint, picture, tmp_path, arguments, message):
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "cut.png").write_bytes(picture.read_bytes()[:60])
    (tmp_path / "folder.html").mkdir()
    before = sorted(tmp_path.rglob("*"))
    result = limner("generate", checkpoint, *arguments)
    error, hint = result.err.splitlines()[-2:]
    assert (result.code, result.out) == (1, "")
    assert error.startswith("error: ")
    assert message in error
    assert hint.startswith("hint: ")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("limner-tny", "error: no model named `limner-tny`"),
        ("smollm2-135m-instruct", "error: `smollm2-135m-instruct` is a part of models (llm)"),
        (".", "error: `.` is no checkpoint: it has no limner.json"),
    ],
)
def test_what_is_no_model_of_ours_is_refused_before_anything_is_fetched(limner, model, message):
    result = limner("generate", model, "--prompt", "x")
    assert result.code == 1
    assert result.err.startswith(message)


@pytest.mark.slow
def test_the_program_runs_as_a_process_of_its_own(checkpoint, picture, tmp_path):
    environment = os.environ | {"PYTHONPATH": str(Path(package.__file__).parents[1])}
    command = [sys.executable, "-m", "limner.cli.main", "generate", str(checkpoint)]
    done = subprocess.run(
        [*command, "--prompt", "What?", "--image", str(picture), "--output", "-", *QUICK],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
        timeout=120,
        check=True,
    )
    assert Document.from_json(json.loads(done.stdout)).messages[1].role == "assistant"
    failed = subprocess.run(
        [*command, "--prompt", " "],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
        timeout=60,
        check=False,
    )
    assert failed.returncode == 1
    assert failed.stderr == "error: --prompt is empty\nhint: say what to describe, draw or tell\n"
