"""The one thread of a server process that runs models on a GPU. Each batch is what arrived during the previous one.

Worker threads decode images, hand arrays over here and wait for their scores. This thread never decodes, makes no rows
and never waits for a batch to fill: it takes the oldest request, and with it all others of the same model that are
waiting, and runs them in one bound batch (`zoo.runtime.Bound`).

One thread for all models, because onnxruntime captures a CUDA graph per thread and keeps the plans of one shape: a
second thread, or runs of changing shapes without a graph, would plan every convolution again, which takes seconds
(docs/decisions/0014-gpu.md). Such a slow first run is only ever a `call`, one shape at a time. Requests that arrive
meanwhile run before the next `call`, so preparing a model delays those of other models by one shape at most.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from zoo.runtime import Bound

Result = TypeVar("Result")
Scores = tuple[npt.NDArray[np.float32], ...]
Sizes = Mapping[int, Bound]  # batch size, ascending → a network that is bound to it


@dataclass(eq=False, slots=True)
class _Request:
    """A call of a function, or images that a model has to run."""

    work: Callable[[], Any] | npt.NDArray[np.uint8]
    sizes: Sizes | None = None  # of the model that runs the images
    future: Future[Any] = field(default_factory=Future)

    def fits(self, sizes: Sizes, n: int) -> bool:
        """Whether it can run with `n` images of the model that has these sizes."""
        return self.sizes is sizes and n + len(self.work) <= max(sizes)  # type: ignore[arg-type]


class GpuThread:
    """Runs one request or batch at a time, oldest first. Any thread may use it."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[_Request] = SimpleQueue()
        threading.Thread(target=self._work, name="zoo-gpu", daemon=True).start()

    def call(self, function: Callable[[], Result]) -> Result:
        """The function's result. It runs alone, after the requests that are waiting now."""
        request = _Request(function)
        self._queue.put(request)
        result: Result = request.future.result()
        return result

    def run(self, sizes: Sizes, images: npt.NDArray[np.uint8]) -> Scores:
        """Scores of images, uint8 `(N, H, W, C)`, N at most the largest size. They may share a batch with others."""
        request = _Request(images, sizes)
        self._queue.put(request)
        scores: Scores = request.future.result()
        return scores

    def _work(self) -> None:
        waiting: deque[_Request] = deque()
        while True:
            if not waiting:
                waiting.append(self._queue.get())
            with suppress(Empty):
                while True:
                    waiting.append(self._queue.get_nowait())
            batch = _take_batch(waiting)
            try:
                _run_batch(batch)
            except Exception as error:
                for request in batch:
                    if not request.future.done():
                        request.future.set_exception(error)
            del batch  # an idle thread keeps no images, and no model that has been unloaded


def _take_batch(waiting: deque[_Request]) -> list[_Request]:
    """Remove and return the oldest request, and those behind it that run in the same batch."""
    first = waiting.popleft()
    batch, sizes = [first], first.sizes
    if sizes is None:
        return batch
    n = len(first.work)  # type: ignore[arg-type]
    for _ in range(len(waiting)):
        request = waiting.popleft()
        if request.fits(sizes, n):
            batch.append(request)
            n += len(request.work)  # type: ignore[arg-type]
        else:
            waiting.append(request)
    return batch


def _run_batch(batch: list[_Request]) -> None:
    sizes = batch[0].sizes
    if sizes is None:
        function: Any = batch[0].work
        batch[0].future.set_result(function())
        return
    parts: list[Any] = [request.work for request in batch]
    n = sum(map(len, parts))
    scores = next(bound for size, bound in sizes.items() if n <= size).run_parts(parts)
    start = 0
    for request, images in zip(batch, parts, strict=True):
        end = start + len(images)
        request.future.set_result(tuple([values[start:end] for values in scores]))
        start = end


@cache
def gpu_thread() -> GpuThread:
    """The thread of this process."""
    return GpuThread()
