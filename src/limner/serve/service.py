"""Requests on their way through the runtime: read, admitted, timed, counted. The routes and the page share it.

body -> read (a bounded pool of threads) -> Runtime.submit -> events, up to a deadline -> Answer
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

from fastapi import Request
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from starlette.exceptions import HTTPException

from limner.document.document import Media
from limner.generate.events import MediaFinished, TextDelta
from limner.serve.openai import Answer, Limits
from limner.serve.runtime import Failed, Full, Runtime, Ticket

READERS = 4
"""Threads that decode what requests bring."""
FETCHERS = 8
"""Threads that wait for other hosts; they hold up nobody who fetches nothing."""

Result = TypeVar("Result")


@dataclass(frozen=True)
class Settings:
    """`api_keys` empty lets everybody in. `timeout` seconds is the most that an answer may take."""

    model_name: str
    api_keys: Sequence[str] = ()
    limits: Limits = field(default_factory=Limits)
    max_body_bytes: int = 64_000_000
    timeout: float = 600.0


class Metrics:
    """What /metrics shows."""

    def __init__(self, runtime: Runtime) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("limner_requests", "Requests", ["route", "status"], registry=self.registry)
        self.tokens = Counter("limner_text_tokens", "Chunks of text written", registry=self.registry)
        self.pictures = Counter("limner_pictures", "Pictures drawn", registry=self.registry)
        self.first = Histogram("limner_first_event_seconds", "To the first event of an answer", registry=self.registry)
        running = Gauge("limner_running", "Requests under way", registry=self.registry)
        running.set_function(lambda: runtime.load.running)
        waiting = Gauge("limner_waiting", "Requests that wait", registry=self.registry)
        waiting.set_function(lambda: runtime.load.waiting)


class Service:
    """One runtime, as those who bring requests see it."""

    def __init__(self, runtime: Runtime, *, settings: Settings) -> None:
        self.runtime, self.settings, self.metrics = runtime, settings, Metrics(runtime)
        self._reading = ThreadPoolExecutor(READERS, "limner-reading")
        self._fetching = ThreadPoolExecutor(FETCHERS, "limner-fetching")

    def close(self) -> None:
        """Finish what runs, turn away what waits."""
        self.runtime.close()
        self._reading.shutdown(wait=False, cancel_futures=True)
        self._fetching.shutdown(wait=False, cancel_futures=True)

    def check_model(self, name: str) -> None:
        """Raises 404 for a model that is not served here."""
        if name not in ("", self.settings.model_name):
            raise HTTPException(404, f"no model `{name}`; this server has `{self.settings.model_name}`")

    async def read(self, read: Callable[[], Result], *, fetches: bool = False) -> Result:
        """The result of what decodes or fetches, out of the event loop. Raises Full before anything is decoded for a
        request that would find no place to wait."""
        if self.runtime.load.waiting >= self.runtime.max_waiting:
            raise Full(retry_after=1)
        pool = self._fetching if fetches else self._reading
        return await asyncio.get_running_loop().run_in_executor(pool, read)

    async def events(self, ticket: Ticket, answer: Answer) -> AsyncIterator[tuple[list[dict[str, Any]], Media | None]]:
        """Deltas of each event, and the picture that it brings. Whoever stops listening cancels the request."""
        first, left = True, ticket.arrived + self.settings.timeout - time.monotonic()
        # Told by the ticket: a stream's events are waited for in another task than its first.
        alarm = asyncio.get_running_loop().call_later(max(0.0, left), ticket.tell, Failed(TimeoutError()))
        try:
            async for event in ticket.events():
                if first:
                    self.metrics.first.observe(time.monotonic() - ticket.arrived)
                    answer.num_prompt_tokens, first = ticket.num_prompt_tokens, False
                self.metrics.tokens.inc(isinstance(event, TextDelta))
                self.metrics.pictures.inc(isinstance(event, MediaFinished))
                yield answer.take(event), event.media if isinstance(event, MediaFinished) else None
            answer.num_tokens = 0 if ticket.row is None else ticket.row.num_words
        finally:
            alarm.cancel()
            self.runtime.cancel(ticket)

    async def collect(self, ticket: Ticket, answer: Answer) -> list[Media]:
        """Take all events; the pictures among them."""
        return [media async for _, media in self.events(ticket, answer) if media is not None]


async def unless_gone(http: Request, work: Awaitable[Result]) -> Result:
    """The result of `work`, which is cancelled at once when the client goes away."""

    async def gone() -> None:
        while (await http.receive())["type"] != "http.disconnect":
            pass

    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(gone())
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise HTTPException(499, "the client went away")
        return working.result()
    finally:
        leaving.cancel()
        if not working.done():
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)  # what it holds is given back before we go on
