"""Ctrl-C and SIGTERM end a run once, between two steps that belong together, and reach the first process alone."""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_ENDING = (signal.SIGINT, signal.SIGTERM)
GRACE_S = 3.0  # to keep what is done; whoever signals again later wants the end at once


@contextmanager
def one_interruption() -> Iterator[None]:
    """The first SIGINT raises KeyboardInterrupt and the first SIGTERM leaves with 143, as a shell reports that end.

    Later ones change nothing: they would cut short what keeps the rows. After `GRACE_S` seconds they end the process
    at once. When this is left, a process that was interrupted is about to end, and ignores them. What is ignored from
    the start, as shells have it for jobs in the background, stays ignored.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    interrupted_at: list[float] = []

    def interrupt(number: int, _: FrameType | None) -> None:
        if not interrupted_at:
            interrupted_at.append(time.monotonic())
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            sys.exit(128 + number)
        if time.monotonic() - interrupted_at[0] > GRACE_S:
            os._exit(128 + number)

    heeded = [number for number in _ENDING if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, interrupt) for number in heeded}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_IGN if interrupted_at else handler)


@contextmanager
def held_back() -> Iterator[None]:
    """Signals wait for the end of this; processes that are started in it never get SIGINT, which terminals send all."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "pthread_sigmask"):
        yield
        return
    from multiprocessing.resource_tracker import ensure_running

    ensure_running()  # it would lift the block
    caught: list[int] = []
    before = {number: signal.signal(number, lambda number, _: caught.append(number)) for number in _ENDING}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for ending, handler in before.items():
            signal.signal(ending, handler)
        for number in caught[:1]:
            signal.raise_signal(number)
