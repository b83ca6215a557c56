"""One token per row in shapes that do not change gives what the model gives, and is one graph per shape."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny import tiny_backbone

from limner.backbone.cache import RowCache
from limner.backbone.compiled import Compiled

TESTS = Path(__file__).parents[1]


@pytest.mark.slow
def test_a_compiled_step_is_the_models_in_one_graph() -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS.parent / "src"), str(TESTS)])}
    done = subprocess.run(
        [sys.executable, str(TESTS / "compiled_steps.py")], capture_output=True, text=True, env=environment, timeout=280
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    shapes = found["cases"].pop("llama/shapes")
    assert shapes["steps"] == 15
    assert shapes["apart"] < 1e-5
    assert shapes["graphs"] >= 12
    assert len(found["cases"]) == 6
    for case in found["cases"].values():
        assert case["steps"] == 6
        assert case["apart"] < 1e-5
        # Rows 0 to 2 are four lines. Who comes and goes changes no shape, nor do lengths.
        assert case["graphs"] == 1
    assert found["untouched"]


def test_the_first_token_of_all_needs_no_prompt() -> None:
    backbone = tiny_backbone("llama")
    embeddings = torch.randn(1, backbone.d_model, generator=torch.Generator().manual_seed(0))
    found = Compiled(backbone)(embeddings, cache=RowCache(num_rows=2, capacity=8).step([0], counts=[1]))
    own = RowCache(num_rows=2, capacity=8).step([0], counts=[1])
    with torch.no_grad():
        expected = backbone.hidden_states(
            embeddings[:, None], positions=own.positions, mask=own.mask(backbone.dtype), cache=own
        )
    torch.testing.assert_close(found, expected[:, 0])
