"""One picture from an array to its label in every model of the zoo: the figures of the Pareto picture.

pytest bench/test_every_model.py --benchmark-only
"""

import numpy as np
import pytest

import zoo
from bench.measure import P99_NEEDS, beside, row
from bench.runtimes import RUNTIMES
from bench.subjects import subject as find
from zoo import registry

SHIPPED = [entry.card.name for entry in registry.scan() if entry.folder.parent == registry.SHIPPED]


@pytest.mark.parametrize("name", SHIPPED)
def test_model(benchmark, name):
    try:
        subject = find(name)
    except zoo.ZooError as error:
        pytest.skip(str(error))
    network = RUNTIMES["onnxruntime"].open(subject.entry, 1)
    given, timing, gemm = beside(benchmark, network.labels, subject.images[:1], network.gemm, 1.0, P99_NEEDS)
    card = subject.entry.card
    benchmark.extra_info |= row(card, network, "array to label, every model", "onnxruntime", 1, timing, gemm)
    np.testing.assert_array_equal(given, subject.labels[:1])
