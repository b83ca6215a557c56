"""What a request passes before anybody reads it: its key, its length, and whether there is a place for it at all."""

import hmac
from collections.abc import Sequence

from fastapi.responses import JSONResponse
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from limner.serve.openai import error_body
from limner.serve.service import Service

INVALID = "invalid_request_error"
BUSY = error_body("the server is busy; try again later", kind="rate_limit_error", code="queue_full")


class Guard:
    """Turns requests away, and counts all. `page` is the path below which people sign in by themselves; "" has none."""

    def __init__(self, app: ASGIApp, *, service: Service, page: str = "") -> None:
        self.app, self.service, self.page = app, service, page
        self._open = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer why not."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status = 500

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        asks = scope["method"] == "POST" and not self._is_page(scope)
        refused = self._refusal(scope, asks=asks)
        self._open += asks
        try:
            await (refused or self.app)(scope, receive, watched)
        finally:
            self._open -= asks
            route = "page" if self._is_page(scope) else getattr(scope.get("route"), "path", "other")
            self.service.metrics.requests.labels(route, str(status)).inc()

    def _is_page(self, scope: Scope) -> bool:
        path: str = scope["path"]
        return bool(self.page) and (path in ("/", self.page) or path.startswith(self.page + "/"))

    def _refusal(self, scope: Scope, *, asks: bool) -> JSONResponse | None:
        """Why a request is not even looked at, None where it is."""
        headers, settings = Headers(scope=scope), self.service.settings
        if settings.api_keys and scope["path"] != "/health" and not self._is_page(scope):
            given = headers.get("authorization", "").removeprefix("Bearer ")
            if not is_key(given, settings.api_keys):
                message = "the API key is missing or wrong (hint: send it as `Authorization: Bearer KEY`)"
                return _answer(401, message, kind="authentication_error", code="invalid_api_key")
        if "transfer-encoding" in headers:
            return _answer(411, "send the body in one piece, with its length")
        length = headers.get("content-length")
        if scope["method"] == "POST" and (length is None or not length.isdigit()):
            return _answer(411, "Content-Length is needed")
        if length is not None and int(length) > settings.max_body_bytes:
            return _answer(413, f"the body has {length} bytes; most are {settings.max_body_bytes}")
        runtime = self.service.runtime
        # Counted before a body is read: many large ones at once would fill the memory otherwise.
        if asks and self._open >= runtime.num_rows + runtime.max_waiting:
            return JSONResponse(BUSY, 429, headers={"Retry-After": "1"})
        return None


def is_key(given: str, keys: Sequence[str]) -> bool:
    """Whether a key is one of those, compared in constant time."""
    return any(hmac.compare_digest(given.encode(), key.encode()) for key in keys)


def _answer(status: int, message: str, *, kind: str = INVALID, code: str | None = None) -> JSONResponse:
    return JSONResponse(error_body(message, kind=kind, code=code), status)
