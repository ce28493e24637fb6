"""Numbers for a server's processes: each holds the lock on one byte of a shared file, and a dead one holds none."""

from __future__ import annotations

import os
import time
from pathlib import Path

CLAIM_S = 5.0


class Slots:
    """own: this process's number, from 0, the lowest that was free."""

    def __init__(self, file: Path, count: int) -> None:
        """Raises RuntimeError where every slot is held, which is more processes than there should be."""
        self.count = count
        self._file = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
        until = time.monotonic() + CLAIM_S  # a sibling may just be trying whether a slot's process is alive
        while (own := next((slot for slot in range(count) if self._lock(slot)), None)) is None:
            if time.monotonic() > until:
                raise RuntimeError(f"All {count} slots of {file} are held.")
            time.sleep(0.05)
        self.own = own

    def alive(self, slot: int) -> bool:
        """Whether a process holds that slot."""
        if slot == self.own:
            return True
        if self._lock(slot):
            self._unlock(slot)
            return False
        return True

    def _lock(self, slot: int) -> bool:
        if os.name == "nt":  # one process there: the server starts no more
            return True
        import fcntl

        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, slot)
        except OSError:
            return False
        return True

    def _unlock(self, slot: int) -> None:
        import fcntl

        fcntl.lockf(self._file, fcntl.LOCK_UN, 1, slot)
