"""Classify many images: sources are split into blocks, classified in worker processes and written in input order.

    inputs → blocks of up to 128 images → rows, formatted in a worker → an output: stdout or a file

`run` does all of it. For few images no process is started, and the rows of each session call are written at once.
"""

from __future__ import annotations

import os
import re
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from hashlib import blake2b
from itertools import chain, islice
from typing import Any, Protocol

from serve.batch.archives import Unreadable
from serve.batch.formats import NAME_WIDTH, Encoding, encode
from serve.batch.inputs import ImageArgument, Source, Url, name_of, not_images, size_in_memory
from serve.batch.parquet_rows import Rows
from serve.devices import cores
from serve.messages import say
from zoo.classification import CHUNK, prepare_all
from zoo.columns import Columns, classify_columns
from zoo.errors import ZooError, reason
from zoo.images.photos import Fit
from zoo.images.read import Named
from zoo.model import Model
from zoo.rows import Prepared
from zoo.scores import Outputs

BLOCK_IMAGES = 128  # that a worker gets at a time: enough to make the cost of sending them negligible
BLOCK_BYTES = 8 * 2**20  # of images that are sent as bytes
MAX_IMAGES_IN_PROCESS = 256  # more images start worker processes
MAX_SUMMARY_KINDS = 4  # error messages in the summary line
OTHER_ERRORS = "other errors"
MAX_FAILURE_KINDS = 1000  # error messages that are counted separately: they can contain names and numbers


class TooManyErrors(ZooError):
    """More images failed than --max-errors allows."""


# One block


@dataclass(frozen=True)
class BatchJob:
    """How images are classified and formatted; every worker gets a copy."""

    model: Model
    top_k: int = 3
    fit: Fit = "crop"
    single: bool = False  # whether an image of several digits is an error
    encoding: Encoding | None = None  # of the rows; None keeps them as `Row` objects
    width: int = NAME_WIDTH  # of the name column, for tables
    identify: bool = False  # whether blocks carry `identities`, with which --resume detects changed inputs


@dataclass(frozen=True)
class Block:
    """The result for consecutive images."""

    payload: Any  # the rows: formatted bytes, or a list of `Row` if the job has no encoding
    count: int
    failed: Counter[str] = field(default_factory=Counter)  # error message without the image's name → number of rows
    first_error: str | None = None  # the complete message
    identities: bytes = b""  # see `identities`

    @classmethod
    def of(cls, columns: Columns, encoding: Encoding | None, width: int, identities: bytes = b"") -> Block:
        """Format and count results."""
        errors = [(error, name) for error, name in zip(columns.errors, columns.names, strict=True) if error is not None]
        failed = Counter(error.removeprefix(f"{name} ") for error, name in errors)
        payload = columns.rows() if encoding is None else encode(columns, encoding, width)
        return cls(payload, len(columns), failed, errors[0][0] if errors else None, identities)


def split(sources: Iterable[Source]) -> Iterator[list[Source]]:
    """Lists of up to `BLOCK_IMAGES` images and about `BLOCK_BYTES` bytes, or of one `Rows`."""
    block: list[Source] = []
    size = 0
    for source in sources:
        if isinstance(source, Rows):
            if block:
                yield block
            yield [source]
            block, size = [], 0
            continue
        block.append(source)
        size += size_in_memory(source)
        if len(block) == BLOCK_IMAGES or size >= BLOCK_BYTES:
            yield block
            block, size = [], 0
    if block:
        yield block


def classify(job: BatchJob, sources: list[Source], run: Callable[[Any], Outputs] | None = None) -> Block:
    """Classify one list of images in this process.

    URLs are downloaded first. A source that cannot be read becomes a row with its error.

    Args:
        run: replaces the session of `job.model` and takes all images in one call.
    """
    downloads: Iterator[Source] = iter(())
    if urls := [source for source in sources if isinstance(source, Url)]:
        from serve.batch.urls import download

        downloads = iter(download(urls))
    images = [next(downloads) if isinstance(source, Url) else source for source in sources]
    readable = [image for image in images if not isinstance(image, Unreadable)]
    prepared = prepare_all(readable, job.model.card.input, job.fit, job.single)
    if len(readable) < len(images):
        results = iter(prepared)
        prepared = [
            Prepared(image.name, None, error=image.error) if isinstance(image, Unreadable) else next(results)
            for image in images
        ]
    columns = classify_columns(job.model, prepared, job.top_k, run)
    return Block.of(columns, job.encoding, job.width, identities(sources) if job.identify else b"")


def identities(sources: list[Source]) -> bytes:
    """A file's name, size and modification time, otherwise the name and a hash of the content; of all images, joined.

    Joined identities of consecutive lists equal those of the whole list.
    """
    return b"".join(map(_identity, sources))


def _identity(source: Source) -> bytes:
    if isinstance(source, Unreadable) and source.original is not None:
        return _identity(source.original)
    name = name_of(source).encode(errors="surrogatepass")
    if isinstance(source, Named):
        return b"%b\0%b\0" % (name, blake2b(source.data, digest_size=8).digest())
    if isinstance(source, str):
        try:
            status = os.stat(source)
        except (OSError, ValueError):
            return name + b"\0none\0"
        return b"%b\0%d %d\0" % (name, status.st_size, status.st_mtime_ns)
    return b"%b\0%b\0" % (name, getattr(source, "version", "").encode())


# All blocks


def classify_blocks(
    sources: Iterable[Source],
    job: BatchJob,
    processes: int | None = None,
    read_in_workers: Callable[[], object] = lambda: None,
) -> Generator[Block, None, None]:
    """Classify; yields blocks in input order and keeps only a few blocks in memory at any time.

    Args:
        sources: Images, read lazily.
        job: How to classify and format them.
        processes: Number of worker processes; one per available core by default. For few images none is started.
        read_in_workers: Called when workers can take tasks, from when on `sources` may give `Rows`.
    Raises:
        WorkerDied: Worker processes keep ending without a result.
    """
    processes = processes or cores()
    is_small, blocks = _peek_size(split(sources))
    if is_small or (processes == 1 and job.model.device == "cpu"):
        yield from _classify_in_process(blocks, job)
    elif job.model.device == "cuda":
        from serve.batch.gpu import gpu_blocks

        yield from gpu_blocks(blocks, job, processes, read_in_workers)
    else:
        from serve.batch.workers import Workers

        try:
            starting = Workers(partial(classify, job), processes)
        except OSError as error:
            say(f"zoo: Cannot start worker processes ({reason(error)}). Continuing with a single process.")
            yield from _classify_in_process(blocks, job)
            return
        with starting as workers:
            yield from _classify_in_process(blocks, job, until=workers.ready)
            read_in_workers()
            yield from workers.results(blocks)


def _peek_size(blocks: Iterator[list[Source]]) -> tuple[bool, Iterator[list[Source]]]:
    """Whether there are at most `MAX_IMAGES_IN_PROCESS` images, and all blocks; archives have no count to look up."""
    limit = MAX_IMAGES_IN_PROCESS // BLOCK_IMAGES
    first = list(islice(blocks, limit + 1))
    return len(first) <= limit, chain(first, blocks)


def _classify_in_process(
    blocks: Iterator[list[Source]], job: BatchJob, until: Callable[[], bool] = lambda: False
) -> Iterator[Block]:
    """Classify in this process, one block per session call, so that rows are written as soon as they exist."""
    while not until() and (sources := next(blocks, None)):
        for start in range(0, len(sources), CHUNK):
            yield classify(job, sources[start : start + CHUNK])


# A run


class Output(Protocol):
    """Where blocks are written: `resume.Parts` for files, `outputs.Stdout` and `outputs.ParquetOnStdout` for stdout."""

    def remaining(self, sources: Iterator[Source]) -> Iterator[Source]: ...

    def write(self, block: Block) -> None: ...

    def finish(self) -> None: ...


@dataclass
class Summary:
    """Counts of a run."""

    count: int = 0  # images classified, failed ones included; rows of an earlier, resumed run are not counted
    failed: Counter[str] = field(default_factory=Counter)  # error message without the image's name → number of images
    empty: list[str] = field(default_factory=list)  # arguments without any image
    seconds: float = 0.0
    skipped: int = 0  # files and archive members that are not images

    def add(self, block: Block) -> None:
        """Count a block's rows; beyond `MAX_FAILURE_KINDS` messages, the rarest are counted together."""
        self.count += block.count
        self.failed += block.failed
        if len(self.failed) > 2 * MAX_FAILURE_KINDS:
            frequent = Counter(dict(self.failed.most_common(MAX_FAILURE_KINDS)))
            frequent[OTHER_ERRORS] += self.failed.total() - frequent.total()
            self.failed = frequent

    def check_errors(self, block: Block, max_errors: int | None) -> None:
        """Raise TooManyErrors if this block brings the failures above the limit."""
        if max_errors is not None and self.failed.total() + block.failed.total() > max_errors:
            limit = "at the first failed image" if max_errors == 0 else f"after more than {max_errors} failed images"
            raise TooManyErrors(f"Stopped {limit}: {block.first_error}")

    def summary_line(self) -> str:
        """One line: number of images, images per second, the most frequent errors."""
        failed = self.failed.total()
        line = f"{self.count:,} image{'s' * (self.count != 1)} in {self.seconds:.2f} s"
        if self.seconds and self.count > failed:
            line += f" ({self.count / self.seconds:,.0f} images/s)"
        if failed:
            line += f"; {failed:,} failed: {self._frequent_errors()}"
        return f"{line}; {not_images(self.skipped)}." if self.skipped else f"{line}."

    def _frequent_errors(self) -> str:
        """The most frequent errors, without names and remedies: `"is empty" (2), "does not exist" (1)`."""
        kinds = Counter[str]()
        for message, times in self.failed.items():
            kind = re.sub(r" \([^)]*\)", "", message).partition(": ")[0]
            kinds[kind.removeprefix("The image ").rstrip(".")[:100]] += times
        rest = kinds.pop(OTHER_ERRORS, 0)
        frequent = kinds.most_common(MAX_SUMMARY_KINDS)
        rest += kinds.total() - sum(times for _, times in frequent)
        if len(frequent) == 1 and not rest:
            return f'"{frequent[0][0]}"'
        parts = [f'"{kind}" ({times:,})' for kind, times in frequent]
        return ", ".join([*parts, f"{OTHER_ERRORS} ({rest:,})"] if rest else parts)


def run(
    inputs: list[ImageArgument],
    job: BatchJob,
    output: Output,
    max_errors: int | None = None,
    processes: int | None = None,
    on_block: Callable[[Block], Any] = lambda block: None,
) -> Summary:
    """Classify all images of `inputs` and write the rows to `output`.

    Args:
        inputs: As `serve.batch.inputs.expand` returns them.
        job: How to classify and format the images.
        output: Receives the blocks in input order.
        max_errors: How many images may fail; None for any number.
        processes: As for `classify_blocks`.
        on_block: Called with every block that was written, for example to move a progress bar.
    Raises:
        TooManyErrors, WorkerDied, OutputError. Rows written before the error stay in the output.
    """
    summary, started = Summary(), time.perf_counter()
    sources = output.remaining(_iterate_sources(inputs, summary))

    def read_in_workers(enabled: bool) -> None:
        for argument in inputs:
            argument.read_in_workers(enabled)

    try:
        with closing(classify_blocks(sources, job, processes, partial(read_in_workers, True))) as blocks:
            for block in blocks:
                summary.check_errors(block, max_errors)
                output.write(block)
                summary.add(block)
                on_block(block)
    finally:
        read_in_workers(False)
    summary.skipped = sum(argument.skipped() for argument in inputs)
    summary.seconds = time.perf_counter() - started
    output.finish()
    return summary


def _iterate_sources(inputs: list[ImageArgument], summary: Summary) -> Iterator[Source]:
    for argument in inputs:
        is_empty = True
        for source in argument.images():
            is_empty = False
            yield source
        if is_empty:
            summary.empty.append(argument.text)
