"""Write a file so that it is there whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path, partial: Path | None = None, sync: bool = False) -> Iterator[Path]:
    """A path to write to; it replaces `path` at the end of the block, and is removed where the block raises.

    Args:
        partial: that path, in the folder of `path`; by default a hidden one that no other process writes to.
        sync: have the content on the disk first, so that it also survives a loss of power.
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
