"""On a GPU: worker processes do all but the network, and one thread of this process runs that for all of them.

A worker decodes and corrects a block's images, writes them into its own slot of shared memory and says so; the thread
takes whatever waits, runs it as one batch, writes the scores into the slots and answers; the worker makes and encodes
the rows. So no image is pickled, and this process moves arrays only. While a batch runs, the next one gathers: nobody
waits for a batch to be full. docs/decisions/0014-gpu.md says what limits the whole.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from multiprocessing.connection import Client, Connection, Listener, Pipe, wait
from multiprocessing.shared_memory import SharedMemory
from typing import Any

import numpy as np
import numpy.typing as npt

from serve.batch.chunks import BLOCK, Block, Job, encoded, identities, ready
from serve.batch.inputs import Source
from serve.batch.workers import Workers
from zoo.errors import ZooError
from zoo.model import Row, bind, classify_prepared, on_cpu
from zoo.runtime import Bound

SIZES = (512,)  # of batches, smallest first: preparing for one more shape takes a GPU longer than it saves
COUNT_BYTES = 4


class GpuFailed(ZooError):
    """The GPU could not run a batch."""


def gpu_blocks(cuts: Iterable[list[Source]], job: Job, processes: int) -> Iterator[Block]:
    """As `serve.batch.pipeline.blocks`, with the network on `job.model`'s device. Raises GpuFailed, WorkerDied."""
    model = job.model
    with Batches(partial(bind, model), model.card.input.shape, len(model.card.labels), processes) as batches:
        work = partial(answer, replace(job, model=on_cpu(model)), batches.remote)
        try:
            with Workers(work, processes) as workers:
                yield from workers.answers(cuts)
        except GpuFailed:
            raise batches.error or GpuFailed("The thread that runs the GPU has ended.") from None


def answer(job: Job, remote: Remote, sources: list[Source]) -> Block:
    """What a worker does with a block."""
    rows: list[Row] = []
    for start in range(0, len(sources), BLOCK):
        prepared = ready(sources[start : start + BLOCK], job.model.card.input, job.fit)
        rows += classify_prepared(job.model, prepared, job.top_k, remote.run)
    return encoded(job, rows, identities(sources) if job.identify else b"")


class Slot:
    """A worker's part of shared memory.

    images: uint8 `(BLOCK, H, W, C)`. scores: their logits and probabilities, float32 `(2, BLOCK, K)`.
    """

    def __init__(self, memory: Any, number: int, shape: tuple[int, ...], classes: int) -> None:
        self.number, start = number, number * self.size(shape, classes)
        self.images: npt.NDArray[np.uint8] = np.ndarray((BLOCK, *shape), np.uint8, memory, start)
        start += -(-self.images.nbytes // 8) * 8
        self.scores: npt.NDArray[np.float32] = np.ndarray((2, BLOCK, classes), np.float32, memory, start)

    @staticmethod
    def size(shape: tuple[int, ...], classes: int) -> int:
        """Bytes of a slot."""
        return -(-BLOCK * int(np.prod(shape)) // 8) * 8 + 2 * BLOCK * classes * 4


class Remote:
    """In a worker: stands for a `Bound`; the network runs in the process that made it."""

    def __init__(self, address: Any, key: bytes, memory: str, shape: tuple[int, ...], classes: int) -> None:
        self._where = address, key, memory, shape, classes
        self._connection: Connection | None = None

    def __reduce__(self) -> tuple[type[Remote], tuple[Any, ...]]:
        return Remote, self._where

    def run(self, images: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """uint8 `(N, H, W, C)`, N at most BLOCK → logits and probabilities, float32 `(N, K)`. Raises GpuFailed."""
        n = len(images)
        try:
            connection = self._connection or self._connect()
            self._slot.images[:n] = images
            connection.send_bytes(n.to_bytes(COUNT_BYTES, "little"))
            connection.recv_bytes()
        except (EOFError, OSError):
            raise GpuFailed("The process that runs the GPU does not answer.") from None
        logits, probabilities = self._slot.scores[:, :n].copy()
        return logits, probabilities

    def _connect(self) -> Connection:
        address, key, memory, shape, classes = self._where
        self._connection = Client(address, authkey=key)
        number = int.from_bytes(self._connection.recv_bytes(), "little")
        self._memory = SharedMemory(memory)
        self._slot = Slot(self._memory.buf, number, shape, classes)
        return self._connection


class Batches:
    """A thread that runs the network for worker processes, on whatever has come while the last batch ran."""

    def __init__(self, bind: Callable[[int], Bound], shape: tuple[int, ...], classes: int, slots: int) -> None:
        """Args: bind: opens bound batches of a size; shape `(H, W, C)`; slots: how many workers may connect."""
        self.error: GpuFailed | None = None
        self._bind, self._shape, self._classes = bind, shape, classes
        count = 2 * slots  # a worker that replaces a dead one may be there before its end was noticed
        self._memory = SharedMemory(create=True, size=count * Slot.size(shape, classes))
        key = os.urandom(16)
        self._listener = Listener(authkey=key, backlog=count)
        self.remote: Any = Remote(self._listener.address, key, self._memory.name, shape, classes)
        self._slots: dict[Connection, Slot] = {}
        self._free = deque(Slot(self._memory.buf, number, shape, classes) for number in range(count))
        self._woken, self._wake = Pipe(duplex=False)
        self._closing, self._lock = False, threading.Lock()
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._accept, self._run)]

    def __enter__(self) -> Batches:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._close()
        self._wake.send_bytes(b".")
        for thread in self._threads:
            thread.join()
        for connection in (*self._slots, self._woken, self._wake):
            connection.close()
        self._slots.clear()  # which holds views of the memory
        self._free.clear()
        self._memory.close()
        self._memory.unlink()

    def _close(self) -> None:
        """Take no more workers; those that wait for an answer or a slot see the end of their connections."""
        with self._lock:
            if self._closing:
                return
            self._closing = True
        with suppress(OSError, EOFError):
            Client(self._listener.address, authkey=self.remote._where[1]).close()  # ends `accept`

    def _accept(self) -> None:
        """Give every worker that connects a slot."""
        while not self._closing:
            try:
                connection = self._listener.accept()
            except (OSError, EOFError):  # of a process that died while it connected
                continue
            if self._closing or not self._free:
                connection.close()
                continue
            slot = self._free.popleft()
            connection.send_bytes(slot.number.to_bytes(COUNT_BYTES, "little"))
            self._slots[connection] = slot
            self._wake.send_bytes(b".")
        self._listener.close()

    def _run(self) -> None:
        try:
            bound = [self._bind(size) for size in SIZES]
            for one in bound:  # slow the first time, and a graph is captured by the thread that replays it
                one.run(np.zeros((1, *self._shape), np.uint8))
            while not self._closing:
                waiting = self._waiting()
                while waiting:
                    waiting = waiting[self._batch(bound, waiting) :]
        except Exception as error:
            self.error = GpuFailed(f"The GPU could not run a batch ({error}): choose --device cpu.")
            self._close()
            for connection in list(self._slots):
                connection.close()

    def _waiting(self) -> list[tuple[Connection, int]]:
        """Who waits, and with how many images."""
        found = []
        for connection in wait([self._woken, *self._slots]):
            assert isinstance(connection, Connection)
            if connection is self._woken:
                connection.recv_bytes()
                continue
            try:
                found.append((connection, int.from_bytes(connection.recv_bytes(), "little")))
            except (EOFError, OSError):  # a worker has ended, and another may take its place
                self._free.append(self._slots.pop(connection))
                connection.close()
        return found

    def _batch(self, bound: Sequence[Bound], waiting: Sequence[tuple[Connection, int]]) -> int:
        """Run as many of the waiting as fit, the first ones; returns how many."""
        taken, total = 0, 0
        while taken < len(waiting) and total + waiting[taken][1] <= bound[-1].batch:
            total += waiting[taken][1]
            taken += 1
        one = next(one for one in bound if total <= one.batch)
        scores = one.run_parts([self._slots[connection].images[:n] for connection, n in waiting[:taken]])
        start = 0
        for connection, n in waiting[:taken]:
            for own, values in zip(self._slots[connection].scores, scores, strict=True):
                own[:n] = values[start : start + n]
            start += n
            with suppress(OSError):
                connection.send_bytes(b".")
        return taken
