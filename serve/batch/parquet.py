"""Images in parquet files, read by a child process with limited memory and time.

A file of 3 KB can declare pages of gigabytes, dictionaries and prefixes multiply their content, and a damaged file can
crash the process that reads it; none of that is visible before reading. So a child process with a memory limit reads
the file and sends the images here. If it ends early, the remaining rows become one error.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from serve.batch import parquet_reader, signals
from serve.batch.archives import Archive, Bounds, Budget, Unreadable
from zoo.errors import BadInput, reason
from zoo.images.read import Named

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from multiprocessing.context import SpawnProcess

MIN_BYTES_PER_ROW = 1 / 8  # of the file; with fewer, its number of rows is forged
MAX_UNCHECKED_ROWS = 100_000


@dataclass(frozen=True)
class _Reader:
    """A child process that reads a file."""

    process: SpawnProcess
    connection: Connection[Any, Any]
    rows: int  # in the file

    def close(self) -> None:
        self.process.kill()
        self.process.join()
        self.connection.close()


class Parquet(Archive):
    """A column of images, named PATH/NUMBER: a struct with `bytes`, as Hugging Face writes it, or bytes."""

    _lock: ClassVar = threading.Lock()
    # The reader of the file that was checked last is kept, because starting one takes 0.2 s.
    _idle: ClassVar[tuple[Parquet, _Reader] | None] = None

    def __init__(self, path: str, bounds: Bounds, column: str | None = None) -> None:
        """`column` is a name; by default it is the column with most images in its first rows."""
        super().__init__(path, bounds)
        self.column = column

    def check(self) -> None:
        """Set the count. Raises BadInput for a damaged file, one without an image column, or without pyarrow."""
        reader = self._start_reader()
        self.count = reader.rows
        with Parquet._lock:
            previous, Parquet._idle = Parquet._idle, (self, reader)
        if previous:
            previous[1].close()

    def _start_reader(self) -> _Reader:
        """Raises BadInput."""
        try:
            process, connection = signals.start_process(
                parquet_reader.serve, self.path, self.column, self.bounds.member_bytes
            )
        except OSError as error:
            raise BadInput(f"{self.path} cannot be read: starting a process failed ({reason(error)}).") from None
        reader = _Reader(process, connection, 0)
        try:
            rows = _receive(connection.recv)
            if isinstance(rows, str):
                raise BadInput(f"{self.path} {rows}")
            if rows > MAX_UNCHECKED_ROWS and rows * MIN_BYTES_PER_ROW > os.path.getsize(self.path):
                raise BadInput(f"{self.path} declares {rows:,} rows, more than it can contain: get the file again.")
        except BaseException:
            reader.close()
            raise
        return _Reader(process, connection, rows)

    @contextmanager
    def _reader(self) -> Iterator[Connection[Any, Any]]:
        """The connection of a reader at its first row. Raises BadInput."""
        with Parquet._lock:
            own = Parquet._idle if Parquet._idle and Parquet._idle[0] is self else None
            if own:
                Parquet._idle = None
        reader = own[1] if own else self._start_reader()
        try:
            yield reader.connection
        finally:
            reader.close()

    def _members(self, budget: Budget) -> Iterator[Named | Unreadable | None]:
        row = 0
        with self._reader() as connection:
            while isinstance(sizes := _receive(connection.recv), list):
                data = _receive(connection.recv_bytes) if any(size > 0 for size in sizes) else b""
                if isinstance(data, str):
                    sizes = data
                    break
                start = 0
                for size in sizes:
                    budget.count_member()
                    name = f"{self.path}/{row}"
                    if size == parquet_reader.NULL:
                        yield Unreadable(name, f"{name} has no image bytes.")
                    elif size < 0:
                        yield self._too_large(name, -size)
                    else:
                        budget.count_bytes(size)
                        yield Named(name, data if size == len(data) else data[start : start + size])
                        start += size
                    row += 1
            if sizes is not None:
                yield Unreadable(self.path, f"{self.path} {sizes}, from row {row}: get the file again.")


def _receive(receive: Callable[[], Any]) -> Any:
    """A message of the reader, or an error message if it has ended."""
    try:
        return receive()
    except (EOFError, OSError):
        return "crashed the process that read it: it is damaged or needs too much memory"
