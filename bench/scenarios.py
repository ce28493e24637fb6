"""MLPerf's four scenarios through its LoadGen: how queries come, and threads that answer them with one session.

LoadGen (github.com/mlcommons/inference, loadgen/) issues the queries, times them and judges the run; nothing here
measures. Its scenarios: SingleStream, the next query comes when the last is answered; MultiStream, the same with 8
pictures a query; Server, queries come at random (Poisson) at a given rate and must be answered within a bound;
Offline, all pictures at once.
"""

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from zoo.model import CHUNK, Model


@dataclass(frozen=True)
class Scenario:
    """chunk: pictures that one thread takes at a time. at_once: whether LoadGen's own thread answers, since there is
    but one chunk to answer and handing it over would cost more than it gains.
    """

    name: str
    chunk: int
    at_once: bool = False


class Sample(NamedTuple):
    """As LoadGen's: its id, and the index of a picture."""

    id: int
    index: int


SAMPLES_A_QUERY = 8  # of MultiStream
SERVER_LOAD = 0.4  # of what the system can do: LoadGen takes its share of the cores, and beyond that queues grow
SERVER_BOUND_MS = 10.0
SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario("SingleStream", chunk=1, at_once=True),
        Scenario("MultiStream", chunk=SAMPLES_A_QUERY // 2),
        Scenario("Server", chunk=1),
        Scenario("Offline", chunk=CHUNK),
    )
}


class Answering:
    """The system under test: threads that share one model and complete LoadGen's samples.

    Args:
        complete: takes LoadGen's ids and the labels of those samples, uint8 `(n,)`.
    """

    def __init__(
        self,
        model: Model,
        images: npt.NDArray[np.uint8],
        scenario: Scenario,
        threads: int,
        complete: Callable[[list[int], npt.NDArray[np.uint8]], None],
    ) -> None:
        self._model, self._images, self._scenario, self._complete = model, images, scenario, complete
        self._waiting: queue.SimpleQueue[list[Any] | None] = queue.SimpleQueue()
        self.threads = 1 if scenario.at_once else threads
        self._running = [threading.Thread(target=self._work) for _ in range(0 if scenario.at_once else threads)]
        for thread in self._running:
            thread.start()

    def issue(self, samples: list[Any]) -> None:
        """Take LoadGen's samples, each with an id and the index of a picture."""
        chunk = self._scenario.chunk
        for start in range(0, len(samples), chunk):
            (self._answer if self._scenario.at_once else self._waiting.put)(samples[start : start + chunk])

    def close(self) -> None:
        for _ in self._running:
            self._waiting.put(None)
        for thread in self._running:
            thread.join()

    def _work(self) -> None:
        while (samples := self._waiting.get()) is not None:
            self._answer(samples)

    def _answer(self, samples: list[Any]) -> None:
        images = self._images[[sample.index for sample in samples]]
        labels = self._model.run(images).logits.argmax(1).astype(np.uint8)
        self._complete([sample.id for sample in samples], labels)


def rate_of(model: Model, images: npt.NDArray[np.uint8], scenario: Scenario, threads: int, n: int = 2000) -> float:
    """Pictures a second of the whole system, for LoadGen to plan its queries by; measured on `n` of them."""
    left, done = [n], threading.Event()

    def complete(ids: list[int], labels: npt.NDArray[np.uint8]) -> None:
        with lock:
            left[0] -= len(ids)
        if not left[0]:
            done.set()

    lock = threading.Lock()
    answering = Answering(model, images, scenario, threads, complete)
    start = time.perf_counter()
    answering.issue([Sample(number, number % len(images)) for number in range(n)])
    done.wait()
    passed = time.perf_counter() - start
    answering.close()
    return n / passed
