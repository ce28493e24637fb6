"""Many images → an ordered stream of blocks of rows → an output; what the command does, as library functions.

sources → cut into blocks → classified in worker processes → written in the order of the images
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, islice
from typing import Any, Protocol

from serve.batch.chunks import BLOCK, Block, Job, classify, cut, smaller
from serve.batch.inputs import Input, Source, not_images
from serve.batch.workers import Workers
from serve.devices import cores
from serve.messages import say
from zoo.errors import ZooError, reason

FEW = 256  # images for which no process is started
MOST_KINDS = 1000  # of failures that are counted apart; sentences can hold names and numbers


class TooManyErrors(ZooError):
    """More images failed than were to be borne."""


class Output(Protocol):
    """Where blocks go: `serve/batch/resume.py` for files, `serve/batch/outputs.py` for stdout."""

    def remaining(self, sources: Iterator[Source]) -> Iterator[Source]: ...

    def write(self, block: Block) -> None: ...

    def finish(self) -> None: ...


@dataclass
class Summary:
    """count: images answered in this run. failed: sentence without the name → images. empty: arguments without any.

    skipped: files and members of archives that are no images.
    """

    count: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    empty: list[str] = field(default_factory=list)
    seconds: float = 0.0
    skipped: int = 0

    def add(self, block: Block) -> None:
        """Count a block's rows; of failures beyond `MOST_KINDS`, the rarest are counted as one."""
        self.count += block.count
        self.failed += block.failed
        if len(self.failed) > 2 * MOST_KINDS:
            kept = Counter(dict(self.failed.most_common(MOST_KINDS)))
            kept["failed otherwise."] += self.failed.total() - kept.total()
            self.failed = kept

    def told(self) -> str:
        """One line: how many, how fast, what failed most."""
        rate = f"{self.count / self.seconds:,.0f} images/s" if self.seconds else "no time"
        said = f"{self.count:,} image{'s' * (self.count != 1)} in {self.seconds:.2f} s ({rate})"
        if failed := self.failed.total():
            reasons = Counter[str]()
            for sentence, times in self.failed.items():
                reasons[re.sub(r" \([^)]*\)", "", sentence).partition(": ")[0].rstrip(".")[:100]] += times
            most = [f"{times:,} {sentence}" for sentence, times in reasons.most_common(4)]
            more = [f"and {len(reasons) - 4} other reasons"] if len(reasons) > 4 else []
            said += f"; {failed:,} failed: {'; '.join([*most, *more])}"
        return f"{said}; {not_images(self.skipped)}." if self.skipped else f"{said}."


def blocks(sources: Iterable[Source], job: Job, processes: int | None = None) -> Generator[Block, None, None]:
    """Classify; blocks come in the order of the images, and no more than a few are on their way at any time.

    Args:
        processes: how many, by default one for each core that this process may use; for few images none is started.
    Raises:
        WorkerDied: a worker process ended without an answer.
    """
    processes = processes or cores()
    few, cuts = _looked_at(cut(sources))
    if few or (processes == 1 and job.model.device == "cpu"):
        yield from _here(cuts, job)
    elif job.model.device == "cuda":
        from serve.batch.gpu import gpu_blocks

        yield from gpu_blocks(cuts, job, processes)
    else:
        try:
            started = Workers(partial(classify, job), processes)
        except OSError as error:
            say(f"zoo: No worker process can be started ({reason(error)}): one process does all the work.")
            yield from _here(cuts, job)
            return
        with started as workers:
            yield from _here(cuts, job, until=workers.ready)
            yield from workers.answers(cuts)


def _looked_at(cuts: Iterator[list[Source]]) -> tuple[bool, Iterator[list[Source]]]:
    """Whether they are few, which an archive tells only in reading; and all of them."""
    first = list(islice(cuts, FEW // BLOCK + 1))
    return len(first) <= FEW // BLOCK, chain(first, cuts)


def _here(cuts: Iterator[list[Source]], job: Job, until: Callable[[], bool] = lambda: False) -> Iterator[Block]:
    """Classify in this process, in small blocks whose rows are there at once."""
    while not until() and (sources := next(cuts, None)):
        yield from (classify(job, some) for some in smaller([sources]))


def run(
    inputs: list[Input],
    job: Job,
    output: Output,
    max_errors: int | None = None,
    processes: int | None = None,
    watch: Callable[[Block], Any] = lambda block: None,
) -> Summary:
    """Classify all images of `inputs` into `output`.

    Args:
        max_errors: how many images may fail; None for any number.
        watch: told of every block that was written, for a progress bar.
    Raises:
        TooManyErrors, WorkerDied, OutputError. What was written before is kept, if the output keeps it.
    """
    summary, started = Summary(), time.perf_counter()
    sources = output.remaining(_all_of(inputs, summary))
    with closing(blocks(sources, job, processes)) as answered:
        for block in answered:
            failed = summary.failed.total() + block.failed.total()
            if max_errors is not None and failed > max_errors:
                raise TooManyErrors(_too_many(block, max_errors))
            output.write(block)
            summary.add(block)
            watch(block)
    summary.skipped = sum(one.skipped() for one in inputs)
    summary.seconds = time.perf_counter() - started
    output.finish()
    return summary


def _all_of(inputs: list[Input], summary: Summary) -> Iterator[Source]:
    for given in inputs:
        held = False
        for source in given.images():
            held = True
            yield source
        if not held:
            summary.empty.append(given.argument)


def _too_many(block: Block, max_errors: int) -> str:
    borne = "no image may fail" if max_errors == 0 else f"no more than {max_errors} may fail"
    return f"Stopped, since {borne}: {block.first_error}"
