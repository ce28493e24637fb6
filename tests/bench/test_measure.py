"""Percentiles, blocks, the figures of a row, the GEMM, and networks in runtimes; no test depends on real times."""

from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner

from bench import measure, microseconds, subjects
from bench.measure import P99_MIN_CALLS, Timing, row, time_in_blocks, time_with_reference
from bench.runtimes import RUNTIMES, Unavailable, bare_session, open_on_gpu, require
from tests.support.examples import REPOSITORY
from zoo import registry

ENTRY = registry.find("mnist14k")


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (2, 28, 28, 1), np.uint8)


def test_p99_needs_many_calls():
    many = Timing(np.arange(1, P99_MIN_CALLS + 1) / 1000)
    assert many.info() == {"n": P99_MIN_CALLS, "p50_ms": 500.5, "p90_ms": 900.1, "p99_ms": 990.01}
    assert "p99_ms" not in Timing(many.seconds[1:]).info()


def test_first_call_of_a_block_is_not_counted():
    calls = []
    times = time_in_blocks({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, blocks=2, calls=3)
    assert "".join(calls) == "aaaabbbb" * 2
    assert {name: len(timing.seconds) for name, timing in times.items()} == {"a": 6, "b": 6}


class Benchmark:
    """A fake of pytest-benchmark's fixture: every call takes half a second."""

    def pedantic(self, call, arguments, setup, rounds):
        for _ in range(rounds):
            setup()
            result = call(*arguments)
        self.stats = SimpleNamespace(stats=SimpleNamespace(data=[0.5] * rounds))
        return result


def test_reference_is_timed_between_calls():
    calls = []
    result, timing, reference = time_with_reference(
        Benchmark(), lambda x: x + 1, 1, lambda: calls.append(0), seconds=1e-9, min_calls=100
    )
    assert result == 2
    assert (len(timing.seconds), timing.p50) == (100, 0.5)
    assert len(reference.seconds) == len(calls) - 3 == 9  # before every twelfth call, after three for warm-up


def test_row_figures():
    network = RUNTIMES["onnxruntime"].open(ENTRY, 4)
    card = ENTRY.card
    values = row(
        card, network, "session only", "onnxruntime", 4, Timing(np.full(9, 0.001)), Timing(np.full(2, 0.002)), 50.0
    )
    assert values["gflops"] == pytest.approx(2 * 3_196_672 * 4 / 0.001 / 1e9, abs=0.01)
    assert values["peak_gflops"] == pytest.approx(2 * measure.GEMM_SIDE**3 / 0.002 / 1e9, abs=0.1)
    assert values["share_of_peak"] == pytest.approx(values["gflops"] / values["peak_gflops"], rel=0.01)
    assert values["images_per_s"] == 4000
    (ratio,) = values["ratios"].values()
    assert ratio == pytest.approx(1 / values["share_of_peak"], rel=0.01)
    assert (values["provider"], values["threads"]) == ("CPUExecutionProvider", 1)


def test_gemm_multiplies():
    a, b = measure.gemm_matrices()
    (product,) = bare_session(measure.gemm_onnx()).run(None, {"a": a})
    np.testing.assert_allclose(product, a @ b, rtol=1e-4)
    np.testing.assert_allclose(measure.gemm_torch()().numpy(), a @ b, rtol=1e-4)


@pytest.mark.parametrize(
    "runtime", ["onnxruntime", "onnxruntime-all", "torch", "torch-channels-last", "torch-folded", "ncnn"]
)
def test_runtimes_give_the_same_labels(runtime, images, model):
    if runtime == "ncnn":
        pytest.importorskip("ncnn")
    network = RUNTIMES[runtime].open(ENTRY, 2)
    expected = model.run(images).logits
    logits = network.logits(network.session(network.native(images)))
    np.testing.assert_allclose(logits, expected, atol=RUNTIMES[runtime].tolerance)
    np.testing.assert_array_equal(network.labels(images), expected.argmax(1))
    examples = REPOSITORY / "examples"
    files = [(examples / name).read_bytes() for name in ("seven.png", "five.jpg")]
    assert network.read(files) == ["7", "5"]
    network.gemm()


@pytest.mark.parametrize("name", ["mnist4k", "cifar90k", "cifar93k", "resnet8"])  # all kinds of layers
def test_layers_of_ncnn_give_the_same_logits(name):
    pytest.importorskip("ncnn")
    entry = registry.find(name)
    images = np.random.default_rng(0).integers(0, 256, (2, *entry.card.input.shape), np.uint8)
    network = RUNTIMES["ncnn"].open(entry, 2)
    (expected,) = bare_session(entry).run(["logits"], {"image": images})
    np.testing.assert_allclose(network.logits(network.session(images)), expected, atol=RUNTIMES["ncnn"].tolerance)


def test_litert_without_its_converter_says_what_to_set(monkeypatch):
    pytest.importorskip("ai_edge_litert")
    monkeypatch.delenv("ZOO_LITERT_PYTHON", raising=False)
    with pytest.raises(Unavailable, match="ZOO_LITERT_PYTHON"):
        RUNTIMES["litert"].open(ENTRY, 1)


@pytest.mark.slow
def test_microsecond_tables():
    result = CliRunner().invoke(
        microseconds.main, ["--models", "mnist4k", "--runtimes", "onnxruntime,torch", "--blocks", "1"]
    )
    assert result.exit_code == 0, result.output
    lines = result.stdout.strip().split("\n")
    assert lines[0] == "| model | parameters | batch | onnxruntime | torch |"
    assert [line.split(" | ")[2] for line in lines[2:]] == ["1", "16"]
    result = CliRunner().invoke(microseconds.main, ["--models", "mnist4k", "--options", "--blocks", "1"])
    assert result.exit_code == 0, result.output
    assert "| mnist4k.plus | saved optimised, .ort |" in result.stdout


def test_gpu_runtime_on_the_cpu_provider(images, model):
    network = open_on_gpu(ENTRY, 2, "CPUExecutionProvider", device="cpu")
    logits = network.logits(network.session(network.native(images)))
    np.testing.assert_array_equal(logits, model.run(images).logits)
    np.testing.assert_array_equal(network.labels(images[::-1]), model.run(images[::-1]).logits.argmax(1))
    network.gemm()


def test_unavailable_runtime_error_has_the_remedy():
    with pytest.raises(Unavailable, match=r"NoSuchProvider.*pip uninstall"):
        open_on_gpu(ENTRY, 1, "NoSuchProvider")
    with pytest.raises(Unavailable, match=r"no_such_package.*pip install it"):
        require("no_such_package", "pip install it")


def test_subject_images_have_correct_clear_labels(mnist_test, model):
    subject = subjects.load_subject("mnist14k")
    logits = np.sort(model.run(subject.images).logits, 1)
    assert (model.run(subject.images).logits.argmax(1) == subject.labels).all()
    assert (logits[:, -1] - logits[:, -2] > subjects.MARGIN).all()
    assert [row.label for row in model.predict(subject.files[:20])] == subject.names[:20]


def test_subjects_are_default_models():
    for name in subjects.MODELS:
        assert registry.find(name).card.default
    assert not registry.find(subjects.MLPERF).card.default
    assert len(subjects.QUANTIZED) >= 3
