"""Images in parquet files, read in a process of their own, whose memory and time are bounded.

A file of 3 KB can state pages of gigabytes, dictionaries and prefixes multiply what they hold, and a damaged file can
end the process that reads it. None of that shows before it is read. So a child process reads, with a limit on its
memory, and hands the images over; where it ends, the file is refused from that row on.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from serve.batch import parquet_reader
from serve.batch import signals as processes
from serve.batch.archives import Archive, Bounds, Budget, Unreadable
from zoo.errors import BadInput, reason
from zoo.images.read import Named

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from multiprocessing.context import SpawnProcess

BYTES_A_ROW = 1 / 8  # of the file: fewer, in a large file, are not images but a number that somebody wrote down
FEW_ROWS = 100_000


@dataclass(frozen=True)
class _Reader:
    """A process that reads, and how many rows it says there are."""

    process: SpawnProcess
    connection: Connection[Any, Any]
    rows: int

    def close(self) -> None:
        self.process.kill()
        self.process.join()
        self.connection.close()


class Parquet(Archive):
    """A column of images: a struct with `bytes`, as Hugging Face writes it, or bytes. Rows are named PATH/NUMBER."""

    _lock: ClassVar = threading.Lock()
    _waiting: ClassVar[tuple[Parquet, _Reader] | None] = None  # the last one that was checked: it takes 0.2 s to start

    def __init__(self, path: str, bounds: Bounds, column: str | None = None) -> None:
        """column: its name; by default the one of which most of the first rows begin like images."""
        super().__init__(path, bounds)
        self.column = column

    def check(self) -> None:
        """Set the count. Raises BadInput for a damaged file, one without a column of images, or without pyarrow."""
        reader = self._start()
        self.count = reader.rows
        with Parquet._lock:
            before, Parquet._waiting = Parquet._waiting, (self, reader)
        if before:
            before[1].close()

    def _start(self) -> _Reader:
        """Raises BadInput."""
        try:
            process, connection = processes.start(
                parquet_reader.serve, self.path, self.column, self.bounds.member_bytes
            )
        except OSError as error:
            sentence = f"{self.path} cannot be read, since no process can be started ({reason(error)})."
            raise BadInput(sentence) from None
        reader = _Reader(process, connection, 0)
        try:
            rows = _received(connection.recv)
            if isinstance(rows, str):
                raise BadInput(f"{self.path} {rows}")
            if rows > FEW_ROWS and rows * BYTES_A_ROW > os.path.getsize(self.path):
                raise BadInput(f"{self.path} states {rows:,} rows, more than it can hold: get the file again.")
        except BaseException:
            reader.close()
            raise
        return _Reader(process, connection, rows)

    @contextmanager
    def _reader(self) -> Iterator[Connection[Any, Any]]:
        """What sends the rows, from the first one on. Raises BadInput."""
        with Parquet._lock:
            mine = Parquet._waiting if Parquet._waiting and Parquet._waiting[0] is self else None
            if mine:
                Parquet._waiting = None
        reader = mine[1] if mine else self._start()
        try:
            yield reader.connection
        finally:
            reader.close()

    def _members(self, budget: Budget) -> Iterator[Named | Unreadable | None]:
        row = 0
        with self._reader() as connection:
            while isinstance(sizes := _received(connection.recv), list):
                data = _received(connection.recv_bytes) if any(size > 0 for size in sizes) else b""
                if isinstance(data, str):
                    sizes = data
                    break
                start = 0
                for size in sizes:
                    budget.member()
                    name = f"{self.path}/{row}"
                    if size == parquet_reader.NULL:
                        yield Unreadable(name, f"{name} holds no image bytes.")
                    elif size < 0:
                        yield self._too_large(name, -size)
                    else:
                        budget.spend(size)
                        yield Named(name, data if size == len(data) else data[start : start + size])
                        start += size
                    row += 1
            if sizes is not None:
                yield Unreadable(self.path, f"{self.path} {sizes}, from row {row} on: get the file again.")


def _received(receive: Callable[[], Any]) -> Any:
    """What comes, or why nothing does."""
    try:
        return receive()
    except (EOFError, OSError):
        return "ended the process that read it: it is damaged, or takes too much memory"
