"""HTTP around the runtime: OpenAI's routes, rows, health and metrics.

    POST /v1/chat/completions   text and pictures in order, whole or as server-sent events
    POST /v1/images/generations pictures of a prompt;  edits, variations: with pictures shown
    POST /generate              a row of a data set, where the model's modalities have keys in rows (rows.py)
    GET  /v1/models   GET /health   GET /metrics

Whatever goes wrong leaves as OpenAI's error form (errors.py). A client that goes away frees its row at the next step.
"""

import asyncio
import os
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Annotated, Any

from fastapi import FastAPI, Form, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse
from prometheus_client import generate_latest

from limner.generate.request import Request as Asked
from limner.serve.errors import add_errors, told
from limner.serve.guard import Guard
from limner.serve.images import edited, generated, images_response, varied
from limner.serve.openai import Answer, sse, to_request
from limner.serve.rows import RowBody, Rows
from limner.serve.runtime import Runtime, Ticket
from limner.serve.schema import ChatBody, EditForm, ImageOptions, ImagesBody, VariationForm
from limner.serve.service import Service, Settings, unless_gone

FIELDS = sorted({name for body in (ChatBody, ImagesBody, ImageOptions, EditForm) for name in body.model_fields})


def create_app(runtime: Runtime, *, settings: Settings, rows: Rows | None = None, page: str = "") -> FastAPI:
    """The application. It closes the runtime when it is shut down. `rows` None has no /generate; below the path `page`
    whoever mounts something there (page.py) checks keys by itself.
    """
    service = Service(runtime, settings=settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(service.close)

    app = FastAPI(title="Limner", lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.service = service
    add_errors(app, fields=FIELDS)
    app.add_middleware(Guard, service=service, page=page)
    _add_information(app, service)
    _add_pictures(app, service)

    @app.post("/v1/chat/completions", response_model=None)
    async def chat(body: ChatBody, http: Request) -> Response:
        """Continue a conversation."""
        return await _chat(service, body, http)

    if rows is not None and rows.placeholders:
        reading = rows

        @app.post("/generate", response_model=None)
        async def generate(body: RowBody, http: Request) -> Response:
            """Answer a row of a data set."""
            return await _row(service, body, http, reading)

    return app


async def _chat(service: Service, body: ChatBody, http: Request) -> Response:
    service.check_model(body.model)
    request = await service.read(partial(to_request, body, limits=service.settings.limits))
    ticket = service.runtime.submit(request)
    answer = Answer(f"chatcmpl-{uuid.uuid4().hex}", service.settings.model_name)
    if not body.stream:
        await unless_gone(http, service.collect(ticket, answer))
        return JSONResponse(answer.completion())
    usage = body.stream_options is not None and body.stream_options.include_usage
    # A prompt that cannot be run fails here, while a status can still be sent.
    events = service.events(ticket, answer)
    first = await unless_gone(http, anext(events))
    stream = _stream(service, first, events, answer, ticket=ticket, include_usage=usage)
    return StreamingResponse(stream, media_type="text/event-stream", headers={"Cache-Control": "no-store"})


async def _stream(
    service: Service, first: Any, events: AsyncIterator[Any], answer: Answer, *, ticket: Ticket, include_usage: bool
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
        _, body = told(error)
        yield sse(body)
    finally:
        service.runtime.cancel(ticket)
    yield "data: [DONE]\n\n"


async def _row(service: Service, body: RowBody, http: Request, rows: Rows) -> Response:
    request = await service.read(partial(rows.request, body), fetches=rows.settings.fetching is not None)
    answer = Answer("", "")
    await unless_gone(http, service.collect(service.runtime.submit(request), answer))
    return JSONResponse({"output": answer.text.strip()})


def _add_pictures(app: FastAPI, service: Service) -> None:
    limits = service.settings.limits

    @app.post("/v1/images/generations", response_model=None)
    async def images(body: ImagesBody, http: Request) -> Response:
        """Draw what a prompt asks for."""
        service.check_model(body.model)
        return await _drawn(service, generated(body, limits=limits), http)

    @app.post("/v1/images/edits", response_model=None)
    async def edits(form: Annotated[EditForm, Form()], http: Request) -> Response:
        """Draw what a prompt asks for, with pictures shown before it."""
        service.check_model(form.model)
        files = [await file.read() for file in (*form.image, *form.images)]
        return await _drawn(service, await service.read(partial(edited, form, files, limits=limits)), http)

    @app.post("/v1/images/variations", response_model=None)
    async def variations(form: Annotated[VariationForm, Form()], http: Request) -> Response:
        """Draw another picture like the one that is shown."""
        service.check_model(form.model)
        file = await form.image.read()
        return await _drawn(service, await service.read(partial(varied, form, file, limits=limits)), http)


async def _drawn(service: Service, requests: Sequence[Asked], http: Request) -> Response:
    """The pictures of several requests, which come or fail together."""

    async def draw() -> list[Any]:
        tickets: list[Ticket] = []
        try:
            tickets.extend(service.runtime.submit(request) for request in requests)
            # The first that fails ends the others: nobody waits for pictures that will not be sent.
            async with asyncio.TaskGroup() as group:
                drawn = [group.create_task(service.collect(ticket, Answer("", ""))) for ticket in tickets]
            return [task.result() for task in drawn]
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None
        finally:
            for ticket in tickets:
                service.runtime.cancel(ticket)

    found = await unless_gone(http, draw())
    return JSONResponse(images_response(media.content for pictures in found for media in pictures))


def _add_information(app: FastAPI, service: Service) -> None:
    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        """What can be asked."""
        data = [{"id": service.settings.model_name, "object": "model", "created": 0, "owned_by": "limner"}]
        return {"object": "list", "data": data}

    @app.get("/health")
    async def health() -> dict[str, Any]:
        """Whether the server is alive, and how busy."""
        load = service.runtime.load
        return {"status": "ok", "running": load.running, "waiting": load.waiting, "process": os.getpid()}

    @app.get("/metrics", response_class=PlainTextResponse)
    async def shown() -> PlainTextResponse:
        """Counts for Prometheus."""
        return PlainTextResponse(generate_latest(service.metrics.registry).decode())
