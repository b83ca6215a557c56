"""The server at saturation for a while: does it leak, hang, or mix up answers?

    python -m benchmarks soak --minutes 15 --clients 24
    python -m benchmarks soak --model DIRECTORY --minutes 1 --burst 2000

`limner serve` runs as a process of its own, with more clients than it has places for. Every client asks questions whose
answers are known from having been asked alone: an answer that is another's is seen. Some clients leave in the middle,
some send nonsense. Printed: what became of every request, and how the server's memory grew. At the end, with --burst,
so many requests at once that nearly all must be refused. Exits with 1 where an aim is missed.
"""

import argparse
import asyncio
import contextlib
import json
import random
import re
import resource
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

from limner.evaluate.report import environment

GROWTH = 2.0
"""Per cent that the server's memory may grow by, from the end of the first fifth to the last tenth."""
TIMEOUT = 600
NONSENSE = (b"{no json", b"[]", b'{"messages": []}', b'{"messages": [{"role": "user", "content": "x"}], "seed": "y"}')
WORDS = ("fox", "rain", "letter", "market", "moon", "bread", "ship", "garden")


def main(arguments: list[str]) -> None:
    """Run the server and its clients; print what happened."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks soak")
    parser.add_argument("--model", default="limner-tiny")
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--clients", type=int, default=24)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--max-waiting", type=int, default=8)
    parser.add_argument("--token-budget", type=int, default=None, help="tokens that run at once; else no limit")
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--steps", type=int, default=4, help="denoising steps of a picture")
    parser.add_argument("--burst", type=int, default=0, help="requests sent at once at the end")
    options = parser.parse_args(arguments)
    facts = environment()
    print(f"{facts['date']}, {facts['processor']}, {facts['cores']} cores; {options.model}, {options.minutes} minutes, "
          f"{options.clients} clients, {options.rows} rows, {options.max_waiting} may wait, "
          f"{options.token_budget or 'any number of'} tokens at once\n")  # fmt: skip
    with _server(options) as (process, port):
        known = [_asked(port, _question(number, options)) for number in range(len(WORDS) * 3)]
        found, memory = _saturate(options, port=port, process=process, known=known)
        missed = _report(found, memory)
        if options.burst:
            missed += _burst(options, port=port)
        process.terminate()
        ended = process.wait(TIMEOUT)
    print(f"\nSIGTERM: the server ended with {ended}")
    if missed:
        sys.exit("missed: " + "; ".join(missed))


@contextlib.contextmanager
def _server(options: argparse.Namespace) -> Iterator[tuple[subprocess.Popen[str], int]]:
    command = [sys.executable, "-m", "limner.cli.main", "serve", options.model, "--port", "0"]
    command += ["--rows", str(options.rows), "--max-waiting", str(options.max_waiting)]
    command += ["--token-budget", str(options.token_budget)] if options.token_budget else []
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        said = []
        for line in process.stderr:
            said.append(line)
            if address := re.search(r"http://[\d.]+:(\d+)", line):
                break
        else:
            sys.exit("".join(said))
        threading.Thread(target=process.stderr.read, daemon=True).start()
        yield process, int(address[1])
    finally:
        process.kill()
        process.wait()


def _question(number: int, options: argparse.Namespace) -> dict[str, Any]:
    """One of a few requests, each with an answer of its own."""
    kind = number % 3
    return {
        "messages": [{"role": "user", "content": f"Tell me about a {WORDS[number // 3 % len(WORDS)]}."}],
        "max_tokens": options.tokens,
        "seed": number,
        "pictures": ("none", "now", "none")[kind],
        "temperature": (0.0, 0.0, 1.0)[kind],
        "image": {"num_inference_steps": options.steps},
        "stream": number % 2 == 1,
    }


def _asked(port: int, body: dict[str, Any]) -> tuple[dict[str, Any], str]:
    status, text, _ = _posted(port, json.dumps(body).encode())
    if status != 200:
        sys.exit(f"a request alone was answered with {status}: {text}")
    return body, text


def _posted(port: int, data: bytes) -> tuple[int, str, bool]:
    """Status, the answer's text with a mark where a picture stands, and whether it says when to come again."""
    connection = HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)
    try:
        connection.request("POST", "/v1/chat/completions", data, {"Content-Type": "application/json"})
        response = connection.getresponse()
        raw = response.read().decode()
        if response.status != 200:
            return response.status, raw, response.getheader("Retry-After") is not None
        return 200, _streamed(raw) if raw.startswith("data: ") else _whole(raw), False
    finally:
        connection.close()


def _whole(raw: str) -> str:
    parts = json.loads(raw)["choices"][0]["message"]["parts"]
    return "".join(part["text"] if part["type"] == "text" else "[picture]" for part in parts)


def _streamed(raw: str) -> str:
    said, ids = "", set()
    lines = [line.removeprefix("data: ") for line in raw.splitlines() if line.startswith("data: ")]
    for event in map(json.loads, lines[:-1]):
        if "error" in event:
            return f"error: {event['error']['message']}"
        ids.add(event["id"])
        for choice in event["choices"]:
            said += choice["delta"].get("content") or ""
            said += "[picture]" * (choice["delta"].get("part", {}).get("type") == "image_url")
    return said if len(ids) == 1 and lines[-1] == "[DONE]" else "a stream of several, or one that was cut"


def _saturate(
    options: argparse.Namespace, *, port: int, process: subprocess.Popen[str], known: list[tuple[dict[str, Any], str]]
) -> tuple[Counter[str], list[float]]:
    """What became of the requests, and the server's memory in megabytes, once a second."""
    end = time.monotonic() + options.minutes * 60
    memory: list[float] = []
    with ThreadPoolExecutor(options.clients) as pool:
        clients = [pool.submit(_client, number, port, known, end) for number in range(options.clients)]
        while time.monotonic() < end and process.poll() is None:
            memory.append(_megabytes(process.pid))
            time.sleep(1.0)
    total: Counter[str] = Counter()
    for client in clients:
        total += client.result()
    return total, memory


def _client(number: int, port: int, known: list[tuple[dict[str, Any], str]], end: float) -> Counter[str]:
    """Ask until the end; how each request ended."""
    chance, found = random.Random(number), Counter()
    while time.monotonic() < end:
        body, expected = chance.choice(known)
        luck = chance.random()
        try:
            if luck < 0.05:
                _leave(port, json.dumps(body | {"stream": True}).encode())
                found["left by the client"] += 1
                continue
            nonsense = luck > 0.95
            status, text, again = _posted(port, chance.choice(NONSENSE) if nonsense else json.dumps(body).encode())
        except (OSError, HTTPException) as error:
            found[f"not answered ({type(error).__name__})"] += 1
            continue
        if status == 429 and again:
            found["429 with Retry-After"] += 1
            time.sleep(chance.random())
        elif nonsense:
            found["nonsense, refused with 400" if status == 400 else f"nonsense, answered with {status}"] += 1
        elif status != 200:
            found[f"status {status}"] += 1
        else:
            found["answered" if text == expected else "answered otherwise than alone"] += 1
    return found


def _leave(port: int, data: bytes) -> None:
    """Ask, read the beginning, go away."""
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n"
    with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT) as connection:
        connection.sendall(head.encode() + b"Content-Type: application/json\r\n\r\n" + data)
        connection.recv(200)


def _megabytes(process: int) -> float:
    status = Path(f"/proc/{process}/status")
    try:
        found = re.search(r"VmRSS:\s+(\d+) kB", status.read_text())
    except OSError:
        return float("nan")
    return int(found[1]) / 1000 if found else float("nan")


def _report(found: Counter[str], memory: list[float]) -> list[str]:
    print("| requests | how they ended |\n|---:|---|")
    for name, count in found.most_common():
        print(f"| {count} | {name} |")
    fine = {"answered", "429 with Retry-After", "left by the client", "nonsense, refused with 400"}
    missed = [f"{count} {name}" for name, count in found.items() if name not in fine]
    early = memory[len(memory) // 5 :][: max(1, len(memory) // 10)]
    late = memory[-max(1, len(memory) // 10) :]
    before, after = statistics.median(early), statistics.median(late)
    growth = 100 * (after / before - 1)
    told = f"memory {before:.0f} MB after a fifth of the time, {after:.0f} MB at the end: {growth:+.2f} %"
    print(f"\n{told}, aim < {GROWTH}")
    return missed + ([f"memory grew by {growth:.2f} %"] if not growth < GROWTH else [])


def _burst(options: argparse.Namespace, *, port: int) -> list[str]:
    """All at once: each is answered or told to come again."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    data = json.dumps(_question(0, options)).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(data)}\r\n"

    async def ask() -> str:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(head.encode() + b"Content-Type: application/json\r\n\r\n" + data)
            answer = (await asyncio.wait_for(reader.read(), TIMEOUT)).lower()
            writer.close()
        except (OSError, TimeoutError) as error:
            return f"not answered ({type(error).__name__})"
        status = answer.split(b" ", 2)[1].decode() if answer else "nothing"
        return status + (" with Retry-After" if b"retry-after: " in answer else "")

    async def all_at_once() -> Counter[str]:
        return Counter(await asyncio.gather(*(ask() for _ in range(options.burst))))

    started = time.monotonic()
    found = asyncio.run(all_at_once())
    print(f"\n{options.burst} at once, {time.monotonic() - started:.0f} s: "
          + ", ".join(f"{count} x {name}" for name, count in found.most_common()))  # fmt: skip
    return [f"{count} x {name}" for name, count in found.items() if name not in ("200", "429 with Retry-After")]
