"""Counters of a server for Prometheus: numbers in a memory-mapped file that all its processes share, a row per process.

A process adds to its own row only, from its event loop, so no lock is needed and counting takes a microsecond. The
process that answers /metrics sums the rows. A row has a fixed number of blocks for models, which bounds the labels; all
processes give a model the same block (serve/server/repository.py).
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

from serve.service.pool import WorkItem

ROUTES = ("predict", "infer", "grpc", "other")
OUTCOMES = {
    200: "ok", 400: "bad_input", 401: "unauthorized", 403: "forbidden", 404: "not_found", 405: "method",
    408: "slow_body", 413: "too_large", 415: "media_type", 421: "wrong_host", 422: "unprocessable", 429: "too_many",
    499: "client_left", 500: "failed", 503: "overloaded", 504: "deadline",
}  # fmt: skip
IMAGE_OUTCOMES = ("ok", "failed", "unanswered")  # failed: cannot be classified; unanswered: too late, or rejected
TIME_BUCKETS = (.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1.0, 2.5, 5.0, 10.0)  # fmt: skip
BATCH_BUCKETS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0)
STAGES = ("decode", "queue", "infer", "total")
MODEL_STAGES = ("queue", "decode", "infer", "total")  # total: from the complete request to the end of its response
MODEL_COUNTS = (*IMAGE_OUTCOMES, "calls", "failures", "failures_s", "last_ms")
HISTOGRAMS = {**{stage: TIME_BUCKETS for stage in STAGES}, "batch": BATCH_BUCKETS}
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
HISTOGRAM_COLUMNS = len(TIME_BUCKETS) + 2  # buckets, the last without a bound, and the sum
UNANSWERED, CALLS, FAILURES, LAST_MS = (
    MODEL_COUNTS.index(name) for name in ("unanswered", "calls", "failures", "last_ms")
)
CLAIM_S = 5.0  # how long a process tries to get a slot


def outcome(status: int) -> str:
    """The label of a status; a status without a label gets that of the first of its hundred."""
    return OUTCOMES.get(status) or OUTCOMES.get(status // 100 * 100, "ok")


class Metrics:
    """The row of one process, and the sum of all rows in Prometheus' format."""

    def __init__(self, file: Path, slot: int, slots: int, models: list[str], capacity: int | None = None) -> None:
        """Args:
        file: created if it is missing.
        slot: the row of this process.
        slots: how many rows there are.
        models: full names.
        capacity: how many models there can be; by default as many as there are.
        """
        self.slot = slot
        self.capacity = len(models) if capacity is None else capacity
        keys: list[Any] = [("requests", route, label) for route in ROUTES for label in OUTCOMES.values()]
        keys += [(name, bucket) for name, bounds in HISTOGRAMS.items() for bucket in range(len(bounds) + 1)]
        keys += [(name, "sum") for name in HISTOGRAMS] + ["in_flight", "queue", "up", "unexpected", "generation"]
        self._column: dict[Any, int] = {key: column for column, key in enumerate(keys)}
        self._histograms = {  # bounds, and the columns of the first bucket and of the sum
            name: (bounds, self._column[name, 0], self._column[name, "sum"]) for name, bounds in HISTOGRAMS.items()
        }
        self._first_block, self._block = len(keys), len(MODEL_COUNTS) + len(MODEL_STAGES) * HISTOGRAM_COLUMNS
        self._models: dict[str, int] = {}  # full name → the first column of its block
        self.add_models(models)
        width = len(keys) + self.capacity * self._block
        size = slots * width * 8
        if not file.exists() or file.stat().st_size < size:
            with file.open("ab") as empty:
                empty.truncate(size)
        with file.open("r+b") as opened:
            shared = memoryview(mmap(opened.fileno(), size)).cast("d")
        self._rows = [shared[row * width : (row + 1) * width] for row in range(slots)]
        self._own = self._rows[slot]  # changing an element of a memoryview takes a tenth of an array's time
        self.set("in_flight", 0)  # a process that died may have had this row
        self.set("queue", 0)
        self.set("unexpected", 0)
        self.set("up", 0)

    def add_models(self, names: list[str]) -> None:
        """Give a block to each model that has none, in order. Raises ValueError if there are more than `capacity`."""
        for name in names:
            if name not in self._models:
                if len(self._models) >= self.capacity:
                    raise ValueError(f"No place for the metrics of {name}: there are {self.capacity}.")
                self._models[name] = self._first_block + len(self._models) * self._block

    def value(self, slot: int, key: Any) -> float:
        """A number of any process."""
        return float(self._rows[slot][self._column[key]])

    def add(self, key: Any, amount: float = 1) -> None:
        self._own[self._column[key]] += amount

    def set(self, key: Any, value: float) -> None:
        self._own[self._column[key]] = value

    def started(self, slot: int) -> bool:
        """Whether the process of that slot is up, or was when it died."""
        return bool(self._rows[slot][self._column["up"]])

    def in_flight(self) -> int:
        """Requests that this process is answering."""
        return int(self._own[self._column["in_flight"]])

    def count_request(self, route: str, status: int, seconds: float) -> None:
        """Count a response of a route of `ROUTES`."""
        self.add(("requests", route, outcome(status)))
        if route != "other":
            self._observe("total", seconds)

    def count_images(self, item: WorkItem) -> None:
        """Count the images of a work item, whether it was processed or not. Its response has been sent."""
        block = self._models[item.runner.model.card.name]
        if item.error is None and (item.cancelled or not (item.rows or item.scores)):
            self._own[block + UNANSWERED] += item.image_count
            return
        self._observe("decode", item.decode_s)
        self._observe("queue", item.queue_s)
        self._observe("infer", item.infer_s)
        if item.batch_size:
            self._observe("batch", item.batch_size)
        failed = item.image_count if item.error else sum(1 for prepared in item.prepared if prepared.error)
        total_s = time.perf_counter() - item.created_at
        self._count_model(block, item, failed, total_s)

    def _count_model(self, block: int, item: WorkItem, failed: int, total_s: float) -> None:
        own, column = self._own, block + len(MODEL_COUNTS)
        own[block] += item.image_count - failed
        own[block + 1] += failed
        own[block + CALLS] += item.image_count / item.batch_size if item.batch_size else 0  # the parts of a call: 1
        if item.error:
            own[block + FAILURES] += 1
            own[block + FAILURES + 1] += total_s
        own[block + LAST_MS] = time.time() * 1000
        for seconds in (item.queue_s, item.decode_s, item.infer_s, total_s):
            own[column + bisect_left(TIME_BUCKETS, seconds)] += 1
            own[column + HISTOGRAM_COLUMNS - 1] += seconds
            column += HISTOGRAM_COLUMNS

    def _observe(self, name: str, value: float) -> None:
        bounds, first_bucket, total = self._histograms[name]
        self._own[first_bucket + bisect_left(bounds, value)] += 1
        self._own[total] += value

    def text(self) -> bytes:
        """The sum of all processes in Prometheus' text format."""
        from prometheus_client import CollectorRegistry, generate_latest

        registry = CollectorRegistry()
        registry.register(self)
        return generate_latest(registry)

    def collect(self) -> Iterator[Any]:
        """The collector interface of prometheus_client."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

        total = self._total()
        requests = CounterMetricFamily("zoo_requests", "Requests answered.", labels=["route", "outcome"])
        for route in ROUTES:
            for label in OUTCOMES.values():
                requests.add_metric([route, label], total[self._column["requests", route, label]])
        yield requests
        images = CounterMetricFamily("zoo_images", "Images in requests.", labels=["model", "outcome"])
        durations = HistogramMetricFamily("zoo_model_seconds", "Time per request.", labels=["model", "stage"])
        for model, block in list(self._models.items()):
            for column, label in enumerate(IMAGE_OUTCOMES, block):
                images.add_metric([model, label], total[column])
            for stage, first in _stages(block):
                if total[first : first + HISTOGRAM_COLUMNS - 1].any():  # most servers use few of their models
                    counts = total[first : first + HISTOGRAM_COLUMNS - 1]
                    durations.add_metric([model, stage], *_histogram(TIME_BUCKETS, counts, total[first + len(counts)]))
        yield images
        yield durations
        stages = HistogramMetricFamily("zoo_stage_seconds", "Time per request and stage.", labels=["stage"])
        for stage in STAGES:
            stages.add_metric([stage], *self._histogram(total, stage))
        yield stages
        batch = HistogramMetricFamily("zoo_batch_rows", "Images per call of the network.", labels=[])
        batch.add_metric([], *self._histogram(total, "batch"))
        yield batch
        for family, name, help_text, key in (
            (CounterMetricFamily, "zoo_unexpected_errors", "Images rejected because of a bug.", "unexpected"),
            (GaugeMetricFamily, "zoo_in_flight", "Requests in progress.", "in_flight"),
            (GaugeMetricFamily, "zoo_queue_length", "Requests waiting for a worker thread.", "queue"),
            (GaugeMetricFamily, "zoo_processes", "Server processes that are up.", "up"),
        ):
            yield family(name, help_text, value=total[self._column[key]])

    def _total(self) -> npt.NDArray[np.float64]:
        """The sum of all rows."""
        total: npt.NDArray[np.float64] = np.sum([np.asarray(row) for row in self._rows], axis=0)
        return total

    def _histogram(self, total: Any, name: str) -> tuple[list[tuple[str, float]], float]:
        bounds, first, column = self._histograms[name]
        return _histogram(bounds, total[first : first + len(bounds) + 1], total[column])

    def statistics(self, name: str, version: str) -> dict[str, Any]:
        """The numbers of one model since the server has started, in the form of the protocol's statistics extension.

        https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_statistics.md
        """
        total, block = self._total(), self._models[name]
        sums = {stage: float(total[first + HISTOGRAM_COLUMNS - 1]) for stage, first in _stages(block)}
        _, first = list(_stages(block))[-1]
        requests = int(total[first : first + HISTOGRAM_COLUMNS - 1].sum())
        failures, failures_s = total[block + FAILURES : block + FAILURES + 2].tolist()
        sums["output"] = max(0.0, sums["total"] - sums["queue"] - sums["decode"] - sums["infer"])

        def duration(count: float, seconds: float) -> dict[str, int]:
            return {"count": int(count), "ns": round(seconds * 1e9)}

        return {
            "name": name,
            "version": version,
            "last_inference": int(max(row[block + LAST_MS] for row in self._rows)),
            "inference_count": int(total[block]),
            "execution_count": round(total[block + CALLS]),
            "inference_stats": {
                "success": duration(requests - failures, sums["total"] - failures_s),
                "fail": duration(failures, failures_s),
                "queue": duration(requests, sums["queue"]),
                "compute_input": duration(requests, sums["decode"]),
                "compute_infer": duration(requests, sums["infer"]),
                "compute_output": duration(requests, sums["output"]),
                "cache_hit": duration(0, 0),
                "cache_miss": duration(0, 0),
            },
            "batch_stats": [],
        }


def _stages(block: int) -> list[tuple[str, int]]:
    """The stages of a model's block, and the first column of each histogram."""
    first = block + len(MODEL_COUNTS)
    return [(stage, first + number * HISTOGRAM_COLUMNS) for number, stage in enumerate(MODEL_STAGES)]


def _histogram(bounds: tuple[float, ...], counts: Any, total: float) -> tuple[list[tuple[str, float]], float]:
    """Cumulative counts by upper bound, and the sum, as prometheus_client takes them."""
    names = [*map(str, bounds), "+Inf"]
    return list(zip(names, accumulate(map(float, counts)), strict=True)), float(total)


class ProcessSlots:
    """Numbers of a server's processes: each process locks one byte of a shared file. A dead process holds no lock.

    Attributes:
        own: the number of this process, the lowest that was free, from 0.
        count: how many there are.
    """

    def __init__(self, file: Path, count: int) -> None:
        """Raises RuntimeError if every slot is taken, so that there are more processes than there should be."""
        self.count = count
        self._file = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
        until = time.monotonic() + CLAIM_S  # `alive` of another process locks a slot for a moment
        while (own := next((slot for slot in range(count) if self._lock(slot)), None)) is None:
            if time.monotonic() > until:
                raise RuntimeError(f"All {count} process slots of {file} are taken.")
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
        if os.name == "nt":  # the server has a single process there
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
