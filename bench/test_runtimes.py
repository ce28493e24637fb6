"""Every model in every runtime: the session alone, from an array to labels, from image files to labels.

    pytest bench/test_runtimes.py --benchmark-only --bench-models mnist14k --bench-runtimes 'onnxruntime,torch*'

`--bench-full` measures all models, runtimes and batch sizes. Each call is a round of its own, so that p50, p90 and p99
are of calls, and a GEMM through the same library is timed every 50 calls.
"""

import numpy as np
import pytest

from bench.measure import P99_NEEDS, beside, row
from bench.networks import Unavailable
from bench.peak_memory import peak_mb
from bench.runtimes import RUNTIMES


@pytest.fixture(scope="module")
def opened(subject, runtime, batch):
    """The network and the peak memory of a process that opens it, for all scopes."""
    try:
        network = RUNTIMES[runtime].open(subject.entry, batch)
    except Unavailable as error:
        pytest.skip(str(error))
    return network, peak_mb(subject.entry.card.name, runtime, batch)


SCOPES = {
    "session": ("session only", lambda network, images, files: (network.session, network.native(images))),
    "array": ("array to label", lambda network, images, files: (network.labels, images)),
    "bytes": ("image bytes to label", lambda network, images, files: (network.read, files)),
}


@pytest.mark.parametrize("scope", SCOPES)
def test_runtime(benchmark, subject, runtime, batch, opened, scope, pytestconfig):
    network, memory = opened
    images, files = subject.images[:batch], subject.files[:batch]
    said, way = SCOPES[scope]
    call, argument = way(network, images, files)
    least = P99_NEEDS if batch == 1 else 30
    seconds = float(pytestconfig.getoption("benchmark_max_time"))
    given, timing, gemm = beside(benchmark, call, argument, network.gemm, seconds, least)
    card = subject.entry.card
    benchmark.extra_info |= row(card, network, said, runtime, batch, timing, gemm, memory, runtime == "onnxruntime")

    if scope == "session":
        reference = RUNTIMES["onnxruntime"].open(subject.entry, batch)
        expected = reference.logits(reference.session(reference.native(images)))
        off = float(np.abs(network.logits(given) - expected).max())
        benchmark.extra_info["logits_off"] = round(off, 8)
        assert off <= RUNTIMES[runtime].tolerance
    else:
        labels = subject.labels if scope == "array" else subject.names
        assert list(given) == list(labels[:batch])
