"""Writing text on CPU: our engine against transformers' `generate` with the same language model.

    python -m benchmarks text_decode

One stream and several rows, greedily, without a server. Both sides get the same prompts' ids and write the same number
of tokens; prompts are run before the clock starts. Ours reads limner-tiny's weights (SmolLM2-135M with its adapters
folded in), the peer those of SmolLM2-135M itself: the same shapes. Times are wall and processor time per step, the
ratio is that of tokens per second. Then what is exact: tokens of the fused step against those of transformers' layers
under our cache; and what eight bits change: the share of next tokens that stay, and the nats of the exact replies.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from benchmarks.serving import LANGUAGE_MODEL, PROMPTS
from limner.cli.loading import open_engine
from limner.cli.options import Weights
from limner.document.document import Document
from limner.evaluate.report import environment
from limner.generate.context import Context
from limner.generate.engine import Engine
from limner.generate.request import Phase, Pictures, Request


class Speed(NamedTuple):
    """Milliseconds per step, by the clock and by the processor."""

    wall: float
    processor: float


def main(arguments: list[str]) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks text_decode")
    parser.add_argument("--model", default="limner-tiny")
    parser.add_argument("--language-model", default=LANGUAGE_MODEL, help="the peer's; a zoo name or a directory")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--without-int8", action="store_true")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    facts = environment()
    print(f"{facts['date']}, {facts['processor']}, {options.threads} threads; {options.tokens} tokens per reply\n")
    peer, exact = _peer(options.language_model), open_engine(options.model)
    serial = _median([_generate(peer, exact, options) for _ in range(options.rounds)])
    print("| | rows | wall, ms a step | processor, ms a step | times generate's tokens |")
    print("|---|---|---|---|---|")
    print(f"| transformers' generate | 1 | {serial.wall:.1f} | {serial.processor:.1f} | 1 |", flush=True)
    _table("limner", exact, serial, options)
    replies = [_reply(exact, prompt, options.tokens) for prompt in PROMPTS]
    if not options.without_int8:
        small = open_engine(options.model, weights=Weights.INT8)
        _table("limner, int8", small, serial, options)
    plain = Engine(exact.model, kept_bytes=0)
    same = [reply == _reply(plain, prompt, options.tokens) for prompt, reply in zip(PROMPTS, replies, strict=True)]
    print(f"\nfused and transformers' layers write the same: {sum(same)} of {len(same)} replies (fp32)")
    if not options.without_int8:
        _quality(exact, small, replies)


def _table(name: str, engine: Engine, serial: Speed, options: argparse.Namespace) -> None:
    for rows in options.rows:
        speed = _median([_steps(engine, rows, options.tokens) for _ in range(options.rounds)])
        ratio = rows * serial.wall / speed.wall
        aim = {1: " (aim 1.3)", 8: " (aim 4)"}.get(rows, "") if name == "limner" else ""
        print(f"| {name} | {rows} | {speed.wall:.1f} | {speed.processor:.1f} | {ratio:.2f}{aim} |", flush=True)


def _median(speeds: Sequence[Speed]) -> Speed:
    return Speed(*(statistics.median(values) for values in zip(*speeds, strict=True)))


def _timed(run: Callable[[], object], steps: int) -> Speed:
    wall, processor = time.perf_counter(), time.process_time()
    run()
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    return Speed(1e3 * wall / steps, 1e3 * processor / steps)


def _request(prompt: str, tokens: int) -> Request:
    return Request(Document.chat([("user", prompt)]), max_new_tokens=tokens, pictures=Pictures.NONE)


def _steps(engine: Engine, rows: int, tokens: int) -> Speed:
    """Steps of rows that all write, none of which may end."""
    running = engine.running(num_rows=rows)
    running.add([_request(PROMPTS[number % len(PROMPTS)], tokens + 8) for number in range(rows)])
    running.writing.stop_ids = set()
    while any(row.phase is Phase.PROMPT for row in running.rows):
        running.step()
    running.step()

    def write() -> None:
        for _ in range(tokens):
            running.step()

    return _timed(write, tokens)


def _peer(name: str) -> Any:
    from transformers import AutoModelForCausalLM

    from limner import zoo

    return AutoModelForCausalLM.from_pretrained(str(zoo.locate(name))).eval()


def _generate(peer: Any, engine: Engine, options: argparse.Namespace) -> Speed:
    """`generate`, the time of its prompt and first token taken off."""
    ids = torch.tensor([engine.model.render(_request(PROMPTS[0], 1).document, reply=True).ids])
    ids = ids.clamp(max=peer.config.vocab_size - 1)

    def write(tokens: int) -> Callable[[], object]:
        return lambda: peer.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, min_new_tokens=tokens, max_new_tokens=tokens
        )

    with torch.inference_mode():
        first, whole = _timed(write(1), 1), _timed(write(options.tokens + 1), 1)
    return Speed((whole.wall - first.wall) / options.tokens, (whole.processor - first.processor) / options.tokens)


def _reply(engine: Engine, prompt: str, tokens: int) -> list[int]:
    running = engine.running(num_rows=1)
    (row,) = running.add([_request(prompt, tokens)])
    while running.step():
        pass
    return row.said


def _quality(exact: Engine, small: Engine, replies: Sequence[list[int]]) -> None:
    """What eight bits change when the exact replies are read token by token."""
    stay, count, nats = 0, 0, {"exact": 0.0, "int8": 0.0}
    for prompt, reply in zip(PROMPTS, replies, strict=True):
        scores = {name: _scores(engine, prompt, reply) for name, engine in (("exact", exact), ("int8", small))}
        for name, found in scores.items():
            picked = found.log_softmax(dim=-1).gather(1, torch.tensor(reply)[:, None])
            nats[name] -= float(picked.sum())
        stay += int((scores["exact"].argmax(dim=-1) == scores["int8"].argmax(dim=-1)).sum())
        count += len(reply)
    change = (nats["int8"] - nats["exact"]) / count
    print(
        f"int8: {100 * stay / count:.1f} % of {count} next tokens stay; {nats['exact'] / count:.3f} nats per token of "
        f"the exact replies become {nats['int8'] / count:.3f} ({change:+.3f})"
    )


@torch.inference_mode()
def _scores(engine: Engine, prompt: str, reply: list[int]) -> torch.Tensor:
    """Logits in front of each token of a reply, one token a step."""
    model = engine.model
    ids = list(model.render(_request(prompt, 1).document, reply=True).ids)
    context = Context(model, num_rows=1, capacity=1024, prefixes=engine.prefixes, token_step=engine.token_step)
    found = []
    for piece in (ids, *([token] for token in reply[:-1])):
        hidden = context.append([0], model.backbone.embed(torch.tensor([piece])), counts=[len(piece)])
        found.append(context.next_logits(hidden, counts=[len(piece)], lines=[0])[0])
    return torch.stack(found)
