"""Percentiles, blocks, the arithmetic of a row, the GEMM, and networks in runtimes, without looking at the clock."""

from types import SimpleNamespace

import numpy as np
import pytest

from bench import measure as gemm
from bench.gpu import open_on_gpu
from bench.measure import P99_NEEDS, Timing, beside, in_blocks, row
from bench.networks import Unavailable, needs
from bench.runtimes import RUNTIMES, open_bare
from bench.subjects import subject
from tests.support.examples import REPOSITORY
from zoo import registry

ENTRY = registry.find("mnist14k")


@pytest.fixture(scope="module")
def pictures():
    return np.random.default_rng(0).integers(0, 256, (2, 28, 28, 1), np.uint8)


def test_percentiles_are_of_single_calls_and_a_p99_needs_many():
    many = Timing(np.arange(1, P99_NEEDS + 1) / 1000)
    assert many.info() == {"n": P99_NEEDS, "p50_ms": 500.5, "p90_ms": 900.1, "p99_ms": 990.01}
    assert "p99_ms" not in Timing(many.seconds[1:]).info()


def test_blocks_leave_the_first_call_of_each_out():
    calls = []
    times = in_blocks({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, blocks=2, calls=3)
    assert "".join(calls) == "aaaabbbb" * 2
    assert {name: len(timing.seconds) for name, timing in times.items()} == {"a": 6, "b": 6}


class Benchmark:
    """In the place of pytest-benchmark's fixture: every call takes half a second."""

    def pedantic(self, call, arguments, setup, rounds):
        for _ in range(rounds):
            setup()
            given = call(*arguments)
        self.stats = SimpleNamespace(stats=SimpleNamespace(data=[0.5] * rounds))
        return given


def test_the_yardstick_is_timed_between_calls():
    yards = []
    given, timing, yardstick = beside(Benchmark(), lambda x: x + 1, 1, lambda: yards.append(0), 1e-9, 100)
    assert given == 2
    assert (len(timing.seconds), timing.p50) == (100, 0.5)
    assert len(yardstick.seconds) == len(yards) - 3 == 9  # before every twelfth call; three are to warm up


def test_the_arithmetic_of_a_row():
    network = RUNTIMES["onnxruntime"].open(ENTRY, 4)
    card = ENTRY.card
    told = row(
        card, network, "session only", "onnxruntime", 4, Timing(np.full(9, 0.001)), Timing(np.full(2, 0.002)), 50.0
    )
    assert told["gflops"] == pytest.approx(2 * 3_196_672 * 4 / 0.001 / 1e9, abs=0.01)
    assert told["peak_gflops"] == pytest.approx(2 * gemm.SIDE**3 / 0.002 / 1e9, abs=0.1)
    assert told["share_of_peak"] == pytest.approx(told["gflops"] / told["peak_gflops"], rel=0.01)
    assert told["images_per_s"] == 4000
    (ratio,) = told["ratios"].values()
    assert ratio == pytest.approx(1 / told["share_of_peak"], rel=0.01)
    assert (told["provider"], told["threads"]) == ("CPUExecutionProvider", 1)


def test_the_gemm_multiplies():
    a, b = gemm.matrices()
    (product,) = open_bare(gemm.onnx_model(), 1).run(None, {"a": a})
    np.testing.assert_allclose(product, a @ b, rtol=1e-4)
    np.testing.assert_allclose(gemm.with_torch()().numpy(), a @ b, rtol=1e-4)


@pytest.mark.parametrize("runtime", ["onnxruntime", "onnxruntime-all", "torch", "torch-channels-last", "torch-folded"])
def test_networks_answer_alike_in_every_way(runtime, pictures, model):
    network = RUNTIMES[runtime].open(ENTRY, 2)
    expected = model.run(pictures).logits
    logits = network.logits(network.session(network.native(pictures)))
    np.testing.assert_allclose(logits, expected, atol=RUNTIMES[runtime].tolerance)
    np.testing.assert_array_equal(network.labels(pictures), expected.argmax(1))
    examples = REPOSITORY / "examples"
    files = [(examples / name).read_bytes() for name in ("seven.png", "five.jpg")]
    assert network.read(files) == ["7", "5"]
    network.gemm()


def test_the_gpus_path_with_the_cpu_in_its_place(pictures, model):
    network = open_on_gpu(ENTRY, 2, "CPUExecutionProvider", device="cpu")
    logits = network.logits(network.session(network.native(pictures)))
    np.testing.assert_array_equal(logits, model.run(pictures).logits)
    np.testing.assert_array_equal(network.labels(pictures[::-1]), model.run(pictures[::-1]).logits.argmax(1))
    network.gemm()


def test_what_cannot_run_here_says_why():
    with pytest.raises(Unavailable, match="no NoSuchProvider: pip uninstall onnxruntime, then"):
        open_on_gpu(ENTRY, 1, "NoSuchProvider")
    with pytest.raises(Unavailable, match="no_such_package cannot be imported"):
        needs("no_such_package", "pip install it")


def test_pictures_under_test_are_read_right_and_clearly(mnist_test, model):
    found = subject("mnist14k")
    logits = np.sort(model.run(found.images).logits, 1)
    assert (model.run(found.images).logits.argmax(1) == found.labels).all()
    assert (logits[:, -1] - logits[:, -2] > 1).all()
    assert [row.label for row in model.predict(found.files[:20])] == found.names[:20]
