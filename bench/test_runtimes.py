"""The default models in every runtime: the session alone; in onnxruntime also from arrays and from image files.

    pytest bench/test_runtimes.py --benchmark-only -k 'mnist14k and torch'

`-m 'full or not full'` adds batch 8 and 256, PyTorch with batch norm folded, and the other ways in every runtime.
Each call is a round of its own, so that p50, p90 and p99 are of calls, and a GEMM in the same library is timed every 50
calls.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from bench.measure import P99_MIN_CALLS, row, time_with_reference
from bench.runtimes import RUNTIMES, Network, Unavailable, peak_memory_mb
from bench.subjects import Subject

Way = Callable[[Network, Any, list[bytes]], tuple[Callable[[Any], Any], Any]]
SCOPES: dict[str, tuple[str, Way]] = {  # name in rows, and what is called with what
    "session": ("session only", lambda network, images, files: (network.session, network.native(images))),
    "array": ("array to label", lambda network, images, files: (network.labels, images)),
    "bytes": ("image bytes to label", lambda network, images, files: (network.read, files)),
}
BATCHES = (1, 64)
FULL_BATCHES = (8, 256)


def cases() -> list[Any]:
    """(runtime, batch, scope); those that take long are marked `full`."""
    return [
        pytest.param(
            (name, batch), scope, id=f"{name}-{batch}-{scope}",
            marks=[] if runtime.default and batch in BATCHES and (name == "onnxruntime" or scope == "session")
            else [pytest.mark.full],
        )
        for name, runtime in RUNTIMES.items()
        for batch in (*BATCHES, *FULL_BATCHES)
        for scope in SCOPES
    ]  # fmt: skip


@pytest.fixture(scope="module")
def opened(subject: Subject, request: pytest.FixtureRequest) -> tuple[str, int, Network, float]:
    """Runtime, batch size, network, and the peak memory of a process that opens it; opened once for all scopes."""
    runtime, batch = request.param
    try:
        network = RUNTIMES[runtime].open(subject.entry, batch)
    except Unavailable as error:
        pytest.skip(str(error))
    return runtime, batch, network, peak_memory_mb(subject.entry.card.name, runtime, batch)


@pytest.mark.parametrize(("opened", "scope"), cases(), indirect=["opened"])
def test_runtime(
    benchmark: Any,
    subject: Subject,
    opened: tuple[str, int, Network, float],
    scope: str,
    pytestconfig: pytest.Config,
) -> None:
    runtime, batch, network, memory = opened
    images, files, card = subject.images[:batch], subject.files[:batch], subject.entry.card
    scope_name, way = SCOPES[scope]
    call, argument = way(network, images, files)
    min_calls = P99_MIN_CALLS if batch == 1 else 30
    seconds = float(pytestconfig.getoption("benchmark_max_time"))
    result, timing, gemm = time_with_reference(benchmark, call, argument, network.gemm, seconds, min_calls)
    ours = runtime == "onnxruntime"
    benchmark.extra_info |= row(card, network, scope_name, runtime, batch, timing, gemm, memory, ours)

    if scope == "session":
        onnxruntime = RUNTIMES["onnxruntime"].open(subject.entry, batch)
        expected = onnxruntime.logits(onnxruntime.session(onnxruntime.native(images)))
        difference = float(np.abs(network.logits(result) - expected).max())
        benchmark.extra_info["logits_off"] = round(difference, 8)
        assert difference <= RUNTIMES[runtime].tolerance
    else:
        labels = subject.labels if scope == "array" else subject.names
        assert list(result) == list(labels[:batch])
