import io

import pytest

from limner.document.html import from_html

QUICK = ("--steps", "2", "--max-new-tokens", "3")


@pytest.fixture
def chat(limner, checkpoint, monkeypatch):
    def run(*lines: str, options: tuple[str, ...] = ()):
        monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
        return limner("chat", checkpoint, *QUICK, *options)

    return run


def test_a_conversation_can_be_saved_as_a_page(chat, picture, tmp_path):
    result = chat("/image picture.png", "What?", "And now?", "/save talk.html", "/quit", "unheard")
    document = from_html((tmp_path / "talk.html").read_text(encoding="utf-8"))
    assert result.code == 0
    assert result.out.endswith("talk.html\n")
    assert [message.role for message in document.messages] == ["user", "assistant"] * 2
    # The picture goes with the next message only.
    assert [len(message.parts) for message in document.messages[::2]] == [2, 1]


def test_pictures_are_kept_as_files_that_never_replace_others(chat, tmp_path):
    options = ("--pictures", "now", "--output", "drawn")
    for _ in range(2):
        result = chat("Draw.", options=options)
    names = sorted(path.name for path in (tmp_path / "drawn").iterdir())
    assert names[:2] == ["001.png", "002.png"]
    assert "drawn/002.png\n" in result.out


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/image none.png", "error: no such image file: `none.png`"),
        ("/save talk.txt", "error: cannot write `talk.txt`"),
        ("/save talk.html", "error: nothing was said yet"),
        ("/sing", "error: no command `/sing`"),
        ("/set steps", "error: no settings in `steps`"),
        ("/model nobody", "error: no model named `nobody`"),
        ("A fox {stps: 3}", "error: no setting `stps`"),
        ("A fox {cfg 7.5}", "error: `{cfg 7.5}` cannot be read as settings"),
        ("/set cfg 7.5", "error: `{cfg 7.5}` cannot be read as settings"),
        ("A fox {cfg: 0.5}", "error: guidance_scale is 0.5"),
        ("A fox {image: none.png}", "error: no such image file: `none.png`"),
        ("A fox {sampler: magic, pictures: now}", "magic"),
        ("x" * 2000, "tokens; the context holds 256"),
    ],
)
def test_a_slip_ends_the_turn_and_not_the_conversation(chat, line, message):
    result = chat(line, "", "Hello.", "/save talk.html")
    assert result.code == 0
    assert message in result.err
    assert "hint: " in result.err
    assert result.out.endswith("talk.html\n")


def test_help_lists_commands_and_what_a_line_may_end_in(chat):
    result = chat("/help", options=("--steps", "7"))
    assert "/save PAGE.html" in result.err
    assert "A fox in the snow {cfg: 7.5, steps: 50, seed: 3}" in result.err
    (steps,) = [line for line in result.err.splitlines() if line.startswith("  steps")]
    assert steps.split() == ["steps,", "num_inference_steps", "7", "Denoising", "steps", "per", "picture."]
    assert "beams" not in result.err
    assert result.out == ""


def test_set_alone_shows_the_settings(chat):
    result = chat("/set", "/set {pictures: none, negative: dark}", "/set")
    before, after = result.err.split("  seed ")[1:]
    assert "beams" not in before
    assert "beams" in after  # text alone may be searched for
    assert "dark" in after


def test_the_end_of_the_input_ends_the_conversation(chat):
    assert chat().code == 0


def test_a_line_has_settings_and_pictures_of_its_own(chat, picture, tmp_path):
    lines = ("Draw {pictures: now, steps: 1, seed: 5, image: picture.png, size: 16x32, negative: dark}", "Say.")
    result = chat(*lines, "/save talk.html", options=("--pictures", "none", "--output", "drawn"))
    document = from_html((tmp_path / "talk.html").read_text(encoding="utf-8"))
    assert result.code == 0, result.err
    assert [len(list(message.parts)) for message in document.messages[:1]] == [2]
    assert document.messages[0].text == "Draw"
    sizes = [media.content.pil().size for message, media in document.media() if message.role == "assistant"]
    assert sizes == [(32, 16)]


def test_settings_can_be_changed_for_good_and_the_model_too(chat, checkpoint, tmp_path):
    result = chat(
        "/set {pictures: now}", "Draw.", "Again.", f"/model {checkpoint}", "And more.", "/save talk.html",
        options=("--pictures", "none", "--output", "drawn"),
    )  # fmt: skip
    assert result.code == 0, result.err
    document = from_html((tmp_path / "talk.html").read_text(encoding="utf-8"))
    assert [message.role for message in document.messages] == ["user", "assistant"]  # the new model's
    assert len(list((tmp_path / "drawn").iterdir())) == 3


def test_the_same_seed_said_twice_draws_the_same_twice(chat, tmp_path):
    chat("Draw {seed: 7}", "/new", "Draw {seed: 7}", options=("--pictures", "now", "--output", "drawn"))
    first, second = (path.read_bytes() for path in sorted((tmp_path / "drawn").iterdir()))
    assert first == second
