"""Classify blocks on a GPU: worker processes do everything except the network, one thread here runs that for all.

A worker decodes and corrects a block's images, writes them into its own slot of shared memory and notifies the thread.
The thread takes all blocks that are ready, runs them as one batch and writes the scores into the slots; the worker then
formats the rows. No image is pickled, and this process only moves arrays. The next batch gathers while one runs, so no
worker waits for a batch to fill up. For the bottlenecks see docs/decisions/0014-gpu.md.
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

from serve.batch.inputs import Source
from serve.batch.pipeline import BLOCK_IMAGES, BatchJob, Block, classify
from serve.batch.workers import Workers
from zoo.errors import ZooError
from zoo.model import bind, on_cpu
from zoo.runtime import Bound

BATCH_SIZES = (512,)  # smallest first; preparing the GPU for one more shape takes longer than it saves
COUNT_BYTES = 4  # of the messages between worker and thread: a little-endian number


class GpuFailed(ZooError):
    """The GPU could not run a batch."""


def gpu_blocks(
    blocks: Iterable[list[Source]],
    job: BatchJob,
    processes: int,
    read_in_workers: Callable[[], object] = lambda: None,
) -> Iterator[Block]:
    """As `serve.batch.pipeline.classify_blocks`, with the network on the GPU of `job.model`.

    Raises:
        GpuFailed, WorkerDied.
    """
    model = job.model
    has_known = model.card.calibration.known_from is not None
    with GpuThread(partial(bind, model), model.card.input.shape, len(model.card.labels), processes, has_known) as gpu:
        work = partial(classify_on_gpu, replace(job, model=on_cpu(model)), gpu.remote)
        try:
            with Workers(work, processes) as workers:
                read_in_workers()
                yield from workers.results(blocks)
        except GpuFailed:
            raise gpu.error or GpuFailed("The GPU thread has ended.") from None


def classify_on_gpu(job: BatchJob, remote: RemoteNetwork, sources: list[Source]) -> Block:
    """In a worker: classify one block of up to `BLOCK_IMAGES` images."""
    return classify(job, sources, remote.run)


class Slot:
    """One worker's part of the shared memory."""

    images: npt.NDArray[np.uint8]  # (BLOCK_IMAGES, H, W, C)
    scores: npt.NDArray[np.float32]  # (2, BLOCK_IMAGES, K): logits and probabilities
    known: npt.NDArray[np.float32]  # (BLOCK_IMAGES,); unused for a model without this output

    def __init__(self, memory: Any, number: int, shape: tuple[int, ...], classes: int) -> None:
        self.number, start = number, number * self.size(shape, classes)
        self.images = np.ndarray((BLOCK_IMAGES, *shape), np.uint8, memory, start)
        start += -(-self.images.nbytes // 8) * 8
        self.scores = np.ndarray((2, BLOCK_IMAGES, classes), np.float32, memory, start)
        self.known = np.ndarray((BLOCK_IMAGES,), np.float32, memory, start + self.scores.nbytes)

    @staticmethod
    def size(shape: tuple[int, ...], classes: int) -> int:
        """Bytes of a slot."""
        return -(-BLOCK_IMAGES * int(np.prod(shape)) // 8) * 8 + (2 * classes + 1) * BLOCK_IMAGES * 4


class RemoteNetwork:
    """In a worker: stands in for a `Bound`; the network runs in the process with the GPU."""

    def __init__(
        self, address: Any, key: bytes, memory: str, shape: tuple[int, ...], classes: int, has_known: bool = False
    ) -> None:
        self._arguments = address, key, memory, shape, classes, has_known
        self._connection: Connection | None = None

    def __reduce__(self) -> tuple[type[RemoteNetwork], tuple[Any, ...]]:
        return RemoteNetwork, self._arguments

    def copy(self) -> RemoteNetwork:
        """Another one, with a connection and a slot of its own."""
        return RemoteNetwork(*self._arguments)

    def close(self) -> None:
        """Give the slot back."""
        if self._connection is not None:
            self._connection.close()

    def run(self, images: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.float32], ...]:
        """Run the network.

        Args:
            images: uint8 `(N, H, W, C)`, N at most `BLOCK_IMAGES`.
        Returns:
            Logits and probabilities, float32 `(N, K)`, and known, `(N,)`, where the model has it.
        Raises:
            GpuFailed.
        """
        n = len(images)
        try:
            connection = self._connection or self._connect()
            self._slot.images[:n] = images
            connection.send_bytes(n.to_bytes(COUNT_BYTES, "little"))
            connection.recv_bytes()
        except (EOFError, OSError):
            raise GpuFailed("The process with the GPU does not respond.") from None
        scores = tuple(self._slot.scores[:, :n].copy())
        return (*scores, self._slot.known[:n].copy()) if self._arguments[-1] else scores

    def _connect(self) -> Connection:
        address, key, memory, shape, classes, _ = self._arguments
        self._connection = Client(address, authkey=key)
        number = int.from_bytes(self._connection.recv_bytes(), "little")
        self._memory = SharedMemory(memory)
        self._slot = Slot(self._memory.buf, number, shape, classes)
        return self._connection


class GpuThread:
    """A thread that runs the network for worker processes; each batch is what arrived during the previous one."""

    def __init__(
        self,
        bind: Callable[[int], Bound],
        shape: tuple[int, ...],
        classes: int,
        slots: int,
        has_known: bool = False,
    ) -> None:
        """Allocate the shared memory and listen for workers.

        Args:
            bind: Returns the network for a batch size, as `zoo.model.bind` does.
            shape: `(H, W, C)` of an image.
            classes: Number of labels.
            slots: How many workers may connect.
            has_known: Whether the network has the output `known`.
        """
        self.error: GpuFailed | None = None
        self._bind, self._shape, self._classes = bind, shape, classes
        count = 2 * slots  # the replacement of a dead worker may connect before that worker's end is noticed
        self._memory = SharedMemory(create=True, size=count * Slot.size(shape, classes))
        key = os.urandom(16)
        self._listener = Listener(authkey=key, backlog=count)
        self.remote = RemoteNetwork(self._listener.address, key, self._memory.name, shape, classes, has_known)
        self._slots: dict[Connection, Slot] = {}
        self._free = deque(Slot(self._memory.buf, number, shape, classes) for number in range(count))
        self._key = key
        self._wake_receiver, self._wake_sender = Pipe(duplex=False)
        self._closing, self._lock = False, threading.Lock()
        self._threads = [threading.Thread(target=loop, daemon=True) for loop in (self._accept, self._run)]

    def __enter__(self) -> GpuThread:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._close()
        self._wake_sender.send_bytes(b".")
        for thread in self._threads:
            thread.join()
        for connection in (*self._slots, self._wake_receiver, self._wake_sender):
            connection.close()
        self._slots.clear()  # its slots hold views of the memory
        self._free.clear()
        self._memory.close()
        self._memory.unlink()

    def _close(self) -> None:
        """Accept no more workers; the connections of those that wait for a result or a slot end."""
        with self._lock:
            if self._closing:
                return
            self._closing = True
        with suppress(OSError, EOFError):
            Client(self._listener.address, authkey=self._key).close()  # makes `accept` return

    def _accept(self) -> None:
        """Give every worker that connects a slot."""
        while not self._closing:
            try:
                connection = self._listener.accept()
            except (OSError, EOFError):  # the process died while it connected
                continue
            if self._closing or not self._free:
                connection.close()
                continue
            slot = self._free.popleft()
            connection.send_bytes(slot.number.to_bytes(COUNT_BYTES, "little"))
            self._slots[connection] = slot
            self._wake_sender.send_bytes(b".")
        self._listener.close()

    def _run(self) -> None:
        try:
            networks = [self._bind(size) for size in BATCH_SIZES]
            for network in networks:  # the first run is slow, and the thread that captures a CUDA graph must replay it
                network.run(np.zeros((1, *self._shape), np.uint8))
            while not self._closing:
                requests = self._receive_requests()
                while requests:
                    requests = requests[self._run_batch(networks, requests) :]
        except Exception as error:
            self.error = GpuFailed(f"The GPU cannot run a batch ({error}). Use --device cpu.")
            self._close()
            for connection in list(self._slots):
                connection.close()

    def _receive_requests(self) -> list[tuple[Connection, int]]:
        """Wait for workers; returns their connections and numbers of images."""
        requests = []
        for connection in wait([self._wake_receiver, *self._slots]):
            assert isinstance(connection, Connection)
            if connection is self._wake_receiver:
                connection.recv_bytes()
                continue
            try:
                requests.append((connection, int.from_bytes(connection.recv_bytes(), "little")))
            except (EOFError, OSError):  # the worker has ended; its replacement may use the slot
                self._free.append(self._slots.pop(connection))
                connection.close()
        return requests

    def _run_batch(self, networks: Sequence[Bound], requests: Sequence[tuple[Connection, int]]) -> int:
        """Run the first requests that fit into one batch; returns how many."""
        count, total = 0, 0
        while count < len(requests) and total + requests[count][1] <= networks[-1].batch:
            total += requests[count][1]
            count += 1
        network = next(network for network in networks if total <= network.batch)
        scores = network.run_parts([self._slots[connection].images[:n] for connection, n in requests[:count]])
        start = 0
        for connection, n in requests[:count]:
            slot = self._slots[connection]
            for slot_scores, values in zip((*slot.scores, slot.known), scores, strict=False):
                slot_scores[:n] = values[start : start + n]
            start += n
            with suppress(OSError):
                connection.send_bytes(b".")
        return count
