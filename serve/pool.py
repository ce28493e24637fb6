"""Worker threads of a server: requests wait in one bounded queue, and each gets its own answer.

On a CPU there is a thread for each core: a network this small gains nothing from being split, but the runtime gives up
the interpreter's lock while it works, and another request is decoded meanwhile. A thread that finds several requests
waiting takes some together: one call of the session, one wake-up of the event loop. On a GPU one thread waits a little
for others, and the batches are those that were warmed (`serve/runner.py`).
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import takewhile
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np
import numpy.typing as npt

from serve.runner import Runner
from serve.waker import Waker
from serve.workers import cores
from zoo.errors import BadInput, ZooError
from zoo.photos import Fit
from zoo.predictor import Scores
from zoo.rows import Prepared, Row, prepare_all

TOGETHER = 8  # images that a thread takes at a time on a CPU: more would wait for each other
GPU_TOGETHER = 256
GPU_WAIT_S = 0.002


class Overloaded(ZooError):
    """More waits already than is allowed to."""


class Stopped(ZooError):
    """The server is ending, or a worker has died."""


@dataclass(eq=False, slots=True)
class Ticket:
    """One request for rows or scores, its answer, and where the time went.

    sources: pictures, as `Model.predict` takes them, or `images`: uint8 `(N, H, W, C)`, as `Model.run` does.
    wants: "rows", where a picture that fails is a row with an error, or "scores", where it is an error of the request.
    size: how many images it holds. rows, scores: the answer, one of them. prepared: what was decoded. error: what was
    raised instead of an answer. decode_s, queue_s, infer_s: seconds; batch: images in the session's call.
    """

    runner: Runner
    sources: list[Any] = field(default_factory=list)
    images: npt.NDArray[np.uint8] | None = None
    wants: str = "rows"
    top_k: int = 3
    fit: Fit = "crop"
    rows: list[Row] = field(default_factory=list)
    scores: Scores | None = None
    prepared: list[Prepared] = field(default_factory=list)
    error: Exception | None = None
    given_up: bool = False
    entered: float = 0.0
    decode_s: float = 0.0
    queue_s: float = 0.0
    infer_s: float = 0.0
    batch: int = 0
    future: asyncio.Future[None] | None = None
    size: int = field(init=False)

    def __post_init__(self) -> None:
        self.size = len(self.sources) if self.images is None else len(self.images)

    def give_up(self) -> None:
        """Nobody waits any more: a worker need not go on, and what waits in the queue need not be kept in memory."""
        self.given_up = True
        self.sources, self.images = [], None


class Pool:
    """Threads that answer the tickets of one event loop. `start`, then `close`, which answers first what waits."""

    def __init__(self, device: str = "cpu", max_queue: int = 256, threads: int | None = None) -> None:
        """Args: max_queue: tickets that may wait; threads: by default one a core, and one for a GPU."""
        on_gpu = device == "cuda"
        self.max_queue = max_queue
        self.together, self.wait_s = (GPU_TOGETHER, GPU_WAIT_S) if on_gpu else (TOGETHER, 0.0)
        self._tickets: SimpleQueue[Ticket | None] = SimpleQueue()
        self._closing = self._died = False
        self._waker: Waker | None = None
        self.threads = [
            threading.Thread(target=self._work, name=f"zoo-worker-{number}", daemon=True)
            for number in range(threads or (1 if on_gpu else cores()))
        ]

    def start(self) -> None:
        for thread in self.threads:
            thread.start()

    @property
    def waiting(self) -> int:
        """Tickets in the queue."""
        return self._tickets.qsize()

    @property
    def alive(self) -> bool:
        """Whether no worker thread has died."""
        return not self._died

    def admit(self) -> None:
        """Raises Overloaded or Stopped where a ticket would be refused: worth asking before a request is read."""
        if self._closing or not self.alive:
            raise Stopped("The server is stopping or a worker has died: ask again in a moment.")
        if self.waiting >= self.max_queue:
            raise Overloaded(f"{self.max_queue} requests are waiting already: ask again in a moment.")

    async def answer(self, ticket: Ticket) -> Ticket:
        """Queue a ticket and wait for its answer; who stops waiting, for a deadline or because he left, gives it up.

        Raises: what kept the ticket from its answer, BadInput for one; Overloaded, Stopped.
        """
        self.admit()
        loop = asyncio.get_running_loop()
        if self._waker is None or self._waker.loop is not loop:
            self._waker = Waker(loop)
        ticket.future = loop.create_future()
        ticket.entered = time.perf_counter()
        self._tickets.put(ticket)
        try:
            await ticket.future
        except BaseException:
            ticket.give_up()
            raise
        if ticket.error is not None:
            raise ticket.error
        return ticket

    def close(self, timeout_s: float = 30.0) -> None:
        """Take no more tickets, answer those that wait, end the threads."""
        self._closing = True
        for _ in self.threads:
            self._tickets.put(None)
        for thread in self.threads:
            if thread.is_alive():
                thread.join(timeout_s)

    def _work(self) -> None:
        while (first := self._tickets.get()) is not None:
            taken = self._with_others(first)
            try:
                answer(taken)
            except BaseException:  # nothing that an answer may raise: this thread is ending
                self._died = True
                for ticket in taken:
                    ticket.error = Stopped("The worker that had this request has died: ask again in a moment.")
                raise
            finally:
                for ticket in taken:
                    with suppress(RuntimeError):  # the loop is closed: nobody waits
                        assert self._waker is not None
                        assert ticket.future is not None
                        self._waker.wake(ticket.future)

    def _with_others(self, first: Ticket) -> list[Ticket]:
        """The ticket, and those behind it that go through the network with it."""
        taken, size = [first], first.size
        until = time.perf_counter() + self.wait_s
        while size < self.together:
            try:
                left = until - time.perf_counter()
                other = self._tickets.get(timeout=left) if self.wait_s and left > 0 else self._tickets.get_nowait()
            except Empty:
                break
            if other is None:
                self._tickets.put(None)  # the end is for later
                break
            taken.append(other)
            size += other.size
        return taken


def answer(tickets: list[Ticket]) -> None:
    """Decode and classify tickets together, those of one model in one call; each gets its answer or its error."""
    started = time.perf_counter()
    groups: dict[Runner, list[Ticket]] = defaultdict(list)
    for ticket in tickets:
        ticket.queue_s = started - ticket.entered
        if not ticket.given_up and _decoded(ticket):
            groups[ticket.runner].append(ticket)
    for runner, group in groups.items():
        started = time.perf_counter()
        try:
            _classify(runner, group)
        except Exception:
            for ticket in group:  # one at a time, so that only the guilty one fails
                _alone(runner, ticket)
        for ticket in group:
            ticket.infer_s = time.perf_counter() - started


def _decoded(ticket: Ticket) -> bool:
    """Prepare a ticket's pictures; whether there is something to classify."""
    started = time.perf_counter()
    try:
        if ticket.images is None:
            wanted = takewhile(lambda _: not ticket.given_up, ticket.sources)
            ticket.prepared = prepare_all(wanted, ticket.runner.model.card.input, ticket.fit)
            if ticket.wants == "scores":
                ticket.images = _all_or_error(ticket.prepared)
        else:
            ticket.runner.model.check(ticket.images)
    except Exception as error:
        ticket.error = error
    ticket.decode_s = time.perf_counter() - started
    return ticket.error is None and not ticket.given_up


def _all_or_error(prepared: list[Prepared]) -> npt.NDArray[np.uint8]:
    for one in prepared:
        if one.error:
            raise BadInput(one.error)
    return np.stack([one.pixels for one in prepared if one.pixels is not None])


def _alone(runner: Runner, ticket: Ticket) -> None:
    try:
        _classify(runner, [ticket])
    except Exception as error:
        ticket.error = error


def _classify(runner: Runner, group: list[Ticket]) -> None:
    """One run for a group of tickets, whose scores are then parted among them."""
    arrays = [_pixels(ticket) for ticket in group]
    together = [array for array in arrays if len(array)]
    scores = runner.run(together[0] if len(together) == 1 else np.concatenate(together)) if together else None
    start = 0
    for ticket, array in zip(group, arrays, strict=True):
        end = start + len(array)
        own = None if scores is None else Scores(*(values[start:end] for values in scores))
        ticket.batch, start = sum(map(len, together)), end
        if ticket.wants == "scores":
            ticket.scores = own
        else:
            ticket.rows = list(runner.model.rows_of(ticket.prepared, None if own is None else own[1], ticket.top_k))


def _pixels(ticket: Ticket) -> Any:
    if ticket.images is not None:
        return ticket.images
    good = [one.pixels for one in ticket.prepared if one.pixels is not None]
    return np.stack(good) if good else ()
