"""The engine's thread: bounded waiting, cancelling, closing."""

import asyncio

import pytest

from limner.document.document import Document
from limner.generate.engine import Engine
from limner.generate.events import Done, Event
from limner.generate.request import Pictures, Request
from limner.serve.runtime import Closed, Full, Runtime


def request(tokens: int, text: str = "What?") -> Request:
    return Request(Document.chat([("user", text)]), max_new_tokens=tokens, pictures=Pictures.NONE)


async def all_of(ticket) -> list[Event]:
    return [event async for event in ticket.events()]


def test_more_than_can_wait_are_turned_away(engine: Engine) -> None:
    async def run() -> None:
        runtime = Runtime(engine, num_rows=1, max_waiting=3)
        tickets = []
        with pytest.raises(Full) as full:
            tickets.extend(runtime.submit(request(8)) for _ in range(200))
        assert full.value.retry_after >= 1
        assert 3 <= len(tickets) <= 10
        answers = await asyncio.gather(*(all_of(ticket) for ticket in tickets))
        assert all(isinstance(answer[-1], Done) for answer in answers)
        runtime.close()

    asyncio.run(run())


def test_a_cancelled_request_leaves_and_the_next_runs(engine: Engine) -> None:
    async def run() -> None:
        runtime = Runtime(engine, num_rows=1)
        long, short = runtime.submit(request(400)), runtime.submit(request(3))
        events = long.events()
        await anext(events)
        runtime.cancel(long)
        assert isinstance((await all_of(short))[-1], Done)
        assert runtime.load.running == 0
        runtime.close()

    asyncio.run(run())


def test_closing_finishes_what_runs_and_turns_away_what_waits(engine: Engine) -> None:
    async def run() -> None:
        runtime = Runtime(engine, num_rows=1)
        running = runtime.submit(request(60))
        await anext(running.events())
        waiting = runtime.submit(request(3))
        closing = asyncio.create_task(asyncio.to_thread(runtime.close))
        with pytest.raises(Closed):
            await all_of(waiting)
        assert isinstance((await all_of(running))[-1], Done)
        await closing
        with pytest.raises(Closed):
            runtime.submit(request(3))

    asyncio.run(run())


def test_a_prompt_that_cannot_run_fails_alone(engine: Engine) -> None:
    async def run() -> None:
        runtime = Runtime(engine, num_rows=4)
        tickets = [runtime.submit(request(4)), runtime.submit(request(4, "word " * 2000)), runtime.submit(request(4))]
        found = await asyncio.gather(*(all_of(ticket) for ticket in tickets), return_exceptions=True)
        assert isinstance(found[1], ValueError)
        assert found[0] == found[2]
        runtime.close()

    asyncio.run(run())


def test_a_step_that_fails_ends_those_in_it_and_nothing_after_it(engine: Engine, monkeypatch) -> None:
    async def run() -> None:
        runtime = Runtime(engine, num_rows=2)
        expected = await all_of(runtime.submit(request(4)))
        writing, real = runtime._running.writing, runtime._running.writing.run

        def fail(rows):
            writing.run = real
            raise MemoryError("no memory")

        def no_memory(row):
            raise MemoryError("none for keeping either")

        monkeypatch.setattr(runtime._running.context, "keep", no_memory)
        writing.run = fail
        with pytest.raises(MemoryError, match="no memory"):
            await asyncio.wait_for(all_of(runtime.submit(request(4))), 30)
        monkeypatch.undo()
        assert await asyncio.wait_for(all_of(runtime.submit(request(4))), 30) == expected
        runtime.close()

    asyncio.run(run())
