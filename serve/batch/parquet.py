"""Images in parquet files, read by a child process with limited memory and time.

A file of 3 KB can declare pages of gigabytes, dictionaries and prefixes multiply their content, and a damaged file can
crash the process that reads it; none of that is visible before reading. So a child process with a memory limit reads
the file and sends the images here. If it ends early, the remaining rows become one error.

Of a batch, worker processes read the rows themselves, within limits of their own (`serve/batch/parquet_rows.py`). Where
one cannot, the child process reads the rest of the file.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, ClassVar

from serve.batch import parquet_reader, parquet_rows, signals
from serve.batch.archives import Archive, Bounds, Budget, Exhausted, Unreadable
from serve.batch.parquet_reader import Layout
from serve.batch.parquet_rows import Rows
from zoo.errors import BadInput, reason
from zoo.images.read import Named
from zoo.limited import cpu_seconds

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from multiprocessing.process import BaseProcess

MIN_BYTES_PER_ROW = 1 / 8  # of the file; with fewer, its number of rows is forged
MAX_UNCHECKED_ROWS = 100_000
ROWS_PER_TASK = 128  # that a worker reads at a time


@dataclass(frozen=True)
class _Reader:
    """A child process that reads files."""

    process: BaseProcess
    connection: Connection[Any, Any]

    def close(self) -> None:
        self.process.kill()
        self.process.join()
        self.connection.close()


class Parquet(Archive):
    """A column of images, named PATH/NUMBER: a struct with `bytes`, as Hugging Face writes it, or bytes."""

    _lock: ClassVar = threading.Lock()
    # One reader that waits for a request, the file that it has open, and that file's layout: starting one takes 0.2 s.
    # It ends by itself after `parquet_reader.IDLE_SECONDS`.
    _idle: ClassVar[tuple[_Reader, Parquet, Layout] | None] = None

    def __init__(self, path: str, bounds: Bounds, column: str | None = None) -> None:
        """`column` is a name; by default it is the column with most images in its first rows."""
        super().__init__(path, bounds)
        self.column = column
        self._budget: Budget | None = None
        self._in_workers = False
        self._failed_at: int | None = None  # the first row with an error that ends the file
        self._worker_seconds = 0.0  # CPU time that workers have spent on reading

    def check(self) -> None:
        """Set the count. Raises BadInput for a damaged file, one without an image column, or without pyarrow."""
        reader, layout = self._open()
        self.count = layout.rows
        self._keep(reader, layout)

    def _open(self) -> tuple[_Reader, Layout]:
        """A reader that has opened the file. Raises BadInput."""
        with Parquet._lock:
            idle, Parquet._idle = Parquet._idle, None
        if idle and idle[1] is self and idle[0].process.is_alive():
            return idle[0], idle[2]
        reader, layout = idle[0] if idle else None, _CRASHED
        try:
            if reader is not None:
                layout = self._ask(reader)
            if layout == _CRASHED:  # by this file, or it has ended because it was idle
                if reader is not None:
                    reader.close()
                reader = _start_reader(self.path)
                layout = self._ask(reader)
            if not isinstance(layout, Layout):
                raise BadInput(f"{self.path} {layout}")
            rows = layout.rows
            if rows > MAX_UNCHECKED_ROWS and rows * MIN_BYTES_PER_ROW > os.path.getsize(self.path):
                raise BadInput(f"{self.path} declares {rows:,} rows, more than it can contain: get the file again.")
        except BaseException:
            if reader is not None:
                reader.close()
            raise
        assert reader is not None
        return reader, layout

    def _ask(self, reader: _Reader) -> Any:
        """The file's layout, or an error message."""

        def ask() -> Any:
            reader.connection.send((self.path, self.column, self.bounds.member_bytes))
            return reader.connection.recv()

        return _receive(ask)

    def _keep(self, reader: _Reader, layout: Layout) -> None:
        """Make a reader that waits for a request the idle one."""
        with Parquet._lock:
            previous, Parquet._idle = Parquet._idle, (reader, self, layout)
        if previous:
            previous[0].close()

    # Reading, in the order of the rows

    def read_in_workers(self, enabled: bool) -> None:
        self._in_workers = enabled

    def _members(self, budget: Budget) -> Iterator[Any]:
        self._budget, self._failed_at, self._worker_seconds = budget, None, 0.0
        row: int | None = 0
        while row is not None:
            reader, layout = self._open()
            try:
                if not (self._in_workers and layout.groups):
                    row = yield from self._read_here(budget, reader, layout, row)
            except BaseException:
                reader.close()
                raise
            if self._failed_at is not None:
                reader.close()
                return
            self._keep(reader, layout)
            if row is not None:
                row = yield from self._split(budget, layout, row)

    def _read_here(
        self, budget: Budget, reader: _Reader, layout: Layout, row: int
    ) -> Generator[Named | Unreadable, None, int | None]:
        """Images from `row` on, read by the child process; returns the first row for workers, None at the end."""
        connection = reader.connection
        sizes = _receive(lambda: connection.send(row) or connection.recv())  # type: ignore[func-returns-value]
        while isinstance(sizes, list):
            data = _receive(connection.recv_bytes) if any(size > 0 for size in sizes) else b""
            if isinstance(data, str):
                sizes = data
                break
            start = 0
            for size in sizes:
                budget.count_member()
                name = f"{self.path}/{row}"
                if size == parquet_reader.NULL:
                    yield parquet_rows.without_bytes(name)
                elif size < 0:
                    yield self._too_large(name, -size)
                else:
                    budget.count_bytes(size)
                    yield Named(name, data if size == len(data) else data[start : start + size])
                    start += size
                row += 1
            if self._in_workers and layout.groups:
                if _receive(lambda: _stop(connection)) is None:
                    return row
                sizes = _CRASHED
                break
            sizes = _receive(connection.recv)
        if sizes is not None:
            self._failed_at = row
            yield Unreadable(self.path, f"{self.path} {sizes}, from row {row}: get the file again.")
        return None

    # Reading by workers

    def _split(self, budget: Budget, layout: Layout, row: int) -> Generator[Rows | Unreadable, None, int | None]:
        """`Rows` from `row` on; returns the first row that workers shall not read, None at the end."""
        limit = cpu_seconds(os.path.getsize(self.path))
        for rows in parquet_rows.split(self, layout, row, ROWS_PER_TASK, self.bounds.member_bytes):
            if self._failed_at is not None:
                return None
            if not self._in_workers:
                return rows.first
            if self._worker_seconds > limit:
                self._failed_at = rows.first
                message = f"{self.path} takes more than {limit} s to read, from row {rows.first}: get the file again."
                yield Unreadable(self.path, message)
                return None
            budget.count_bytes(0)
            budget.count_member(rows.count)
            yield rows
        return None

    def count_read(self, size: int, seconds: float) -> None:
        """Count what a worker has read."""
        self._worker_seconds += seconds
        if self._budget:
            with suppress(Exhausted):  # raised again before more is read
                self._budget.count_bytes(size)

    def read_again(self, rows: Rows) -> list[Named | Unreadable]:
        """Read rows that a worker could not read, by the child process; workers read no more of this file."""
        self._in_workers = False
        if self.is_after_error(rows) or self._budget is None:
            return []
        self._budget.count_member(-rows.count)
        images = list(self._guarded(lambda: self._read_some(rows, self._budget)))
        if any(image.name == self.path for image in images):
            self._failed_at = rows.first  # before an error that was found in later rows
        return images

    def is_after_error(self, rows: Rows) -> bool:
        """Whether an error in earlier rows has ended the file; workers may have read these rows nevertheless."""
        return self._failed_at is not None and rows.first > self._failed_at

    def _read_some(self, rows: Rows, budget: Any) -> Iterator[Named | Unreadable]:
        reader, layout = self._open()
        try:
            yield from islice(self._read_here(budget, reader, layout, rows.first), rows.count)
        finally:
            reader.close()


def _start_reader(path: str) -> _Reader:
    """Raises BadInput."""
    try:
        return _Reader(*signals.start_process(parquet_reader.serve))
    except OSError as error:
        raise BadInput(f"{path} cannot be read: starting a process failed ({reason(error)}).") from None


def _stop(connection: Connection[Any, Any]) -> None:
    """End an answer to a row's number."""
    connection.send(parquet_reader.STOP)
    while (sizes := connection.recv()) is not None:
        if isinstance(sizes, str):
            raise EOFError
        if any(size > 0 for size in sizes):
            connection.recv_bytes()


_CRASHED = "crashed the process that read it: it is damaged or needs too much memory"


def _receive(receive: Callable[[], Any]) -> Any:
    """A message of the reader, or an error message if it has ended."""
    try:
        return receive()
    except (EOFError, OSError):
        return _CRASHED
