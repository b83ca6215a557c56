"""Two replicas on one machine, by examples/replicas.py: are conversations sticky, and does one survive the other?

    python -m benchmarks replicas --model limner-tiny

Needs "ray[serve]"; takes the cluster of RAY_ADDRESS where that is set. Sends conversations, kills one replica with
SIGKILL while requests run, and prints what happened. Exits with 1 where a conversation changes its replica while both
live, a request hangs, or nobody answers after the kill.
"""

import argparse
import importlib.util
import json
import os
import re
import signal
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

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
    os.environ |= {"LIMNER_MODEL": options.model, "LIMNER_REPLICAS": "2", "RAY_USAGE_STATS_ENABLED": "0"}
    import ray
    from ray import serve

    sys.path.insert(0, str(EXAMPLES))
    if "RAY_ADDRESS" in os.environ:
        ray.init(logging_level="error")
    else:
        ray.init(num_cpus=4, include_dashboard=False, logging_level="error")
    serve.start(http_options={"host": "127.0.0.1", "port": options.port})
    import replicas

    serve.run(replicas.app)
    try:
        missed = _try(ADDRESS.format(port=options.port), options.conversations)
    finally:
        serve.shutdown()
        ray.shutdown()
    if missed:
        sys.exit("missed: " + "; ".join(missed))


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
        running = [pool.submit(_chat, address, name, tokens=64) for name in names]
        time.sleep(1.0)
        os.kill(killed, signal.SIGKILL)
        found = Counter(one.result() for one in running)
    print("one replica killed while they talk: " + ", ".join(f"{count} x {status}" for status, count in found.items()))
    missed += ["a request hung"] if found["nothing"] else []
    after = Counter(_chat(address, name, tokens=4) for name in names)
    print("asked again: " + ", ".join(f"{count} x {status}" for status, count in after.items()))
    missed += ["not everybody was answered after the kill"] if set(after) != {"200"} else []
    return missed


def _process(address: str, name: str) -> int:
    """The process that answers for a conversation, by what its metrics say."""
    request = urllib.request.Request(f"{address}/health", headers={"x-session-id": name})
    with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
        return int(re.search(r'"process":\s*(\d+)', response.read().decode())[1])  # pyright: ignore


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
