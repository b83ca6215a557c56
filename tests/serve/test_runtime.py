"""The engine's thread: bounded waiting, cancelling, closing."""

import asyncio
from types import SimpleNamespace

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


def test_events_of_a_crowd_wake_the_loop_together_and_stay_in_order(engine: Engine) -> None:
    async def run() -> None:
        runtime, loop = Runtime(engine, num_rows=8), asyncio.get_running_loop()
        tickets = [runtime.submit(request(6)) for _ in range(8)]
        mail, wakes = tickets[0].mail, []
        assert all(ticket.mail is mail for ticket in tickets)
        real = loop.call_soon_threadsafe
        mail.loop = SimpleNamespace(is_closed=loop.is_closed, call_soon_threadsafe=lambda *a: wakes.append(real(*a)))
        answers = await asyncio.gather(*(all_of(ticket) for ticket in tickets))
        assert all(answer == answers[0] for answer in answers)
        assert len(wakes) < sum(len(answer) for answer in answers)
        runtime.close()

    asyncio.run(run())


def test_who_asked_on_a_loop_that_is_gone_gives_its_row_back(engine: Engine) -> None:
    runtime = Runtime(engine, num_rows=1)

    async def leave() -> None:
        await anext(runtime.submit(request(400)).events())

    async def ask() -> None:
        assert isinstance((await asyncio.wait_for(all_of(runtime.submit(request(3))), 30))[-1], Done)

    asyncio.run(leave())
    asyncio.run(ask())
    runtime.close()


def test_requests_run_together_as_far_as_their_tokens_fit_and_none_is_overtaken(engine: Engine) -> None:
    async def run() -> None:
        probe = engine.running(num_rows=1)
        short, long = (probe.most_tokens(request(tokens)) for tokens in (4, 40))
        assert long - short == 36
        runtime = Runtime(engine, num_rows=8, token_budget=long + short)
        together, joined = [], []
        real_step, real_add = runtime._running.step, runtime._running.add

        def step() -> bool:
            together.append(sum(ticket.num_reserved or 0 for ticket in runtime._joined.values()))
            return real_step()

        def add(requests):
            joined.extend(requests)
            return real_add(requests)

        runtime._running.step, runtime._running.add = step, add
        asked = [request(tokens) for tokens in (4, 40, 40, 4, 4, 40, 4)]
        tickets = [runtime.submit(one) for one in asked]
        answers = await asyncio.gather(*(all_of(ticket) for ticket in tickets))
        assert all(isinstance(answer[-1], Done) for answer in answers)
        assert [id(one) for one in joined] == [id(one) for one in asked]
        assert long < max(together) <= runtime.token_budget
        runtime.close()

    asyncio.run(run())


def test_a_request_of_more_tokens_than_the_budget_runs_alone(engine: Engine) -> None:
    async def run() -> None:
        alone = Runtime(engine, num_rows=1)
        expected = await all_of(alone.submit(request(20)))
        alone.close()
        runtime = Runtime(engine, num_rows=4, token_budget=8)
        most, real = [], runtime._running.step

        def step() -> bool:
            most.append(runtime.load.running)
            return real()

        runtime._running.step = step
        tickets = [runtime.submit(request(20)) for _ in range(3)]
        tickets.append(runtime.submit(request(4, "word " * 2000)))
        runtime.cancel(tickets[1])
        assert await all_of(tickets[0]) == await all_of(tickets[2]) == expected
        with pytest.raises(ValueError, match="the context holds"):
            await all_of(tickets[3])
        assert max(most) == 1
        runtime.close()

    asyncio.run(run())


def test_a_pictures_tokens_count(engine: Engine) -> None:
    running = engine.running(num_rows=1)
    document = Document.chat([("user", "What?")])
    plain, one, two = (
        running.most_tokens(Request(document, max_new_tokens=4, pictures=pictures, max_pictures=count))
        for pictures, count in ((Pictures.NONE, 8), (Pictures.AUTO, 1), (Pictures.AUTO, 2))
    )
    assert two - one == one - plain == running.writing.longest(Request(document)) > 0
