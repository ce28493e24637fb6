"""What reads a parquet file in a process of its own; the other end of the pipe is in `serve/batch/parquet.py`."""

from __future__ import annotations  # it imports little: it is all that the process loads beside pyarrow

import os
import signal
from collections.abc import Iterator
from itertools import islice
from typing import Any, NamedTuple

from zoo.images.headers import sniff

MEMORY = 256 * 2**20  # bytes, beyond what Python and pyarrow take; of a large file, whose pages may be large, three
MOST_MEMORY = 2**30  # times its size: a page, packed and unpacked, and rows of it; and never more than this
SECONDS = 60  # of a processor, and one more for each megabyte of the file
NULL = -(2**62)  # the size of a row without a value
BATCH_BYTES = 4 * 2**20
BATCH_ROWS = 64  # of a dictionary of large values, they take much more than the file says
SAMPLES = 16  # batches of as many rows in which a column's first value is looked for


class Column(NamedTuple):
    """name: in the schema. number: among the columns of that name. part: "bytes" of a struct."""

    name: str
    number: int
    part: str | None


def serve(connection: Any, path: str, column: str | None, member_bytes: int) -> None:
    """Send how many rows there are; then lists of sizes, each followed by the bytes; None at the end.

    A size of `NULL` is a row without a value, and -n one of n bytes, which are too many. A text instead of anything is
    what is wrong, to be read behind the name of the file.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's business
    try:
        os.environ["ARROW_DEFAULT_MEMORY_POOL"] = "system"  # others reserve memory ahead
        try:
            import pyarrow
            import pyarrow.parquet
        except ImportError:
            connection.send("is a parquet file; reading it needs pyarrow: pip install 'pocketzoo[data]'.")
            return
        size = os.path.getsize(path)
        memory = min(max(MEMORY, 3 * size), MOST_MEMORY)
        _limit(memory, SECONDS + size // 10**6)
        pyarrow.set_cpu_count(1)
        try:
            with pyarrow.parquet.ParquetFile(path, pre_buffer=False, buffer_size=2**20) as file:
                chosen = _chosen(file, column)
                if isinstance(chosen, str):
                    connection.send(chosen)
                    return
                connection.send(file.metadata.num_rows)
                for sizes, pieces in _values(file, chosen, member_bytes):
                    connection.send(sizes)
                    if pieces:
                        connection.send_bytes(pieces[0] if len(pieces) == 1 else b"".join(pieces))
            connection.send(None)
        except MemoryError:
            connection.send(f"takes more than the {memory // 2**20} MiB of memory that it may take")
        except (pyarrow.ArrowException, OSError, ValueError, TypeError, KeyError, IndexError) as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            connection.send(f"is a damaged parquet file ({lines[0][:200]})")
    except (BrokenPipeError, ConnectionResetError):  # enough was read
        pass


def _limit(memory: int, seconds: int) -> None:
    """Bound this process's further memory, and its time, where the system can do it."""
    try:
        import resource

        with open("/proc/self/status", encoding="ascii") as status:
            used = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmData"))
    except (ImportError, OSError, StopIteration):
        return
    for limit, value in (
        (resource.RLIMIT_DATA, used + memory),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(limit)[1]
        if hard == resource.RLIM_INFINITY or value < hard:
            resource.setrlimit(limit, (value, value))


def _columns(schema: Any) -> Iterator[Column]:
    """Those that may hold images: structs with `bytes` first, then bytes."""
    from pyarrow import types

    def is_bytes(kind: Any) -> bool:
        if types.is_dictionary(kind):  # each image once, and numbers that say which
            kind = kind.value_type
        tests = ("is_binary", "is_large_binary", "is_binary_view", "is_fixed_size_binary")
        return any(getattr(types, test)(kind) for test in tests if hasattr(types, test))

    seen: dict[str, int] = {}
    plain = []
    for field in schema:
        number = seen[field.name] = seen.get(field.name, -1) + 1
        if types.is_struct(field.type) and any(part.name == "bytes" and is_bytes(part.type) for part in field.type):
            yield Column(field.name, number, "bytes")
        elif is_bytes(field.type):
            plain.append(Column(field.name, number, None))
    yield from plain


def _chosen(file: Any, name: str | None) -> Column | str:
    """The column of images, or why there is none."""
    columns = list(_columns(file.schema_arrow))
    if name is not None:
        named = [column for column in columns if column.name == name]
        others = ", ".join(sorted({column.name for column in columns})) or "none"
        return named[0] if named else f"has no column {name!r} of bytes; columns of bytes: {others}."
    if not columns:
        return "has no column of images: neither a struct with `bytes` nor a column of bytes."
    if len(columns) == 1:
        return columns[0]
    return max(columns, key=lambda column: _share_of_images(file, column))  # of equals the first


def _share_of_images(file: Any, column: Column) -> float:
    """How many of the values begin like images, in the first few rows that have values."""
    for batch in islice(file.iter_batches(batch_size=SAMPLES, columns=[column.name], use_threads=False), SAMPLES):
        if found := [value for value in _rows(_array(batch, column)) if value]:
            return sum(sniff(bytes(value[:32])) is not None for value in found) / len(found)
    return 0.0


def _array(batch: Any, column: Column) -> Any:
    import pyarrow

    values = [batch.column(n) for n, name in enumerate(batch.schema.names) if name == column.name][column.number]
    if column.part:
        values = values.field(column.part)
    return values.cast(pyarrow.large_binary())


def _values(file: Any, column: Column, member_bytes: int) -> Iterator[tuple[list[int], list[memoryview]]]:
    for number in range(file.metadata.num_row_groups):
        group = file.metadata.row_group(number)
        size = sum(
            part.total_uncompressed_size
            for part in map(group.column, range(group.num_columns))
            if part.path_in_schema.split(".")[0] == column.name
        )
        rows = max(1, min(BATCH_ROWS, BATCH_BYTES * group.num_rows // max(size, 1)))
        batches = file.iter_batches(batch_size=rows, row_groups=[number], columns=[column.name], use_threads=False)
        for batch in batches:
            yield from _portions(_array(batch, column), member_bytes)


def _portions(values: Any, member_bytes: int) -> Iterator[tuple[list[int], list[memoryview]]]:
    """The rows of an array of bytes, in parts of a few megabytes; what is larger comes alone."""
    sizes: list[int] = []
    pieces: list[memoryview] = []
    held = 0
    for value in _rows(values):
        size = NULL if value is None else -len(value) if len(value) > member_bytes else len(value)
        if pieces and held + size > BATCH_BYTES:
            yield sizes, pieces
            sizes, pieces, held = [], [], 0
        sizes.append(size)
        if value and size > 0:
            pieces.append(value)
            held += size
    if sizes:
        yield sizes, pieces


def _rows(values: Any) -> Iterator[memoryview | None]:
    """Each value of an array of bytes, without a copy."""
    _, offsets, data = values.buffers()
    ends = memoryview(offsets or b"").cast("q")[values.offset :]
    content = memoryview(data or b"")
    for row, valid in enumerate(values.is_valid().to_pylist()):
        yield content[ends[row] : ends[row + 1]] if valid else None
