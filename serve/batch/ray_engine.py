"""`zoo predict --engine ray`: blocks of images are classified on a Ray cluster, each into a parquet file of its own.

    OUT/000000.parquet ...   rows of block 0, in input order; a block's number and images depend on the arguments alone
    OUT/_job.json            the options of the run and a digest of its blocks; a resumed run must have the same
    OUT/_lock                held by the run that writes here
    OUT/_attempts/000000     how often a block was started
    OUT/_SUCCESS             written last: the number of rows

A block is 2,000 images, or one archive or parquet file, which the machine that classifies it reads itself. Its file
appears whole or not at all, and writing it again gives the same file. So whatever Ray repeats after a machine was lost,
no row is lost and none is written twice; and `--resume` leaves out the blocks whose file exists.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any

from serve.batch.archives import Archive, Unreadable, archive_at
from serve.batch.inputs import ImageArgument, Options, Source, StoredObject, Url, _is_url, expand, is_stored, name_of
from serve.batch.pipeline import BatchJob, Block, Summary, TooManyErrors, classify, identities, split
from serve.batch.remote import LazyArchive
from serve.batch.resume import OutputError, _lock_file
from serve.messages import say
from zoo.arrow import arrow_schema
from zoo.atomic import replacing
from zoo.classifier import Classifier
from zoo.errors import BadInput, WrongUsage, ZooError, reason
from zoo.images.read import Named

BLOCK_IMAGES = 2000
MAX_ATTEMPTS = 2  # of a block in the actor itself; after that each image is classified in a process of its own
ERROR = "error"
JOB, LOCK, SUCCESS, ATTEMPTS = "_job.json", "_lock", "_SUCCESS", "_attempts"


class EngineError(ZooError):
    """The cluster cannot be used, or a block failed on it."""

    exit_code = 3


# Blocks. They are sent as JSON: kind and name of each image, and what else is needed to read it.


def blocks_of(inputs: Iterable[ImageArgument]) -> Iterator[list[list[Any]]]:
    """The images of all arguments, in blocks.

    Raises:
        BadInput: an argument that only this process can read.
    """
    block: list[list[Any]] = []
    for argument in inputs:
        for source in argument.sources if argument.sources is not None else argument.parts:
            item = _to_json(source)
            if isinstance(source, Archive):
                if block:
                    yield block
                yield [item]
                block = []
                continue
            block.append(item)
            if len(block) == BLOCK_IMAGES:
                yield block
                block = []
    if block:
        yield block


def _to_json(source: Source | Archive) -> list[Any]:
    if isinstance(source, LazyArchive) and (stored := source.stored):
        return ["stored archive", stored.name, stored.size, stored.version]
    if isinstance(source, Archive):
        return ["archive of a URL" if _is_url(source.path) else "archive", source.path]
    if isinstance(source, str):
        return ["file", source]
    if isinstance(source, StoredObject):
        return ["object", source.name, source.size, source.version]
    if isinstance(source, Url):
        return ["url", source.name]
    if isinstance(source, Unreadable):
        return [ERROR, source.name, source.error]
    raise BadInput(f"{name_of(source)} is read from stdin, which the machines of a cluster do not have: use a file.")


def _from_json(item: list[Any], options: Options) -> Iterator[Source]:
    kind, name, *rest = item
    if kind == "archive":  # not through `expand`, for which a name can be a pattern or a list
        yield from archive_at(name, options.bounds, options.column) or (name,)
    elif kind == "stored archive":
        from serve.batch.stores import lazy_archive

        yield from lazy_archive(StoredObject(name, *rest), options.bounds, options.column)
    elif kind == "archive of a URL":
        try:
            yield from expand(name, options).images()
        except ZooError as error:
            yield Unreadable(name, str(error))
    else:
        make: dict[str, Callable[..., Source]] = {"file": str, "object": StoredObject, "url": Url, ERROR: Unreadable}
        yield make[kind](name, *rest)


# On the machines of the cluster


@dataclass(frozen=True)
class EngineJob:
    """What every process of the cluster needs."""

    job: BatchJob
    options: Options
    out: str
    working_directory: str
    max_megapixels: str | None


class BlockWriter:
    """Classifies blocks and writes their files; one instance per process."""

    def __init__(self, job: EngineJob) -> None:
        with suppress(OSError):  # names of files are relative to it
            os.chdir(job.working_directory)
        if job.max_megapixels is not None:
            os.environ["ZOO_MAX_MEGAPIXELS"] = job.max_megapixels
        self._job, self._out = job, output_folder(job.out)
        self._classifier = Classifier(job.job.model, job.job.top_k, job.job.fit, single=job.job.single)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        """Columns `block` and `images` → `block`, `rows`, `failed`: messages and their numbers, as JSON."""
        results: dict[str, list[Any]] = {"block": [], "rows": [], "failed": []}
        for number, text in zip(batch["block"], batch["images"], strict=True):
            rows, failed = self._write(int(number), json.loads(str(text)))
            for name, value in (("block", int(number)), ("rows", rows), ("failed", json.dumps(failed))):
                results[name].append(value)
        return results

    def _write(self, number: int, items: list[list[Any]]) -> tuple[int, Counter[str]]:
        import pyarrow.parquet

        attempts = self._out.count_attempt(number)
        sources = (source for item in items for source in _from_json(item, self._job.options))
        tables = self._tables(sources) if attempts <= MAX_ATTEMPTS else self._tables_of_isolated(sources)
        rows, failed = 0, Counter[str]()
        with self._out.new_file(file_of(number)) as path:
            with pyarrow.parquet.ParquetWriter(path, arrow_schema()) as writer:
                for table in tables:
                    writer.write_table(table)
                    rows += table.num_rows
                    errors = table.filter(table[ERROR].is_valid()).select(["input", ERROR]).to_pylist()
                    failed += Counter(row[ERROR].removeprefix(f"{row['input']} ") for row in errors)
        self._out.remove(f"{ATTEMPTS}/{number:06}")
        return rows, failed

    def _tables(self, sources: Iterator[Source]) -> Iterator[Any]:
        for block in split(sources):
            yield self._classifier(_columns(block))

    def _tables_of_isolated(self, sources: Iterator[Source]) -> Iterator[Any]:
        """The same in a process of its own, which finds an image that crashes it and reports it as a row."""
        import pyarrow as pa

        from serve.batch.workers import Workers

        with Workers(partial(classify, self._job.job), 1) as workers:
            workers.wait_until_ready()
            for block in workers.results(split(sources)):
                yield pa.ipc.open_stream(block.payload).read_all()


def _columns(sources: list[Source]) -> dict[str, list[Any]]:
    """The batch of `zoo.Classifier` for sources; URLs and objects are read first."""
    downloads: Iterator[Source] = iter(())
    if urls := [source for source in sources if isinstance(source, Url)]:
        from serve.batch.urls import download

        downloads = iter(download(urls))
    images = [next(downloads) if isinstance(source, Url) else source for source in sources]
    return {
        "path": [name_of(image) for image in images],
        "bytes": [image.data if isinstance(image, Named) else None for image in images],
        ERROR: [image.error if isinstance(image, Unreadable) else None for image in images],
    }


def file_of(number: int) -> str:
    return f"{number:06}.parquet"


# The output folder


class LocalFolder:
    """A folder that all machines see, for example on a network file system."""

    def __init__(self, path: str) -> None:
        self.path = Path(path)

    def open(self) -> Callable[[], None]:
        """Create and lock the folder; returns what unlocks it. Raises WrongUsage or OutputError."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            descriptor = _lock_file(self.path / LOCK)
        except OSError as error:
            raise OutputError(f"Cannot write {self.path} ({error.strerror or reason(error)}).") from None

        def release() -> None:
            (self.path / LOCK).unlink(missing_ok=True)
            os.close(descriptor)

        return release

    def names(self) -> list[str]:
        return sorted(entry.name for entry in self.path.iterdir())

    def read(self, name: str) -> bytes:
        return (self.path / name).read_bytes()

    def write(self, name: str, content: bytes) -> None:
        with replacing(self.path / name) as partial_file:
            partial_file.write_bytes(content)

    def new_file(self, name: str) -> Any:
        """A context with a path to write to; the file has its name after it."""
        partial_file = self.path / f".{name}.{os.uname().nodename}-{os.getpid()}"
        return replacing(self.path / name, partial_file, sync=True)

    def remove(self, name: str) -> None:
        (self.path / name).unlink(missing_ok=True)

    def count_attempt(self, number: int) -> int:
        folder = self.path / ATTEMPTS
        folder.mkdir(exist_ok=True)
        with open(folder / f"{number:06}", "ab") as file:
            file.write(b".")
            return file.tell()

    def failed_rows(self, name: str) -> tuple[int, int]:
        """Rows of a finished block, and how many of them are errors."""
        return _failed_rows(self.path / name)


class StoreFolder:
    """A prefix in an object store."""

    def __init__(self, address: str) -> None:
        from serve.batch.stored_output import StoredFiles

        self._files = StoredFiles(address)
        self.read, self.remove = self._files.read, self._files.remove
        self.write: Callable[[str, bytes], None] = self._files.write

    def open(self) -> Callable[[], None]:
        from serve.batch.stored_output import Lock

        return Lock(self._files, LOCK).release

    def names(self) -> list[str]:
        return self._files.list()

    @contextmanager
    def new_file(self, name: str) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="zoo-") as folder:
            path = Path(folder) / name
            yield path
            self._files.upload(path, name)

    def count_attempt(self, number: int) -> int:
        name, count = f"{ATTEMPTS}/{number:06}", 1
        with suppress(FileNotFoundError, ValueError):
            count += int(self._files.read(name))
        self._files.write(name, str(count).encode())
        return count

    def failed_rows(self, name: str) -> tuple[int, int]:
        with tempfile.TemporaryDirectory(prefix="zoo-") as folder:
            self._files.download(name, Path(folder) / name)
            return _failed_rows(Path(folder) / name)


def _failed_rows(path: Path) -> tuple[int, int]:
    import pyarrow.parquet

    errors = pyarrow.parquet.read_table(path, columns=[ERROR])[ERROR]
    return len(errors), len(errors) - errors.null_count


def output_folder(out: str) -> LocalFolder | StoreFolder:
    return StoreFolder(out) if is_stored(out) else LocalFolder(out)


# The run


def run_on_ray(
    inputs: list[ImageArgument],
    job: BatchJob,
    options: Options,
    out: str,
    row_options: dict[str, Any],
    resume: bool = False,
    max_errors: int | None = None,
    processes: int | None = None,
) -> tuple[Summary, bool]:
    """Classify all images on the cluster of `RAY_ADDRESS`, or on a local one.

    Args:
        inputs: As `serve.batch.inputs.expand` returns them. Local files must be at the same path on each machine.
        job: How to classify the images.
        options: How archives are read.
        out: The output folder, or a prefix in an object store.
        row_options: Everything that decides the rows besides the images; --resume requires that it has not changed.
        resume: Continue an interrupted run.
        max_errors: How many images may fail; None for any number.
        processes: Number of processes; by default one per core of the cluster.
    Returns:
        The counts of this run, and whether images failed in this run or the one it resumes.
    Raises:
        WrongUsage, BadInput, OutputError, EngineError, TooManyErrors.
    """
    blocks = [json.dumps(block) for block in blocks_of(inputs)]
    folder = output_folder(out)
    release = folder.open()
    try:
        done = _check_folder(folder, out, blocks, row_options, resume)
        engine_job = EngineJob(job, options, out, os.getcwd(), os.environ.get("ZOO_MAX_MEGAPIXELS"))
        summary, started = Summary(), time.perf_counter()
        todo = [{"block": n, "images": text} for n, text in enumerate(blocks) if file_of(n) not in done]
        finished = [folder.failed_rows(name) for name in sorted(done)]
        for row in _run_blocks(todo, engine_job, processes) if todo else ():
            block = Block(None, row["rows"], Counter(json.loads(row["failed"])), None)
            summary.add(block)
            if max_errors is not None and summary.failed.total() > max_errors:
                message = next(iter(summary.failed))
                raise TooManyErrors(f"Stopped after {summary.failed.total()} failed images: {message}")
        summary.seconds = time.perf_counter() - started
        rows = summary.count + sum(count for count, _ in finished)
        folder.write(SUCCESS, json.dumps({"rows": rows, "blocks": len(blocks)}).encode())
    except (KeyboardInterrupt, SystemExit, TooManyErrors, EngineError):
        say(f"zoo: Finished blocks are saved in {out}. Continue with --resume.")
        raise
    finally:
        release()
    return summary, bool(summary.failed or any(failed for _, failed in finished))


def _check_folder(
    folder: LocalFolder | StoreFolder, out: str, blocks: list[str], row_options: dict[str, Any], resume: bool
) -> set[str]:
    """Names of the finished blocks' files. Raises WrongUsage."""
    digest = blake2b(digest_size=16)
    for text in blocks:
        digest.update(text.encode())
        digest.update(_file_identities(text))
    description = json.dumps(row_options | {"blocks": len(blocks), "images": digest.hexdigest()}, indent=1)
    names = [name for name in folder.names() if name != LOCK and not name.startswith(".")]
    if JOB not in names:
        if names:
            raise WrongUsage(f"{out} contains {names[0]}, which is not part of a run: choose another folder.")
        folder.write(JOB, description.encode())
        return set()
    if SUCCESS in names:
        raise WrongUsage(f"{out} is complete. To write it again, choose another folder or delete it.")
    if not resume:
        raise WrongUsage(f"{out} contains an unfinished run: add --resume, or delete the folder.")
    try:
        old, new = json.loads(folder.read(JOB)), json.loads(description)
    except ValueError as error:
        raise WrongUsage(f"{out}/{JOB} is damaged ({reason(error)}): delete the folder.") from None
    if changed := sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key)):
        changes = ", ".join(f"{key} {old.get(key)}, now {new.get(key)}" for key in changed)
        raise WrongUsage(f"{out} was started with other options or images ({changes}). Use the same, or delete it.")
    return set(names) & {file_of(number) for number in range(len(blocks))}


def _file_identities(text: str) -> bytes:
    """Sizes and times of the local files of a block."""
    return identities([name for kind, name, *_ in json.loads(text) if kind in ("file", "archive")])


def _run_blocks(blocks: list[dict[str, Any]], job: EngineJob, processes: int | None) -> Iterator[dict[str, Any]]:
    """Run blocks on the cluster; yields the result of each. Raises EngineError."""
    ray = _connect()
    from ray.data import ActorPoolStrategy, DataContext, from_items

    DataContext.get_current().enable_progress_bars = False
    for name in ("ray.data", "ray.data.dataset"):  # it announces each step on stderr
        logging.getLogger(name).setLevel(logging.ERROR)
    cores = max(1, int(ray.cluster_resources().get("CPU", 1)))
    size = min(processes or cores, len(blocks))
    dataset = from_items(blocks, override_num_blocks=len(blocks)).map_batches(
        BlockWriter,
        fn_constructor_args=(job,),
        batch_size=1,
        compute=ActorPoolStrategy(min_size=1, max_size=size, initial_size=size),
        num_cpus=1,
    )
    try:
        yield from dataset.iter_rows()
    except Exception as error:
        raise EngineError(f"A block failed on the cluster ({_cause(error)}).") from None


def _cause(error: BaseException) -> str:
    """The last line of a remote traceback, which names the class and message of the error in our code."""
    remote = str(error).partition("The above exception was the direct cause")[0]  # then come Ray's hints
    lines = [line for line in remote.splitlines() if line.strip()]
    return reason(ValueError(lines[-1])) if lines else type(error).__name__


def _connect() -> Any:
    """Connect to the cluster of RAY_ADDRESS, or start one here, without dashboard and usage reports."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # the coming default; unset, Ray warns
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    try:
        import ray
    except ImportError:
        raise EngineError("--engine ray needs Ray: pip install 'pocketzoo[cluster]'.") from None
    if not ray.is_initialized():
        address = os.environ.get("RAY_ADDRESS")
        try:
            options: dict[str, Any] = {} if address else {"include_dashboard": False}
            ray.init(address=address or "local", log_to_driver=False, logging_level=logging.ERROR, **options)
        except Exception as error:
            where = f"The Ray cluster at {address} cannot be reached" if address else "Ray cannot be started"
            raise EngineError(f"{where} ({reason(error)}).") from None
    return ray


__all__ = ["BlockWriter", "EngineError", "EngineJob", "blocks_of", "run_on_ray"]
