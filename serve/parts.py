"""A file of rows that appears whole or not at all, written in parts that outlive whatever interrupts it.

    OUT.parts/job.json          what was asked for: a run that is resumed must ask for the same
    OUT.parts/000000.rows       the first part, and
    OUT.parts/000000.json       how many rows it has, of which images, and what failed; written after it

Each file is written under another name and renamed, so that what is there is whole. A part without its second file does
not count. At the end all parts become OUT, again under another name first.
"""

import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import IO, Any

import click

from serve.blocks import Block, identities
from serve.encodings import Encoding, arrow_schema, head
from serve.sources import Source
from zoo.errors import ZooError, reason

PART_ROWS = 10_000
PART_SECONDS = 30.0  # a slow run keeps what it has this often


class OutputError(ZooError):
    """The output cannot be written, or an unfinished one does not fit."""


@dataclass(frozen=True)
class Part:
    """count: rows. images: digest of which images they answer. failed: sentence → rows."""

    count: int
    images: str
    failed: dict[str, int]


@dataclass
class _Open:
    """The part that is being written."""

    file: IO[bytes]
    begun: float
    count: int = 0
    images: Any = field(default_factory=lambda: blake2b(digest_size=16))
    failed: Counter[str] = field(default_factory=Counter)


class Parts:
    """Collects blocks into parts of a file; `finish` puts them together."""

    def __init__(self, out: Path, encoding: Encoding, asked: dict[str, Any], resume: bool, width: int = 0) -> None:
        """Begin, or go on with what is there.

        Args:
            out: the file. asked: all that decides its rows beside the images, as plain JSON types.
            resume: go on with the parts that are there, if any; without it, parts must not be there.
        Raises:
            OutputError: parts are there and shall not be resumed, or were asked for otherwise.
        """
        if out.is_dir():
            raise OutputError(f"{out} is a folder: name a file.")
        self.out, self.encoding, self.width = out, encoding, width
        self.folder = out.with_name(f"{out.name}.parts")
        self.done: list[Part] = []
        self._open: _Open | None = None
        with self._as_sentence():
            if not out.parent.is_dir():
                raise OutputError(f"{out} cannot be written: there is no folder {out.parent}.")
            if self.folder.exists():
                self._go_on(asked, resume)
            else:
                self.folder.mkdir()
                self._write_whole(self.folder / "job.json", json.dumps(asked, indent=1).encode())

    def _go_on(self, asked: dict[str, Any], resume: bool) -> None:
        if not resume:
            raise OutputError(f"{self.folder} holds an unfinished run: --resume goes on with it, or remove the folder.")
        try:
            begun = json.loads((self.folder / "job.json").read_text(encoding="utf-8"))
            for number in range(len(list(self.folder.glob("*.json"))) - 1):
                self.done.append(Part(**json.loads(self._path(number, "json").read_text(encoding="utf-8"))))
        except (ValueError, TypeError, KeyError, FileNotFoundError) as error:
            raise OutputError(f"{self.folder} is damaged ({reason(error)}): remove it to begin again.") from None
        if other := sorted(key for key in begun.keys() | asked.keys() if begun.get(key) != asked.get(key)):
            said = "; ".join(f"{key} was {begun.get(key)} and is {asked.get(key)}" for key in other)
            raise OutputError(f"{self.folder} was begun otherwise ({said}): ask for the same, or remove it.")

    def remaining(self, sources: Iterator[Source]) -> Iterator[Source]:
        """The images that no part answers yet. Raises OutputError where others were answered than are there now."""
        for number, part in enumerate(self.done):
            digest, count = blake2b(digest_size=16), 0
            for source in islice(sources, part.count):
                digest.update(identities([source]))
                count += 1
            if (count, digest.hexdigest()) != (part.count, part.images):
                first = sum(before.count for before in self.done[:number])
                raise OutputError(
                    f"The images have changed since {self.folder} was begun (among number {first + 1} to "
                    f"{first + part.count}): remove it to begin again."
                )
        yield from sources

    def write(self, block: Block) -> None:
        """Add a block to the part that is being written; raises OutputError, for a full disk for one."""
        with self._as_sentence():
            if self._open is None:
                self._open = _Open(open(self.folder / "part.partial", "wb"), time.monotonic())
            self._open.file.write(self._plain(block.payload))
        self._open.count += block.count
        self._open.images.update(block.identities)
        self._open.failed += block.failed
        if self._open.count >= PART_ROWS or time.monotonic() - self._open.begun >= PART_SECONDS:
            self.close_part()

    def close_part(self) -> None:
        """Keep what was written so far."""
        if (part := self._open) is None:
            return
        told = Part(part.count, part.images.hexdigest(), dict(part.failed))
        with self._as_sentence():
            part.file.flush()
            os.fsync(part.file.fileno())
            part.file.close()
            os.replace(self.folder / "part.partial", self._path(len(self.done), "rows"))
            self._write_whole(self._path(len(self.done), "json"), json.dumps(vars(told)).encode())
        self.done.append(told)
        self._open = None

    def finish(self) -> None:
        """Put the parts together, rename the result to OUT, and remove the parts."""
        self.close_part()
        partial = self.out.with_name(f"{self.out.name}.partial")
        parts = [self._path(number, "rows") for number in range(len(self.done))]
        with self._as_sentence():
            if self.encoding == "parquet":
                _join_arrow(parts, partial)
            else:
                _join(self._plain(head(self.encoding, self.width)), parts, partial)
            os.replace(partial, self.out)
        shutil.rmtree(self.folder, ignore_errors=True)

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
        partial = path.with_suffix(".new")
        with open(partial, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)

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


def _join(start: bytes, parts: Iterable[Path], out: Path) -> None:
    with open(out, "wb") as whole:
        whole.write(start)
        for path in parts:
            with open(path, "rb") as part:
                shutil.copyfileobj(part, whole, 2**20)
        whole.flush()
        os.fsync(whole.fileno())


def _join_arrow(parts: Iterable[Path], out: Path) -> None:
    """Streams of Arrow, one a block, into a parquet file with a row group a part."""
    import pyarrow as pa
    import pyarrow.parquet

    schema = arrow_schema()
    with pyarrow.parquet.ParquetWriter(out, schema) as writer:
        for path in parts:
            batches = []
            with pa.OSFile(str(path)) as file:
                while file.tell() < file.size():
                    batches += pa.ipc.open_stream(file).read_all().to_batches()
            writer.write_table(pa.Table.from_batches(batches, schema))
