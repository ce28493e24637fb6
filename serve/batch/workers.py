"""Worker processes: blocks of images → blocks of finished rows, in order, from as many processes as there are cores.

Processes and not threads: beside a network of 85 µs, Python's own work on an image holds the interpreter's lock long
enough that two threads were no faster than one (docs/decisions/0007-batch.md). What starts processes is imported where
they are started: a single picture needs none.

Parent and worker talk through one pipe, and its end is the end of the worker, whatever ends the parent.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from serve.batch import signals as processes
from serve.batch.archives import Unreadable
from serve.batch.inputs import Source, held_bytes, name_of
from serve.messages import say
from zoo.errors import ZooError

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from multiprocessing.context import SpawnProcess
    from queue import SimpleQueue

Answer = TypeVar("Answer")
PATIENCE_S = 2.0  # for a worker to end by itself
AHEAD = 2  # blocks that a worker has: one that it works on, one that waits in its process
HELD_BYTES = 16 * 2**20  # of images, for each process, that were handed over and not answered yet
PIECES = 8  # in which a block is tried again on which a process died: three times, until it is one image
MOST_DEATHS = 12  # in a row: more than it takes to find two such images


_WHY = (
    "Worker processes die, which happens where memory runs out: use fewer (--workers); of a file, the finished parts "
    "are kept (--resume)."
)


class WorkerDied(ZooError):
    """Worker processes end without an answer, whatever they work on."""


@dataclass(eq=False)
class _Task(Generic[Answer]):
    """A block on its way: its images, then its answer."""

    sources: list[Source]
    size: int
    answers: list[Answer] = field(default_factory=list)  # one, when it is finished
    sent: bool = False


@dataclass(eq=False)
class _Worker(Generic[Answer]):
    process: SpawnProcess
    connection: Connection[Any, Any]
    giving: threading.Thread
    ready: bool = False
    tasks: deque[_Task[Answer]] = field(default_factory=deque)  # in the order in which it answers them


class Workers(Generic[Answer]):
    """Processes that do `work(sources)`; each gets it once, with the model that may be in it.

    Where a process dies, its block is tried again in pieces, until the image is found that ends its process: that
    image becomes an `Unreadable`, and the others are answered. Raises OSError where no process can be started.
    """

    def __init__(self, work: Callable[[list[Source]], Answer], number: int) -> None:
        """number: of processes."""
        self._work = work
        self._workers: list[_Worker[Answer]] = []
        self._deaths = 0  # since the last answer
        try:
            for _ in range(number):
                self._start()
        except BaseException as error:
            self.__exit__(type(error))
            raise

    def _start(self) -> None:
        process, connection = processes.start(_serve)
        # Not with what starts a process: that is waited for, and a model is large.
        giving = threading.Thread(target=_give, args=(connection, self._work), daemon=True)
        giving.start()
        self._workers.append(_Worker(process, connection, giving))

    def __enter__(self) -> Workers[Answer]:
        return self

    def __exit__(self, given_up: type[BaseException] | None, *_: object) -> None:
        for worker in self._workers:
            if given_up or not worker.ready:  # nothing is lost: only this process writes
                worker.process.kill()
            else:
                worker.connection.close()
        for worker in self._workers:
            worker.process.join(PATIENCE_S)
            worker.process.kill()
            worker.giving.join(PATIENCE_S)
            worker.connection.close()
        self._workers.clear()

    def ready(self) -> bool:
        """Whether a worker waits for work: starting takes as long as thousands of images."""
        if self._workers:
            self._receive(timeout=0)
            if not self._workers:
                say("zoo: Worker processes end while they start: one process does all the work.")
        return any(worker.ready for worker in self._workers)

    def wait_until_ready(self) -> None:
        while not all(worker.ready for worker in self._workers):
            self._receive()

    def answers(self, cuts: Iterable[list[Source]]) -> Iterator[Answer]:
        """The answers for the lists, in order; no more than a few lists are on their way at any time.

        One answer a list, or several where a process died on it. Raises WorkerDied.
        """
        left = iter(cuts)
        tasks: deque[_Task[Answer]] = deque()  # in the order of the images
        most, most_bytes = AHEAD * len(self._workers) + 1, HELD_BYTES * len(self._workers)
        while True:
            while len(tasks) < most and sum(task.size for task in tasks) < most_bytes:
                if (sources := next(left, None)) is None:
                    break
                tasks.append(_Task(sources, sum(map(held_bytes, sources))))
            if not tasks:
                return
            if not self._workers:
                raise WorkerDied(_WHY)
            self._send(task for task in tasks if not task.sent)
            if not tasks[0].answers:
                self._receive(tasks)
            while tasks and tasks[0].answers:
                yield tasks.popleft().answers[0]

    def _send(self, waiting: Iterator[_Task[Answer]]) -> None:
        """One to each that is idle, and then a second one, so that nobody waits for the parent."""
        for ahead in range(AHEAD):
            for worker in self._workers:
                if worker.ready and len(worker.tasks) == ahead:
                    if (task := next(waiting, None)) is None:
                        return
                    task.sent = True
                    worker.tasks.append(task)
                    with suppress(OSError):  # it is dead, as it will be found to be when its answer is read
                        worker.connection.send(task.sources)

    def _receive(self, tasks: deque[_Task[Answer]] | None = None, timeout: float | None = None) -> None:
        """What workers have sent, waiting for the first of it; a dead worker is replaced."""
        from multiprocessing.connection import wait

        by_connection = {worker.connection: worker for worker in self._workers}
        for connection in wait(list(by_connection), timeout):
            worker = by_connection[connection]  # type: ignore[index]  # of what it was given
            try:
                message = worker.connection.recv()
            except (EOFError, OSError):
                self._replace(worker, tasks)
                continue
            if isinstance(message, _Failure):
                raise message.error
            if not worker.ready:
                worker.ready = True
                continue
            task = worker.tasks.popleft()
            task.answers.append(message)
            task.sources, task.size, self._deaths = [], 0, 0

    def _replace(self, dead: _Worker[Answer], tasks: deque[_Task[Answer]] | None) -> None:
        """Start another worker, divide the block on which this one died, and send its other blocks again."""
        self._deaths += 1
        dead.process.join(PATIENCE_S)
        dead.process.kill()
        dead.connection.close()
        self._workers.remove(dead)
        if not dead.ready:
            return
        for task in dead.tasks:
            task.sent = False
        if tasks is not None and dead.tasks:
            if self._deaths > MOST_DEATHS or _was_blamed(dead.tasks[0]):
                raise WorkerDied(_WHY)
            _divide(dead.tasks[0], tasks, dead.process.exitcode)
        with suppress(OSError):  # with those that are left, then
            self._start()


def _was_blamed(task: _Task[Answer]) -> bool:
    return any(isinstance(source, Unreadable) and source.original is not None for source in task.sources)


def _divide(task: _Task[Answer], tasks: deque[_Task[Answer]], exit_code: int | None) -> None:
    """Several tasks in the place of one; of one image that ended its process, a task that says so."""
    if len(task.sources) > 1:
        place, size = tasks.index(task), -(-len(task.sources) // PIECES)
        tasks.remove(task)
        for start in reversed(range(0, len(task.sources), size)):
            tasks.insert(place, _Task(task.sources[start : start + size], task.size))
        return
    name = name_of(task.sources[0])
    sentence = f"{name} ended the process that read it (exit code {exit_code}): it is damaged, or takes much memory."
    task.sources = [Unreadable(name, sentence, task.sources[0])]


@dataclass
class _Failure:
    """What a worker's work raised, to be raised in the parent."""

    error: BaseException


def _give(connection: Connection[Any, Any], work: object) -> None:
    with suppress(OSError):  # the worker has ended meanwhile
        connection.send(work)


def _serve(connection: Connection[Any, Any]) -> None:
    """In a worker: answer what comes through the pipe, until its end. Ctrl-C is the parent's business."""
    import queue
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        work = connection.recv()
        connection.send(None)  # ready
        received: SimpleQueue[list[Source]] = queue.SimpleQueue()
        threading.Thread(target=_receive, args=(connection, received), daemon=True).start()
        while True:
            connection.send(work(received.get()))
    except MemoryError:
        os._exit(1)
    except BaseException as error:
        try:
            connection.send(_Failure(error))
        except OSError:
            os._exit(1)
        except Exception:  # it cannot be pickled
            connection.send(_Failure(RuntimeError(f"{type(error).__name__}: {error}")))


def _receive(connection: Connection[Any, Any], received: SimpleQueue[list[Source]]) -> None:
    """Take each block at once, so that the parent is never held up, and end with the parent."""
    try:
        while True:
            received.put(connection.recv())
    except (EOFError, OSError):
        os._exit(0)
