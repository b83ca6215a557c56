"""What HTTP costs: the same requests to the same engine, streamed to clients and without a server.

    python -m benchmarks http_cost --clients 8 --rounds 4

One process holds the engine and serves it; this one is the clients, one connection each, which read and count bytes.
Rounds alternate: requests streamed by /v1/chat/completions, and as many given to the engine at once by a route that
only this script has, whose events are listened to and thrown away. Both ask the same, and what the engine kept is
forgotten before each, so that neither finds its prompts.

Printed: tokens per second of each round and their ratio; and seconds of processor time per thousand tokens, of which
the event loop's are the server's own cost and the clients' are what sharing cores with them takes. The engine's steps
are counted too: requests that arrive one after another begin and end in steps that fewer share.
"""

import argparse
import asyncio
import json
import os
import re
import statistics
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from typing import Any, NamedTuple

from limner.evaluate.report import environment

PROMPTS = (
    "Tell me a long story about a fox.",
    "Explain at length how rain is made.",
    "Write a letter to an old friend.",
    "Describe a market in the morning.",
)
AIM = 0.95


class Round(NamedTuple):
    """Tokens of all replies, seconds from the first request to the last reply, seconds of processor time, and the
    engine's steps."""

    tokens: int
    seconds: float
    loop: float
    engine: float
    clients: float
    steps: int

    @property
    def speed(self) -> float:
        """Tokens per second."""
        return self.tokens / self.seconds


def main(arguments: list[str]) -> None:
    """Measure, or (with --serve) be the server."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks http_cost")
    parser.add_argument("--model", default="limner-tiny")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of the server's process")
    parser.add_argument("--serve", action="store_true")
    options = parser.parse_args(arguments)
    if options.serve:
        _serve(options)
        return
    facts = environment()
    print(f"{facts['date']}, {facts['processor']}, {facts['cores']} cores, {options.threads} threads; {options.model}, "
          f"{options.clients} clients, up to {options.tokens} tokens per reply\n")  # fmt: skip
    rounds = _measured(options)
    print("| round | without HTTP | with HTTP | ratio |\n|---|---|---|---|")
    for number, (without, served) in enumerate(rounds):
        assert without.tokens == served.tokens, "the same requests have the same replies"
        print(f"| {number + 1} | {without.speed:.1f} tokens/s | {served.speed:.1f} tokens/s "
              f"| {served.speed / without.speed:.3f} |")  # fmt: skip
    ratio = statistics.median(served.speed / without.speed for without, served in rounds)
    print(f"\nHTTP leaves {ratio:.3f} of the speed, median (aim: {AIM})\n")
    print("| per 1,000 tokens | processor time of the engine | of the event loop | of the clients | steps |")
    print("|---|---|---|---|---|")
    for name, found in zip(("without HTTP", "with HTTP"), zip(*rounds, strict=True), strict=True):
        thousands = sum(one.tokens for one in found) / 1e3
        times = [sum(one[place] for one in found) / thousands for place in (3, 2, 4)]
        steps = sum(one.steps for one in found) / thousands
        print(f"| {name} | " + " | ".join(f"{seconds:.3f} s" for seconds in times) + f" | {steps:.0f} |")


def _measured(options: argparse.Namespace) -> list[tuple[Round, Round]]:
    command = [sys.executable, "-m", "benchmarks", "http_cost", "--serve", "--model", options.model]
    command += ["--clients", str(options.clients), "--tokens", str(options.tokens)]
    variables = os.environ | {"OMP_NUM_THREADS": str(options.threads)}
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=variables)
    try:
        assert server.stderr is not None, "it was asked for"
        lines: list[str] = []
        found_in = (lines.append(line) or re.search(r"http://[\d.]+:\d+", line) for line in server.stderr)
        at = next((match for match in found_in if match), None)
        if at is None:
            raise SystemExit("the server did not start:\n" + "".join(lines))
        address = at[0]
        threading.Thread(target=server.stderr.read, daemon=True).start()
        found = []
        for number in range(options.rounds + 1):
            order = ("without", "served") if number % 2 else ("served", "without")
            rounds = {kind: _round(address, kind, _bodies(options, number)) for kind in order}
            found.append((rounds["without"], rounds["served"]))
        return found[1:]  # the first warms up
    finally:
        server.terminate()
        try:
            server.wait(60)
        except subprocess.TimeoutExpired:
            server.kill()


def _bodies(options: argparse.Namespace, number: int) -> list[dict[str, Any]]:
    return [
        {
            "messages": [{"role": "user", "content": f"{number}-{client}. {PROMPTS[client % len(PROMPTS)]}"}],
            "max_tokens": options.tokens, "pictures": "none", "stream": True, "stream_options": {"include_usage": True},
        }
        for client in range(options.clients)
    ]  # fmt: skip


def _round(address: str, kind: str, bodies: list[dict[str, Any]]) -> Round:
    _asked(f"{address}/forget", {})
    before, mine = _asked(f"{address}/processor-time"), time.process_time()
    if kind == "without":
        tokens, seconds = _asked(f"{address}/without-http", bodies)
    else:
        tokens, seconds = asyncio.run(_served(address, bodies))
    mine, after = time.process_time() - mine, _asked(f"{address}/processor-time")
    loop = after["loop"] - before["loop"]
    return Round(
        tokens, seconds, loop, after["process"] - before["process"] - loop, mine, after["steps"] - before["steps"]
    )


async def _served(address: str, bodies: list[dict[str, Any]]) -> tuple[int, float]:
    started = time.perf_counter()
    tokens = await asyncio.gather(*(_streamed(address, body) for body in bodies))
    return sum(tokens), time.perf_counter() - started


async def _streamed(address: str, body: dict[str, Any]) -> int:
    """Tokens of a reply, as its last event says."""
    host, _, port = address.removeprefix("http://").partition(":")
    data = json.dumps(body).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(data)}\r\n"
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(head.encode() + b"Content-Type: application/json\r\n\r\n" + data)
    end = b""
    while piece := await reader.read(1 << 16):
        end = (end + piece)[-2000:]
    writer.close()
    found = re.search(rb'"completion_tokens": (\d+)', end)
    assert found is not None, end.decode()
    return int(found[1])


def _asked(address: str, body: Any = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(address, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=600) as response:
        return json.load(response)


def _serve(options: argparse.Namespace) -> None:
    import uvicorn

    from limner.cli.loading import open_engine
    from limner.generate.running import Running
    from limner.serve.app import create_app
    from limner.serve.openai import Limits, to_request
    from limner.serve.runtime import Runtime
    from limner.serve.schema import ChatBody
    from limner.serve.service import Settings

    engine = open_engine(options.model)
    app = create_app(Runtime(engine, num_rows=options.clients), settings=Settings(options.model))
    steps, step = Counter[str](), Running.step

    def counted(running: Running) -> bool:
        steps["steps"] += 1
        return step(running)

    Running.step = counted

    def run(bodies: list[dict[str, Any]]) -> tuple[int, float]:
        requests = [to_request(ChatBody(**body), limits=Limits()) for body in bodies]
        started = time.perf_counter()
        running = engine.running(num_rows=len(requests), on_event=lambda index, event: None)
        rows = running.add(requests)
        while running.step():
            pass
        return sum(row.num_words for row in rows), time.perf_counter() - started

    @app.post("/without-http")
    async def without(bodies: list[dict[str, Any]]) -> tuple[int, float]:
        return await asyncio.to_thread(run, bodies)

    @app.post("/forget")
    async def forget() -> None:
        engine.prefixes.clear()

    @app.get("/processor-time")
    async def times() -> dict[str, float]:
        return {"loop": time.thread_time(), "process": time.process_time(), "steps": steps["steps"]}

    uvicorn.run(app, port=0, log_level="info", access_log=False)
