"""Pictures a second by batch size, and by cores: what micro-batches and threads are worth on this processor.

pytest bench/test_throughput.py --benchmark-only
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from bench.measure import facts, in_blocks, rounds_of
from bench.runtimes import open_bare
from serve.devices import cores
from zoo.model import CHUNK, Model

SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
CALLS = 32  # chunks of CHUNK in one timed round
ROUNDS = 7


def test_by_batch_size(benchmark, subject):
    """One session of one thread; every size in turn, so that all see the same machine."""
    session = open_bare((subject.entry.folder / "model.onnx").read_bytes(), 1)
    feeds = {size: {"image": subject.images[:size]} for size in SIZES}
    things = {str(size): (lambda feed=feed: session.run(None, feed)) for size, feed in feeds.items()}
    times = in_blocks(things, blocks=10, calls=3)
    benchmark.extra_info |= {
        "scope": "session only, by batch", **facts(subject.entry.card), "threads": 1,
        "provider": session.get_providers()[0], "n": 30,
        "images_per_s": {size: round(int(size) / timing.p50, 1) for size, timing in times.items()},
    }  # fmt: skip
    logits = benchmark(session.run, None, feeds[CHUNK])[0]
    np.testing.assert_array_equal(logits.argmax(1), subject.labels[:CHUNK])
    np.testing.assert_array_equal(session.run(None, feeds[256])[0].argmax(1), subject.labels)


def test_by_cores(benchmark, subject):
    """The same pictures through one session of one thread from several Python threads, and through a session that has
    several threads itself.
    """
    content = (subject.entry.folder / "model.onnx").read_bytes()
    model = Model(content, "cpu")
    numbers = sorted({1, *(2**power for power in range(1, 8) if 2**power <= cores()), cores()})
    chunk = subject.images[:CHUNK]

    def shared(threads):
        pool = ThreadPoolExecutor(threads)
        return lambda: list(pool.map(model.run, [chunk] * CALLS))

    def inside(threads):
        session = open_bare(content, threads)
        return lambda: [session.run(None, {"image": chunk}) for _ in range(CALLS)]

    ways = {"threads that share a session": shared, "threads inside a session": inside}
    times = rounds_of({(said, number): way(number) for said, way in ways.items() for number in numbers}, ROUNDS)
    rates = {key: CALLS * CHUNK / float(np.median(seconds)) for key, seconds in times.items()}
    gain = rates["threads that share a session", numbers[-1]] / rates["threads that share a session", 1]
    benchmark.extra_info |= {
        "scope": "array to label, by cores", **facts(subject.entry.card), "batch": CHUNK, "n": ROUNDS * CALLS,
        "provider": "CPUExecutionProvider", "threads": numbers[-1],
        "images_per_s": {said: {str(n): round(rates[said, n], 1) for n in numbers} for said in ways},
        "ratios": {"time on all cores over time on one": round(1 / gain, 3)},
    }  # fmt: skip
    for scores in benchmark.pedantic(shared(numbers[-1]), rounds=3):
        np.testing.assert_array_equal(scores.logits.argmax(1), subject.labels[:CHUNK])
