"""Every run in configs/ describes something that can be built and shown."""

from pathlib import Path

import pytest
import torch

from limner.config.call import build
from limner.config.load import list_functions, load
from limner.config.show import show

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.mark.parametrize(
    "path", sorted(CONFIGS.rglob("*.py")), ids=lambda path: str(path.relative_to(CONFIGS))
)
def test_every_function_of_a_config_file_builds_on_the_meta_device(path: Path):
    functions = list_functions(path)
    assert functions
    for function in functions:
        tree = load(path, function=function)
        with torch.device("meta"):
            build(tree)
        assert show(tree)
