"""The engine in a thread of its own: requests join while others are under way, and leave when nobody waits for them.

    submit -> waiting (bounded) -> joined between two steps -> events -> the submitter's own event loop

A request that fails is told so by its ticket and touches no other. When the process is to end, `close` lets those that
joined finish and turns away those that wait.
"""

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from limner.generate.engine import Engine
from limner.generate.events import Done, Event
from limner.generate.request import Request, Row
from limner.generate.running import Running

logger = logging.getLogger(__name__)


class Full(Exception):
    """No place to wait; `retry_after` seconds is when there may be one."""

    def __init__(self, retry_after: int) -> None:
        super().__init__("the server is busy")
        self.retry_after = retry_after


class Closed(Exception):
    """The server is shutting down."""


@dataclass(frozen=True)
class Failed:
    """The last thing that a ticket hears when its request could not be answered."""

    error: Exception


class Mail:
    """What goes from any thread to one event loop: however much comes at once, the loop is woken once for it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._bag: deque[tuple[asyncio.Queue[Any], Any]] = deque()
        self._is_fetched = False

    def put(self, queue: asyncio.Queue[Any], item: object) -> None:
        """Put an item into a queue of the loop. Raises RuntimeError for a loop that is gone."""
        if self.loop.is_closed():
            raise RuntimeError("the event loop is gone")
        self._bag.append((queue, item))
        if not self._is_fetched:
            self._is_fetched = True
            self.loop.call_soon_threadsafe(self._fetch)

    def _fetch(self) -> None:
        self._is_fetched = False  # first: what comes while the bag is emptied is fetched now or once more
        while self._bag:
            queue, item = self._bag.popleft()
            queue.put_nowait(item)


@dataclass(eq=False)
class Ticket:
    """A request on its way. Events arrive on the event loop on which it was submitted."""

    request: Request
    mail: Mail
    arrived: float = field(default_factory=time.monotonic)
    row: Row | None = None
    num_reserved: int | None = None
    """Tokens of the budget that it takes; None before it is at the head of the line."""
    cancelled: bool = False
    _events: asyncio.Queue[Event | Failed] = field(default_factory=asyncio.Queue)

    async def events(self) -> AsyncIterator[Event]:
        """What happens, up to `Done`. Raises what the request failed with."""
        while True:
            event = await self._events.get()
            if isinstance(event, Failed):
                raise event.error
            yield event
            if isinstance(event, Done):
                return

    @property
    def num_prompt_tokens(self) -> int:
        """Tokens of the prompt, 0 before it has joined."""
        return 0 if self.row is None else self.row.num_prompt_tokens

    def tell(self, event: Event | Failed) -> None:
        """Hand an event over, from any thread. A loop that is gone hears nothing."""
        try:
            self.mail.put(self._events, event)
        except RuntimeError:
            self.cancelled = True


@dataclass(frozen=True)
class Load:
    """How much is going on."""

    running: int
    waiting: int


class Runtime:
    """`num_rows` requests run at once, `max_waiting` wait, the rest are turned away.

    With a `token_budget`, requests that may hold more tokens together do not run at once either. They come in the order
    in which they were asked, so a long one waits for others to end and is overtaken by none; one that may hold more
    than the budget runs alone.
    """

    def __init__(
        self, engine: Engine, *, num_rows: int = 16, max_waiting: int = 64, token_budget: int | None = None
    ) -> None:
        self.num_rows = num_rows
        self.max_waiting = max_waiting
        self.token_budget = token_budget
        self._running: Running = engine.running(num_rows=num_rows, on_event=self._on_event)
        self._waiting: deque[Ticket] = deque()
        self._joined: dict[int, Ticket] = {}
        self._mail: Mail | None = None
        self._changed = threading.Condition()
        self._closing = False
        self._seconds_per_request = 1.0
        self._thread = threading.Thread(target=self._work, name="limner-engine", daemon=True)
        self._thread.start()

    @property
    def load(self) -> Load:
        """Requests that run and that wait."""
        return Load(len(self._joined), len(self._waiting))

    def submit(self, request: Request) -> Ticket:
        """Let a request wait for its turn; called on an event loop. Raises Full, Closed, and ValueError for a request
        that could never run."""
        needed = self._running.num_slots(request)
        if needed > self.num_rows:
            raise ValueError(
                f"the request takes {needed} rows; the server has {self.num_rows}\n"
                "hint: fewer beams, or guidance_scale 1"
            )
        loop = asyncio.get_running_loop()
        with self._changed:
            if self._closing:
                raise Closed
            if len(self._waiting) >= self.max_waiting:
                raise Full(max(1, round(len(self._waiting) * self._seconds_per_request / self.num_rows)))
            if self._mail is None or self._mail.loop is not loop:
                self._mail = Mail(loop)
            ticket = Ticket(request, self._mail)
            self._waiting.append(ticket)
            self._changed.notify()
        return ticket

    def cancel(self, ticket: Ticket) -> None:
        """Let a request leave: at once where it waits, between two steps where it runs."""
        with self._changed:
            ticket.cancelled = True
            if ticket in self._waiting:
                self._waiting.remove(ticket)
            self._changed.notify()

    def close(self, *, timeout: float | None = None) -> None:
        """Finish what runs, turn away what waits, stop the thread."""
        with self._changed:
            self._closing = True
            turned_away, self._waiting = list(self._waiting), deque()
            self._changed.notify()
        for ticket in turned_away:
            ticket.tell(Failed(Closed()))
        self._thread.join(timeout)

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and not self._joined:
                    if self._closing:
                        return
                    self._changed.wait()
            joining: list[Ticket] = []
            try:
                self._take_waiting(joining)
                self._drop_cancelled()
                self._join(joining)
                self._running.step()
            except Exception as error:
                # One bad step must not end the service: those in it are told, and it starts anew.
                logger.exception("a step failed")
                self._fail_all(error, joining)

    def _take_waiting(self, joining: list[Ticket]) -> None:
        """Move tickets that have a place now from the line to `joining`, in the order in which they came."""
        free = self._running.num_free
        reserved = sum(ticket.num_reserved or 0 for ticket in self._joined.values())
        while (ticket := self._head()) is not None:
            slots, tokens = self._running.num_slots(ticket.request), self._reserved(ticket)
            if slots > free or (self.token_budget is not None and reserved + tokens > self.token_budget):
                break
            with self._changed:
                if self._head() is not ticket:
                    continue  # it left while it was measured
                self._waiting.popleft()
            free, reserved = free - slots, reserved + tokens
            joining.append(ticket)

    def _head(self) -> Ticket | None:
        with self._changed:
            return self._waiting[0] if self._waiting else None

    def _reserved(self, ticket: Ticket) -> int:
        """Tokens of the budget that a request takes. Measured without the lock: its prompt is rendered for it."""
        if self.token_budget is None:
            return 0
        if ticket.num_reserved is None:
            try:
                needed = self._running.most_tokens(ticket.request)
            except Exception as error:  # whoever asked is told when it is to join
                logger.info("a prompt could not be measured: %s", error)
                needed = 0
            ticket.num_reserved = min(needed, self.token_budget)
        return ticket.num_reserved

    def _join(self, tickets: list[Ticket]) -> None:
        """Run the prompts together; where one cannot be run, one by one, so that only that one is told."""
        if not tickets:
            return
        try:
            rows = self._running.add([ticket.request for ticket in tickets])
        except Exception as error:
            if len(tickets) == 1:
                tickets[0].tell(Failed(error))
                return
            for ticket in tickets:
                self._join([ticket])
            return
        for ticket, row in zip(tickets, rows, strict=True):
            ticket.row = row
            self._joined[row.index] = ticket

    def _on_event(self, index: int, event: Event) -> None:
        ticket = self._joined.get(index)
        if ticket is None:
            return
        if isinstance(event, Done):
            del self._joined[index]
            seconds = time.monotonic() - ticket.arrived
            self._seconds_per_request += 0.1 * (seconds - self._seconds_per_request)
        ticket.tell(event)

    def _drop_cancelled(self) -> None:
        for index, ticket in list(self._joined.items()):
            if ticket.cancelled:
                assert ticket.row is not None, "what joined has a row"
                self._running.drop(ticket.row)
                del self._joined[index]

    def _fail_all(self, error: Exception, joining: list[Ticket]) -> None:
        """Tell all who were in the step. Nothing of their rows is kept: it may be what went wrong."""
        told = {id(ticket): ticket for ticket in [*self._joined.values(), *joining]}
        self._joined.clear()
        self._running.reset()
        for ticket in told.values():
            ticket.tell(Failed(error))
