"""The worker pool: thousands of different images at once each get their own result, and an error affects one item."""

import asyncio
import re
import threading
import time

import numpy as np
import pytest

import zoo
from serve.service.pool import LARGE_PIXELS, MAX_LARGE_QUEUE, Pool, PoolUnavailable, QueueFull, Runner, WorkItem
from tests.support.pools import process_all
from zoo.errors import BadInput
from zoo.images.read import Named


@pytest.fixture(scope="module")
def runner():
    return Runner(zoo.load("mnist14k", "cpu"))


def scores_item(runner, images):
    return WorkItem(runner, images=images, output="scores")


def noise(seed, count=1):
    return np.random.default_rng(seed).integers(0, 256, (count, 28, 28, 1), np.uint8)


@pytest.mark.slow
def test_thousands_of_items_get_their_own_results(runner):
    """Files of digits, arrays of several sizes, and broken files all wait at the same time."""
    count = 3000
    arrays = {number: noise(number, 1 + number % 5) for number in range(0, count, 2)}
    items = [
        scores_item(runner, arrays[number])
        if number % 2 == 0
        else WorkItem(runner, [Named(f"{number}", b"broken" if number % 7 == 0 else image_file(number))])
        for number in range(count)
    ]
    process_all(pool := Pool(max_queue=count), items)
    assert pool.alive
    for number, item in enumerate(items):
        if number % 2 == 0:
            assert np.array_equal(item.scores.logits, runner.model.run(arrays[number]).logits), number
            continue
        (row,) = item.rows
        assert row.input == str(number)
        if number % 7 == 0:
            assert row.error
            assert row.label is None
        else:
            assert row == runner.model.predict([Named(str(number), image_file(number))])[0]


def image_file(number):
    """A unique PNG file: a ring of its own size and position."""
    import cv2

    canvas = np.zeros((40, 40, 1), np.uint8)
    cv2.circle(canvas, (15 + number % 10, 15 + number // 10 % 10), 5 + number // 100 % 6, 255 - number % 97, 3)
    return cv2.imencode(".png", canvas)[1].tobytes()


def test_invalid_array_fails_alone(runner):
    good, bad = scores_item(runner, noise(1)), scores_item(runner, np.zeros((1, 9, 9, 1), np.uint8))
    first, second = process_all(Pool(threads=1), [good, bad])
    assert first is good
    assert isinstance(second, BadInput)


def test_failed_batch_is_retried_item_by_item(runner, monkeypatch):
    def run(images):
        if images.max() == 255:
            raise MemoryError("too much")
        return runner.model.run(images)

    failing_runner = Runner(runner.model)
    monkeypatch.setattr(failing_runner, "run", run)
    items = [scores_item(failing_runner, np.full((1, 28, 28, 1), value, np.uint8)) for value in (9, 255, 8)]
    all_waited = threading.Event()
    pool = Pool(threads=1)
    monkeypatch.setattr(pool, "_collect_batch", lambda first: [first, *take_all(pool, all_waited)])
    results = process_all(pool, items)
    assert [type(result) for result in results] == [WorkItem, MemoryError, WorkItem]
    assert all_waited.is_set()


def take_all(pool, all_waited):
    """All waiting items, once all have arrived."""
    taken = []
    while pool.waiting:
        taken.append(pool._queue.get())
    if len(taken) == 2:
        all_waited.set()
    return [item for item in taken if item is not None]


def test_full_queue_rejects_items(runner):
    pool = Pool(max_queue=2, threads=1)

    async def submit_five():
        tasks = [asyncio.ensure_future(pool.process(scores_item(runner, noise(n)))) for n in range(5)]
        await asyncio.sleep(0)
        pool.start()
        return await asyncio.gather(*tasks, return_exceptions=True)

    results = asyncio.run(submit_five())
    pool.close()
    assert [type(result) for result in results] == [WorkItem, WorkItem, QueueFull, QueueFull, QueueFull]
    assert "2 requests" in str(results[2])


def test_close_processes_waiting_items_and_rejects_new_ones(runner):
    pool = Pool(threads=1)

    async def submit_and_close():
        tasks = [asyncio.ensure_future(pool.process(scores_item(runner, noise(n, 40)))) for n in range(9)]
        await asyncio.sleep(0)
        pool.start()
        await asyncio.to_thread(pool.close)
        late = pool.process(scores_item(runner, noise(0)))
        return await asyncio.gather(*tasks), await asyncio.gather(late, return_exceptions=True)

    results, late = asyncio.run(submit_and_close())
    assert all(len(item.scores.logits) == 40 for item in results)
    assert isinstance(late[0], PoolUnavailable)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_dead_worker_makes_pool_not_alive(runner, monkeypatch):
    def die(images):
        raise SystemExit

    dying_runner = Runner(runner.model)
    monkeypatch.setattr(dying_runner, "run", die)
    pool = Pool(threads=1)
    (result,) = process_all(pool, [scores_item(dying_runner, noise(1))])
    assert isinstance(result, PoolUnavailable)
    assert not pool.alive


def test_cancelled_item_is_not_classified(runner, monkeypatch):
    runs = []
    watched = Runner(runner.model)
    monkeypatch.setattr(watched, "run", lambda images: runs.append(1) or runner.model.run(images))
    pool = Pool(threads=1)

    async def submit_and_cancel():
        item = scores_item(watched, noise(1))
        task = asyncio.ensure_future(pool.process(item))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert item.images is None  # its data is freed while it waits
        pool.start()
        await asyncio.to_thread(pool.close)

    asyncio.run(submit_and_cancel())
    assert not runs


def test_cancelled_item_is_not_decoded_to_the_end(runner, monkeypatch):
    from zoo import classification

    decoded, started, prepare = [], threading.Event(), classification.prepare_image

    def slow(*arguments):
        decoded.append(1)
        started.set()
        time.sleep(0.01)
        return prepare(*arguments)

    monkeypatch.setattr(classification, "prepare_image", slow)
    pool = Pool(threads=1)

    async def submit_and_cancel():
        task = asyncio.ensure_future(pool.process(WorkItem(runner, [Named("x", image_file(1))] * 1000)))
        pool.start()
        await asyncio.to_thread(started.wait, 60)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await asyncio.to_thread(pool.close)

    asyncio.run(submit_and_cancel())
    assert 1 <= len(decoded) < 1000


def test_large_array_runs_in_chunks_with_equal_scores(runner):
    images = noise(3, 50)
    assert np.array_equal(runner.run(images).logits, runner.model.run(images).logits)


def large_image(number):
    """An image with more pixels than `LARGE_PIXELS`."""
    import cv2

    canvas = np.zeros((1200, 1200, 1), np.uint8)
    cv2.circle(canvas, (600, 600), 200 + number, 255, 80)
    return Named(f"large {number}", cv2.imencode(".png", canvas)[1].tobytes())


@pytest.mark.slow
def test_large_images_get_their_own_results(runner):
    items = [
        WorkItem(runner, [large_image(n)]) if n % 5 == 0 else WorkItem(runner, [Named("", image_file(n))])
        for n in range(60)
    ]
    items.append(WorkItem(runner, [large_image(1), Named("bad", b"x"), large_image(2)]))
    scores = [WorkItem(runner, [large_image(n)], output="scores") for n in (3, 4)]
    process_all(Pool(), [*items, *scores])
    for number, item in enumerate(items[:-1]):
        source = large_image(number) if number % 5 == 0 else Named("", image_file(number))
        assert item.rows == runner.model.predict([source]), number
    assert [row.error is None for row in items[-1].rows] == [True, False, True]
    for number, item in zip((3, 4), scores, strict=True):
        (row,) = runner.model.predict([large_image(number)])
        assert item.scores.probabilities.max() == pytest.approx(row.probability)


def block_images(runner, monkeypatch, wide=1200):
    """Make images of width `wide` block. Returns the event that releases them, and the widths of the started images."""
    from zoo.images import prepare

    release, started, correct = threading.Event(), [], prepare.CORRECTORS["digit"]

    def slow(pixels, *others):
        started.append(pixels.shape[1])
        if pixels.shape[1] == wide:
            release.wait(60)
        return correct(pixels, *others)

    monkeypatch.setitem(prepare.CORRECTORS, "digit", slow)
    return release, started


@pytest.mark.slow
def test_large_images_do_not_delay_small_ones(runner, monkeypatch):
    release, started = block_images(runner, monkeypatch)
    pool = Pool()
    capacity = len(pool.large_threads) + MAX_LARGE_QUEUE

    async def overload():
        large = [asyncio.ensure_future(pool.process(WorkItem(runner, [large_image(0)]))) for _ in range(capacity + 10)]
        while len(started) < len(pool.large_threads):
            await asyncio.sleep(0.01)
        for number in range(50):
            await asyncio.wait_for(pool.process(WorkItem(runner, [Named("", image_file(number))])), 20)
        waiting = pool.waiting
        release.set()
        return waiting, await asyncio.gather(*large, return_exceptions=True)

    pool.start()
    try:
        waiting, results = asyncio.run(overload())
    finally:
        release.set()
        pool.close()
    rejected = [result for result in results if isinstance(result, QueueFull)]
    assert waiting <= MAX_LARGE_QUEUE
    assert 0 < len(rejected) <= 10 + len(pool.large_threads)
    assert re.search("large images.*32 requests", str(rejected[0]))
    assert all(isinstance(result, WorkItem | QueueFull) for result in results)
    assert started.count(1200) == len(results) - len(rejected)


def test_many_small_images_count_as_large(runner):
    assert WorkItem(runner, [Named("", image_file(1))]).pixel_count() == 1600
    assert WorkItem(runner, [Named("", b"broken")] * 1000).pixel_count() > LARGE_PIXELS
    assert WorkItem(runner, [large_image(1)]).pixel_count() > LARGE_PIXELS


def test_cancelled_large_images_are_not_decoded(runner, monkeypatch):
    release, started = block_images(runner, monkeypatch)
    pool = Pool()

    async def submit_and_cancel():
        tasks = [asyncio.ensure_future(pool.process(WorkItem(runner, [large_image(0)] * 3))) for _ in range(9)]
        while not started:
            await asyncio.sleep(0.01)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        release.set()
        await asyncio.to_thread(pool.close)

    pool.start()
    asyncio.run(submit_and_cancel())
    assert len(started) <= len(pool.large_threads)


def test_longest_step_measures_a_stuck_thread(runner, monkeypatch):
    release, started = block_images(runner, monkeypatch, wide=40)
    pool = Pool(threads=1)

    async def measure():
        assert pool.longest_step_s() == 0
        task = asyncio.ensure_future(pool.process(WorkItem(runner, [Named("", image_file(1))] * 2)))
        while not started:
            await asyncio.sleep(0.01)
        while (stuck_s := pool.longest_step_s()) < 0.25:
            await asyncio.sleep(0.01)
        release.set()
        await task
        while pool.longest_step_s():
            await asyncio.sleep(0.01)
        return stuck_s

    pool.start()
    assert 0.25 <= asyncio.run(asyncio.wait_for(measure(), 30)) < 30
    pool.close()


def test_stuck_pool_rejects_items(runner):
    pool = Pool()
    pool.stuck = True
    with pytest.raises(PoolUnavailable, match="restarting"):
        pool.admit()


@pytest.mark.parametrize("error", [KeyError("x"), RecursionError(), OSError(28, "No space"), AssertionError()])
def test_threads_survive_any_error(runner, monkeypatch, error):
    def fail(*_):
        raise error

    pool = Pool(threads=1)
    monkeypatch.setattr("serve.service.pool.prepare_all", fail)
    sources = [Named("", image_file(1)), large_image(1)]
    assert process_all(pool, [WorkItem(runner, [source]) for source in sources]) == [error] * 2
    monkeypatch.undo()
    monkeypatch.setattr("serve.service.pool._add_queue_time", fail)
    pool = Pool(threads=1)
    assert process_all(pool, [WorkItem(runner, [source]) for source in sources]) == [error] * 2
    assert pool.alive


def test_close_does_not_wait_for_stuck_thread(runner, monkeypatch):
    release, started = block_images(runner, monkeypatch)
    pool = Pool()

    async def close_while_stuck():
        task = asyncio.ensure_future(pool.process(WorkItem(runner, [large_image(0)])))
        while not started:
            await asyncio.sleep(0.01)
        began = time.monotonic()
        await asyncio.to_thread(pool.close, 0.5)
        waited = time.monotonic() - began
        release.set()
        await asyncio.gather(task, return_exceptions=True)
        return waited

    pool.start()
    assert 0.4 < asyncio.run(asyncio.wait_for(close_while_stuck(), 30)) < 10


@pytest.mark.parametrize(
    ("cores", "processes", "device", "threads"),
    [
        *[(8, 1, "cpu", 2), (8, 4, "cpu", 2), (8, 8, "cpu", 1), (2, 4, "cpu", 1), (1, 1, "cpu", 1)],
        *[(8, 1, "cuda", 4), (2, 1, "cuda", 2)],
    ],
)
def test_processes_share_the_cores(monkeypatch, cores, processes, device, threads):
    monkeypatch.setattr("serve.service.pool.cores", lambda: cores)
    assert len(Pool(device, processes=processes).threads) == threads
