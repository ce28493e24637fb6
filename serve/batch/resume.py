"""A file of rows that appears whole or not at all, written in parts that outlive whatever interrupts it.

    OUT.parts/job.json          what was asked for: a run that is resumed must ask for the same
    OUT.parts/lock              held by the run that writes here
    OUT.parts/000000.rows       the first part, and
    OUT.parts/000000.json       how many rows it has, of which images, what failed, and a digest; written after it

Each file is written under another name and renamed, so that what is there is whole. A part without its second file does
not count, nor does a folder without job.json: that is the first to come and the first to go. At the end all parts
become OUT, again under another name first. A part whose size or digest is another than its second file says is computed
again, and all behind it. Nothing is removed that no run wrote.
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

from serve.batch.chunks import Block, identities
from serve.batch.formats import Encoding, arrow_schema, head
from serve.batch.inputs import Source
from serve.messages import say
from zoo.atomic import replacing
from zoo.errors import WrongUsage, ZooError, reason

PART_ROWS = 10_000
PART_SECONDS = 30.0  # a slow run keeps what it has this often

_OURS = re.compile(r"([0-9]{6})\.(rows|json|new)|job\.(json|new)|(part|whole)\.partial|lock")


class OutputError(ZooError):
    """The output cannot be written."""


@dataclass(frozen=True)
class Part:
    """count: rows. size: their bytes. images: digest of which images they answer. failed: sentence → rows."""

    count: int
    size: int
    images: str
    failed: dict[str, int]

    def to_json(self, rows: Any) -> bytes:
        """With a digest of the rows, which `rows` is, and of all that is said about them."""
        return json.dumps(asdict(self) | {"digest": self._digest(rows)}).encode()

    def _digest(self, rows: Any) -> str:
        whole = rows.copy()
        whole.update(json.dumps(asdict(self), sort_keys=True).encode())
        return str(whole.hexdigest())

    @classmethod
    def read(cls, about: Path, rows: Path) -> "Part":
        """A part that is as it was written. Raises ValueError, TypeError or OSError for any other."""
        fields = dict(json.loads(about.read_text(encoding="utf-8")))
        digest, part = fields.pop("digest", None), cls(**fields)
        if (size := rows.stat().st_size) != part.size:
            raise ValueError(f"{size:,} bytes instead of {part.size:,}")
        found = _new_digest()
        with open(rows, "rb") as file:
            while piece := file.read(2**20):
                found.update(piece)
        if part._digest(found) != digest:
            raise ValueError("its digest is another")
        return part


def _new_digest() -> Any:
    return blake2b(digest_size=16)


@dataclass(frozen=True)
class _Open:
    """The part that is being written, size and all that follows as of its last whole block.

    It is replaced and not changed, since Ctrl-C can come between any two steps.
    """

    file: IO[bytes]
    begun: float
    size: int = 0
    count: int = 0
    rows: Any = field(default_factory=_new_digest)
    images: Any = field(default_factory=_new_digest)
    failed: Counter[str] = field(default_factory=Counter)


class Parts:
    """Collects blocks into parts of a file; `finish` puts them together."""

    def __init__(self, out: Path, encoding: Encoding, asked: dict[str, Any], resume: bool, width: int = 0) -> None:
        """Begin, or go on with what is there.

        Args:
            out: the file. asked: all that decides its rows beside the images, as plain JSON types.
            resume: go on with the parts that are there, if any; without it, parts must not be there.
        Raises:
            WrongUsage: parts are there and shall not be resumed, or were asked for otherwise, or another run writes
                them; there is nothing to resume; the folder holds other files. OutputError: it cannot be written.
        """
        self.out, self.encoding, self.width = out, encoding, width
        self.folder = out.with_name(f"{out.name}.parts")
        self.done: list[Part] = []
        self._open: _Open | None = None
        self._job = self.folder / "job.json"
        if resume and out.exists() and not self._job.exists():
            raise WrongUsage(f"{out} is finished, so nothing is left to resume: without --resume it is written anew.")
        with self._as_sentence():
            self.folder.mkdir(exist_ok=True)
            for name in os.listdir(self.folder):
                if not name.startswith(".") and not _OURS.fullmatch(name):
                    raise WrongUsage(f"{self.folder} holds {name}, which no run wrote there: name another file.")
            self._lock = _locked(self.folder / "lock")
            if not self._job.exists():
                self._remove_parts()  # of a run that was killed while it removed them
                self._write_whole(self._job, json.dumps(asked, indent=1).encode())
            elif resume:
                self._go_on(asked)
            else:
                raise WrongUsage(
                    f"{self.folder} holds an unfinished run: --resume goes on with it, or remove the folder."
                )

    def _go_on(self, asked: dict[str, Any]) -> None:
        try:
            begun = dict(json.loads(self._job.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise WrongUsage(f"{self.folder} is damaged ({reason(error)}): remove it to begin again.") from None
        if other := sorted(key for key in begun.keys() | asked.keys() if begun.get(key) != asked.get(key)):
            said = "; ".join(f"{key} was {begun.get(key)} and is {asked.get(key)}" for key in other)
            raise WrongUsage(f"{self.folder} was begun otherwise ({said}): ask for the same, or remove it.")
        there = len(list(self.folder.glob("[0-9]*.json")))
        while len(self.done) < there:
            number = len(self.done)
            try:
                self.done.append(Part.read(self._path(number, "json"), self._path(number, "rows")))
            except (ValueError, TypeError, OSError) as error:
                what = error.strerror if isinstance(error, OSError) else reason(error)
                say(f"zoo: Part {number} in {self.folder} is damaged ({what}): it is done again, with all behind it.")
                break
        self._remove_parts(len(self.done))

    def _remove_parts(self, first: int = 0) -> None:
        for path in list(self.folder.iterdir()):
            if (ours := _OURS.fullmatch(path.name)) and ours[1] and int(ours[1]) >= first:
                path.unlink()

    def remaining(self, sources: Iterator[Source]) -> Iterator[Source]:
        """The images that no part answers yet. Raises WrongUsage where others were answered than are there now."""
        for number, part in enumerate(self.done):
            digest, count = _new_digest(), 0
            for source in islice(sources, part.count):
                digest.update(identities([source]))
                count += 1
            if (count, digest.hexdigest()) != (part.count, part.images):
                first = sum(before.count for before in self.done[:number])
                raise WrongUsage(
                    f"The images have changed since {self.folder} was begun (among number {first + 1} to "
                    f"{first + part.count}): remove it to begin again."
                )
        yield from sources

    def write(self, block: Block) -> None:
        """Add a block to the part that is being written; raises OutputError, for a full disk for one."""
        with self._as_sentence():
            if self._open is None:
                self._open = _Open(open(self.folder / "part.partial", "wb"), time.monotonic())
            part, rows = self._open, self._plain(block.payload)
            part.file.write(rows)
        digest, images = part.rows.copy(), part.images.copy()
        digest.update(rows)
        images.update(block.identities)
        size, count, failed = part.size + len(rows), part.count + block.count, part.failed + block.failed
        self._open = replace(part, size=size, count=count, rows=digest, images=images, failed=failed)
        if count >= PART_ROWS or time.monotonic() - part.begun >= PART_SECONDS:
            self.close_part()

    def close_part(self) -> None:
        """Keep the whole blocks that were written so far."""
        part, self._open = self._open, None  # at once: whoever interrupts this does not begin it again
        if part is None:
            return
        closed = Part(part.count, part.size, part.images.hexdigest(), dict(part.failed))
        with self._as_sentence():
            with part.file:
                part.file.truncate(part.size)
                os.fsync(part.file.fileno())
            if not part.count:
                return
            os.replace(self.folder / "part.partial", self._path(len(self.done), "rows"))
            self._write_whole(self._path(len(self.done), "json"), closed.to_json(part.rows))
        self.done.append(closed)

    def finish(self) -> None:
        """Put the parts together, rename the result to OUT, and remove the parts; without rows there is no OUT."""
        self.close_part()
        if self.done:
            self._put_together()
        with suppress(OSError):
            self._job.unlink()
            self._remove_parts()
            for name in ("part.partial", "lock"):
                (self.folder / name).unlink(missing_ok=True)
            self.folder.rmdir()
        os.close(self._lock)

    def _put_together(self) -> None:
        parts = [self._path(number, "rows") for number in range(len(self.done))]
        with self._as_sentence(), replacing(self.out, self.folder / "whole.partial", sync=True) as partial:
            for path, part in zip(parts, self.done, strict=True):
                if path.stat().st_size != part.size:
                    raise OutputError(f"{path} was changed since it was written: --resume does it again.")
            if self.encoding == "parquet":
                _join_arrow(parts, partial)
            else:
                _join(self._plain(head(self.encoding, self.width)), parts, partial)

    @property
    def kept(self) -> int:
        """Rows in whole parts."""
        return sum(part.count for part in self.done)

    def failed_before(self) -> Counter[str]:
        """What failed in the parts that are there."""
        return sum((Counter(part.failed) for part in self.done), Counter())

    def _plain(self, text: bytes) -> bytes:
        """A table without the colours of a terminal."""
        return click.unstyle(text.decode()).encode() if self.encoding == "table" else text

    def _path(self, number: int, kind: str) -> Path:
        return self.folder / f"{number:06}.{kind}"

    def _write_whole(self, path: Path, content: bytes) -> None:
        with replacing(path, path.with_suffix(".new"), sync=True) as partial:
            partial.write_bytes(content)

    @contextmanager
    def _as_sentence(self) -> Iterator[None]:
        """The system's errors in writing as OutputError."""
        try:
            yield
        except OSError as error:
            if self._open:
                with suppress(OSError):  # the same full disk again
                    self._open.file.close()
                self._open = None
            kept = f" {self.kept:,} rows are kept: --resume goes on with them." if self.done else ""
            raise OutputError(f"{self.out} cannot be written ({error.strerror or reason(error)}).{kept}") from None


def _locked(path: Path) -> int:
    """A descriptor whose file no other process can lock while this one lives. Raises WrongUsage where one has."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    with suppress(ImportError, OSError):  # not every system has locks, nor every file system
        import fcntl

        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            raise WrongUsage(f"Another run writes in {path.parent}: wait for its end, or name another file.") from None
    return descriptor


def _join(start: bytes, parts: Iterable[Path], out: Path) -> None:
    with open(out, "wb") as whole:
        whole.write(start)
        for path in parts:
            with open(path, "rb") as part:
                shutil.copyfileobj(part, whole, 2**20)


def _join_arrow(parts: Iterable[Path], out: Path) -> None:
    """Streams of Arrow, one a block, into a parquet file with a row group a part. Raises OutputError."""
    import pyarrow as pa
    import pyarrow.parquet

    schema = arrow_schema()
    with pyarrow.parquet.ParquetWriter(out, schema) as writer:
        for path in parts:
            batches = []
            try:
                with pa.OSFile(str(path)) as file:
                    while file.tell() < file.size():
                        batches += pa.ipc.open_stream(file).read_all().to_batches()
            except pa.ArrowException:
                raise OutputError(f"{path} was changed since it was written: --resume does it again.") from None
            writer.write_table(pa.Table.from_batches(batches, schema))
