"""Limits for reading files of strangers: memory and CPU time of a process, and the directory of a zip archive."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from contextlib import contextmanager
from math import ceil

MIN_MEMORY = 256 * 2**20  # that reading any file may take, beyond what the process has
CPU_SECONDS = 60  # that reading any file may take, plus one per megabyte
MAX_ZIP_DIRECTORY_BYTES = 24 * 2**20  # about 250,000 usual names; as objects they take eight times that: 200 MB


class BoundedZipFile(io.BufferedReader):
    """Bounds the directory, which zipfile reads in one call of whatever size the archive declares."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > MAX_ZIP_DIRECTORY_BYTES:
            from zipfile import BadZipFile  # imports decompressors, which processes that read parquet files do not need

            raise BadZipFile(f"its directory has {size:,} bytes, more than the limit of {MAX_ZIP_DIRECTORY_BYTES:,}")
        return super().read(size)


def memory_limit(file_size: int, largest: int) -> int:
    """Bytes that reading a file may take: three times its size (a page compressed, decompressed, and its rows)."""
    return min(max(MIN_MEMORY, 3 * file_size), largest)


def cpu_seconds(file_size: int) -> int:
    """CPU time that reading a file may take."""
    return CPU_SECONDS + file_size // 10**6


def data_bytes() -> int | None:
    """What RLIMIT_DATA counts of this process; None if the system does not say."""
    try:
        with open("/proc/self/status", encoding="ascii") as status:
            return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmData"))
    except (OSError, StopIteration):
        return None


def limit_process(memory: int, seconds: int) -> None:
    """Limit the additional memory and CPU time of this process for good, if the system can."""
    limits = _limits(memory, seconds)
    if not limits:
        return
    import resource

    for limit, value in limits.items():
        hard = resource.getrlimit(limit)[1]
        lower = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(limit, (lower, lower))


@contextmanager
def limited(memory: int, seconds: int, max_data: int | None = None) -> Iterator[None]:
    """Limit the additional memory and CPU time of this process, if the system can.

    `max_data` limits all of its memory. Without memory, allocations fail; without CPU time, the process ends.
    """
    limits = _limits(memory, seconds, max_data)
    if not limits:
        yield
        return
    import resource

    previous = {limit: resource.getrlimit(limit) for limit in limits}
    try:
        for limit, value in limits.items():
            soft, hard = previous[limit]
            resource.setrlimit(limit, (value if soft == resource.RLIM_INFINITY else min(value, soft), hard))
        yield
    finally:
        for limit, values in previous.items():
            resource.setrlimit(limit, values)


def _limits(memory: int, seconds: int, max_data: int | None = None) -> dict[int, int]:
    """Kind of resource → its limit; empty where the system has none."""
    try:
        import resource
    except ImportError:  # Windows
        return {}
    used = data_bytes()
    if used is None:
        return {}
    return {
        resource.RLIMIT_DATA: used + memory if max_data is None else min(used + memory, max_data),
        resource.RLIMIT_CPU: ceil(time.process_time()) + seconds,
        resource.RLIMIT_CORE: 0,
    }
