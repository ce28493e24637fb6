"""Ctrl-C and SIGTERM end a run once, between two steps that belong together, and reach the first process alone."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from multiprocessing.context import SpawnProcess

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


# Processes that are started with a pipe to their parent, and end with it.


def start(target: Callable[..., None], *arguments: Any) -> tuple[SpawnProcess, Connection[Any, Any]]:
    """Run `target(connection, *arguments)` in a process; returns it and the other end of the connection.

    The process never gets SIGINT. A pipe needs no semaphores, which systems without a writable /dev/shm do not have.
    Raises OSError where no process can be started, as in a working folder that was removed.
    """
    import multiprocessing

    if multiprocessing.current_process().daemon:
        raise OSError("daemonic processes start none")
    context = multiprocessing.get_context("spawn")  # a fork would copy the locks of the runtime's threads
    ours, theirs = context.Pipe()
    process = context.Process(target=target, args=(theirs, *arguments), daemon=True)
    with held_back(), _without_main():
        process.start()
    theirs.close()
    return process, ours


@contextmanager
def _without_main() -> Iterator[None]:
    """A process that is spawned would run its parent's script again, which may start processes; it needs none of it."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
