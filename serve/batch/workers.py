"""A pool of worker processes: lists of images → results, in order.

Processes instead of threads: next to a network run of 85 µs, Python's own work per image holds the interpreter lock
for so long that two threads were no faster than one (docs/decisions/0007-batch.md). Parent and worker communicate
through one pipe; when it closes the worker ends, however the parent ended. `multiprocessing` is imported where
processes are started, because a single image needs none.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from serve.batch import parquet_rows, signals
from serve.batch.archives import Unreadable
from serve.batch.inputs import Source, name_of, size_in_memory
from serve.batch.parquet_rows import Rows
from serve.messages import say
from zoo.errors import ZooError

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from multiprocessing.process import BaseProcess
    from queue import SimpleQueue

Result = TypeVar("Result")
EXIT_TIMEOUT_S = 2.0  # for a worker to end by itself
TASKS_PER_WORKER = 2  # one in progress, one queued in the worker
PENDING_BYTES = 16 * 2**20  # of images sent and not yet classified, per worker
SPLITS = 8  # a task that killed its worker is split into 8 parts, up to three times, to find the image at fault
MAX_DEATHS = 12  # of workers without a result in between: more than it takes to find two such images


class WorkerDied(ZooError):
    """Worker processes keep ending without a result."""

    def __init__(self) -> None:
        super().__init__(
            "Worker processes keep dying, probably because memory runs out. Use fewer (--workers). With -o, finished "
            "rows are kept: continue with --resume."
        )


@dataclass(eq=False)
class _Task(Generic[Result]):
    """A list of images and, later, its result."""

    sources: list[Source]
    size: int  # bytes of the images that are sent as bytes
    result: list[Result] = field(default_factory=list)  # one item when it is finished
    sent: bool = False
    rows: Rows | None = None  # if `sources` are, or were, rows of a file

    def is_after_error(self) -> bool:
        return self.rows is not None and bool(self.rows.archive.is_after_error(self.rows))


@dataclass(eq=False)
class _Worker(Generic[Result]):
    process: BaseProcess
    connection: Connection[Any, Any]
    sender: threading.Thread | None = None  # sends the function to a process that was not forked
    ready: bool = False
    tasks: deque[_Task[Result]] = field(default_factory=deque)  # in the order of their results


class Workers(Generic[Result]):
    """Processes that call `function(sources)`.

    Each process gets the function once, including a model that is bound to it. If a process dies, its task is retried
    in parts until the image that kills the process is found. That image becomes an `Unreadable`; all others get their
    results.
    """

    def __init__(self, function: Callable[[list[Source]], Result], count: int) -> None:
        """Start `count` processes. Raises OSError if none can be started."""
        self._function = function
        self._workers: list[_Worker[Result]] = []
        self._deaths = 0  # since the last result
        try:
            for _ in range(count):
                self._start_worker()
        except BaseException as error:
            self.__exit__(type(error))
            raise

    def _start_worker(self) -> None:
        if signals.can_fork():
            self._workers.append(_Worker(*signals.fork_process(_serve, self._function)))
            return
        process, connection = signals.start_process(_serve)
        # Sent by a thread, not as an argument of the process: starting would wait until a large model is transferred.
        sender = threading.Thread(target=_send_function, args=(connection, self._function), daemon=True)
        sender.start()
        self._workers.append(_Worker(process, connection, sender))

    def __enter__(self) -> Workers[Result]:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        for worker in self._workers:
            if error or not worker.ready:  # no rows are lost: only this process writes them
                worker.process.kill()
            else:
                worker.connection.close()
        for worker in self._workers:
            _end(worker.process)
            if worker.sender:
                worker.sender.join(EXIT_TIMEOUT_S)
            worker.connection.close()
        self._workers.clear()

    def ready(self) -> bool:
        """Whether a worker is ready for tasks; starting one takes as long as thousands of images."""
        if self._workers:
            self._receive(timeout=0)
            if not self._workers:
                say("zoo: Worker processes end during their start. Continuing with a single process.")
        return any(worker.ready for worker in self._workers)

    def wait_until_ready(self) -> None:
        while not all(worker.ready for worker in self._workers):
            self._receive()

    def results(self, blocks: Iterable[list[Source]]) -> Iterator[Result]:
        """Results in the order of the blocks; only a few blocks are in memory at any time.

        One result per block, or several for a block that killed its process.

        Raises:
            WorkerDied.
        """
        remaining = iter(blocks)
        tasks: deque[_Task[Result]] = deque()  # in the order of the blocks
        max_tasks, max_bytes = TASKS_PER_WORKER * len(self._workers) + 1, PENDING_BYTES * len(self._workers)
        while True:
            while len(tasks) < max_tasks and sum(task.size for task in tasks) < max_bytes:
                if (sources := next(remaining, None)) is None:
                    break
                rows = first if isinstance(first := sources[0], Rows) else None
                tasks.append(_Task(sources, sum(map(size_in_memory, sources)), rows=rows))
            if not tasks:
                return
            if not self._workers:
                raise WorkerDied
            self._send(task for task in tasks if not task.sent)
            if not (tasks[0].result or tasks[0].is_after_error()):
                self._receive(tasks)
            while tasks and (tasks[0].result or tasks[0].is_after_error()):
                task = tasks.popleft()
                if not task.is_after_error():
                    yield task.result[0]

    def _send(self, unsent: Iterator[_Task[Result]]) -> None:
        """Send a task to each idle worker, then a second one to each, so that no worker waits for the parent."""
        for queued in range(TASKS_PER_WORKER):
            for worker in self._workers:
                if worker.ready and len(worker.tasks) == queued:
                    if (task := next(unsent, None)) is None:
                        return
                    task.sent = True
                    worker.tasks.append(task)
                    with suppress(OSError):  # a dead worker is noticed and replaced in _receive
                        worker.connection.send(task.sources)

    def _receive(self, tasks: deque[_Task[Result]] | None = None, timeout: float | None = None) -> None:
        """Wait for at least one message and process all that are there; replace dead workers."""
        from multiprocessing.connection import wait

        by_connection = {worker.connection: worker for worker in self._workers}
        for connection in wait(list(by_connection), timeout):
            worker = by_connection[connection]  # type: ignore[index]  # wait returns some of its arguments
            try:
                message = worker.connection.recv()
            except (EOFError, OSError):
                self._replace(worker, tasks)
                continue
            if isinstance(message, _RaisedError):
                raise message.error
            if not worker.ready:
                worker.ready = True
                continue
            task = worker.tasks.popleft()
            if isinstance(message, _RowsResult):
                rows = task.sources[0]
                assert isinstance(rows, Rows)
                rows.archive.count_read(message.size, message.seconds)
                message = message.result
            elif message is None and isinstance(task.sources[0], Rows):
                _read_in_parent(task, tasks)
                continue
            task.result.append(message)
            task.sources, task.size, self._deaths = [], 0, 0

    def _replace(self, dead: _Worker[Result], tasks: deque[_Task[Result]] | None) -> None:
        """Start another worker, split the task that killed this one, and mark its other tasks as not sent."""
        self._deaths += 1
        _end(dead.process)
        dead.connection.close()
        self._workers.remove(dead)
        if not dead.ready:
            return
        for task in dead.tasks:
            task.sent = False
        if tasks is not None and dead.tasks and isinstance(dead.tasks[0].sources[0], Rows):
            self._deaths -= 1  # the file's next rows are not read by workers
            _read_in_parent(dead.tasks[0], tasks)
        elif tasks is not None and dead.tasks and dead.tasks[0] in tasks:
            if self._deaths > MAX_DEATHS or _contains_killer(dead.tasks[0]):
                raise WorkerDied
            _split_task(dead.tasks[0], tasks, dead.process.exitcode)
        with suppress(OSError):  # then the other workers do the work
            self._start_worker()


def _end(process: BaseProcess) -> None:
    """Wait for a process that is about to end, so that no zombie is left."""
    process.join(EXIT_TIMEOUT_S)
    process.kill()
    process.join(EXIT_TIMEOUT_S)


def _contains_killer(task: _Task[Result]) -> bool:
    """Whether an image of the task has already been replaced because it killed a worker."""
    return any(isinstance(source, Unreadable) and source.original is not None for source in task.sources)


def _read_in_parent(task: _Task[Result], tasks: deque[_Task[Result]] | None) -> None:
    """Replace rows of a file that the worker could not read by the images themselves, which the parent has read."""
    rows = task.sources[0]
    assert isinstance(rows, Rows)
    task.sources, task.sent = rows.archive.read_again(rows), False
    task.size = sum(map(size_in_memory, task.sources))
    if not task.sources and tasks is not None and task in tasks:
        tasks.remove(task)


def _split_task(task: _Task[Result], tasks: deque[_Task[Result]], exit_code: int | None) -> None:
    """Replace a task by several smaller ones; if it is one image, replace the image by an `Unreadable`."""
    if len(task.sources) > 1:
        position, size = tasks.index(task), -(-len(task.sources) // SPLITS)
        tasks.remove(task)
        for start in reversed(range(0, len(task.sources), size)):
            tasks.insert(position, _Task(task.sources[start : start + size], task.size, rows=task.rows))
        return
    name = name_of(task.sources[0])
    message = f"{name} crashed the worker process (exit code {exit_code}): it is damaged or needs too much memory."
    task.sources = [Unreadable(name, message, task.sources[0])]


class _RowsResult(NamedTuple):
    """The function's result for rows of a file that the worker has read itself, and the cost of reading them."""

    result: Any
    size: int  # bytes
    seconds: float  # CPU time


@dataclass
class _RaisedError:
    """An exception of a worker's function, to be raised in the parent."""

    error: BaseException


def _send_function(connection: Connection[Any, Any], function: object) -> None:
    with suppress(OSError):  # the worker has ended meanwhile
        connection.send(function)


def _serve(connection: Connection[Any, Any], function: Callable[[list[Source]], Any] | None = None) -> None:
    """In a worker: process tasks until the pipe closes. Ignores Ctrl-C, which the parent handles."""
    import queue
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        function = function or connection.recv()
        assert function is not None
        connection.send(None)  # ready
        received: SimpleQueue[list[Source]] = queue.SimpleQueue()
        threading.Thread(target=_receive_tasks, args=(connection, received), daemon=True).start()
        while True:
            connection.send(_call(function, received.get()))
    except MemoryError:
        os._exit(1)
    except BaseException as error:
        try:
            connection.send(_RaisedError(error))
        except OSError:
            os._exit(1)
        except Exception:  # the error cannot be pickled
            connection.send(_RaisedError(RuntimeError(f"{type(error).__name__}: {error}")))


def _call(function: Callable[[list[Source]], Any], sources: list[Source]) -> Any:
    """The function's result; None for rows of a file that cannot be read within the limits."""
    if not isinstance(rows := sources[0], Rows):
        return function(sources)
    read = parquet_rows.read(rows)
    return read and _RowsResult(function(list(read.images)), read.size, read.seconds)


def _receive_tasks(connection: Connection[Any, Any], received: SimpleQueue[list[Source]]) -> None:
    """Read every task immediately, so that the parent's send never blocks; end the process when the parent ends."""
    try:
        while True:
            received.put(connection.recv())
    except (EOFError, OSError):
        os._exit(0)
    except BaseException:  # out of memory
        os._exit(1)
