"""A model of random weights behind HTTP, on a port of its own."""

import asyncio
import socket
import threading
import time
from collections.abc import Iterator

import pytest
import uvicorn
from openai import OpenAI
from tiny import tiny_model

from limner.generate.engine import Engine
from limner.serve.app import Settings, create_app
from limner.serve.openai import Limits
from limner.serve.runtime import Runtime


@pytest.fixture(scope="session")
def engine() -> Engine:
    return Engine(tiny_model(), context_length=512)


@pytest.fixture(scope="session")
def runtime(engine: Engine) -> Runtime:
    return Runtime(engine, num_rows=8, max_waiting=64)


@pytest.fixture(scope="session")
def address(runtime: Runtime) -> Iterator[str]:
    """http://127.0.0.1:<port> of a server with the key `secret`."""
    limits = Limits(max_pixels=1_000_000, max_media_bytes=200_000)
    settings = Settings("tiny", api_keys=("secret",), limits=limits, max_body_bytes=1_000_000)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    app = create_app(runtime, settings=settings)
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="error"))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()), daemon=True)
    thread.start()
    deadline = time.monotonic() + 30
    while not server.started and time.monotonic() < deadline:
        time.sleep(0.02)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join(30)


@pytest.fixture(scope="session")
def client(address: str) -> OpenAI:
    """The official client, unchanged."""
    return OpenAI(base_url=f"{address}/v1", api_key="secret", max_retries=0)
