"""The folder of a running server: its state, and the files of visitors while they use them."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import gettempdir, mkdtemp

PREFIX = "zoo-serve-"


@contextmanager
def server_folder() -> Iterator[str]:
    """A new folder, removed at the end. Folders of servers that were killed are removed now: they may hold uploads."""
    with ExitStack() as end:
        if sys.platform == "win32":
            folder = Path(mkdtemp(prefix=PREFIX))
        else:
            remove_abandoned(Path(gettempdir()))
            new = Path(mkdtemp(prefix=f".{PREFIX}"))
            with suppress(OSError):  # the file system has no locks: no server removes another one's folder
                end.callback(os.close, _lock(new))
            folder = new.rename(new.with_name(new.name[1:]))  # other servers look at it from now on
        end.callback(shutil.rmtree, folder, ignore_errors=True)
        yield str(folder)


def remove_abandoned(parent: Path) -> None:
    """Remove the folders of this user's servers that ended without removing them."""
    for folder in parent.glob(f"{PREFIX}*"):
        with suppress(OSError):  # it is no folder or in use, or it is being removed
            descriptor = _lock(folder)
            try:
                if os.fstat(descriptor).st_uid == os.geteuid():
                    shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(descriptor)


def _lock(folder: Path) -> int:
    """Lock a folder until the descriptor is closed, at the latest when the process ends.

    Raises:
        OSError: it is locked, or not a folder, or the file system has no locks.
    """
    import fcntl

    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor
