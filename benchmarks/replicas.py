"""Two replicas on one machine, by examples/replicas.py: are conversations sticky, and does one survive the other?

    python -m benchmarks replicas --model limner-tiny

Needs "ray[serve]". Starts a cluster of its own and stops it. Its ports are chosen before: agents that choose for
themselves are given fifteen seconds by Ray, which is too little where the cores are busy. A key made for it keeps
others out. Sends conversations, kills one replica with SIGKILL while requests run, and prints what happened. Exits with
1 where a conversation changes its replica while both live, a request hangs, somebody is not answered after the kill, or
the killed replica is not replaced.
"""

import argparse
import contextlib
import importlib.util
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

EXAMPLES = Path(__file__).parents[1] / "examples"
ADDRESS = "http://127.0.0.1:{port}"
TIMEOUT = 300


def main(arguments: list[str]) -> None:
    """Serve, ask, kill, ask again."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks replicas")
    parser.add_argument("--model", default="limner-tiny")
    parser.add_argument("--port", type=int, default=8199)
    parser.add_argument("--conversations", type=int, default=8)
    options = parser.parse_args(arguments)
    if importlib.util.find_spec("ray") is None:
        print("skipped: ray is not installed")
        return
    with tempfile.TemporaryDirectory() as folder, _cluster(Path(folder), model=options.model):
        missed = _served(options)
    if missed:
        sys.exit("missed: " + "; ".join(missed))


@contextlib.contextmanager
def _cluster(folder: Path, *, model: str) -> Iterator[None]:
    """A cluster of one machine, which this process joins."""
    key = folder / "key"
    key.write_text(secrets.token_hex(32))
    key.chmod(0o600)
    names = ("port", "dashboard-agent-listen-port", "dashboard-agent-grpc-port", "runtime-env-agent-port",
             "metrics-export-port", "ray-client-server-port")  # fmt: skip
    ports = dict(zip(names, _free_ports(len(names)), strict=True))
    os.environ |= {
        "LIMNER_MODEL": model, "LIMNER_REPLICAS": "2", "RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(key), "RAY_agent_register_timeout_ms": "300000",
        # Replicas import the example by its name.
        "PYTHONPATH": os.pathsep.join([str(EXAMPLES), os.environ.get("PYTHONPATH", "")]),
    }  # fmt: skip
    import ray

    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--num-cpus", "4"]
    command += ["--include-dashboard=false", "--disable-usage-stats", "--include-log-monitor=false"]
    command += [part for name, port in ports.items() for part in (f"--{name}", str(port))]
    with (folder / "ray.log").open("w") as log:
        started = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        _wait_for("Ray runtime started", folder / "ray.log", process=started)
        ray.init(f"127.0.0.1:{ports['port']}", logging_level="error")
        yield
    finally:
        ray.shutdown()
        started.terminate()  # and with it all that it started
        started.wait(TIMEOUT)


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        taken = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in taken:
            one.bind(("", 0))
        return [one.getsockname()[1] for one in taken]


def _wait_for(words: str, log: Path, *, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + TIMEOUT
    while words not in log.read_text():
        if process.poll() is not None or time.monotonic() > end:
            sys.exit(f"Ray did not start:\n{log.read_text()[-2000:]}")
        time.sleep(0.5)


def _served(options: argparse.Namespace) -> list[str]:
    from ray import serve

    sys.path.insert(0, str(EXAMPLES))
    serve.start(http_options={"host": "127.0.0.1", "port": options.port})
    import replicas

    serve.run(replicas.app)
    try:
        return _try(ADDRESS.format(port=options.port), options.conversations)
    finally:
        serve.shutdown()


def _try(address: str, conversations: int) -> list[str]:
    missed = []
    names = [f"conversation-{number}" for number in range(conversations)]
    places = {name: {_process(address, name) for _ in range(4)} for name in names}
    used = set().union(*places.values())
    print(f"{conversations} named conversations, 4 requests each: {len(used)} replicas used; "
          f"{sum(len(found) == 1 for found in places.values())} stayed with one")  # fmt: skip
    missed += ["a conversation changed its replica"] if any(len(found) > 1 for found in places.values()) else []
    killed = min(used)
    with ThreadPoolExecutor(conversations) as pool:
        running = [pool.submit(_chat, address, name, tokens=256) for name in names]
        theirs = next(name for name, found in places.items() if killed in found)
        while not _health(address, theirs)["running"] and not all(one.done() for one in running):
            pass
        os.kill(killed, signal.SIGKILL)
        found = Counter(one.result() for one in running)
    print("one replica killed while they talk: " + ", ".join(f"{count} x {status}" for status, count in found.items()))
    missed += ["a request hung"] if found["nothing"] else []
    after = Counter(_chat(address, name, tokens=4) for name in names)
    print("asked again: " + ", ".join(f"{count} x {status}" for status, count in after.items()))
    missed += ["not everybody was answered after the kill"] if set(after) != {"200"} else []
    end, living = time.monotonic() + TIMEOUT, set()
    while len(living - {killed}) < len(used) and time.monotonic() < end:
        living = {_process(address, f"another-{number}") for number in range(4 * conversations)}
    print(f"replicas that answer then: {len(living)}, of which {len(living - used)} new")
    return missed + (["the killed replica was not replaced"] if not living - used else [])


def _process(address: str, name: str) -> int:
    """The process that answers for a conversation."""
    return _health(address, name)["process"]


def _health(address: str, name: str) -> dict[str, Any]:
    request = urllib.request.Request(f"{address}/health", headers={"x-session-id": name})
    with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
        return json.load(response)


def _chat(address: str, name: str, *, tokens: int) -> str:
    body = {"messages": [{"role": "user", "content": "Say."}], "max_tokens": tokens, "pictures": "none"}
    headers = {"Content-Type": "application/json", "x-session-id": name}
    request = urllib.request.Request(f"{address}/v1/chat/completions", json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
            return str(response.status)
    except urllib.error.HTTPError as error:
        return str(error.code)
    except (OSError, TimeoutError):
        return "nothing"
