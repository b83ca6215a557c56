"""Two replicas behind Ray Serve: a conversation stays with one, and one survives the other."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import model_call, tiny_model

from limner.config.serialize import to_json
from limner.model.checkpoint import save_checkpoint

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_conversations_stay_with_a_replica_and_one_that_is_killed_is_replaced(tmp_path: Path) -> None:
    pytest.importorskip("ray.serve", reason="several replicas need ray[serve]")
    save_checkpoint(tiny_model(), tmp_path / "tiny", description=to_json(model_call()))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "benchmarks", "replicas", "--model", str(tmp_path / "tiny"), "--port", str(port)]
    paths = os.pathsep.join([str(ROOT), str(ROOT / "src")])
    ended = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True, timeout=600
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr[-4000:]
    assert "8 stayed with one" in ended.stdout
    assert "of which 1 new" in ended.stdout
