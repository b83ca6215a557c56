"""docs/codes.md does what it says."""

import re
from pathlib import Path
from typing import Any

import pytest
from tiny import picture

from limner.compositions.code_model import scene_code_model
from limner.document.document import Document
from limner.generate.engine import Engine
from limner.generate.request import Pictures, Request
from limner.generate.sampling import Sampling

REPOSITORY = Path(__file__).parents[2]
PAGE = REPOSITORY / "docs" / "codes.md"


@pytest.fixture(scope="module")
def said() -> dict[str, Any]:
    """The names that the page's snippets leave."""
    namespace: dict[str, Any] = {
        "prompt": Document.chat([("user", "Draw.")]),
        "Request": Request,
        "Pictures": Pictures,
        "Sampling": Sampling,
    }
    for block in re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE):
        code = block if block.count("\n") > 1 else f"request = {block}"
        exec(compile(code, PAGE.name, "exec"), namespace)
    return namespace


def test_the_tokenizer_of_the_page_spells_and_draws(said: dict[str, Any]) -> None:
    model = scene_code_model(
        quantizer=said["Fields"](), detokenizer=said["Patches"](), d_model=32, num_layers=1, num_heads=2
    )
    sequence = model.render(Document.page([picture("blue")]))
    assert sequence.spans[0].length == 9
    (reply,) = Engine(model).run([said["request"]])
    assert next(reply.media())[1].content.size == (24, 24)


def test_every_file_that_the_page_names_is_there() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)#]+)\)", page):
        assert (PAGE.parent / link).is_file(), link
    for name in re.findall(r"`((?:compositions|modalities)/\w+\.py)`", page):
        assert (REPOSITORY / "src" / "limner" / name).is_file(), name
