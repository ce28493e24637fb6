"""Serving on a GPU, with a fake one: a batch is what arrived during the last one, and slow first runs starve nobody."""

import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import httpx
import numpy as np
import pytest

import zoo
from serve.service import pool as pools
from serve.service.gpu_thread import GpuThread
from serve.service.pool import GPU_SIZES, Pool, Runner, WorkItem
from tests.support.fake_gpu import FakeGpu, ModelOnFakeGpu, install
from tests.support.pools import process_all
from tests.support.server import free_port, wait_for
from zoo.images.read import Named


@pytest.fixture
def gpu_of(monkeypatch):
    """Makes a fake GPU for a model's runs. All tests' requests run on a thread of their own."""
    install(monkeypatch)
    thread = GpuThread()
    monkeypatch.setattr(pools, "gpu_thread", lambda: thread)
    return FakeGpu


def noise(seed, count=1, shape=(28, 28, 1)):
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), np.uint8)


def png(image):
    return cv2.imencode(".png", image)[1].tobytes()


def assert_scores(actual, expected):
    for one, other in zip(actual, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)


def test_only_prepared_sizes_run(gpu_of, model):
    gpu = gpu_of(model, slow_s=0)
    runner = Runner(ModelOnFakeGpu(gpu))
    assert gpu.runs == list(GPU_SIZES)
    gpu.runs.clear()
    images = noise(5, 300)
    for n in (300, 7, 1, 256):
        assert_scores(runner.run(images[:n]), model.run(images[:n]))
    assert gpu.runs == [256, 64, 16, 1, 256]


def test_requests_during_a_batch_form_the_next_batch(gpu_of, model):
    gpu = gpu_of(model, slow_s=0, run_s=0.05)
    runner = Runner(ModelOnFakeGpu(gpu))
    gpu.runs.clear()
    images = noise(1, 60)
    with ThreadPoolExecutor(60) as threads:
        results = list(threads.map(lambda n: runner.run(images[n : n + 1]), range(60)))
    for n, scores in enumerate(results):
        assert_scores(scores, model.run(images[n : n + 1]))
    assert len(gpu.runs) < 12  # nobody waited for company, and nobody ran alone while others waited


def test_failed_batch_fails_its_requests_only(gpu_of, model):
    gpu = gpu_of(model, slow_s=0)
    runner = Runner(ModelOnFakeGpu(gpu))
    gpu.model = None
    with pytest.raises(AttributeError):
        runner.run(noise(1))
    gpu.model = model
    assert_scores(runner.run(noise(2)), model.run(noise(2)))
    with pytest.raises(ZeroDivisionError):
        pools.gpu_thread().call(lambda: 1 // 0)
    assert pools.gpu_thread().call(lambda: 7) == 7


def test_slow_preparation_does_not_starve_other_models(gpu_of, model):
    """While a model is loaded whose first run of each shape is slow, another model answers between the shapes."""
    slow_s = 0.4
    served = Runner(ModelOnFakeGpu(gpu_of(model, slow_s=0)))
    loading = threading.Thread(target=lambda: Runner(ModelOnFakeGpu(gpu_of(model, slow_s=slow_s))), daemon=True)
    loading.start()
    waits = []
    while loading.is_alive():
        started = time.monotonic()
        served.run(noise(1))
        waits.append(time.monotonic() - started)
    assert len(waits) >= len(GPU_SIZES)
    assert max(waits) < 2 * slow_s  # one shape at most, not all of them


def test_pool_answers_many_requests_of_several_models(gpu_of):
    """64 requests at a time of two models, the network on the fake GPU: each gets its own row, none plans again."""
    models = [zoo.load(name, "cpu") for name in ("mnist14k.plus", "cifar90k.plus")]
    gpus = [gpu_of(model, slow_s=0.01) for model in models]
    runners = [Runner(ModelOnFakeGpu(gpu)) for gpu in gpus]
    for gpu in gpus:
        gpu.slow_s = 30.0  # a run that captured again would not end in time
    files = [png(noise(n, shape=models[n % 2].card.input.shape)[0]) for n in range(64)]
    items = [WorkItem(runners[n % 2], [Named(f"{n}", file)]) for n, file in enumerate(files)]
    items += [WorkItem(runners[0], images=noise(n), output="scores") for n in range(10)]
    results = process_all(Pool("cuda", max_queue=100), items)
    assert all(isinstance(result, WorkItem) for result in results), results
    for n, item in enumerate(items[:64]):
        (row,) = models[n % 2].predict([Named(f"{n}", files[n])])
        assert (item.rows[0].input, item.rows[0].label, item.rows[0].known) == (row.input, row.label, row.known)
        assert item.rows[0].probability == pytest.approx(row.probability, abs=1e-4)
    for n, item in enumerate(items[64:]):
        assert_scores(item.scores, models[0].run(noise(n)))
    assert [gpu.captures for gpu in gpus] == [len(GPU_SIZES)] * 2


def test_gpu_thread_decodes_nothing(gpu_of, model, monkeypatch):
    """Decoding runs in the pool's threads, several at a time, while the GPU is busy."""
    decoding, prepare = [], pools.prepare_all

    def recorded(*arguments):
        decoding.append(threading.current_thread().name)
        time.sleep(0.02)
        return prepare(*arguments)

    monkeypatch.setattr(pools, "prepare_all", recorded)
    monkeypatch.setattr(pools, "cores", lambda: 8)
    runner = Runner(ModelOnFakeGpu(gpu_of(model, slow_s=0, run_s=0.02)))
    items = [WorkItem(runner, [Named("", png(noise(n)[0]))]) for n in range(120)]
    process_all(Pool("cuda"), items)
    assert all(item.rows for item in items)
    assert set(decoding) == {f"zoo-worker-{number}" for number in range(4)}


SLOW_START = """
import os, time
from serve.service import pool
prepare = pool.Runner.__init__
def slow(self, model):
    open(PATH + ".begun", "w").close()
    while not os.path.exists(PATH):
        time.sleep(0.05)
    prepare(self, model)
pool.Runner.__init__ = slow
"""


@pytest.mark.slow
def test_server_is_not_ready_while_models_are_prepared(tmp_path):
    """Preparing takes minutes on a GPU. Until it ends, neither port says that the server is ready."""
    prepared, port, health_port = tmp_path / "prepared", free_port(), free_port()
    (tmp_path / "sitecustomize.py").write_text(SLOW_START.replace("PATH", repr(str(prepared))))
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", os.getcwd())])
    command = [sys.executable, "-m", "serve.cli", "serve", "--no-demo", "--models", "mnist4k*", "--no-access-log"]
    command += ["--port", str(port), "--health-port", str(health_port)]
    answers = []

    def status(number):
        try:
            return httpx.get(f"http://127.0.0.1:{number}/v2/health/ready", timeout=1).status_code
        except httpx.TransportError:
            return None

    with subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path}, stderr=subprocess.DEVNULL) as process:
        try:
            wait_for(Path(f"{prepared}.begun").exists)
            for _ in range(10):
                answers += [status(port), status(health_port)]
                time.sleep(0.05)
            assert set(answers) <= {None, 503}
            prepared.touch()
            wait_for(lambda: status(port) == status(health_port) == 200)
        finally:
            process.terminate()
