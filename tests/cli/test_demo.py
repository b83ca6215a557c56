import shutil

import pytest

from limner.cli import demo
from limner.document.document import Media
from limner.document.html import read_sections
from limner.generate.engine import Engine


@pytest.fixture
def quick(monkeypatch):
    """The demo at two denoising steps and few tokens; counts the calls of the engine."""
    from limner.generate import request

    sizes: list[int] = []
    run = Engine.run

    def counted(self, requests, **settings):
        sizes.append(len(requests))
        return run(self, requests, **settings)

    monkeypatch.setattr(Engine, "run", counted)
    plain = request.Request

    def small(*values, **settings):
        settings["max_new_tokens"] = 4
        return plain(*values, num_inference_steps=2, **settings)

    monkeypatch.setattr(request, "Request", small)
    return sizes


def test_the_demo_writes_one_page_with_four_parts(limner, checkpoint, tmp_path, quick):
    result = limner("demo", "--model", checkpoint, "--output", "new/out")
    assert (result.code, result.out) == (0, "new/out/index.html\n")
    page = (tmp_path / "new" / "out" / "index.html").read_text(encoding="utf-8")
    reading, drawing, story, talk = read_sections(page)
    shown = [document.messages[0].parts[0] for document in reading.documents]
    assert [media.alt for media in shown] == ["grass", "red square", "sky"]
    assert [document.messages[0].text for document in drawing.documents] == list(demo.DRAW)
    for document in drawing.documents:
        assert sum(isinstance(part, Media) for part in document.messages[1].parts) == 1
    assert story.documents[0].messages[0].text == demo.STORY
    assert [message.text for message in talk.documents[0].messages[::2]] == list(demo.TALK)
    # Pictures are read together, prompts drawn together, then the story, then turn by turn.
    assert quick == [3, 5, 1, 1, 1, 1]
    assert [line.split()[0] for line in result.err.splitlines()] == [
        "model", "reading", "drawing", "telling", "talking", "talking", "talking", "all",
    ]  # fmt: skip
    assert [path.name for path in (tmp_path / "new" / "out").iterdir()] == ["index.html"]


def test_prompts_of_the_user_are_answered_instead(limner, checkpoint, tmp_path, quick):
    limner("demo", "--model", checkpoint, "--prompt", "a", "--prompt", "b", "--output", "out")
    sections = read_sections((tmp_path / "out" / "index.html").read_text())
    assert [section.documents[0].messages[0].text for section in sections] == ["a", "b"]
    assert quick == [1, 1]


def test_a_demo_that_fails_leaves_the_page_of_before(limner, checkpoint, tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "index.html").write_text("before")
    monkeypatch.setattr(demo.Author, "talk", lambda self, turns: 1 / 0)
    monkeypatch.setattr(demo.Author, "read", lambda self, pictures: None)
    monkeypatch.setattr(demo.Author, "draw", lambda self, prompts: None)
    monkeypatch.setattr(demo.Author, "narrate", lambda self, prompt, title: None)
    assert limner("demo", "--model", checkpoint, "--output", "out").code == 1
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["index.html"]
    assert (tmp_path / "out" / "index.html").read_text() == "before"


def test_a_demo_without_pictures_to_read_says_where_they_belong(limner, checkpoint, tmp_path, monkeypatch):
    bare = tmp_path / "bare"
    shutil.copytree(checkpoint, bare, ignore=shutil.ignore_patterns("demo"))
    monkeypatch.setattr(demo.resources, "files", lambda name: tmp_path)
    result = limner("demo", "--model", bare)
    assert result.code == 1
    assert result.err.startswith("error: no pictures to read: neither")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--prompt", ""], "error: --prompt is empty"),
        (["--model", "limner-tny"], "error: no model named `limner-tny`"),
        (["--output", "file"], "error: cannot write to the directory `file`"),
    ],
)
def test_bad_input_is_refused_before_the_model_is_loaded(limner, checkpoint, tmp_path, monkeypatch, arguments, message):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(demo, "open_engine", lambda name: pytest.fail("loaded"))
    result = limner("demo", "--model", checkpoint, *arguments)
    assert result.code == 1
    assert result.err.startswith(message)
