"""What clients are told when something goes wrong: OpenAI's form, one line, the field and what was expected there.

Nothing of the inside is told that a client has no use for; what was not its fault is logged.
"""

import logging
import re
from collections.abc import Collection, Mapping, Sequence
from difflib import get_close_matches
from itertools import pairwise
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from limner.serve.guard import BUSY, INVALID
from limner.serve.openai import BadRequest, error_body
from limner.serve.runtime import Closed, Full

logger = logging.getLogger(__name__)

EXPECTED: Mapping[str, str] = {
    "greater_than_equal": "at least {ge}",
    "greater_than": "more than {gt}",
    "less_than_equal": "at most {le}",
    "less_than": "less than {lt}",
    "literal_error": "{expected}",
    "string_too_short": "at least {min_length} characters",
    "string_too_long": "at most {max_length} characters",
    "too_short": "at least {min_length} of them",
    "too_long": "at most {max_length} of them",
    "string_pattern_mismatch": "the form {pattern}",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "text",
    "string_unicode": "valid Unicode",
    "list_type": "a list",
    "dict_type": "an object",
    "model_type": "an object",
    "model_attributes_type": "an object",
    "union_tag_invalid": "a `type` of {expected_tags}",
    "union_tag_not_found": "a `type`",
    "value_error": "another value",
}
"""Kind of a validation error -> what was expected, filled in from its context."""
UNIONS = re.compile(r"^(str|list\[.*|tagged-union.*|function-.*|constrained-.*|text|image_url|input_audio)$")
"""What pydantic puts into a place for the branch of a union that it tried."""


def add_errors(app: FastAPI, *, fields: Collection[str]) -> None:
    """Answer every error in one form. `fields` are names that bodies know, for a hint at a slip."""

    async def on_error(http: Request, error: Exception) -> Response:
        if isinstance(error, RequestValidationError):
            message, param = described(error.errors(), fields=fields)
            return JSONResponse(error_body(message, kind=INVALID, param=param or None), 400)
        if isinstance(error, HTTPException):
            return JSONResponse(error_body(str(error.detail), kind=INVALID), error.status_code, headers=error.headers)
        status, body = told(error)
        headers = {"Retry-After": str(error.retry_after)} if isinstance(error, Full) else None
        return JSONResponse(body, status, headers=headers)

    for kind in (RequestValidationError, HTTPException, ValueError, Full, Closed, TimeoutError, Exception):
        app.add_exception_handler(kind, on_error)


def told(error: Exception) -> tuple[int, dict[str, Any]]:
    """Status and body of an error. What was not the client's fault is logged and not explained."""
    match error:
        case BadRequest():
            return 400, error_body(one_line(error), kind=INVALID, param=error.param)
        case Full():
            return 429, BUSY
        case Closed():
            return 503, error_body("the server is shutting down", kind="server_error")
        case TimeoutError():
            return 504, error_body("the answer took too long", kind="server_error")
        case HTTPException():
            return error.status_code, error_body(str(error.detail), kind=INVALID)
        case ValueError():
            return 400, error_body(one_line(error), kind=INVALID)
    logger.error("a request failed", exc_info=error)
    return 500, error_body("something went wrong here", kind="server_error")


def one_line(error: Exception) -> str:
    """An error of ours, its hint in brackets."""
    message, _, rest = str(error).partition("\n")
    return f"{message} ({rest})" if rest.startswith("hint:") and "\n" not in rest else message


def described(errors: Sequence[Any], *, fields: Collection[str]) -> tuple[str, str]:
    """(message, field) of what is wrong with a body: of several branches that fail, the one that went furthest."""
    error = max(errors, key=lambda one: len(one["loc"]))
    param = _place(error["loc"])
    kind, context = error["type"], error.get("ctx", {})
    if kind == "json_invalid":
        return "the body is no JSON (hint: send an object in UTF-8, with Content-Type: application/json)", ""
    if not param:
        return "the body is no object (hint: GET /openapi.json says what each route takes)", ""
    if kind == "missing":
        return f"`{param}` is missing (hint: GET /openapi.json says what each route takes)", param
    if kind == "extra_forbidden":
        close = get_close_matches(str(error["loc"][-1]), fields, n=1)
        hint = f"did you mean `{close[0]}`?" if close else "leave it out; it would have no effect"
        return f"no field `{param}` (hint: {hint})", param
    expected = EXPECTED.get(kind, "another value").format_map(_Context(context))
    return f"`{param}` is {_shown(error.get('input'))}; expected {expected} (hint: see /openapi.json)", param


class _Context(dict[str, Any]):
    def __missing__(self, key: str) -> str:
        return "another"


def _place(loc: Sequence[Any]) -> str:
    """`messages[0].content` of ("body", "messages", 0, "content"), without the branches of unions."""
    place = ""
    for before, entry in pairwise(loc):
        if isinstance(entry, int):
            place += f"[{entry}]" if place else ""
        elif not UNIONS.match(entry) or (entry in ("text", "image_url", "input_audio") and not isinstance(before, int)):
            place += f".{entry}" if place else entry
    return place


def _shown(value: Any) -> str:
    """What was given, as far as it is short."""
    if isinstance(value, str | int | float | bool) or value is None:
        text = str(value)
        return f"`{text[:40]}`" + (" ..." if len(text) > 40 else "")
    return {dict: "an object", list: "a list"}.get(type(value), "something else")
