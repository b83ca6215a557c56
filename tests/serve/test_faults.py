"""What goes wrong around a server: clients that leave, crowds, pictures that would fill the memory. Nothing hangs."""

import asyncio
import base64
import io
import json
import socket
import time
from collections import Counter
from collections.abc import Iterator

import PIL.Image
import pytest
from served import posted, serving

from limner.generate.engine import Engine
from limner.generate.events import Event, MediaProgress
from limner.serve.app import create_app
from limner.serve.runtime import Runtime
from limner.serve.service import Settings

STEPS = 200


class Heard(Runtime):
    """A runtime that counts denoising steps."""

    steps = 0

    def _on_event(self, index: int, event: Event) -> None:
        self.steps += isinstance(event, MediaProgress)
        super()._on_event(index, event)


@pytest.fixture(scope="module")
def small(engine: Engine) -> Heard:
    return Heard(engine, num_rows=2, max_waiting=4)


@pytest.fixture(scope="module")
def crowded(small: Heard) -> Iterator[str]:
    """A server with room for six."""
    with serving(create_app(small, settings=Settings("tiny"))) as address:
        yield address


def begun(address: str, body: dict, *, path: str = "/v1/chat/completions") -> socket.socket:
    """A connection on which a body was sent, and nothing read."""
    host, _, port = address.removeprefix("http://").partition(":")
    connection = socket.create_connection((host, int(port)), timeout=30)
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    connection.sendall(head.encode() + data)
    return connection


def idle(runtime: Runtime, *, seconds: float = 20.0) -> bool:
    deadline = time.monotonic() + seconds
    while (runtime.load.running or runtime.load.waiting) and time.monotonic() < deadline:
        time.sleep(0.01)
    return not runtime.load.running and not runtime.load.waiting


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_in_the_middle_of_a_picture_takes_it_along(
    crowded: str, small: Heard, stream: bool
) -> None:
    body = {
        "messages": [{"role": "user", "content": "What?"}], "pictures": "now", "stream": stream,
        "image": {"num_inference_steps": STEPS}, "max_tokens": 400,
    }  # fmt: skip
    before = small.steps
    connection = begun(crowded, body)
    while small.steps < before + 3:
        time.sleep(0.001)
    connection.close()
    assert idle(small)
    assert small.steps - before < STEPS


def test_a_crowd_is_answered_or_told_to_come_again(crowded: str, small: Heard) -> None:
    body = json.dumps({"messages": [{"role": "user", "content": "x"}], "pictures": "none", "max_tokens": 4}).encode()
    host, _, port = crowded.removeprefix("http://").partition(":")
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}\r\n"

    async def ask() -> tuple[int, bool]:
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(head.encode() + b"Content-Type: application/json\r\n\r\n" + body)
        answer = (await reader.read()).lower()
        writer.close()
        return int(answer.split(b" ", 2)[1]), b"retry-after: " in answer

    async def crowd() -> list[tuple[int, bool]]:
        return await asyncio.gather(*(ask() for _ in range(200)))

    found = Counter(asyncio.run(crowd()))
    assert set(found) == {(200, False), (429, True)}
    assert found[200, False] >= 2
    assert idle(small)
    assert posted(f"{crowded}/v1/chat/completions", json.loads(body))[0] == 200


def test_a_picture_of_200_megapixels_is_refused_before_it_is_decoded(crowded: str) -> None:
    stream = io.BytesIO()
    PIL.Image.new("1", (20_000, 10_000)).save(stream, "PNG")
    url = "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()
    content = [{"type": "image_url", "image_url": {"url": url}}]
    started = time.process_time()
    status, told = posted(f"{crowded}/v1/chat/completions", {"messages": [{"role": "user", "content": content}]})
    assert time.process_time() - started < 1.0
    assert status == 400
    assert "is far larger than" in told["error"]["message"]


def test_a_body_that_ends_too_soon_holds_no_place(crowded: str, small: Heard) -> None:
    host, _, port = crowded.removeprefix("http://").partition(":")
    for _ in range(12):
        with socket.create_connection((host, int(port)), timeout=30) as connection:
            connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{")
    time.sleep(0.1)
    body = {"messages": [{"role": "user", "content": "x"}], "pictures": "none", "max_tokens": 2}
    assert posted(f"{crowded}/v1/chat/completions", body)[0] == 200
