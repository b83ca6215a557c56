"""Loader: rows of a mixture's windows -> batches. Its state is a place (window, row) and counters.

    Windows (numbers -> rows of planned documents) --Dealer--> this rank's rows --prepare--> --Collator.finish--> Batch

Rows stand in one global order. Microbatch m takes `num_rows * num_ranks` of them, rank r the r-th `num_rows` of those.
So workers, ranks and rows per batch change who reads a row, never which rows there are or in what order; and a loader
that resumes renders one window again and decodes nothing that was handed out before.

With workers, one more process plans windows ahead; workers render, decode and preprocess; the state is that of the last
batch handed out, however much is prefetched.
"""

import itertools
import logging
import os
import signal
import threading
import warnings
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch.utils.data import DataLoader

from limner.data.collate import Collator, Prepared
from limner.data.mixture import Draw, Mixture
from limner.data.packing import BestFit, Packing, Size
from limner.data.windows import BadDocument, Planned, Skipped, TooLong, Window, Windows
from limner.tokens.batch import Batch
from limner.tokens.render import Renderer
from limner.tokens.sequence import Sequence

logger = logging.getLogger(__name__)

MAX_CONSECUTIVE_SKIPS = 100
"""So many bad documents in a row mean that the data is not what the recipe thinks it is."""

PREFETCHED_BATCHES = 2
"""Batches that each worker prepares ahead."""

COUNTED = ("drawn", "tokens", "cut", "skipped")
"""What is counted: documents dealt out, their tokens, documents cut to fit (each by source); documents left out (by
"<source>/<reason>")."""

Row = tuple[Planned, ...]
Task = tuple[tuple[int, ...], ...]
"""Per row, the positions of its documents."""


@dataclass
class Deal:
    """What one batch takes from the order; `error` says instead why there is none."""

    rows: tuple[Row, ...] = ()
    place: tuple[int, int] = (0, 0)
    counts: Counter[str] = field(default_factory=Counter)
    skipped: list[Skipped] = field(default_factory=list)
    error: str = ""

    def enter(self, window: Window) -> None:
        """Count what a window leaves out."""
        self.skipped += window.skipped
        self.counts.update(f"skipped/{skipped.draw.source}/{skipped.reason}" for skipped in window.skipped)

    def take(self, row: Row) -> None:
        """Take a row, whichever rank reads it."""
        self.rows += (row,)
        for planned in row:
            self.counts[f"drawn/{planned.draw.source}"] += 1
            self.counts[f"tokens/{planned.draw.source}"] += planned.num_tokens
            if planned.was_cut:
                self.counts[f"cut/{planned.draw.source}"] += 1


class Dealer:
    """Iterable over the tasks of one rank from a place on; `dealt` holds the deals behind them, oldest first."""

    def __init__(
        self, windows: Iterable[Window], *, place: tuple[int, int], num_rows: int, rank: int, num_ranks: int
    ) -> None:
        self.windows = windows
        self.place = place
        self.num_rows = num_rows
        self.rank = rank
        self.num_ranks = num_ranks
        self.dealt: deque[Deal] = deque()

    def __iter__(self) -> Iterator[Task]:
        for deal in self._deals():
            first = self.rank * self.num_rows
            own = deal.rows[first : first + self.num_rows]
            # Every rank has every batch, and every batch its rows: where the order ends, some are empty.
            deal.rows = own + ((),) * (self.num_rows - len(own))
            self.dealt.append(deal)
            yield tuple(tuple(planned.position for planned in row) for row in deal.rows)

    def _deals(self) -> Iterator[Deal]:
        """What all ranks together take, batch after batch. An error is a deal, so that it comes in its turn."""
        first, row = self.place
        deal, barren, is_begun = Deal(), 0, row > 0 or first > 0
        for number, window in zip(itertools.count(first), self.windows):
            if row == 0:
                deal.enter(window)
            barren = 0 if window.rows else barren + len(window.skipped)
            deal.error = window.error or _mismatch(window, row) or _all_bad(barren, window.skipped)
            if deal.error:
                deal.rows = ()
                yield deal
                return
            for after in range(row + 1, len(window.rows) + 1):
                deal.take(window.rows[after - 1])
                deal.place = (number, after) if after < len(window.rows) else (number + 1, 0)
                if len(deal.rows) == self.num_rows * self.num_ranks:
                    yield deal
                    deal, is_begun = Deal(), True
            row = 0
        if not deal.rows and not is_begun:
            deal.error = _all_bad(len(deal.skipped), deal.skipped, limit=1)
        if deal.rows or deal.error:
            yield deal


class Rows:
    """A map-style dataset for workers: a task -> the rows without cached features, and what could not be decoded."""

    def __init__(self, windows: Windows, collate: Collator) -> None:
        self.windows = windows
        self.collate = collate

    def __getitem__(self, task: Task) -> tuple[Prepared, list[Skipped]]:
        draw = self.windows.mixture.draw
        bad: list[Skipped] = []
        rows: list[list[Sequence]] = []
        places: dict[str, int] = {}
        for positions in task:
            rows.append([])
            for position in positions:
                try:
                    sequence = self.windows.sequence(position)
                except BadDocument as error:  # it was good when its window was planned
                    bad.append(_undecoded(draw(position), error))
                    continue
                places[sequence.key] = position
                rows[-1].append(sequence)
        prepared = self.collate.prepare(
            rows,
            sources=tuple(self.windows.mixture.sources),
            on_bad=lambda sequence, error: bad.append(_undecoded(draw(places[sequence.key]), error)),
        )
        return prepared, bad


class Loader:
    """Batches of `num_rows` rows of at most `row_length` tokens and `max_items` media items; endless if the mixture is.

    packing, window: how documents of `window` consecutive positions share rows. They decide the order of rows.
    too_long:        "error" | "skip" | "cut" for a document that no row can hold.
    rank, num_ranks: whose rows these are. Each rank makes its loader and loads the same state.
    num_workers:     processes that read ahead; 0 reads in this one.
    """

    def __init__(
        self,
        mixture: Mixture,
        *,
        render: Renderer,
        collate: Collator,
        row_length: int,
        num_rows: int,
        packing: Packing | None = None,
        window: int = 512,
        max_items: int | None = None,
        too_long: TooLong = "cut",
        rank: int = 0,
        num_ranks: int = 1,
        num_workers: int = 0,
    ) -> None:
        if num_rows < 1 or not 0 <= rank < num_ranks or num_workers < 0:
            raise ValueError(
                f"{num_rows} rows for rank {rank} of {num_ranks} with {num_workers} workers\n"
                "hint: at least one row, a rank below the number of ranks, and no negative number of workers"
            )
        self.windows = Windows(
            mixture,
            render=render,
            packing=packing or BestFit(),
            room=Size(row_length, row_length if max_items is None else max_items),
            window=window,
            too_long=too_long,
            num_kept=0 if num_workers else 2,
        )
        self.mixture = self.windows.mixture
        self.collate = collate
        self.row_length = row_length
        self.num_rows = num_rows
        self.rank = rank
        self.num_ranks = num_ranks
        self.num_workers = num_workers
        self.place = (0, 0)
        self._counts: Counter[str] = Counter()
        self._undecoded_in_a_row = 0
        self._reading: tuple[Dealer, Iterator[tuple[Prepared, list[Skipped]]]] | None = None

    def __iter__(self) -> Iterator[Batch]:
        """Batches until the mixture ends."""
        while (batch := self._next()) is not None:
            yield batch

    def next_batch(self) -> Batch:
        """This rank's next batch; moves the place on for all. Raises ValueError where the mixture has ended."""
        batch = self._next()
        if batch is None:
            raise ValueError(
                f"the mixture has ended after {self.mixture.num_documents} documents\n"
                'hint: fewer steps, or exhaustion="repeat"'
            )
        return batch

    def _next(self) -> Batch | None:
        if self._reading is None:
            self._reading = self._read()
        dealer, prepared = self._reading
        rows, bad = next(prepared, (None, []))
        if rows is None:
            return None
        deal = dealer.dealt.popleft()
        self._account(deal, bad)
        return replace(self.collate.finish(rows), capacity=self.num_rows * self.row_length)

    def _account(self, deal: Deal, bad: list[Skipped]) -> None:
        """Count what a batch took and name what was left out. Raises ValueError where the data cannot be used."""
        if not deal.error:
            self.place = deal.place
            self._counts += deal.counts
        self._counts.update(f"skipped/{skipped.draw.source}/{skipped.reason}" for skipped in bad)
        # All ranks plan the same windows, and each decodes rows of its own.
        for skipped in (deal.skipped if self.rank == 0 else []) + bad:
            logger.warning("skipped %s (%s): %s", skipped.draw.key, skipped.reason, skipped.message)
        decoded = sum(map(len, deal.rows)) - len(bad)
        self._undecoded_in_a_row = 0 if decoded else self._undecoded_in_a_row + len(bad)
        error = deal.error or _all_bad(self._undecoded_in_a_row, bad)
        if error:
            self.close()
            raise ValueError(error)

    def _read(self) -> tuple[Dealer, Iterator[tuple[Prepared, list[Skipped]]]]:
        """Begin to read at the present place."""
        first = self.place[0]
        last = self.windows.num_windows
        numbers = itertools.count(first) if last is None else range(first, last)
        dealer = Dealer(
            # Its own process: whoever prepares batches must not wait for a whole window first.
            _ahead(self.windows, numbers, num_workers=min(1, self.num_workers), prefetched=1),
            place=self.place,
            num_rows=self.num_rows,
            rank=self.rank,
            num_ranks=self.num_ranks,
        )
        rows = Rows(self.windows, self.collate)
        return dealer, _ahead(rows, dealer, num_workers=self.num_workers, prefetched=PREFETCHED_BATCHES)

    def close(self) -> None:
        """End the workers; the next batch starts others."""
        self._reading = None

    def counters(self) -> dict[str, int]:
        """What was counted so far, by "<what>/<source>" (COUNTED).

        The same on every rank, but for documents that could not be decoded, of which each rank counts its own.
        """
        return dict(self._counts)

    def state_dict(self) -> dict[str, Any]:
        """A few integers: the place of the next row, and the counters."""
        counted = {what: _below(self._counts, f"{what}/") for what in COUNTED}
        return {"window": self.place[0], "row": self.place[1], **counted}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken, with any number of workers, ranks and rows."""
        self.close()
        self.place = (int(state["window"]), int(state["row"]))
        self._counts = Counter({f"{what}/{name}": n for what in COUNTED for name, n in state[what].items()})


def _ahead(dataset: Any, sampler: Iterable[Any], *, num_workers: int, prefetched: int) -> Iterator[Any]:
    """Items of a map-style dataset at the indices of `sampler`, in their order, read ahead by workers."""
    loader: DataLoader[Any] = DataLoader(
        dataset,
        batch_size=None,
        sampler=sampler,
        collate_fn=_as_it_is,
        num_workers=num_workers,
        multiprocessing_context="fork" if num_workers else None,
        prefetch_factor=prefetched if num_workers else None,
        worker_init_fn=_leave_signals_to_the_main_process,
        # Else it would draw the workers' seeds from the global state, and a run would depend on when it was resumed.
        generator=torch.Generator(),
    )
    with warnings.catch_warnings():
        # Python 3.12 and later warn of any fork beside threads. A spawned worker would be sent the model, and read it
        # again; a forked one shares it, never computes with it, and torch gives it one thread.
        warnings.filterwarnings(
            "ignore", message=r".*use of fork\(\) may lead to deadlocks", category=DeprecationWarning
        )
        return iter(loader)


def _as_it_is(item: Any) -> Any:
    return item


def _leave_signals_to_the_main_process(worker: int) -> None:
    """A signal to all processes (Ctrl-C, a scheduler's SIGTERM) must not end the workers before the main process has
    finished its step and saved. Its own SIGTERM does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # macOS has none
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_when_the_main_process_says_so, daemon=True).start()


def _end_when_the_main_process_says_so() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)


def _undecoded(draw: Draw, error: ValueError) -> Skipped:
    return Skipped(draw, "decode", str(error).splitlines()[0])


def _mismatch(window: Window, row: int) -> str:
    if row <= len(window.rows):
        return ""
    return (
        f"the saved place is row {row} of a window that has {len(window.rows)}\n"
        "hint: the state is of another mixture, window or row length"
    )


def _all_bad(number: int, skipped: list[Skipped] | tuple[Skipped, ...], *, limit: int = MAX_CONSECUTIVE_SKIPS) -> str:
    """The error of `number` documents in a row that were left out, `skipped` the last of them; "" below `limit`."""
    if number < limit:
        return ""
    last = skipped[-1]
    return (
        f"{number} documents in a row could not be used; the last is {last.draw.key} ({last.reason}: {last.message})\n"
        "hint: the warnings above name them all"
    )


def _below(counts: Counter[str], prefix: str) -> dict[str, int]:
    return {key.removeprefix(prefix): number for key, number in counts.items() if key.startswith(prefix)}
