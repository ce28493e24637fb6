"""Worker processes: blocks of images → blocks of finished rows, in order, from as many processes as there are cores.

Processes and not threads: beside a network of 85 µs, Python's own work on an image holds the interpreter's lock long
enough that two threads were no faster than one (docs/decisions/0007-batch.md). What starts processes is imported where
they are started: a single picture needs none.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from serve.signals import held_back
from serve.sources import Source
from zoo.errors import ZooError

if TYPE_CHECKING:
    from concurrent.futures import Future
    from multiprocessing.queues import SimpleQueue

Answer = TypeVar("Answer")
PATIENCE_S = 2.0  # for what a worker does while the run is given up


class WorkerDied(ZooError):
    """A worker process ended without an answer."""


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Workers(Generic[Answer]):
    """Processes that do `work(sources)`; each gets it once, with the model that may be in it."""

    def __init__(self, work: Callable[[list[Source]], Answer], processes: int) -> None:
        import multiprocessing
        from concurrent.futures import ProcessPoolExecutor

        self.processes = processes
        context = multiprocessing.get_context("spawn")  # a fork would copy the locks of the runtime's threads
        given = context.SimpleQueue()  # not with what starts a process: that is waited for, and a model is large
        self._executor = ProcessPoolExecutor(processes, context, _open, (given,))
        threading.Thread(target=_give, args=(given, work, processes), daemon=True).start()
        try:
            with held_back():
                self._started = [self._executor.submit(_nothing) for _ in range(processes)]
        except BaseException as error:
            self.__exit__(type(error))
            raise

    def __enter__(self) -> Workers[Answer]:
        return self

    def __exit__(self, given_up: type[BaseException] | None, *_: object) -> None:
        processes = list(self._executor._processes.values())
        manager: Any = self._executor._executor_manager_thread  # typeshed has it as another type
        self._executor.shutdown(wait=given_up is None, cancel_futures=True)
        if given_up:
            _end(processes)
            if manager is not None:
                manager.join(PATIENCE_S)  # at Python's exit, it would be woken through a pipe that it is just closing

    def ready(self) -> bool:
        """Whether the first worker waits for work: starting takes as long as thousands of images."""
        return self._started[0].done()

    def wait_until_ready(self) -> None:
        for started in self._started:
            started.result()

    def answers(self, cuts: Iterable[list[Source]]) -> Iterator[Answer]:
        """One answer a list, in order; no more than a few lists are on their way at any time. Raises WorkerDied."""
        from concurrent.futures.process import BrokenProcessPool

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


def _end(processes: list[Any]) -> None:
    """Let workers finish what they do, and kill what does not: a decoder that hangs, for one."""
    from multiprocessing.connection import wait

    until, left = time.monotonic() + PATIENCE_S, {process.sentinel: process for process in processes}
    while left and (patience := until - time.monotonic()) > 0:
        for ended in wait(list(left), patience):
            del left[ended]
    for process in left.values():
        process.kill()


def _give(given: SimpleQueue[Any], work: object, times: int) -> None:
    for _ in range(times):
        given.put(work)


_task: Callable[[list[Source]], object] | None = None  # in a worker: what `_open` was given


def _open(given: SimpleQueue[Any]) -> None:
    """Begin a worker: Ctrl-C is the parent's business, and a worker does not outlive its parent."""
    import multiprocessing
    import signal

    global _task
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if parent := multiprocessing.parent_process():
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    _task = given.get()


def _end_with(parent: Any) -> None:
    parent.join()
    os._exit(1)


def _nothing() -> None:
    pass


def _work(sources: list[Source]) -> object:
    assert _task is not None
    return _task(sources)
