"""Ctrl-C and SIGTERM end a run between two steps that belong together, and are the business of one process alone."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_ENDING = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def sigterm_like_ctrl_c() -> Iterator[None]:
    """SIGTERM keeps what is done, too, and leaves with 143, as a shell says that end."""
    before = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def held_back() -> Iterator[None]:
    """Signals wait for the end of this; what is started meanwhile never hears of Ctrl-C, which terminals send all."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "pthread_sigmask"):
        yield
        return
    from multiprocessing.resource_tracker import ensure_running

    ensure_running()  # it would lift the block
    caught: list[int] = []
    before = {sign: signal.signal(sign, lambda *given: caught.append(given[0])) for sign in _ENDING}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for sign, handler in before.items():
            signal.signal(sign, handler)
        for number in caught[:1]:
            signal.raise_signal(number)
