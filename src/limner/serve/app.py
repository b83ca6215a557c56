"""HTTP around the runtime: OpenAI's routes, rows, health and metrics.

    POST /v1/chat/completions   text and pictures in order, whole or as server-sent events
    POST /v1/images/generations pictures of a prompt
    POST /generate              a row of a data set, where the model's modalities have keys in rows (rows.py)
    GET  /v1/models   GET /health   GET /metrics

Whatever goes wrong leaves as OpenAI's error form, with no more of the inside than the client has a use for. A client
that goes away frees its row at the next step.
"""

import asyncio
import hmac
import logging
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.exceptions import HTTPException

from limner.document.document import Media
from limner.generate.events import MediaFinished, TextDelta
from limner.serve.openai import Answer, BadRequest, Limits, error_body, images_response, sse, to_request, to_requests
from limner.serve.rows import RowBody, Rows
from limner.serve.runtime import Closed, Full, Runtime, Ticket
from limner.serve.schema import ChatBody, ImagesBody

logger = logging.getLogger(__name__)

INVALID = "invalid_request_error"


@dataclass(frozen=True)
class Settings:
    """`api_keys` empty lets everybody in. `timeout` seconds is the most that an answer may take."""

    model_name: str
    api_keys: Sequence[str] = ()
    limits: Limits = field(default_factory=Limits)
    max_body_bytes: int = 64_000_000
    timeout: float = 600.0


class _Metrics:
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


def create_app(runtime: Runtime, *, settings: Settings, rows: Rows | None = None) -> FastAPI:
    """The application. It closes the runtime when it is shut down. `rows` None has no /generate."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(runtime.close)

    app = FastAPI(title="Limner", lifespan=lifespan, docs_url=None, redoc_url=None)
    metrics = _Metrics(runtime)
    _add_errors(app)
    _add_guard(app, settings, metrics)
    _add_information(app, runtime, settings, metrics)
    service = _Service(runtime, settings, metrics)

    @app.post("/v1/chat/completions", response_model=None)
    async def chat(body: ChatBody, http: Request) -> Response:
        """Continue a conversation."""
        return await service.chat(body, http)

    @app.post("/v1/images/generations", response_model=None)
    async def images(body: ImagesBody, http: Request) -> Response:
        """Draw what a prompt asks for."""
        return await service.images(body, http)

    if rows is not None and rows.placeholders:
        reading = rows

        @app.post("/generate", response_model=None)
        async def generate(body: RowBody, http: Request) -> Response:
            """Answer a row of a data set."""
            return await service.row(body, http, reading)

    return app


class _Service:
    def __init__(self, runtime: Runtime, settings: Settings, metrics: _Metrics) -> None:
        self.runtime, self.settings, self.metrics = runtime, settings, metrics

    async def chat(self, body: ChatBody, http: Request) -> Response:
        self._check_model(body.model)
        request = await asyncio.to_thread(to_request, body, limits=self.settings.limits)
        ticket = self.runtime.submit(request)
        answer = Answer(f"chatcmpl-{uuid.uuid4().hex}", self.settings.model_name)
        if not body.stream:
            await self._collect(ticket, answer, http)
            return JSONResponse(answer.completion())
        usage = body.stream_options is not None and body.stream_options.include_usage
        # A prompt that cannot be run fails here, while a status can still be sent.
        events = self._events(ticket, answer)
        first = await anext(events)
        stream = self._stream(first, events, answer, ticket=ticket, include_usage=usage)
        return StreamingResponse(stream, media_type="text/event-stream", headers={"Cache-Control": "no-store"})

    async def images(self, body: ImagesBody, http: Request) -> Response:
        self._check_model(body.model)
        requests = to_requests(body, limits=self.settings.limits)
        tickets: list[Ticket] = []
        answers = [Answer("", "") for _ in requests]
        try:
            tickets.extend(self.runtime.submit(request) for request in requests)
            found = await asyncio.gather(
                *(self._collect(ticket, answer, http) for ticket, answer in zip(tickets, answers, strict=True))
            )
        except BaseException:
            for ticket in tickets:
                self.runtime.cancel(ticket)
            raise
        return JSONResponse(images_response(media.content for pictures in found for media in pictures))

    async def row(self, body: RowBody, http: Request, rows: Rows) -> Response:
        request = await asyncio.to_thread(rows.request, body)
        answer = Answer("", "")
        await self._collect(self.runtime.submit(request), answer, http)
        return JSONResponse({"output": answer.text.strip()})

    async def _collect(self, ticket: Ticket, answer: Answer, http: Request) -> list[Media]:
        """Take all events; the pictures among them. A client that leaves takes its request along."""

        async def collect() -> list[Media]:
            pictures = []
            async for deltas, media in self._events(ticket, answer):
                del deltas
                pictures += [] if media is None else [media]
            return pictures

        collecting = asyncio.ensure_future(collect())
        try:
            while not collecting.done():
                await asyncio.wait([collecting], timeout=0.5)
                if not collecting.done() and await http.is_disconnected():
                    raise HTTPException(499, "the client went away")
            return collecting.result()
        finally:
            collecting.cancel()

    async def _events(self, ticket: Ticket, answer: Answer) -> AsyncIterator[tuple[list[dict[str, Any]], Media | None]]:
        """Deltas of each event, and the picture that it brings. Whoever stops listening cancels the request."""
        deadline, first, events = ticket.arrived + self.settings.timeout, True, ticket.events()
        try:
            while True:
                # Per event: a stream's events are waited for in another task than its first.
                left = max(0.0, deadline - time.monotonic())
                try:
                    event = await asyncio.wait_for(anext(events), left)
                except StopAsyncIteration:
                    break
                if first:
                    self.metrics.first.observe(time.monotonic() - ticket.arrived)
                    answer.num_prompt_tokens, first = ticket.num_prompt_tokens, False
                self.metrics.tokens.inc(isinstance(event, TextDelta))
                self.metrics.pictures.inc(isinstance(event, MediaFinished))
                yield answer.take(event), event.media if isinstance(event, MediaFinished) else None
            answer.num_tokens = 0 if ticket.row is None else ticket.row.num_words
        finally:
            self.runtime.cancel(ticket)

    async def _stream(
        self, first: Any, events: AsyncIterator[Any], answer: Answer, *, ticket: Ticket, include_usage: bool
    ) -> AsyncIterator[str]:
        yield sse(answer.chunk({"role": "assistant", "content": ""}))
        try:
            for delta in first[0]:
                yield sse(answer.chunk(delta))
            async for deltas, _ in events:
                for delta in deltas:
                    yield sse(answer.chunk(delta))
            for chunk in answer.last_chunks(include_usage=include_usage):
                yield sse(chunk)
        except Exception as error:
            # The status is gone out; the error is the last event.
            _, body = _told(error)
            yield sse(body)
        finally:
            self.runtime.cancel(ticket)
        yield "data: [DONE]\n\n"

    def _check_model(self, name: str) -> None:
        if name not in ("", self.settings.model_name):
            raise HTTPException(404, f"no model `{name}`; this server has `{self.settings.model_name}`")


def _add_information(app: FastAPI, runtime: Runtime, settings: Settings, metrics: _Metrics) -> None:
    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        """What can be asked."""
        data = [{"id": settings.model_name, "object": "model", "created": 0, "owned_by": "limner"}]
        return {"object": "list", "data": data}

    @app.get("/health")
    async def health() -> dict[str, Any]:
        """Whether the server is alive, and how busy."""
        return {"status": "ok", "running": runtime.load.running, "waiting": runtime.load.waiting}

    @app.get("/metrics")
    async def shown() -> PlainTextResponse:
        """Counts for Prometheus."""
        return PlainTextResponse(generate_latest(metrics.registry).decode())


def _add_guard(app: FastAPI, settings: Settings, metrics: _Metrics) -> None:
    @app.middleware("http")
    async def guard(http: Request, go_on: Callable[[Request], Awaitable[Response]]) -> Response:
        refused = _refusal(http, settings)
        response = refused if refused is not None else await go_on(http)
        route = getattr(http.scope.get("route"), "path", "other")
        metrics.requests.labels(route, str(response.status_code)).inc()
        return response


def _refusal(http: Request, settings: Settings) -> Response | None:
    """Why a request is not even looked at: no key, or too large."""
    if settings.api_keys and http.url.path != "/health":
        given = http.headers.get("authorization", "").removeprefix("Bearer ").encode()
        if not any(hmac.compare_digest(given, key.encode()) for key in settings.api_keys):
            body = error_body("the API key is missing or wrong", kind="authentication_error", code="invalid_api_key")
            return JSONResponse(body, 401)
    if "transfer-encoding" in http.headers:
        return JSONResponse(error_body("send the body in one piece, with its length", kind=INVALID), 411)
    length = http.headers.get("content-length")
    if http.method == "POST" and (length is None or not length.isdigit()):
        return JSONResponse(error_body("Content-Length is needed", kind=INVALID), 411)
    if length is not None and int(length) > settings.max_body_bytes:
        return JSONResponse(error_body(f"more than {settings.max_body_bytes} bytes", kind=INVALID), 413)
    return None


def _add_errors(app: FastAPI) -> None:
    async def on_error(http: Request, error: Exception) -> Response:
        if isinstance(error, RequestValidationError):
            first = error.errors()[0]
            param = ".".join(str(place) for place in first["loc"][1:])
            message = f"`{param}`: {first['msg']}" if param else first["msg"]
            return JSONResponse(error_body(message, kind=INVALID, param=param or None), 400)
        if isinstance(error, HTTPException):
            return JSONResponse(error_body(str(error.detail), kind=INVALID), error.status_code, headers=error.headers)
        status, body = _told(error)
        headers = {"Retry-After": str(error.retry_after)} if isinstance(error, Full) else None
        return JSONResponse(body, status, headers=headers)

    for kind in (RequestValidationError, HTTPException, ValueError, Full, Closed, TimeoutError, Exception):
        app.add_exception_handler(kind, on_error)


def _told(error: Exception) -> tuple[int, dict[str, Any]]:
    """Status and body of an error. What was not the client's fault is logged and not explained."""
    match error:
        case BadRequest():
            return 400, error_body(str(error), kind=INVALID, param=error.param)
        case Full():
            return 429, error_body("the server is busy; try again later", kind="rate_limit_error", code="queue_full")
        case Closed():
            return 503, error_body("the server is shutting down", kind="server_error")
        case TimeoutError():
            return 504, error_body("the answer took too long", kind="server_error")
        case ValueError():
            return 400, error_body(str(error).partition("\n")[0], kind=INVALID)
    logger.error("a request failed", exc_info=error)
    return 500, error_body("something went wrong here", kind="server_error")
