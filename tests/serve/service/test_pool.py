"""The pool: thousands of distinct pictures at once, each with its own answer; what fails fails alone."""

import asyncio
import threading
import time

import numpy as np
import pytest

import zoo
from serve.service.pool import LARGE_PIXELS, MAX_LARGE_QUEUE, QueueFull, Pool, Runner, PoolUnavailable, WorkItem
from zoo.errors import BadInput
from zoo.images.read import Named


@pytest.fixture(scope="module")
def runner():
    return Runner(zoo.load("mnist14k", "cpu"))


def answered(pool, items):
    """All items at once; what each got, or the error."""

    async def all_at_once():
        return await asyncio.gather(*(pool.process(item) for item in items), return_exceptions=True)

    pool.start()
    try:
        return asyncio.run(all_at_once())
    finally:
        pool.close()


def noise(seed, count=1):
    return np.random.default_rng(seed).integers(0, 256, (count, 28, 28, 1), np.uint8)


def test_thousands_of_distinct_inputs_each_get_their_own_answer(runner):
    """Digits as files, arrays of several sizes, and broken files among them, all waiting at the same time."""
    count = 3000
    arrays = {number: noise(number, 1 + number % 5) for number in range(0, count, 2)}
    items = [
        WorkItem(runner, images=arrays[number], output="scores")
        if number % 2 == 0
        else WorkItem(runner, [Named(f"{number}", b"broken" if number % 7 == 0 else picture(number))])
        for number in range(count)
    ]
    answered(pool := Pool(max_queue=count), items)
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
            assert row == runner.model.predict([Named(str(number), picture(number))])[0]


def picture(number):
    """A PNG file unlike any other's: a ring of its own size and place."""
    import cv2

    canvas = np.zeros((40, 40, 1), np.uint8)
    cv2.circle(canvas, (15 + number % 10, 15 + number // 10 % 10), 5 + number // 100 % 6, 255 - number % 97, 3)
    return cv2.imencode(".png", canvas)[1].tobytes()


def test_a_bad_array_fails_alone(runner):
    good, bad = WorkItem(runner, images=noise(1), output="scores"), WorkItem(runner, images=np.zeros((1, 9, 9, 1), np.uint8))
    bad\.output = "scores"
    first, second = answered(Pool(threads=1), [good, bad])
    assert first is good
    assert isinstance(second, BadInput)


def test_a_run_that_fails_together_is_tried_one_by_one(runner, monkeypatch):
    def run(images):
        if images.max() == 255:
            raise MemoryError("too much")
        return runner.model.run(images)

    fussy = Runner(runner.model)
    monkeypatch.setattr(fussy, "run", run)
    items = [WorkItem(fussy, images=np.full((1, 28, 28, 1), value, np.uint8), output="scores") for value in (9, 255, 8)]
    held = threading.Event()
    pool = Pool(threads=1)
    monkeypatch.setattr(pool, "_collect_batch", lambda first: [first, *others(pool, held)])
    results = answered(pool, items)
    assert [type(result) for result in results] == [WorkItem, MemoryError, WorkItem]
    assert held.is_set()


def others(pool, held):
    """All that waits, once everything does."""
    taken = []
    while pool.waiting:
        taken.append(pool._queue.get())
    if len(taken) == 2:
        held.set()
    return [item for item in taken if item is not None]


def test_a_full_queue_refuses(runner):
    pool = Pool(max_queue=2, threads=1)

    async def five():
        asks = [asyncio.ensure_future(pool.process(WorkItem(runner, images=noise(n), output="scores"))) for n in range(5)]
        await asyncio.sleep(0)
        pool.start()
        return await asyncio.gather(*asks, return_exceptions=True)

    results = asyncio.run(five())
    pool.close()
    assert [type(result) for result in results] == [WorkItem, WorkItem, QueueFull, QueueFull, QueueFull]
    assert str(results[2]) == "2 requests are waiting already: ask again in a moment."


def test_close_answers_what_waits_and_takes_no_more(runner):
    pool = Pool(threads=1)

    async def close_behind():
        asks = [
            asyncio.ensure_future(pool.process(WorkItem(runner, images=noise(n, 40), output="scores"))) for n in range(9)
        ]
        await asyncio.sleep(0)
        pool.start()
        await asyncio.to_thread(pool.close)
        return await asyncio.gather(*asks), await asyncio.gather(pool.process(asks[0]), return_exceptions=True)

    answers, late = asyncio.run(close_behind())
    assert all(len(item.scores.logits) == 40 for item in answers)
    assert isinstance(late[0], PoolUnavailable)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_dead_worker_is_told_and_its_requests_end(runner, monkeypatch):
    def die(images):
        raise SystemExit

    doomed = Runner(runner.model)
    monkeypatch.setattr(doomed, "run", die)
    pool = Pool(threads=1)
    (result,) = answered(pool, [WorkItem(doomed, images=noise(1), output="scores")])
    assert isinstance(result, PoolUnavailable)
    assert not pool.alive


def test_a_ticket_that_was_given_up_is_not_classified(runner, monkeypatch):
    runs = []
    watched = Runner(runner.model)
    monkeypatch.setattr(watched, "run", lambda images: runs.append(1) or runner.model.run(images))
    pool = Pool(threads=1)

    async def leave():
        item = WorkItem(watched, images=noise(1), output="scores")
        ask = asyncio.ensure_future(pool.process(item))
        await asyncio.sleep(0)
        ask.cancel()
        await asyncio.gather(ask, return_exceptions=True)
        assert item.images is None  # nor kept in memory while it waits
        pool.start()
        await asyncio.to_thread(pool.close)

    asyncio.run(leave())
    assert not runs


def test_many_pictures_are_not_decoded_to_the_end_when_they_are_given_up(runner, monkeypatch):
    from zoo import model as rows

    decoded, begun, prepare = [], threading.Event(), rows.prepare

    def slow(*arguments):
        decoded.append(1)
        begun.set()
        time.sleep(0.01)
        return prepare(*arguments)

    monkeypatch.setattr(rows, "prepare", slow)
    pool = Pool(threads=1)

    async def leave():
        ask = asyncio.ensure_future(pool.process(WorkItem(runner, [Named("x", picture(1))] * 1000)))
        pool.start()
        await asyncio.to_thread(begun.wait, 60)
        ask.cancel()
        await asyncio.gather(ask, return_exceptions=True)
        await asyncio.to_thread(pool.close)

    asyncio.run(leave())
    assert 1 <= len(decoded) < 1000


def test_large_arrays_are_run_in_parts_with_the_same_scores(runner):
    images = noise(3, 50)
    assert np.array_equal(runner.run(images).logits, runner.model.run(images).logits)


def test_on_a_gpu_batches_of_warmed_sizes_are_run(runner, monkeypatch):
    """The CPU stands in for the GPU: bound runs of the sizes that were prepared, and only those."""
    ran = []

    class OnGpu:
        device, card = "cuda", runner.model.card

        def bind(self, size):
            bound = runner.model.bind(size)
            run, shape = bound.run, (size, *self.card.input.shape)
            bound.run = lambda images: ran.append((size, bound._staging.shape == shape)) or run(images)
            return bound

        check, rows_of = runner.model.check, runner.model.rows_of

    gpu = Runner(OnGpu())
    assert ran == [(size, True) for size in (1, 8, 32, 128, 256)]
    ran.clear()
    images = noise(5, 300)
    assert np.array_equal(gpu.run(images).logits, runner.model.run(images).logits)
    assert np.array_equal(gpu.run(images[:7]).logits, runner.model.run(images[:7]).logits)
    assert [size for size, _ in ran] == [256, 128, 8]


def test_a_gpus_worker_waits_for_others(runner):
    pool = Pool("cuda", threads=1)
    pool.batch_wait_s = 0.5
    items = [WorkItem(runner, images=noise(n), output="scores") for n in range(20)]

    async def one_after_the_other():
        asks = []
        for item in items:
            asks.append(asyncio.ensure_future(pool.process(item)))
            await asyncio.sleep(0.001)
        await asyncio.gather(*asks)

    pool.start()
    asyncio.run(one_after_the_other())
    pool.close()
    assert max(item\.batch_size for item in items) >= 18


def large_picture(number):
    """More pixels than the threads for small pictures take."""
    import cv2

    canvas = np.zeros((1200, 1200, 1), np.uint8)
    cv2.circle(canvas, (600, 600), 200 + number, 255, 80)
    return Named(f"large {number}", cv2.imencode(".png", canvas)[1].tobytes())


def test_large_pictures_get_their_own_answers_beside_small_ones(runner):
    items = [WorkItem(runner, [large_picture(n)]) if n % 5 == 0 else WorkItem(runner, [Named("", picture(n))])
               for n in range(60)]  # fmt: skip
    items.append(WorkItem(runner, [large_picture(1), Named("bad", b"x"), large_picture(2)]))
    scores = [WorkItem(runner, [large_picture(n)], output="scores") for n in (3, 4)]
    answered(Pool(), [*items, *scores])
    for number, item in enumerate(items[:-1]):
        source = large_picture(number) if number % 5 == 0 else Named("", picture(number))
        assert item.rows == runner.model.predict([source]), number
    assert [row.error is None for row in items[-1].rows] == [True, False, True]
    for number, item in zip((3, 4), scores, strict=True):
        (row,) = runner.model.predict([large_picture(number)])
        assert item.scores.probabilities.max() == pytest.approx(row.probability)


def blocking(runner, monkeypatch, wide=1200):
    """Pictures that are `wide` wait until the event is set; the pictures that were begun."""
    from zoo.images import prepare

    release, begun, correct = threading.Event(), [], prepare.CORRECTORS["digit"]

    def slow(pixels, *others):
        begun.append(pixels.shape[1])
        if pixels.shape[1] == wide:
            release.wait(60)
        return correct(pixels, *others)

    monkeypatch.setitem(prepare.CORRECTORS, "digit", slow)
    return release, begun


def test_small_pictures_do_not_wait_behind_large_ones_whose_queue_is_bounded(runner, monkeypatch):
    release, begun = blocking(runner, monkeypatch)
    pool = Pool()
    most = len(pool.large_threads) + MAX_LARGE_QUEUE

    async def attack():
        large = [asyncio.ensure_future(pool.process(WorkItem(runner, [large_picture(0)]))) for _ in range(most + 10)]
        while len(begun) < len(pool.large_threads):
            await asyncio.sleep(0.01)
        for number in range(50):
            await asyncio.wait_for(pool.process(WorkItem(runner, [Named("", picture(number))])), 20)
        waiting = pool.waiting
        release.set()
        return waiting, await asyncio.gather(*large, return_exceptions=True)

    pool.start()
    try:
        waiting, results = asyncio.run(attack())
    finally:
        release.set()
        pool.close()
    refused = [result for result in results if isinstance(result, QueueFull)]
    assert waiting <= MAX_LARGE_QUEUE
    assert 0 < len(refused) <= 10 + len(pool.large_threads)
    assert str(refused[0]) == "32 requests with large images are waiting already: ask again in a moment."
    assert all(isinstance(result, WorkItem | QueueFull) for result in results)
    assert begun.count(1200) == len(results) - len(refused)


def test_many_small_pictures_of_one_request_are_a_large_one(runner):
    assert WorkItem(runner, [Named("", picture(1))]).pixels() == 1600
    assert WorkItem(runner, [Named("", b"broken")] * 1000).pixels() > LARGE_PIXELS
    assert WorkItem(runner, [large_picture(1)]).pixels() > LARGE_PIXELS


def test_large_pictures_that_were_given_up_are_not_decoded(runner, monkeypatch):
    release, begun = blocking(runner, monkeypatch)
    pool = Pool()

    async def leave():
        asks = [asyncio.ensure_future(pool.process(WorkItem(runner, [large_picture(0)] * 3))) for _ in range(9)]
        while not begun:
            await asyncio.sleep(0.01)
        for ask in asks:
            ask.cancel()
        await asyncio.gather(*asks, return_exceptions=True)
        release.set()
        await asyncio.to_thread(pool.close)

    pool.start()
    asyncio.run(leave())
    assert len(begun) <= len(pool.large_threads)


def test_tells_how_long_a_thread_is_at_its_present_picture(runner, monkeypatch):
    release, begun = blocking(runner, monkeypatch, wide=40)
    pool = Pool(threads=1)

    async def measure():
        assert pool.longest_step_s() == 0
        ask = asyncio.ensure_future(pool.process(WorkItem(runner, [Named("", picture(1))] * 2)))
        while not begun:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.3)
        stuck = pool.longest_step_s()
        release.set()
        await ask
        while pool.longest_step_s():
            await asyncio.sleep(0.01)
        return stuck

    pool.start()
    assert 0.25 < asyncio.run(measure()) < 30
    pool.close()


def test_a_pool_that_is_stuck_takes_nothing(runner):
    pool = Pool()
    pool.stuck = True
    with pytest.raises(PoolUnavailable, match="starting again"):
        pool.admit()


@pytest.mark.parametrize("error", [KeyError("x"), RecursionError(), OSError(28, "No space"), AssertionError()])
def test_threads_survive_whatever_work_raises(runner, monkeypatch, error):
    def fail(*_):
        raise error

    pool = Pool(threads=1)
    monkeypatch.setattr("serve.service.pool.prepare_all", fail)
    assert answered(pool, [WorkItem(runner, [Named("", picture(1))]), WorkItem(runner, [large_picture(1)])]) == [error] * 2
    monkeypatch.undo()
    monkeypatch.setattr("serve.service.pool._add_queue_time", fail)
    pool = Pool(threads=1)
    assert answered(pool, [WorkItem(runner, [Named("", picture(1))]), WorkItem(runner, [large_picture(1)])]) == [error] * 2
    assert pool.alive


def test_closing_does_not_wait_for_a_stuck_thread_for_ever(runner, monkeypatch):
    release, begun = blocking(runner, monkeypatch)
    pool = Pool()

    async def stick():
        ask = asyncio.ensure_future(pool.process(WorkItem(runner, [large_picture(0)])))
        while not begun:
            await asyncio.sleep(0.01)
        began = time.monotonic()
        await asyncio.to_thread(pool.close, 0.5)
        waited = time.monotonic() - began
        release.set()
        await asyncio.gather(ask, return_exceptions=True)
        return waited

    pool.start()
    assert 0.4 < asyncio.run(asyncio.wait_for(stick(), 30)) < 10
