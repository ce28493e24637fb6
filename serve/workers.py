"""Worker processes: blocks of images → blocks of finished rows, in order, from as many processes as there are cores.

Processes and not threads: beside a network of 85 µs, Python's own work on an image holds the interpreter's lock long
enough that two threads were no faster than one (docs/decisions/0007-batch.md).
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Generic, TypeVar

from serve.blocks import Job
from serve.sources import Source
from zoo.errors import ZooError

Answer = TypeVar("Answer")


class WorkerDied(ZooError):
    """A worker process ended without an answer."""


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Workers(Generic[Answer]):
    """Processes that do `work(job, sources)`, a function at the top of a module, with the model open."""

    def __init__(self, job: Job, work: Callable[[Job, list[Source]], Answer], processes: int) -> None:
        import multiprocessing

        self.processes = processes
        context = multiprocessing.get_context("spawn")  # a fork would copy the locks of the runtime's threads
        self._executor = ProcessPoolExecutor(processes, context, _open, (job, work))
        self._started = [self._executor.submit(_nothing) for _ in range(processes)]

    def __enter__(self) -> Workers[Answer]:
        return self

    def __exit__(self, *_: object) -> None:
        self._executor.shutdown(wait=True, cancel_futures=True)

    def ready(self) -> bool:
        """Whether the first worker waits for work: starting takes as long as thousands of images."""
        return self._started[0].done()

    def wait_until_ready(self) -> None:
        for started in self._started:
            started.result()

    def answers(self, cuts: Iterable[list[Source]]) -> Iterator[Answer]:
        """One answer a list, in order; no more than a few lists are on their way at any time. Raises WorkerDied."""
        waiting: deque[Future[Any]] = deque()
        try:
            for sources in cuts:
                waiting.append(self._executor.submit(_work, sources))
                if len(waiting) > 2 * self.processes:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool:
            raise WorkerDied(
                "A worker process died, which happens where memory runs out: use fewer (--workers); of a file, the "
                "finished parts are kept (--resume)."
            ) from None


_task: tuple[Job, Callable[[Job, list[Source]], object]] | None = None  # in a worker: what `_open` was given


def _open(job: Job, work: Callable[[Job, list[Source]], object]) -> None:
    """Begin a worker: Ctrl-C is the parent's business, and a worker does not outlive its parent."""
    import multiprocessing
    import signal
    import threading

    global _task
    _task = job, work
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if parent := multiprocessing.parent_process():
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: Any) -> None:
    parent.join()
    os._exit(1)


def _nothing() -> None:
    pass


def _work(sources: list[Source]) -> object:
    assert _task is not None
    job, work = _task
    return work(job, sources)
