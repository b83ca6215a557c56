"""Every run in configs/ describes something that can be built and shown."""

from pathlib import Path

import published_rows
import pytest
import torch

from limner.config.call import build
from limner.config.load import list_functions, load
from limner.config.show import show

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return published_rows.write(tmp_path_factory.mktemp("data"))


@pytest.fixture(autouse=True)
def published(data, monkeypatch):
    """Data sets that recipes name are there."""
    monkeypatch.setenv("LIMNER_DATA", str(data))


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.py")), ids=lambda path: str(path.relative_to(CONFIGS)))
def test_every_function_of_a_config_file_builds_on_the_meta_device(path: Path):
    functions = list_functions(path)
    assert functions
    for function in functions:
        tree = load(path, function=function)
        assert show(tree)
        try:
            with torch.device("meta"):
                build(tree)
        except ValueError as error:
            if "offline, and not in the cache" not in str(error):
                raise
            # A tokenizer cannot be had from shapes; `limner models` and a first run fill the cache.
            pytest.skip(f"needs the cache of published weights: {str(error).splitlines()[0]}")
