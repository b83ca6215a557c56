"""Whatever the OpenAPI document allows, and much that it does not: nothing makes the server fail."""

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from tiny import tiny_model

from limner.generate.engine import Engine
from limner.serve.app import create_app
from limner.serve.openai import Limits
from limner.serve.rows import Rows, RowSettings, placeholders_of
from limner.serve.runtime import Runtime
from limner.serve.service import Settings

schemathesis = pytest.importorskip("schemathesis", reason="making requests up needs schemathesis")
pytestmark = pytest.mark.filterwarnings("ignore")  # theirs: they try what is deprecated

EXAMPLES = 15
"""Requests made up for each route."""
LIMITS = Limits(max_new_tokens=2, max_pictures=1, max_steps=1, max_drawn_pixels=64 * 64)


def test_no_request_makes_the_server_fail(engine: Engine) -> None:
    rows = Rows(placeholders_of(tiny_model()), settings=RowSettings(max_new_tokens=2, limits=LIMITS))
    app = create_app(Runtime(engine, num_rows=16), settings=Settings("tiny", limits=LIMITS), rows=rows)
    # Its strategies alone: its own pytest plugin is tied to versions of pytest.
    operations = [found.ok() for found in schemathesis.openapi.from_asgi("/openapi.json", app).get_all_operations()]
    assert len(operations) == 8
    for operation in operations:
        _try(operation)


def _try(operation: Any) -> None:
    @given(case=operation.as_strategy())
    @settings(max_examples=EXAMPLES, deadline=None, derandomize=True, database=None, suppress_health_check=HealthCheck)
    def answered(case: Any) -> None:
        response = case.call()
        assert response.status_code < 500, response.text
        if response.status_code >= 400:
            assert set(response.json()) == {"error"}
            assert "Traceback" not in response.text

    answered()
