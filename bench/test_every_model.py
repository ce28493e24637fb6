"""One image from an array to its label, in every shipped model: the figures of the accuracy-latency plot.

pytest bench/test_every_model.py --benchmark-only
"""

from typing import Any

import numpy as np
import pytest

from bench.measure import P99_MIN_CALLS, row, time_with_reference
from bench.runtimes import RUNTIMES
from bench.subjects import SHIPPED, Subject


@pytest.mark.parametrize("subject", [entry.card.name for entry in SHIPPED], indirect=True)
def test_model(benchmark: Any, subject: Subject) -> None:
    network = RUNTIMES["onnxruntime"].open(subject.entry, 1)
    labels, timing, gemm = time_with_reference(
        benchmark, network.labels, subject.images[:1], network.gemm, seconds=1.0, min_calls=P99_MIN_CALLS
    )
    benchmark.extra_info |= row(
        subject.entry.card, network, "array to label, every model", "onnxruntime", 1, timing, gemm
    )
    np.testing.assert_array_equal(labels, subject.labels[:1])
