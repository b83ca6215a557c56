"""The server under load, against a serial server around transformers' `generate` with the same language model.

    python -m benchmarks serving                     # the chat route, streamed
    python -m benchmarks serving --route generate    # rows of data sets, whole answers

Each server is a process of its own; clients are threads that ask for text, greedily, one after another. Printed: text
tokens per second, time to the first event and to the last for 1, 4, 8 and 16 clients; one stream without HTTP against
`generate`. The peer answers one request at a time behind a lock, as such servers do, and has no
stream: its first event is its last.
"""

import argparse
import json
import re
import statistics
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from limner.evaluate.report import environment

LANGUAGE_MODEL = "smollm2-135m-instruct"
PROMPTS = (
    "Tell me a long story about a fox.",
    "Explain at length how rain is made.",
    "Write a letter to an old friend.",
    "Describe a market in the morning.",
)


class Measured(NamedTuple):
    """Of one request: tokens of its reply, seconds to the first event, seconds to the last."""

    tokens: int
    first: float
    last: float


def main(arguments: list[str]) -> None:
    """Measure all, or (with --peer) be the peer."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks serving")
    parser.add_argument("--model", default="limner-tiny")
    parser.add_argument("--language-model", default=LANGUAGE_MODEL, help="the peer's; a zoo name or a directory")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 8, 16])
    parser.add_argument("--per-client", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--route", choices=["chat", "generate"], default="chat")
    parser.add_argument("--peer", action="store_true")
    options = parser.parse_args(arguments)
    if options.peer:
        _be_the_peer(options.language_model)
        return
    facts = environment()
    print(f"{facts['date']}, {facts['processor']}, {facts['cores']} cores; {options.tokens} tokens per reply\n")
    _streams(options)
    ours = [sys.executable, "-m", "limner.cli.main", "serve", options.model, "--port", "0"]
    ours += ["--max-new-tokens", str(options.tokens)]
    ask_limner = _ask_limner if options.route == "chat" else _row_asker(options.language_model)
    theirs = [sys.executable, "-m", "benchmarks", "serving", "--peer", "--language-model", options.language_model]
    print("| server | clients | tokens/s | first event, median | last event, median | worst |")
    print("|---|---|---|---|---|---|")
    speed = {name: _load(name, command, ask, options) for name, command, ask in (
        ("limner", ours, ask_limner), ("serial", theirs, _ask_peer)
    )}  # fmt: skip
    for clients in options.clients:
        print(
            f"\n{clients} clients: {speed['limner'][clients] / speed['serial'][clients]:.2f} times the serial server",
            end="",
        )
    print(" (target at 8: 4)")


def _streams(options: argparse.Namespace) -> None:
    """One stream without HTTP. What HTTP costs is measured by `http_cost`."""
    import torch

    from limner.cli.loading import open_engine
    from limner.document.document import Document
    from limner.generate.request import Pictures, Request

    engine = open_engine(options.model)
    model = _language_model(options.language_model)
    requests = [
        Request(Document.chat([("user", prompt)]), max_new_tokens=options.tokens, pictures=Pictures.NONE)
        for prompt in PROMPTS
    ]
    ids = [torch.tensor([engine.model.render(request.document, reply=True).ids]) for request in requests]
    base = model.config.vocab_size - 1
    rates: dict[str, list[float]] = {"limner": [], "generate": []}
    for request, prompt in zip([requests[0], *requests], [ids[0], *ids], strict=True):  # the first warms up
        rates["limner"].append(_rate(lambda request=request: _said(engine, [request])))
        rates["generate"].append(_rate(lambda prompt=prompt: _generated(model, prompt.clamp(max=base), options.tokens)))
    medians = {name: statistics.median(found[1:]) for name, found in rates.items()}
    ratio = medians["limner"] / medians["generate"]
    print(
        f"one stream: {medians['limner']:.1f} tokens/s, generate {medians['generate']:.1f}: {ratio:.2f} (target: 1.3)\n"
    )


def _rate(run: Callable[[], int]) -> float:
    started = time.perf_counter()
    count = run()
    return count / (time.perf_counter() - started)


def _said(engine: Any, requests: Sequence[Any]) -> int:
    count = 0
    running = engine.running(num_rows=len(requests))
    rows = running.add(requests)
    while running.step():
        pass
    count += sum(len(row.said) for row in rows)
    return count


def _generated(model: Any, ids: Any, tokens: int) -> int:
    import torch

    with torch.inference_mode():
        found = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=tokens)
    return found.shape[1] - ids.shape[1]


def _load(
    name: str, command: Sequence[str], ask: Callable[[str, str, int], Measured], options: argparse.Namespace
) -> dict[int, float]:
    """Tokens per second by number of clients."""
    found = {}
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert server.stderr is not None, "it was asked for"
        address = next(match[0] for line in server.stderr if (match := re.search(r"http://[\d.]+:\d+", line)))
        threading.Thread(target=server.stderr.read, daemon=True).start()
        ask(address, PROMPTS[0], 4)  # libraries and threads have started
        for clients in options.clients:
            prompts = [PROMPTS[number % len(PROMPTS)] for number in range(clients * options.per_client)]
            started = time.perf_counter()
            with ThreadPoolExecutor(clients) as pool:
                measured = list(pool.map(lambda prompt: ask(address, prompt, options.tokens), prompts))
            seconds = time.perf_counter() - started
            found[clients] = sum(one.tokens for one in measured) / seconds
            first, last = (statistics.median(one[place] for one in measured) for place in (1, 2))
            worst = max(one.last for one in measured)
            print(
                f"| {name} | {clients} | {found[clients]:.1f} | {first:.2f} s | {last:.2f} s | {worst:.2f} s |",
                flush=True,
            )
    finally:
        server.terminate()
        server.wait(60)
    return found


def _ask_limner(address: str, prompt: str, tokens: int) -> Measured:
    body = {
        "messages": [{"role": "user", "content": prompt}], "max_tokens": tokens, "pictures": "none", "stream": True,
        "stream_options": {"include_usage": True},
    }  # fmt: skip
    started, first, count = time.perf_counter(), None, 0
    with _posted(f"{address}/v1/chat/completions", body) as response:
        for line in response:
            if b'"content": "' in line and first is None and b'"part"' in line:
                first = time.perf_counter() - started
            if b'"usage": {' in line:
                count = json.loads(line.removeprefix(b"data: "))["usage"]["completion_tokens"]
    last = time.perf_counter() - started
    return Measured(count, last if first is None else first, last)


def _row_asker(language_model: str) -> Callable[[str, str, int], Measured]:
    """Asks by `/generate`, whose answers are whole; tokens are counted in the text."""
    from transformers import AutoTokenizer

    from limner import zoo

    tokenizer = AutoTokenizer.from_pretrained(str(zoo.locate(language_model)))

    def ask(address: str, prompt: str, tokens: int) -> Measured:
        started = time.perf_counter()
        with _posted(f"{address}/generate", {"messages": [{"role": "user", "content": prompt}]}) as response:
            output = json.load(response)["output"]
        last = time.perf_counter() - started
        return Measured(len(tokenizer(output, add_special_tokens=False)["input_ids"]), last, last)

    return ask


def _ask_peer(address: str, prompt: str, tokens: int) -> Measured:
    started = time.perf_counter()
    with _posted(f"{address}/generate", {"prompt": prompt, "max_tokens": tokens}) as response:
        count = json.load(response)["tokens"]
    last = time.perf_counter() - started
    return Measured(count, last, last)


def _posted(address: str, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(
        address, data=json.dumps(body).encode(), headers={"Content-Type": "application/json"}
    )
    return urllib.request.urlopen(request, timeout=600)


def _language_model(name: str) -> Any:
    from transformers import AutoModelForCausalLM

    from limner import zoo

    return AutoModelForCausalLM.from_pretrained(str(zoo.locate(name))).eval()


def _be_the_peer(name: str) -> None:
    """FastAPI around `generate`, one request at a time."""
    import uvicorn
    from fastapi import FastAPI
    from transformers import AutoTokenizer

    from limner import zoo

    model, tokenizer = _language_model(name), AutoTokenizer.from_pretrained(str(zoo.locate(name)))
    app, lock = FastAPI(), threading.Lock()

    @app.post("/generate")
    def generate(body: dict[str, Any]) -> dict[str, Any]:
        messages = [{"role": "user", "content": body["prompt"]}]
        ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        with lock:
            count = _generated(model, ids["input_ids"], body["max_tokens"])
        return {"tokens": count}

    uvicorn.run(app, port=0, log_level="info", access_log=False)
