"""What a server counts, for Prometheus: plain numbers in a file that all its processes share, one row a process.

A process adds to its own row only, from its event loop, so nothing is locked and counting costs a microsecond;
whichever process is asked for /metrics sums the rows.
"""

from __future__ import annotations

import os
import time
from bisect import bisect_left
from collections.abc import Iterator
from itertools import accumulate
from mmap import mmap
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from serve.service.pool import Ticket

ROUTES = ("predict", "infer", "other")
OUTCOMES = {
    200: "ok", 400: "bad_input", 401: "unauthorized", 403: "forbidden", 404: "not_found", 405: "method",
    408: "slow_body", 413: "too_large", 415: "media_type", 421: "wrong_host", 422: "unprocessable", 429: "too_many",
    499: "client_left", 500: "failed", 503: "overloaded", 504: "deadline",
}  # fmt: skip
IMAGES = ("ok", "failed", "unanswered")  # failed: could not be classified; unanswered: too late, or refused
SECONDS = (.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1.0, 2.5, 5.0, 10.0)  # fmt: skip
ROWS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0)
STAGES = ("decode", "queue", "infer", "total")
HISTOGRAMS = {**{stage: SECONDS for stage in STAGES}, "batch": ROWS}
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def outcome(status: int) -> str:
    """The word for a status; what has none of its own goes with the first of its hundred."""
    return OUTCOMES.get(status) or OUTCOMES.get(status // 100 * 100, "ok")


class Metrics:
    """One process's row in the shared file, and the sum of all rows as Prometheus reads it."""

    def __init__(self, file: Path, slot: int, slots: int, models: list[str]) -> None:
        """Args: file, which is made where it is missing; slot: this process's row of `slots`; models: full names."""
        self.slot, self._models = slot, models
        keys: list[Any] = [("requests", route, word) for route in ROUTES for word in OUTCOMES.values()]
        keys += [("images", model, word) for model in models for word in IMAGES]
        keys += [(name, bucket) for name, bounds in HISTOGRAMS.items() for bucket in range(len(bounds) + 1)]
        keys += [(name, "sum") for name in HISTOGRAMS] + ["in_flight", "queue", "up", "unexpected"]
        self._at: dict[Any, int] = {key: place for place, key in enumerate(keys)}
        self._histograms = {  # bounds, and the places of the first bucket and of the sum
            name: (bounds, self._at[name, 0], self._at[name, "sum"]) for name, bounds in HISTOGRAMS.items()
        }
        size = slots * len(keys) * 8
        if not file.exists() or file.stat().st_size < size:
            with file.open("ab") as empty:
                empty.truncate(size)
        with file.open("r+b") as opened:
            shared = memoryview(mmap(opened.fileno(), size)).cast("d")
        self._slots = [shared[row * len(keys) : (row + 1) * len(keys)] for row in range(slots)]
        self._own = self._slots[slot]  # an element of it is changed in a tenth of the time that an array takes
        self.set("in_flight", 0)  # of a process that died and had this row
        self.set("queue", 0)
        self.set("unexpected", 0)
        self.set("up", 0)

    def add(self, key: Any, amount: float = 1) -> None:
        self._own[self._at[key]] += amount

    def set(self, key: Any, value: float) -> None:
        self._own[self._at[key]] = value

    def started(self, slot: int) -> bool:
        """Whether the process of that slot answers, or did until it died."""
        return bool(self._slots[slot][self._at["up"]])

    def in_flight(self) -> int:
        """Requests that this process is answering."""
        return int(self._own[self._at["in_flight"]])

    def request(self, route: str, status: int, seconds: float) -> None:
        """One answer of a route of `ROUTES`."""
        self.add(("requests", route, outcome(status)))
        if route != "other":
            self._observe("total", seconds)

    def ticket(self, ticket: Ticket) -> None:
        """One ticket, answered or not."""
        model = ticket.runner.model.card.name
        if ticket.error is None and (ticket.given_up or not (ticket.rows or ticket.scores)):
            self.add(("images", model, "unanswered"), ticket.size)
            return
        self._observe("decode", ticket.decode_s)
        self._observe("queue", ticket.queue_s)
        self._observe("infer", ticket.infer_s)
        if ticket.batch:
            self._observe("batch", ticket.batch)
        failed = ticket.size if ticket.error else sum(1 for one in ticket.prepared if one.error)
        self.add(("images", model, "ok"), ticket.size - failed)
        if failed:
            self.add(("images", model, "failed"), failed)

    def _observe(self, name: str, value: float) -> None:
        bounds, first, total = self._histograms[name]
        self._own[first + bisect_left(bounds, value)] += 1
        self._own[total] += value

    def text(self) -> bytes:
        """The sum of all processes in Prometheus' text format."""
        from prometheus_client import CollectorRegistry, generate_latest

        registry = CollectorRegistry()
        registry.register(self)
        return generate_latest(registry)

    def collect(self) -> Iterator[Any]:
        """For prometheus_client."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

        total: npt.NDArray[np.float64] = np.sum([np.asarray(row) for row in self._slots], axis=0)
        requests = CounterMetricFamily("zoo_requests", "HTTP requests answered.", labels=["route", "outcome"])
        for route in ROUTES:
            for word in OUTCOMES.values():
                requests.add_metric([route, word], total[self._at["requests", route, word]])
        yield requests
        images = CounterMetricFamily("zoo_images", "Images asked for.", labels=["model", "outcome"])
        for model in self._models:
            for word in IMAGES:
                images.add_metric([model, word], total[self._at["images", model, word]])
        yield images
        stages = HistogramMetricFamily("zoo_stage_seconds", "Where requests spend their time.", labels=["stage"])
        for stage in STAGES:
            stages.add_metric([stage], *self._histogram(total, stage))
        yield stages
        batch = HistogramMetricFamily("zoo_batch_rows", "Images in one call of the network.", labels=[])
        batch.add_metric([], *self._histogram(total, "batch"))
        yield batch
        unexpected = total[self._at["unexpected"]]
        yield CounterMetricFamily("zoo_unexpected_errors", "Pictures refused for an error of ours.", value=unexpected)
        yield GaugeMetricFamily("zoo_in_flight", "Requests being answered.", value=total[self._at["in_flight"]])
        yield GaugeMetricFamily("zoo_queue_length", "Requests waiting for a worker.", value=total[self._at["queue"]])
        yield GaugeMetricFamily("zoo_processes", "Server processes that have started.", value=total[self._at["up"]])

    def _histogram(self, total: Any, name: str) -> tuple[list[tuple[str, float]], float]:
        bounds = [*(str(bound) for bound in HISTOGRAMS[name]), "+Inf"]
        counts = accumulate(float(total[self._at[name, bucket]]) for bucket in range(len(bounds)))
        return list(zip(bounds, counts, strict=True)), float(total[self._at[name, "sum"]])


# Numbers for a server's processes: each holds the lock on one byte of a shared file, and a dead one holds none.

CLAIM_S = 5.0


class Slots:
    """own: this process's number, from 0, the lowest that was free."""

    def __init__(self, file: Path, count: int) -> None:
        """Raises RuntimeError where every slot is held, which is more processes than there should be."""
        self.count = count
        self._file = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
        until = time.monotonic() + CLAIM_S  # a sibling may just be trying whether a slot's process is alive
        while (own := next((slot for slot in range(count) if self._lock(slot)), None)) is None:
            if time.monotonic() > until:
                raise RuntimeError(f"All {count} slots of {file} are held.")
            time.sleep(0.05)
        self.own = own

    def alive(self, slot: int) -> bool:
        """Whether a process holds that slot."""
        if slot == self.own:
            return True
        if self._lock(slot):
            self._unlock(slot)
            return False
        return True

    def _lock(self, slot: int) -> bool:
        if os.name == "nt":  # one process there: the server starts no more
            return True
        import fcntl

        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, slot)
        except OSError:
            return False
        return True

    def _unlock(self, slot: int) -> None:
        import fcntl

        fcntl.lockf(self._file, fcntl.LOCK_UN, 1, slot)
