"""Write files atomically: a reader sees the old content or the whole new one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path, partial: Path | None = None, sync: bool = False) -> Iterator[Path]:
    """Yield a temporary path to write to. It replaces `path` at the end of the block, or is removed after an error.

    Args:
        partial: the temporary path, in the folder of `path`; by default a hidden file name of this process.
        sync: flush the content to disk before replacing, so that it also survives a power loss.
    Raises:
        OSError
    """
    partial = partial or path.with_name(f".{os.getpid()}-{path.name}")
    try:
        yield partial
        if sync:
            with open(partial, "rb") as file:
                os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
