"""Timing that can be trusted on a noisy machine: two things in turn, raw times kept, ratios of medians."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np

from bench.networks import Network
from zoo.card import Card

P99_NEEDS = 1000  # calls: of fewer, the slowest hundredth is a few events
EVERY, MOST = 50, 5000  # calls between two of the yardstick; calls at most


@dataclass(frozen=True)
class Timing:
    """Seconds of single calls, in the order in which they were made."""

    seconds: np.ndarray

    @property
    def p50(self) -> float:
        return float(np.median(self.seconds))

    def info(self) -> dict[str, float | int]:
        """n and percentiles in milliseconds; no p99 on too few calls."""
        told: dict[str, float | int] = {"n": len(self.seconds)}
        for percent in (50, 90, 99):
            if percent < 99 or len(self.seconds) >= P99_NEEDS:
                told[f"p{percent}_ms"] = round(float(np.percentile(self.seconds, percent)) * 1e3, 5)
        return told


@dataclass(frozen=True)
class Pair:
    """Two things timed in turn: A B A B …, so that both see the same machine."""

    first: Timing
    second: Timing

    @property
    def ratio(self) -> float:
        """Median of the first over median of the second."""
        return self.first.p50 / self.second.p50

    def info(self, first: str, second: str) -> dict[str, object]:
        return {first: self.first.info(), second: self.second.info(), "ratio_of_p50": round(self.ratio, 3)}


def in_turn(first: Callable[[], object], second: Callable[[], object], n: int, warmup: int = 50) -> Pair:
    """Call both `n` times in turn, after `warmup` calls that are not counted."""
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


def in_blocks(things: dict[str, Callable[[], object]], blocks: int = 20, calls: int = 50) -> dict[str, Timing]:
    """Call each `calls` times, then the next, `blocks` times over: all see the same machine, and each its own caches
    warm. The first call of a block is not counted.
    """
    times: dict[str, list[float]] = {name: [] for name in things}
    for _ in range(blocks):
        for name, thing in things.items():
            thing()
            for _ in range(calls):
                start = time.perf_counter()
                thing()
                times[name].append(time.perf_counter() - start)
    return {name: Timing(np.array(seconds)) for name, seconds in times.items()}


def beside(
    benchmark: Any,
    call: Callable[[Any], Any],
    argument: Any,
    yardstick: Callable[[], object],
    seconds: float,
    least: int,
) -> tuple[Any, Timing, Timing]:
    """Time `call(argument)` as pytest-benchmark's rounds of one call, so that no tail is averaged away, and the
    yardstick once in `EVERY` calls: both see the same machine.

    Args:
        benchmark: pytest-benchmark's fixture.
        seconds: how long it may take; `least`: how many calls it is at least.
    Returns:
        What the last call gave; the times of the call; the times of the yardstick.
    """
    for _ in range(3):
        call(argument), yardstick()
    start = time.perf_counter()
    call(argument)
    rounds = max(least, int(seconds / (time.perf_counter() - start)))
    every = min(EVERY, max(1, rounds // 8))
    number, found = count(), []

    def setup() -> None:
        if next(number) % every == 0:
            start = time.perf_counter()
            yardstick()
            found.append(time.perf_counter() - start)
            call(argument)  # not counted: it finds the caches full of the yardstick

    given = benchmark.pedantic(call, (argument,), setup=setup, rounds=min(rounds, MOST))
    return given, Timing(np.array(benchmark.stats.stats.data)), Timing(np.array(found))


@dataclass(frozen=True)
class Process:
    """One finished command: wall seconds, peak resident memory in MB, what it printed."""

    seconds: float
    peak_mb: float
    output: str


# A process's peak memory begins with that of the process that forked it, so a small one does the forking.
_LAUNCHER = """
import json, os, subprocess, sys, time
start = time.perf_counter()
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
output, said = process.stdout.read(), process.stderr.read()
_, status, usage = os.wait4(process.pid, 0)
print(json.dumps([time.perf_counter() - start, usage.ru_maxrss, output, os.waitstatus_to_exitcode(status), said]))
"""


def run_process(command: list[str]) -> Process:
    """Run a command to its end, with Python's bytecode cached as for any user; raises RuntimeError where it fails."""
    launcher = [sys.executable, "-S", "-c", _LAUNCHER, *command]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(launcher, capture_output=True, text=True, check=True, env=environment)
    seconds, peak, output, code, said = json.loads(done.stdout)
    if code:
        raise RuntimeError(f"{command} left with {code}: {said}")
    return Process(seconds, peak / (1e6 if sys.platform == "darwin" else 1e3), output)  # bytes there, kilobytes here


def rounds_of(things: dict[str, Callable[[], object]], rounds: int) -> dict[str, np.ndarray]:
    """Seconds of each thing in each round, `(rounds,)`: all of them in turn, after one round that is not counted."""
    times: dict[str, list[float]] = {name: [] for name in things}
    for number in range(rounds + 1):
        for name, thing in things.items():
            start = time.perf_counter()
            thing()
            if number:
                times[name].append(time.perf_counter() - start)
    return {name: np.array(seconds) for name, seconds in times.items()}


# What a row tells beside pytest-benchmark's statistics: everything that a reader needs to believe or repeat it.


def facts(card: Card) -> dict[str, Any]:
    """The model's part of a row."""
    return {
        "model": card.name,
        "dataset": card.dataset.title,
        "parameters": card.parameters.keras,
        "macs": card.macs,
        "accuracy": card.accuracy.value,
        "interval95": list(card.accuracy.interval95),
    }


def row(
    card: Card, network: Network, scope: str, runtime: str, batch: int, timing: Timing, gemm: Timing,
    peak_mb: float | None = None, ours: bool = True,
) -> dict[str, Any]:  # fmt: skip
    """extra_info of one row.

    gflops counts two operations a MAC, at the median; peak_gflops is that of the GEMM timed beside it. peak_mb is that
    of a fresh process that answers one such batch, where it was measured. ratios are to what is timed beside it: less
    is better, and `bench/compare.py` compares them across commits; others' runtimes are not ours to keep from growing.
    """
    work = 2 * card.macs * batch / 1e9
    gflops, peak = work / timing.p50, GFLOP / gemm.p50
    return {
        "scope": scope,
        **facts(card),
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


# The yardstick of this machine: one product of two float32 matrices of `SIDE`², through the library that is measured.
#
# What a GEMM reaches is what the library can get out of the processor at its best; a network's share of it says how far
# its layers are from that. Timed beside every row, it is also what figures of different days are compared by.

SIDE = 384  # of 128 to 2048, what reaches most here: three matrices fit a core's cache, and calling does not count
GFLOP = 2 * SIDE**3 / 1e9  # a multiplication and an addition for each term


def matrices() -> tuple[np.ndarray, np.ndarray]:
    """Two float32 `(SIDE, SIDE)`."""
    random = np.random.default_rng(0)
    return random.random((SIDE, SIDE), np.float32), random.random((SIDE, SIDE), np.float32)


def onnx_model() -> bytes:
    """An ONNX file that multiplies its input `a` by a constant, as a network does by its weights."""
    from onnx import TensorProto, helper, numpy_helper

    a, b = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [SIDE, SIDE]) for name in ("a", "product"))
    node = helper.make_node("MatMul", ["a", "b"], ["product"])
    graph = helper.make_graph([node], "gemm", [a], [b], [numpy_helper.from_array(matrices()[1], "b")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    return model.SerializeToString()


def with_torch() -> Callable[[], Any]:
    """The product in torch, on as many threads as torch is set to."""
    import torch

    a, b = (torch.from_numpy(matrix) for matrix in matrices())
    return lambda: torch.mm(a, b)
