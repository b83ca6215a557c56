"""Every run in configs/ describes something that can be built, stored and shown."""

from pathlib import Path

import pytest
import torch

from limner.config.call import build
from limner.config.load import list_functions, load
from limner.config.show import show

CONFIGS = Path(__file__).parents[2] / "configs"
ADDRESSES = [
    f"{path}:{name}" for path in sorted(CONFIGS.rglob("*.py")) for name in list_functions(path)
]


@pytest.mark.parametrize("address", ADDRESSES, ids=lambda a: str(Path(a).relative_to(CONFIGS)))
def test_a_config_builds_on_the_meta_device(address: str):
    tree = load(address)
    with torch.device("meta"):
        build(tree)
    assert show(tree)
