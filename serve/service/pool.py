"""Worker threads of a server: requests wait in two bounded queues, and each gets its own answer.

On a CPU there is a thread for each core: a network this small gains nothing from being split, but the runtime gives up
the interpreter's lock while it works, and another request is decoded meanwhile. A thread that finds several requests
waiting takes some together: one call of the session, one wake-up of the event loop. On a GPU one thread waits a little
for others, and the batches are those that were warmed (`serve/service/pool.py`).

Requests whose pictures are large are first decoded by threads of their own, few of them. So the memory that decoding
takes is bounded over all requests, and small requests never wait behind large ones.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from math import inf
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np
import numpy.typing as npt

from serve.devices import cores
from zoo.errors import BadInput, ZooError
from zoo.images.headers import declared_pixels
from zoo.images.photos import Fit
from zoo.images.read import Named
from zoo.model import CHUNK, Model, Prepared, Row, Scores, bind, check_images, make_rows, prepare_all, stack_pixels
from zoo.runtime import Bound

# Any number of images through one model, in session calls of the sizes that suit the device.

GPU_SIZES = (1, 8, 32, 128, 256)  # a device prepares for each shape once, so only these are run


@cache
def gpu_thread() -> ThreadPoolExecutor:
    """The one thread of this process that runs models on a GPU.

    onnxruntime captures a CUDA graph for each thread anew, and keeps the plans of one shape: a second thread, or runs
    of changing shapes without a graph, would plan every convolution again, which takes seconds (0014-gpu.md).
    """
    return ThreadPoolExecutor(1, "zoo-gpu")


class Runner:
    """On a CPU the model's own session, a few images a call; on a GPU bound batches. For any number of threads."""

    def __init__(self, model: Model) -> None:
        """Opens what is needed and runs each size once: the first run of a session is its slowest."""
        self.model = model
        self._on_gpu = model.device == "cuda"
        self._bound: dict[int, Bound] = {}
        sizes = GPU_SIZES if self._on_gpu else (CHUNK,)
        self.most = sizes[-1]
        if self._on_gpu:
            self._bound = gpu_thread().submit(lambda: {size: bind(model, size) for size in sizes}).result()
        for size in sizes:
            self._few(np.zeros((size, *model.card.input.shape), np.uint8))

    def run(self, images: npt.NDArray[np.uint8]) -> Scores:
        """uint8 `(N, H, W, C)`, N at least 1 → float32 `(N, K)` scores, as `Model.run`. Raises BadInput."""
        if len(images) <= self.most:
            return self._few(images)
        parts = [self._few(images[start : start + self.most]) for start in range(0, len(images), self.most)]
        return Scores(*(np.concatenate(scores) for scores in zip(*parts, strict=True)))

    def _few(self, images: npt.NDArray[np.uint8]) -> Scores:
        if not self._on_gpu:
            return self.model.run(images)
        size = next(size for size in self._bound if len(images) <= size)
        return Scores(*gpu_thread().submit(self._bound[size].run, images).result())


TOGETHER = 8  # images that a thread takes at a time on a CPU: more would wait for each other
GPU_TOGETHER = 256
GPU_WAIT_S = 0.002
LARGE_PIXELS = 1_000_000  # of a request, from which on it is decoded among the large ones
LARGE_THREADS = 4  # at most, and no more than half of the cores
LARGE_WAITING = 32  # requests
FILE_PIXELS = 4096  # what a file counts for at least: the work that does not depend on its size


class Overloaded(ZooError):
    """More waits already than is allowed to."""

    http_status = 503


class Stopped(ZooError):
    """The server is ending, or a worker has died."""

    http_status = 503


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
    decoded: bool = False
    future: asyncio.Future[None] | None = None
    size: int = field(init=False)

    def __post_init__(self) -> None:
        self.size = len(self.sources) if self.images is None else len(self.images)

    def pixels(self) -> int:
        """How many pixels decoding touches, as the files declare them."""
        if len(self.sources) == 1:  # in half of the time
            return _declared(self.sources[0])
        return sum(max(FILE_PIXELS, _declared(source)) for source in self.sources)

    def give_up(self) -> None:
        """Nobody waits any more: a worker need not go on, and what waits in the queue need not be kept in memory."""
        self.given_up = True
        self.sources, self.images = [], None


def _declared(source: Any) -> int:
    data = source.data if isinstance(source, Named) else source
    return declared_pixels(data) if isinstance(data, bytes) else LARGE_PIXELS + 1


class Pool:
    """Threads that answer the tickets of one event loop. `start`, then `close`, which answers first what waits."""

    def __init__(self, device: str = "cpu", max_queue: int = 256, threads: int | None = None) -> None:
        """Args: max_queue: tickets that may wait; threads: by default one a core, and one for a GPU."""
        on_gpu = device == "cuda"
        self.max_queue = max_queue
        self.together, self.wait_s = (GPU_TOGETHER, GPU_WAIT_S) if on_gpu else (TOGETHER, 0.0)
        self._tickets: SimpleQueue[Ticket | None] = SimpleQueue()
        self._large: SimpleQueue[Ticket | None] = SimpleQueue()
        self._closing = self._closed = self._died = False
        self.stuck = False  # set by who watches the pool: nothing new is taken
        self._waker: Waker | None = None
        count = threads or (1 if on_gpu else cores())
        self.threads = [
            threading.Thread(target=self._work, name=f"zoo-worker-{number}", daemon=True) for number in range(count)
        ]
        self.large_threads = [
            threading.Thread(target=self._work_on_large, name=f"zoo-large-{number}", daemon=True)
            for number in range(min(LARGE_THREADS, max(1, cores() // 2)))
        ]

        self._since = {thread.name: inf for thread in (*self.threads, *self.large_threads)}  # of the present items

    def start(self) -> None:
        for thread in (*self.threads, *self.large_threads):
            thread.start()

    @property
    def waiting(self) -> int:
        """Tickets in the queues."""
        return self._tickets.qsize() + self._large.qsize()

    @property
    def alive(self) -> bool:
        """Whether no worker thread has died."""
        return not self._died

    def longest_s(self) -> float:
        """Seconds that a thread has been at its present item, the longest of all; 0 where none is busy."""
        return max(0.0, time.monotonic() - min(self._since.values()))

    def admit(self) -> None:
        """Raises Overloaded or Stopped where a ticket would be refused: worth asking before a request is read."""
        if self._closing or self._died or self.stuck:
            raise Stopped("The server is stopping or starting again: ask again in a moment.")
        if self._tickets.qsize() >= self.max_queue:
            raise Overloaded(f"{self.max_queue} requests are waiting already: ask again in a moment.")

    async def answer(self, ticket: Ticket) -> Ticket:
        """Queue a ticket and wait for its answer; who stops waiting, for a deadline or because he left, gives it up.

        Raises: what kept the ticket from its answer, BadInput for one; Overloaded, Stopped.
        """
        self.admit()
        queue = self._tickets
        if ticket.images is None and ticket.pixels() > LARGE_PIXELS:
            queue, most = self._large, min(self.max_queue, LARGE_WAITING)
            if queue.qsize() >= most:
                raise Overloaded(f"{most} requests with large images are waiting already: ask again in a moment.")
        loop = asyncio.get_running_loop()
        if self._waker is None or self._waker.loop is not loop:
            self._waker = Waker(loop)
        ticket.future = loop.create_future()
        ticket.entered = time.perf_counter()
        queue.put(ticket)
        try:
            await ticket.future
        except BaseException:
            ticket.give_up()
            raise
        if ticket.error is not None:
            raise ticket.error
        return ticket

    def close(self, timeout_s: float = 30.0) -> None:
        """Take no more tickets, answer those that wait, end the threads; at most `timeout_s`."""
        self._closing = True
        until = time.monotonic() + timeout_s
        for queue, threads in ((self._large, self.large_threads), (self._tickets, self.threads)):
            for _ in threads:
                queue.put(None)
            for thread in threads:
                if thread.is_alive():
                    thread.join(max(0.0, until - time.monotonic()))
        self._closed = True

    def _work(self) -> None:
        while (first := self._tickets.get()) is not None:
            taken = self._with_others(first)
            with self._ended(taken):
                answer(taken, self._begin)
            self._wake(taken)

    def _work_on_large(self) -> None:
        """Decode large tickets, then hand them to the other threads: what is left to do is small."""
        while (ticket := self._large.get()) is not None:
            with self._ended([ticket]):
                _queued(ticket)
                if not ticket.given_up and _decoded(ticket, self._begin):
                    if self._closed:
                        raise Stopped("The server has stopped: ask again in a moment.")
                    ticket.entered = time.perf_counter()
                    self._tickets.put(ticket)
                    continue
            self._wake([ticket])

    def _begin(self) -> None:
        """Note that this thread begins an item."""
        self._since[threading.current_thread().name] = time.monotonic()

    @contextmanager
    def _ended(self, tickets: list[Ticket]) -> Iterator[None]:
        """Around the work on tickets: whatever it raises is their error, and a thread that ends is missed."""
        try:
            yield
        except Exception as error:
            for ticket in tickets:
                if not ticket.rows and ticket.scores is None:
                    ticket.error = ticket.error or error
        except BaseException:  # nothing that work on a picture may raise: this thread is ending
            self._died = True
            for ticket in tickets:
                ticket.error = Stopped("The worker that had this request has died: ask again in a moment.")
            self._wake(tickets)
            raise
        finally:
            self._since[threading.current_thread().name] = inf

    def _wake(self, tickets: list[Ticket]) -> None:
        for ticket in tickets:
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


def answer(tickets: list[Ticket], begin: Callable[[], None] = lambda: None) -> None:
    """Decode and classify tickets together, those of one model in one call; each gets its answer or its error.

    `begin` is called before each item: a picture to decode, or images to classify.
    """
    groups: dict[Runner, list[Ticket]] = defaultdict(list)
    started = time.perf_counter()
    for ticket in tickets:
        _queued(ticket, started)
        if not ticket.given_up and (ticket.decoded or _decoded(ticket, begin)):
            groups[ticket.runner].append(ticket)
    for runner, group in groups.items():
        begin()
        started = time.perf_counter()
        try:
            _classify(runner, group)
        except Exception:
            for ticket in group:  # one at a time, so that only the guilty one fails
                _alone(runner, ticket)
        for ticket in group:
            ticket.infer_s = time.perf_counter() - started


def _queued(ticket: Ticket, until: float | None = None) -> None:
    """Add the time since a ticket was put into a queue."""
    ticket.queue_s += (until or time.perf_counter()) - ticket.entered


def _decoded(ticket: Ticket, begin: Callable[[], None]) -> bool:
    """Prepare a ticket's pictures; whether there is something to classify."""
    started = time.perf_counter()
    try:
        if ticket.images is None:
            ticket.prepared = prepare_all(_wanted(ticket, begin), ticket.runner.model.card.input, ticket.fit)
            if ticket.wants == "scores":
                ticket.images = _all_or_error(ticket.prepared)
        else:
            check_images(ticket.images, ticket.runner.model.card)
    except Exception as error:
        ticket.error = error
    ticket.decoded = True
    ticket.decode_s = time.perf_counter() - started
    return ticket.error is None and not ticket.given_up


def _wanted(ticket: Ticket, begin: Callable[[], None]) -> Iterator[Any]:
    """A ticket's pictures, as long as somebody waits for the answer."""
    for source in ticket.sources:
        if ticket.given_up:
            return
        begin()
        yield source


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
            probabilities = None if own is None else own.probabilities
            ticket.rows = make_rows(runner.model.card, ticket.prepared, probabilities, ticket.top_k)


def _pixels(ticket: Ticket) -> Any:
    if ticket.images is not None:
        return ticket.images
    pixels = stack_pixels(ticket.prepared)
    return () if pixels is None else pixels


# Ends futures of an event loop from other threads, many with one call: waking a loop costs as much as a network.


class Waker:
    """For one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._finished: deque[asyncio.Future[None]] = deque()
        self._called = False

    def wake(self, future: asyncio.Future[None]) -> None:
        """From any thread. Raises RuntimeError where the loop is closed."""
        self._finished.append(future)  # before the look at _called, which is cleared before they are taken
        if not self._called:
            self._called = True
            self.loop.call_soon_threadsafe(self._end_all)

    def _end_all(self) -> None:
        self._called = False
        while self._finished:
            future = self._finished.popleft()
            if not future.done():
                future.set_result(None)
