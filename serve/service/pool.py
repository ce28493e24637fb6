"""Worker threads of a server. Requests wait in two bounded queues, and each gets its own result.

On a CPU there are up to two threads: a network this small gains nothing from being split, but the runtime releases the
interpreter's lock while it works, and another request is decoded meanwhile. A thread that finds several requests
waiting takes some together: one call of the session, one wake-up of the event loop. On a GPU the threads do the same,
but for the network, which one more thread runs for all of them (`gpu_thread.py`), in sizes that were warmed up.

Requests with large images are first decoded by a few threads of their own. This bounds the memory of decoding over all
requests, and small requests never wait behind large ones.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from math import inf
from queue import Empty, SimpleQueue
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from serve.devices import cores
from serve.service.gpu_thread import gpu_thread
from zoo.classification import CHUNK, prepare_all, read_numbers, stack_pixels
from zoo.errors import BadInput, ZooError
from zoo.images.headers import declared_pixels
from zoo.images.photos import Fit
from zoo.images.read import Named
from zoo.model import Model, bind, check_images
from zoo.rows import Prepared, Row, make_rows
from zoo.runtime import Bound
from zoo.scores import Scores

BATCH_IMAGES = CHUNK  # that a thread takes at a time: one call of the session and one wake-up of the loop
MAX_THREADS = 2  # per process; more wait for the interpreter's lock (docs/decisions/0008-server.md)
GPU_THREADS = 4  # half of them decode while the others wait for the GPU; together they fill a batch of 64
GPU_SIZES = (1, 16, 64, 256)  # a GPU prepares each shape once, which can take seconds, so only these are run
LARGE_PIXELS = 1_000_000  # a request with more pixels is decoded by the threads for large ones
MAX_LARGE_THREADS = 4  # and at most half of the cores
MAX_LARGE_QUEUE = 32  # requests
MIN_FILE_PIXELS = 4096  # counted per file at least, for the work that does not depend on its size


class QueueFull(ZooError):
    """Too many requests are waiting."""

    http_status = 503


class PoolUnavailable(ZooError):
    """The server is stopping, or a worker thread has died."""

    http_status = 503


@dataclass(eq=False, slots=True)
class WorkItem:
    """One request for the pool, its result, and how long each stage took."""

    runner: Runner
    sources: list[Any] = field(default_factory=list)  # images as `Model.predict` takes them, or
    images: npt.NDArray[np.uint8] | None = None  # an array uint8 `(N, H, W, C)` as `Model.run` takes it
    # An image that fails is a row with an error for "rows", and the error of the whole item for "scores"
    output: Literal["rows", "scores"] = "rows"
    top_k: int = 3
    fit: Fit = "crop"
    single: bool = False  # an image of several digits is an error; it always is for "scores"
    rows: list[Row] = field(default_factory=list)  # the result for output "rows"
    scores: Scores | None = None  # the result for output "scores"
    prepared: list[Prepared] = field(default_factory=list)  # the decoded sources
    error: Exception | None = None  # raised instead of a result
    cancelled: bool = False
    created_at: float = field(default_factory=time.perf_counter)
    queued_at: float = 0.0  # `time.perf_counter()`
    decode_s: float = 0.0
    queue_s: float = 0.0
    infer_s: float = 0.0
    batch_size: int = 0  # images in the session's call
    decoded: bool = False
    future: asyncio.Future[None] | None = None
    image_count: int = field(init=False)

    def __post_init__(self) -> None:
        self.image_count = len(self.sources) if self.images is None else len(self.images)

    def pixel_count(self) -> int:
        """How many pixels decoding touches, according to the headers of the files."""
        if len(self.sources) == 1:  # the usual case, in half of the time
            return _source_pixels(self.sources[0])
        return sum(max(MIN_FILE_PIXELS, _source_pixels(source)) for source in self.sources)

    def cancel(self) -> None:
        """The client no longer waits: workers skip the item, and its data is freed while it is still in a queue."""
        self.cancelled = True
        self.sources, self.images = [], None


def _source_pixels(source: Any) -> int:
    data = source.data if isinstance(source, Named) else source
    return declared_pixels(data) if isinstance(data, bytes) else LARGE_PIXELS + 1


class Pool:
    """Threads that process the items of one event loop. Call `start`, and `close` at the end."""

    def __init__(
        self, device: str = "cpu", max_queue: int = 256, threads: int | None = None, processes: int = 1
    ) -> None:
        """Args:
        max_queue: items that may wait.
        threads: by default this process's share of the cores, but at most `MAX_THREADS`, or `GPU_THREADS`.
        processes: how many server processes share the cores.
        """
        self.max_queue = max_queue
        self._queue: SimpleQueue[WorkItem | None] = SimpleQueue()
        self._large_queue: SimpleQueue[WorkItem | None] = SimpleQueue()
        self._closing = self._closed = self._died = False
        self.stuck = False  # set by the health check: no new items are accepted
        self._waker: Waker | None = None
        limit = GPU_THREADS if device == "cuda" else MAX_THREADS
        count = threads or min(limit, max(1, cores() // processes))
        self.threads = [
            threading.Thread(target=self._work, name=f"zoo-worker-{number}", daemon=True) for number in range(count)
        ]
        self.large_threads = [
            threading.Thread(target=self._decode_large, name=f"zoo-large-{number}", daemon=True)
            for number in range(min(MAX_LARGE_THREADS, max(1, cores() // 2)))
        ]
        # By thread name, when it began its current step: decoding one image, or one call of the network
        self._step_started = {thread.name: inf for thread in (*self.threads, *self.large_threads)}

    def start(self) -> None:
        for thread in (*self.threads, *self.large_threads):
            thread.start()

    @property
    def waiting(self) -> int:
        """Items in the queues."""
        return self._queue.qsize() + self._large_queue.qsize()

    @property
    def alive(self) -> bool:
        """Whether no worker thread has died."""
        return not self._died

    def longest_step_s(self) -> float:
        """Seconds that the slowest thread has spent on its current step; 0 if all are idle."""
        return max(0.0, time.monotonic() - min(self._step_started.values()))

    def admit(self) -> None:
        """Raises QueueFull or PoolUnavailable if an item would be rejected. Call it before a request is read."""
        if self._closing or self._died or self.stuck:
            raise PoolUnavailable("The server is stopping or restarting. Try again in a moment.")
        if self._queue.qsize() >= self.max_queue:
            raise QueueFull(f"The queue is full ({self.max_queue} requests). Try again in a moment.")

    async def process(self, item: WorkItem) -> WorkItem:
        """Queue an item and wait for its result. An item whose caller is cancelled is cancelled too.

        Raises:
            QueueFull, PoolUnavailable: the item was not processed.
            Exception: the error of the item, for example BadInput.
        """
        self.admit()
        queue = self._queue
        if item.images is None and item.pixel_count() > LARGE_PIXELS:
            queue, limit = self._large_queue, min(self.max_queue, MAX_LARGE_QUEUE)
            if queue.qsize() >= limit:
                raise QueueFull(f"The queue for large images is full ({limit} requests). Try again in a moment.")
        loop = asyncio.get_running_loop()
        if self._waker is None or self._waker.loop is not loop:
            self._waker = Waker(loop)
        item.future = loop.create_future()
        item.queued_at = time.perf_counter()
        queue.put(item)
        try:
            await item.future
        except BaseException:
            item.cancel()
            raise
        if item.error is not None:
            raise item.error
        return item

    def close(self, timeout_s: float = 30.0) -> None:
        """Accept no more items, process those that wait, and end the threads; at most `timeout_s`."""
        self._closing = True
        until = time.monotonic() + timeout_s
        for queue, threads in ((self._large_queue, self.large_threads), (self._queue, self.threads)):
            for _ in threads:
                queue.put(None)
            for thread in threads:
                if thread.is_alive():
                    thread.join(max(0.0, until - time.monotonic()))
        self._closed = True

    def _work(self) -> None:
        """A worker thread."""
        while (first := self._queue.get()) is not None:
            batch = self._collect_batch(first)
            with self._record_errors(batch):
                process_batch(batch, self._begin_step)
            self._wake(batch)
            del first, batch  # an idle thread keeps no images, and no model that has been unloaded

    def _decode_large(self) -> None:
        """A thread that decodes large items and passes them on to the workers, for which little work remains."""
        while (item := self._large_queue.get()) is not None:
            with self._record_errors([item]):
                _add_queue_time(item)
                if not item.cancelled and _decode(item, self._begin_step):
                    if self._closed:
                        raise PoolUnavailable("The server has stopped. Try again in a moment.")
                    item.queued_at = time.perf_counter()
                    self._queue.put(item)
                    del item
                    continue
            self._wake([item])
            del item

    def _collect_batch(self, first: WorkItem) -> list[WorkItem]:
        """The item, and the items behind it that go through the network with it."""
        batch, image_count = [first], first.image_count
        while image_count < BATCH_IMAGES:
            try:
                other = self._queue.get_nowait()
            except Empty:
                break
            if other is None:
                self._queue.put(None)  # the mark of the end: this thread meets it again after the batch
                break
            batch.append(other)
            image_count += other.image_count
        return batch

    def _begin_step(self) -> None:
        """Record that this thread begins a step."""
        self._step_started[threading.current_thread().name] = time.monotonic()

    @contextmanager
    def _record_errors(self, items: list[WorkItem]) -> Iterator[None]:
        """Whatever the work on items raises becomes their error. A thread that ends is recorded."""
        try:
            yield
        except Exception as error:
            for item in items:
                if not item.rows and item.scores is None:
                    item.error = item.error or error
        except BaseException:  # no work on an image may raise it: this thread is ending
            self._died = True
            for item in items:
                item.error = PoolUnavailable("The worker of this request died. Try again in a moment.")
            self._wake(items)
            raise
        finally:
            self._step_started[threading.current_thread().name] = inf

    def _wake(self, items: list[WorkItem]) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody waits
            assert self._waker is not None
            self._waker.wake([item.future for item in items if item.future is not None])


def process_batch(items: list[WorkItem], begin_step: Callable[[], None] = lambda: None) -> None:
    """Decode and classify items together, those of one model in one call. Each gets its result or its error.

    `begin_step` is called before each image is decoded and before each call of the network.
    """
    groups: dict[Runner, list[WorkItem]] = defaultdict(list)
    started = time.perf_counter()
    for item in items:
        _add_queue_time(item, started)
        if not item.cancelled and (item.decoded or _decode(item, begin_step)):
            groups[item.runner].append(item)
    for runner, group in groups.items():
        begin_step()
        started = time.perf_counter()
        try:
            _classify(runner, group)
        except Exception:
            for item in group:  # one at a time, so that only the item that causes the error fails
                _classify_alone(runner, item)
        for item in group:
            item.infer_s = time.perf_counter() - started


def _add_queue_time(item: WorkItem, until: float | None = None) -> None:
    """Add the time since an item was put into a queue."""
    item.queue_s += (until or time.perf_counter()) - item.queued_at


def _decode(item: WorkItem, begin_step: Callable[[], None]) -> bool:
    """Decode and prepare the images of an item. Returns whether the item is to be classified."""
    started = time.perf_counter()
    try:
        if item.images is None:
            single = item.single or item.output == "scores"
            expected = item.runner.model.card.input
            item.prepared = prepare_all(_active_sources(item, begin_step), expected, item.fit, single)
            if item.output == "scores":
                item.images = _stack_or_raise(item.prepared)
        else:
            check_images(item.images, item.runner.model.card)
    except Exception as error:
        item.error = error
    item.decoded = True
    item.decode_s = time.perf_counter() - started
    return item.error is None and not item.cancelled


def _active_sources(item: WorkItem, begin_step: Callable[[], None]) -> Iterator[Any]:
    """The sources of an item, until it is cancelled."""
    for source in item.sources:
        if item.cancelled:
            return
        begin_step()
        yield source


def _stack_or_raise(prepared: list[Prepared]) -> npt.NDArray[np.uint8]:
    for image in prepared:
        if image.error:
            raise BadInput(image.error)
    return np.stack([image.pixels for image in prepared if image.pixels is not None])


def _classify(runner: Runner, group: list[WorkItem]) -> None:
    """Run a group of items in one call, and divide the scores among them."""
    arrays = [_input_array(item) for item in group]
    nonempty = [array for array in arrays if len(array)]
    scores = runner.run(nonempty[0] if len(nonempty) == 1 else np.concatenate(nonempty)) if nonempty else None
    start = 0
    for item, array in zip(group, arrays, strict=True):
        end = start + len(array)
        own = None if scores is None else scores.part(start, end)
        item.batch_size, start = sum(map(len, nonempty)), end
        if item.output == "scores":
            item.scores = own
        else:
            card = runner.model.card
            readings = read_numbers(card, item.prepared, own, runner.run)
            _, probabilities, known = own or (None, None, None)
            item.rows = make_rows(card, item.prepared, probabilities, item.top_k, known, readings)


def _classify_alone(runner: Runner, item: WorkItem) -> None:
    try:
        _classify(runner, [item])
    except Exception as error:
        item.error = error


def _input_array(item: WorkItem) -> Any:
    if item.images is not None:
        return item.images
    pixels = stack_pixels(item.prepared)
    return () if pixels is None else pixels


class Runner:
    """Runs any number of images through one model, in chunks of the sizes that suit the device. Thread-safe.

    On a CPU it uses the model's own session; on a GPU, bound batches of the sizes `GPU_SIZES`.

    Attributes:
        max_chunk: images per call of the session.
    """

    def __init__(self, model: Model) -> None:
        """Open the sessions and run each size once, because the first run of a session is the slowest."""
        self.model = model
        self._bound: dict[int, Bound] = {}
        self.max_chunk = CHUNK
        if model.device == "cuda":
            for size in GPU_SIZES:  # in calls of their own: other models answer in between
                self._bound[size] = gpu_thread().call(partial(_prepare, model, size))
            self.max_chunk = GPU_SIZES[-1]
        else:
            self.model.run(np.zeros((CHUNK, *model.card.input.shape), np.uint8))

    def run(self, images: npt.NDArray[np.uint8]) -> Scores:
        """uint8 `(N, H, W, C)`, N at least 1 → float32 `(N, K)` scores, as `Model.run`. Raises BadInput."""
        if len(images) <= self.max_chunk:
            return self._run_chunk(images)
        starts = range(0, len(images), self.max_chunk)
        chunks = [self._run_chunk(images[start : start + self.max_chunk]) for start in starts]
        return Scores.joined(chunks)

    def _run_chunk(self, images: npt.NDArray[np.uint8]) -> Scores:
        return Scores(*gpu_thread().run(self._bound, images)) if self._bound else self.model.run(images)


def _prepare(model: Model, size: int) -> Bound:
    """A bound batch whose graph is captured, in the thread that will replay it."""
    bound = bind(model, size)
    bound.run(np.zeros((size, *model.card.input.shape), np.uint8))
    return bound


class Waker:
    """Completes futures of one event loop from other threads, all of a batch per call.

    Waking a loop costs a system call, after which the woken thread and this one compete for the interpreter's lock.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._finished: deque[asyncio.Future[None]] = deque()
        self._scheduled = False

    def wake(self, futures: Iterable[asyncio.Future[None]]) -> None:
        """Complete futures, from any thread. Raises RuntimeError if the loop is closed."""
        self._finished.extend(futures)  # before _scheduled is read: it is cleared before the futures are taken
        if not self._scheduled:
            self._scheduled = True
            self.loop.call_soon_threadsafe(self._complete_all)

    def _complete_all(self) -> None:
        self._scheduled = False
        while self._finished:
            future = self._finished.popleft()
            if not future.done():
                future.set_result(None)
