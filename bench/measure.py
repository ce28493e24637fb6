"""Timing on a noisy machine: things that are compared run in turn, single times are kept, ratios are of medians."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from zoo.card import Card

if TYPE_CHECKING:
    from bench.runtimes import Network

P99_MIN_CALLS = 1000  # with fewer, the slowest hundredth is a few events
REFERENCE_INTERVAL = 50  # calls between two of the reference
MAX_CALLS = 5000
Seconds = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Timing:
    """Durations of single calls, in order."""

    seconds: Seconds  # (n,)

    @property
    def p50(self) -> float:
        return float(np.median(self.seconds))

    def info(self) -> dict[str, float | int]:
        """n and percentiles in milliseconds; no p99 for fewer than `P99_MIN_CALLS` calls."""
        values: dict[str, float | int] = {"n": len(self.seconds)}
        for percent in (50, 90, 99):
            if percent < 99 or len(self.seconds) >= P99_MIN_CALLS:
                values[f"p{percent}_ms"] = round(float(np.percentile(self.seconds, percent)) * 1e3, 5)
        return values


@dataclass(frozen=True)
class Pair:
    """Two functions timed in turn, A B A B …, so that both see the same machine."""

    first: Timing
    second: Timing

    @property
    def ratio(self) -> float:
        """Median of the first over median of the second."""
        return self.first.p50 / self.second.p50


def time_in_turn(first: Callable[[], object], second: Callable[[], object], n: int, warmup: int = 50) -> Pair:
    """Call both `n` times in turn, after `warmup` untimed calls of each."""
    times = np.empty((n, 2))
    for _ in range(warmup):
        first(), second()
    for row in times:
        start = time.perf_counter()
        first()
        middle = time.perf_counter()
        second()
        row[:] = middle - start, time.perf_counter() - middle
    return Pair(Timing(times[:, 0]), Timing(times[:, 1]))


def time_in_blocks(
    functions: Mapping[str, Callable[[], object]], blocks: int = 20, calls: int = 50
) -> dict[str, Timing]:
    """Call each function `calls` times, then the next, and all of that `blocks` times.

    All see the same machine, and each has its own caches warm. The first call of a block is not counted.
    """
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(blocks):
        for name, function in functions.items():
            function()
            for _ in range(calls):
                start = time.perf_counter()
                function()
                times[name].append(time.perf_counter() - start)
    return {name: Timing(np.array(seconds)) for name, seconds in times.items()}


def time_rounds(functions: Mapping[Any, Callable[[], object]], rounds: int) -> dict[Any, Seconds]:
    """Seconds of each function in each round, `(rounds,)`: one call of each per round, after one untimed round."""
    times: dict[Any, list[float]] = {name: [] for name in functions}
    for number in range(rounds + 1):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            if number:
                times[name].append(time.perf_counter() - start)
    return {name: np.array(seconds) for name, seconds in times.items()}


def time_with_reference(
    benchmark: Any,
    call: Callable[[Any], Any],
    argument: Any,
    reference: Callable[[], object],
    seconds: float,
    min_calls: int,
) -> tuple[Any, Timing, Timing]:
    """Time `call(argument)` in pytest-benchmark's rounds of one call, and the reference once in `REFERENCE_INTERVAL`.

    Rounds of one call keep the tail of the latencies. Both functions see the same machine.

    Args:
        benchmark: pytest-benchmark's fixture.
        seconds: the time to spend, and `min_calls` the least number of calls.
    Returns:
        The last result of the call; the times of the call; the times of the reference.
    """
    for _ in range(3):
        call(argument), reference()
    start = time.perf_counter()
    call(argument)
    rounds = max(min_calls, int(seconds / (time.perf_counter() - start)))
    interval = min(REFERENCE_INTERVAL, max(1, rounds // 8))
    number, reference_times = count(), []

    def setup() -> None:
        if next(number) % interval == 0:
            start = time.perf_counter()
            reference()
            reference_times.append(time.perf_counter() - start)
            call(argument)  # not counted: the caches hold the reference's data

    result = benchmark.pedantic(call, (argument,), setup=setup, rounds=min(rounds, MAX_CALLS))
    return result, Timing(np.array(benchmark.stats.stats.data)), Timing(np.array(reference_times))


@dataclass(frozen=True)
class Process:
    """A finished command."""

    seconds: float  # wall time
    cpu_seconds: float  # user and system time, of all threads
    peak_mb: float  # peak resident memory
    output: str  # stdout


# A process's peak memory starts from that of the process that forked it, so a small launcher forks the command.
_LAUNCHER = """
import json, os, subprocess, sys, time
start = time.perf_counter()
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
output, errors = process.stdout.read(), process.stderr.read()
_, status, usage = os.wait4(process.pid, 0)
seconds, cpu_seconds = time.perf_counter() - start, usage.ru_utime + usage.ru_stime
print(json.dumps([seconds, cpu_seconds, usage.ru_maxrss, output, os.waitstatus_to_exitcode(status), errors]))
"""


def megabytes(ru_maxrss: float) -> float:
    """`ru_maxrss` of getrusage in MB: the unit is bytes on macOS and kilobytes on Linux."""
    return ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


def run_process(command: list[str]) -> Process:
    """Run a command to its end, with cached bytecode as users have. Raises RuntimeError if it fails."""
    launcher = [sys.executable, "-S", "-c", _LAUNCHER, *command]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(launcher, capture_output=True, text=True, check=True, env=environment)
    seconds, cpu_seconds, peak, output, code, errors = json.loads(done.stdout)
    if code:
        raise RuntimeError(f"{command} failed with exit code {code}: {errors}")
    return Process(seconds, cpu_seconds, megabytes(peak), output)


# Rows: what a benchmark saves beside pytest-benchmark's statistics, so that a reader can judge and repeat it


def card_facts(card: Card) -> dict[str, Any]:
    """The part of a row that describes the model."""
    return {
        "model": card.name,
        "default": card.default,
        "dataset": card.trained.dataset.title,
        "parameters": card.parameters.keras,
        "macs": card.macs,
        "accuracy": card.trained.accuracy.value,
        "interval95": list(card.trained.accuracy.interval95),
    }


def row(
    card: Card, network: Network, scope: str, runtime: str, batch: int, timing: Timing, gemm: Timing,
    peak_mb: float | None = None, ours: bool = True,
) -> dict[str, Any]:  # fmt: skip
    """extra_info of one benchmark.

    Keys that need a word:
        gflops: two operations per MAC, at the median. peak_gflops: the same of the GEMM that was timed with it.
        peak_mb: peak memory of a new process that answers one such batch, if it was measured.
        ratios: to what was timed with it; less is better, and bench/compare.py compares them with another run's.
            Only with `ours`: other runtimes are not ours to keep from getting slower.
    """
    work = 2 * (card.macs or 0) * batch / 1e9
    gflops, peak = work / timing.p50, GEMM_GFLOP / gemm.p50
    return {
        "scope": scope,
        **card_facts(card),
        "runtime": runtime,
        "provider": network.provider,
        "threads": network.threads,
        "batch": batch,
        **timing.info(),
        "images_per_s": round(batch / timing.p50, 1),
        "gflops": round(gflops, 2),
        "peak_gflops": round(peak, 1),
        "share_of_peak": round(gflops / peak, 4),
        **({"peak_mb": round(peak_mb, 1)} if peak_mb else {}),
        **({"ratios": {"time over that of the same work in a GEMM": round(peak / gflops, 3)}} if ours else {}),
    }


# The reference: one product of two float32 matrices of GEMM_SIDE², in the library that is measured
#
# A GEMM is the most that the library gets out of the processor; a network's share of it shows how far its layers are
# from that. It is timed with every row, and it also makes runs of different days comparable.

GEMM_SIDE = 384  # the fastest of 128 to 2048 here: three matrices fit in a core's cache, and the call costs little
GEMM_GFLOP = 2 * GEMM_SIDE**3 / 1e9  # a multiplication and an addition per term


def gemm_matrices() -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Two float32 `(GEMM_SIDE, GEMM_SIDE)`."""
    random = np.random.default_rng(0)
    return random.random((GEMM_SIDE, GEMM_SIDE), np.float32), random.random((GEMM_SIDE, GEMM_SIDE), np.float32)


def gemm_onnx() -> bytes:
    """An ONNX file that multiplies its input `a` by a constant, as a network does by its weights."""
    from onnx import TensorProto, helper, numpy_helper

    shape = [GEMM_SIDE, GEMM_SIDE]
    a, b = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("a", "product"))
    node = helper.make_node("MatMul", ["a", "b"], ["product"])
    graph = helper.make_graph([node], "gemm", [a], [b], [numpy_helper.from_array(gemm_matrices()[1], "b")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    content: bytes = model.SerializeToString()
    return content


def gemm_torch() -> Callable[[], Any]:
    """The product in torch, on as many threads as torch is set to."""
    import torch

    a, b = (torch.from_numpy(matrix) for matrix in gemm_matrices())
    return lambda: torch.mm(a, b)
