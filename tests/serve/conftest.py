"""A model of random weights behind HTTP, on a port of its own."""

from collections.abc import Iterator

import pytest
from openai import OpenAI
from served import serving
from tiny import tiny_model

from limner.generate.engine import Engine
from limner.serve.app import create_app
from limner.serve.openai import Limits
from limner.serve.runtime import Runtime
from limner.serve.service import Settings


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
    with serving(create_app(runtime, settings=settings)) as place:
        yield place


@pytest.fixture(scope="session")
def client(address: str) -> OpenAI:
    """The official client, unchanged."""
    return OpenAI(base_url=f"{address}/v1", api_key="secret", max_retries=0)
