"""The folder of a running server: its state, and the files of visitors while they use them."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir

PREFIX = "zoo-serve-"
LOCK = "lock"  # a file that its server has locked; the system unlocks it when the last process of the server ends


@contextmanager
def server_folder() -> Iterator[str]:
    """A new folder, removed at the end. Folders of servers that were killed are removed now: they may hold uploads."""
    if sys.platform != "win32":
        remove_abandoned(Path(gettempdir()))
    with TemporaryDirectory(prefix=PREFIX) as folder:
        lock = None if sys.platform == "win32" else _lock(Path(folder))
        try:
            yield folder
        finally:
            if lock is not None:
                os.close(lock)


def _lock(folder: Path) -> int:
    """The locked file of a folder. It gets its name when it is locked, so that no other server removes the folder."""
    import fcntl

    new = folder / f"{LOCK}.new"
    descriptor = os.open(new, os.O_CREAT | os.O_RDWR, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    new.rename(folder / LOCK)
    return descriptor


def remove_abandoned(parent: Path) -> None:
    """Remove the folders of this user's servers whose processes all ended without removing them."""
    import fcntl

    for folder in parent.glob(f"{PREFIX}*"):
        with suppress(OSError):  # it is removed at this moment, or in use
            if folder.is_symlink() or folder.stat().st_uid != os.geteuid():
                continue
            descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_NOFOLLOW)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(descriptor)
