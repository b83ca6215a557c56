"""The examples, run as they are with a model of random weights in the place of limner-tiny."""

import runpy
from pathlib import Path

import pytest

from limner import zoo
from limner.document.html import from_html

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def run(checkpoint, monkeypatch, tmp_path):
    """Run an example with arguments, in an empty directory, at two denoising steps."""
    # The engine too, and first: what it expects of a request is the class itself.
    from limner.generate import engine, request

    assert engine.Request is request.Request
    monkeypatch.setenv(zoo.environment_variable("limner-tiny"), str(checkpoint))
    monkeypatch.chdir(tmp_path)
    plain = request.Request

    def small(*values, **settings):
        return plain(*values, num_inference_steps=2, **(settings | {"max_new_tokens": 6}))

    monkeypatch.setattr(request, "Request", small)

    def run(name: str, *arguments: object) -> None:
        monkeypatch.setattr("sys.argv", [name, *map(str, arguments)])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")

    return run


def test_every_example_is_short_and_tested():
    names = {path.name for path in EXAMPLES.glob("*.py")}
    # What add_a_modality.py does, tests/docs/test_adding_a_modality.py runs from data to answers.
    # The programs of LaVIT are run by tests/compositions/test_lavit_examples.py.
    lavit = {f"lavit_{name}.py" for name in ("detokenize", "multimodal", "text_to_image", "understanding")}
    # replicas.py needs Ray: `python -m benchmarks replicas` runs it.
    others = {"add_a_modality.py", "continue_a_page.py", "listen_to_events.py", "name_pictures.py", "replicas.py"}
    assert names == others | lavit
    for path in EXAMPLES.glob("*.py"):
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        code = [line for line in lines if not line.startswith(("import ", "from "))]
        assert len(code) <= 52
        assert len(lines) <= (80 if path.name == "add_a_modality.py" else 40)


def test_continue_a_page(run, tmp_path):
    run("continue_a_page.py", "story.html")
    assert from_html((tmp_path / "story.html").read_text(encoding="utf-8")).messages[1].parts


def test_name_pictures(run, picture, capsys):
    run("name_pictures.py", picture, picture)
    first, second = capsys.readouterr().out.split(f"{picture}: ")[1:]
    assert first.strip() == second.strip()


def test_listen_to_events(run, capsys):
    run("listen_to_events.py", "Draw.")
    assert capsys.readouterr().out
