"""On a GPU: worker processes decode and correct, this process classifies in batches whose size is measured.

Tested with the CPU in the GPU's place; it has not been run on a GPU yet.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial

import numpy as np

from serve.blocks import Block, Job, encoded, identities, ready
from serve.sources import Source
from serve.workers import Workers
from zoo.binding import Bound
from zoo.card import Input
from zoo.photos import Fit
from zoo.rows import Prepared

SIZES = (64, 128, 256, 512, 1024, 2048)
ENOUGH = 0.95  # of the best rate: the smallest batch that gives it
TRIALS = 5


def gpu_blocks(cuts: Iterable[list[Source]], job: Job, processes: int) -> Iterator[Block]:
    """As `serve.batch.blocks`; a block is what one batch of the GPU holds."""
    bound = job.model.bind(best_batch(lambda size: job.model.bind(size), job.model.card.input.shape))
    work = partial(prepare_block, job.model.card.input, job.fit, job.identify)  # without the model: it stays here
    with Workers(work, processes) as workers:
        prepared: list[Prepared] = []
        told = b""
        for some, digests in workers.answers(cuts):
            prepared += some
            told += digests
            if len(prepared) + len(some) > bound.batch:  # the next block would not fit
                yield _answered(job, prepared, told, bound)
                prepared, told = [], b""
        if prepared:
            yield _answered(job, prepared, told, bound)


def prepare_block(expected: Input, fit: Fit, identify: bool, sources: list[Source]) -> tuple[list[Prepared], bytes]:
    """What a worker does: images as the network takes them, and which they were."""
    return ready(sources, expected, fit), identities(sources) if identify else b""


def _answered(job: Job, prepared: list[Prepared], told: bytes, bound: Bound) -> Block:
    rows = [
        row
        for start in range(0, len(prepared), bound.batch)
        for row in job.model.answer(prepared[start : start + bound.batch], job.top_k, bound)
    ]
    return encoded(job, rows, told)


def best_batch(
    bind: Callable[[int], Bound], shape: tuple[int, ...], clock: Callable[[], float] = time.perf_counter
) -> int:
    """The smallest of `SIZES` that reaches `ENOUGH` of the best images/s: best of `TRIALS` runs each, after one."""
    rates = {}
    for size in SIZES:
        bound, images = bind(size), np.zeros((size, *shape), np.uint8)
        bound.run(images)
        times = []
        for _ in range(TRIALS):
            started = clock()
            bound.run(images)
            times.append(clock() - started)
        rates[size] = size / min(times)
    return min(size for size, rate in rates.items() if rate >= ENOUGH * max(rates.values()))
