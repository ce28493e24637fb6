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
