"""Images/s by batch size and by cores: what micro-batches and threads gain on this processor.

pytest bench/test_throughput.py --benchmark-only
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from bench.measure import card_facts, time_in_blocks, time_rounds
from bench.runtimes import bare_session
from bench.subjects import Subject
from serve.devices import cores
from zoo.classification import CHUNK
from zoo.model import Model

SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
CALLS = 32  # chunks of CHUNK in one timed round
ROUNDS = 7


def test_throughput_by_batch_size(benchmark: Any, subject: Subject) -> None:
    """One session with one thread; the sizes in turn, so that all see the same machine."""
    session = bare_session(subject.entry)
    feeds = {size: {"image": subject.images[:size]} for size in SIZES}
    functions = {str(size): (lambda feed=feed: session.run(None, feed)) for size, feed in feeds.items()}
    times = time_in_blocks(functions, blocks=10, calls=3)
    benchmark.extra_info |= {
        "scope": "session only, by batch", **card_facts(subject.entry.card), "threads": 1,
        "provider": session.get_providers()[0], "n": 30,
        "images_per_s": {size: round(int(size) / timing.p50, 1) for size, timing in times.items()},
    }  # fmt: skip
    logits = benchmark(session.run, None, feeds[CHUNK])[0]
    np.testing.assert_array_equal(logits.argmax(1), subject.labels[:CHUNK])
    np.testing.assert_array_equal(session.run(None, feeds[256])[0].argmax(1), subject.labels)


def test_throughput_by_cores(benchmark: Any, subject: Subject) -> None:
    """The same images through one session with one thread, called from several Python threads, and through a session
    with several threads of its own.
    """
    content = (subject.entry.folder / "model.onnx").read_bytes()
    model = Model(content, "cpu")
    numbers = sorted({1, *(2**power for power in range(1, 8) if 2**power <= cores()), cores()})
    chunk = subject.images[:CHUNK]

    def shared(threads: int) -> Callable[[], Any]:
        pool = ThreadPoolExecutor(threads)
        return lambda: list(pool.map(model.run, [chunk] * CALLS))

    def inside(threads: int) -> Callable[[], Any]:
        session = bare_session(content, threads)
        return lambda: [session.run(None, {"image": chunk}) for _ in range(CALLS)]

    ways = {"threads that share a session": shared, "threads inside a session": inside}
    times = time_rounds({(name, number): way(number) for name, way in ways.items() for number in numbers}, ROUNDS)
    rates = {key: CALLS * CHUNK / float(np.median(seconds)) for key, seconds in times.items()}
    gain = rates["threads that share a session", numbers[-1]] / rates["threads that share a session", 1]
    benchmark.extra_info |= {
        "scope": "array to label, by cores", **card_facts(subject.entry.card), "batch": CHUNK, "n": ROUNDS * CALLS,
        "provider": "CPUExecutionProvider", "threads": numbers[-1],
        "images_per_s": {name: {str(n): round(rates[name, n], 1) for n in numbers} for name in ways},
        "ratios": {"time on all cores over time on one": round(1 / gain, 3)},
    }  # fmt: skip
    for scores in benchmark.pedantic(shared(numbers[-1]), rounds=3):
        np.testing.assert_array_equal(scores.logits.argmax(1), subject.labels[:CHUNK])
