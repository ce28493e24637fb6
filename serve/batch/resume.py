"""Write the output file OUT atomically, and in parts, so that an interrupted run can be resumed.

    OUT.parts/job.json          the options of the run; a resumed run must use the same
    OUT.parts/lock              locked by the process that writes here
    OUT.parts/000000.rows       rows of the first part
    OUT.parts/000000.json       its metadata, written after the rows: number of rows, digests of images and rows, errors

Every file is written under a temporary name and renamed, so that files with their final names are complete. Parts
without metadata and folders without job.json are ignored; job.json is created first and deleted first. At the end all
parts are joined, under a temporary name, and renamed to OUT. If the size or digest of a part does not match its
metadata, that part and all later ones are computed again. Files that no run has written are never deleted.
"""

import json
import os
import re
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import IO, Any

import click

from serve.batch.formats import Encoding, header
from serve.batch.inputs import Source
from serve.batch.pipeline import Block, identities
from serve.messages import say
from zoo.atomic import replacing
from zoo.errors import WrongUsage, ZooError, reason

PART_ROWS = 10_000
PART_SECONDS = 30.0  # slow runs save a part this often

PART_FILE = re.compile(r"([0-9]{6})\.(rows|json|new)|job\.(json|new)|(part|whole)\.partial|lock")


class OutputError(ZooError):
    """The output cannot be written."""


@dataclass(frozen=True)
class OutputPart:
    """Metadata of a finished part."""

    count: int  # rows
    size: int  # bytes
    images: str  # digest of the images' identities
    failed: dict[str, int]  # error message without the image's name → number of rows

    def to_json(self, rows_hash: Any) -> bytes:
        """The fields and a digest of them and the rows; `rows_hash` is the hash object of the rows."""
        return json.dumps(asdict(self) | {"digest": self._digest(rows_hash)}).encode()

    def _digest(self, rows_hash: Any) -> str:
        total_hash = rows_hash.copy()
        total_hash.update(json.dumps(asdict(self), sort_keys=True).encode())
        return str(total_hash.hexdigest())

    @classmethod
    def read(cls, metadata: Path, rows: Path) -> "OutputPart":
        """Read and check a part. Raises ValueError, TypeError or OSError if it is not as it was written."""
        fields = dict(json.loads(metadata.read_text(encoding="utf-8")))
        digest, part = fields.pop("digest", None), cls(**fields)
        if (size := rows.stat().st_size) != part.size:
            raise ValueError(f"{size:,} bytes instead of {part.size:,}")
        rows_hash = _new_hash()
        with open(rows, "rb") as file:
            while piece := file.read(2**20):
                rows_hash.update(piece)
        if part._digest(rows_hash) != digest:
            raise ValueError("wrong digest")
        return part


def _new_hash() -> Any:
    return blake2b(digest_size=16)


@dataclass(frozen=True)
class _OpenPart:
    """The part that is being written. Replaced, never changed, because Ctrl-C can come between any two statements."""

    file: IO[bytes]
    started: float
    # As of the last complete block:
    size: int = 0
    count: int = 0
    rows_hash: Any = field(default_factory=_new_hash)
    images_hash: Any = field(default_factory=_new_hash)
    failed: Counter[str] = field(default_factory=Counter)


class Parts:
    """Writes blocks into parts; `finish` joins them into the output file."""

    def __init__(self, out: Path, encoding: Encoding, options: dict[str, Any], resume: bool, width: int = 0) -> None:
        """Start a run, or resume one.

        Args:
            out: The output file.
            encoding: Format of the rows.
            options: Everything that decides the rows besides the images, as plain JSON types.
            resume: Continue with existing parts, if any; without it, existing parts are an error.
            width: Of a table's name column.
        Raises:
            WrongUsage: There are parts and `resume` is not set; they were written with other options; another run is
                writing them; the output file is complete; the folder contains other files.
            OutputError: The output cannot be written.
        """
        self.out, self.encoding, self.width = out, encoding, width
        self.folder = out.with_name(f"{out.name}.parts")
        self.done: list[OutputPart] = []
        self._open: _OpenPart | None = None
        self._options_path = self.folder / "job.json"
        if resume and out.exists() and not self._options_path.exists():
            raise WrongUsage(f"Nothing to resume: {out} is complete. To write it again, leave out --resume.")
        with self._raise_output_errors():
            self.folder.mkdir(exist_ok=True)
            for name in os.listdir(self.folder):
                if not name.startswith(".") and not PART_FILE.fullmatch(name):
                    raise WrongUsage(
                        f"{self.folder} contains {name}, which is not part of a run: choose another output file."
                    )
            self._lock = _lock_file(self.folder / "lock")
            if not self._options_path.exists():
                self._remove_parts()  # left by a run that was killed while it deleted them
                self._write_atomically(self._options_path, json.dumps(options, indent=1).encode())
            elif resume:
                self._resume(options)
            else:
                raise WrongUsage(f"{self.saved_in} contains an unfinished run: add --resume, or delete the folder.")

    def _resume(self, options: dict[str, Any]) -> None:
        try:
            old = dict(json.loads(self._options_path.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise WrongUsage(f"{self.saved_in}/job.json is damaged ({reason(error)}): delete the folder.") from None
        if changed := sorted(key for key in old.keys() | options.keys() if old.get(key) != options.get(key)):
            changes = ", ".join(f"{key} {old.get(key)}, now {options.get(key)}" for key in changed)
            raise WrongUsage(
                f"{self.saved_in} was started with other options ({changes}). Use the same options or delete it."
            )
        count = len(list(self.folder.glob("[0-9]*.json")))
        while len(self.done) < count:
            number = len(self.done)
            try:
                self.done.append(OutputPart.read(self._path(number, "json"), self._path(number, "rows")))
            except (ValueError, TypeError, OSError) as error:
                cause = error.strerror if isinstance(error, OSError) else reason(error)
                say(f"zoo: Part {number} in {self.saved_in} is damaged ({cause}). Computing it and later parts again.")
                break
        self._remove_parts(len(self.done))

    def _remove_parts(self, first: int = 0) -> None:
        for path in list(self.folder.iterdir()):
            if (match := PART_FILE.fullmatch(path.name)) and match[1] and int(match[1]) >= first:
                path.unlink()

    def remaining(self, sources: Iterator[Source]) -> Iterator[Source]:
        """The images that no part contains yet. Raises WrongUsage if images of a part have changed."""
        for number, part in enumerate(self.done):
            images_hash, count = _new_hash(), 0
            for source in islice(sources, part.count):
                images_hash.update(identities([source]))
                count += 1
            if (count, images_hash.hexdigest()) != (part.count, part.images):
                first = sum(before.count for before in self.done[:number])
                raise WrongUsage(
                    f"The input images have changed since {self.saved_in} was started (among images {first + 1} to "
                    f"{first + part.count}). Delete the folder to start again."
                )
        yield from sources

    def write(self, block: Block) -> None:
        """Append a block to the open part. Raises OutputError, for example for a full disk."""
        with self._raise_output_errors():
            if self._open is None:
                self._open = _OpenPart(open(self.folder / "part.partial", "wb"), time.monotonic())
            part, rows = self._open, self._without_colours(block.payload)
            part.file.write(rows)
        rows_hash, images_hash = part.rows_hash.copy(), part.images_hash.copy()
        rows_hash.update(rows)
        images_hash.update(block.identities)
        self._open = replace(
            part,
            size=part.size + len(rows),
            count=part.count + block.count,
            rows_hash=rows_hash,
            images_hash=images_hash,
            failed=part.failed + block.failed,
        )
        if self._open.count >= PART_ROWS or time.monotonic() - part.started >= PART_SECONDS:
            self.close_part()

    def close_part(self) -> None:
        """Save the complete blocks of the open part."""
        part, self._open = self._open, None  # first, so that an interruption cannot close it twice
        if part is None:
            return
        closed = OutputPart(part.count, part.size, part.images_hash.hexdigest(), dict(part.failed))
        with self._raise_output_errors():
            with part.file:
                part.file.truncate(part.size)
                os.fsync(part.file.fileno())
            if not part.count:
                return
            os.replace(self.folder / "part.partial", self._path(len(self.done), "rows"))
            self._write_atomically(self._path(len(self.done), "json"), closed.to_json(part.rows_hash))
        self.done.append(closed)

    def finish(self) -> None:
        """Join the parts into the output file and delete them; without rows no file is written."""
        self.close_part()
        if self.done:
            self._join_parts()
        with suppress(OSError):
            self._options_path.unlink()
            self._remove_parts()
            for name in ("part.partial", "lock"):
                (self.folder / name).unlink(missing_ok=True)
            self.folder.rmdir()
        os.close(self._lock)

    def _join_parts(self) -> None:
        parts = [self._path(number, "rows") for number in range(len(self.done))]
        with self._raise_output_errors(), replacing(self.out, self.folder / "whole.partial", sync=True) as partial:
            for path, part in zip(parts, self.done, strict=True):
                if path.stat().st_size != part.size:
                    raise OutputError(f"{path} has changed since it was written. Run again with --resume.")
            if self.encoding == "parquet":
                _join_arrow(parts, partial)
            else:
                _join_bytes(self._without_colours(header(self.encoding, self.width)), parts, partial)

    @property
    def saved_in(self) -> str:
        """Where finished parts are."""
        return str(self.folder)

    def release(self) -> None:
        """Called when the run has ended, also by an error."""

    @property
    def saved_rows(self) -> int:
        """Number of rows in finished parts."""
        return sum(part.count for part in self.done)

    def failed(self) -> Counter[str]:
        """Errors in finished parts: message without the image's name → number of rows."""
        return sum((Counter(part.failed) for part in self.done), Counter())

    def _without_colours(self, text: bytes) -> bytes:
        return click.unstyle(text.decode()).encode() if self.encoding == "table" else text

    def _path(self, number: int, kind: str) -> Path:
        return self.folder / f"{number:06}.{kind}"

    def _write_atomically(self, path: Path, content: bytes) -> None:
        with replacing(path, path.with_suffix(".new"), sync=True) as partial:
            partial.write_bytes(content)

    @contextmanager
    def _raise_output_errors(self) -> Iterator[None]:
        """Turn OSError into OutputError."""
        try:
            yield
        except OSError as error:
            if self._open:
                with suppress(OSError):  # fails again if the disk is full
                    self._open.file.close()
                self._open = None
            saved = f" {self.saved_rows:,} rows are saved: continue with --resume." if self.done else ""
            raise OutputError(f"Cannot write {self.out} ({error.strerror or reason(error)}).{saved}") from None


def _lock_file(path: Path) -> int:
    """Lock a file for the lifetime of this process; returns its descriptor. Raises WrongUsage if it is locked."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    with suppress(ImportError, OSError):  # some systems and file systems have no locks
        import fcntl

        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            raise WrongUsage(
                f"Another run is writing to {path.parent}: wait for it, or choose another output file."
            ) from None
    return descriptor


def _join_bytes(start: bytes, parts: Iterable[Path], out: Path) -> None:
    with open(out, "wb") as file:
        file.write(start)
        for path in parts:
            with open(path, "rb") as part:
                shutil.copyfileobj(part, file, 2**20)


def _join_arrow(parts: Iterable[Path], out: Path) -> None:
    """Arrow streams, one per block, into a parquet file with one row group per part. Raises OutputError."""
    import pyarrow as pa
    import pyarrow.parquet

    from zoo.arrow import arrow_schema

    schema = arrow_schema()
    with pyarrow.parquet.ParquetWriter(out, schema) as writer:
        for path in parts:
            batches = []
            try:
                with pa.OSFile(str(path)) as file:
                    while file.tell() < file.size():
                        batches += pa.ipc.open_stream(file).read_all().to_batches()
            except pa.ArrowException:
                raise OutputError(f"{path} has changed since it was written. Run again with --resume.") from None
            writer.write_table(pa.Table.from_batches(batches, schema))
