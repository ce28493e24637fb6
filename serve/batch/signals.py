"""Ctrl-C and SIGTERM interrupt a run exactly once, never while processes are started, and only the main process."""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import FrameType, ModuleType
from typing import TYPE_CHECKING, Any
from warnings import catch_warnings, simplefilter
from weakref import WeakSet

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from multiprocessing.process import BaseProcess

TERMINATING_SIGNALS = (signal.SIGINT, signal.SIGTERM)
GRACE_S = 3.0  # to save finished rows; a signal after that ends the process immediately


@contextmanager
def interrupt_once() -> Iterator[None]:
    """The first SIGINT raises KeyboardInterrupt, the first SIGTERM raises SystemExit(143).

    Further signals are ignored while finished rows are saved; after `GRACE_S` seconds they end the process
    immediately. After the context, an interrupted process is about to exit and ignores them. Signals that were ignored
    from the start, as shells arrange it for background jobs, stay ignored.
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

    handled = [number for number in TERMINATING_SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    previous = {number: signal.signal(number, interrupt) for number in handled}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, signal.SIG_IGN if interrupted_at else handler)


@contextmanager
def signals_deferred() -> Iterator[None]:
    """Deliver signals after the context. Processes started in it never get SIGINT, which terminals send to all."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "pthread_sigmask"):
        yield
        return
    from multiprocessing.resource_tracker import ensure_running

    ensure_running()  # started later, it would unblock the signals
    received: list[int] = []
    previous = {
        number: signal.signal(number, lambda number, _: received.append(number)) for number in TERMINATING_SIGNALS
    }
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for handled, handler in previous.items():
            signal.signal(handled, handler)
        for number in received[:1]:
            signal.raise_signal(number)


# The parent's ends of all pipes. A forked process closes its copies: a worker ends when nobody holds its pipe.
_parent_ends: WeakSet[Any] = WeakSet()
FORK_SAFE_THREADS = {"jemalloc_bg_thd"}  # jemalloc stops and restarts its thread around a fork


def can_fork() -> bool:
    """Whether this process has no threads that could hold a lock while it is forked."""
    try:
        others = {entry.name for entry in os.scandir("/proc/self/task")} - {str(threading.get_native_id())}
        names = {Path(f"/proc/self/task/{number}/comm").read_text().strip() for number in others}
    except OSError:
        return False
    return sys.platform == "linux" and names <= FORK_SAFE_THREADS and threading.active_count() == 1


def fork_process(target: Callable[..., None], *arguments: Any) -> tuple[BaseProcess, Connection[Any, Any]]:
    """Like `start_process`, but the process begins as a copy of this one, with all that is imported and open.

    This takes a few milliseconds instead of the 0.3 s of importing everything again. Only if `can_fork`.
    """
    return _start("fork", _run_forked, target, *arguments)


def _run_forked(connection: Connection[Any, Any], target: Callable[..., None], *arguments: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for copy in list(_parent_ends):
        copy.close()
    gc.freeze()  # the collector would write to, and so copy, the pages that are shared with the parent
    target(connection, *arguments)


def start_process(target: Callable[..., None], *arguments: Any) -> tuple[BaseProcess, Connection[Any, Any]]:
    """Run `target(connection, *arguments)` in a process; returns the process and the other end of the connection.

    The process never gets SIGINT. It communicates through a pipe because queues need semaphores, which are missing
    where /dev/shm is not writable.

    Raises:
        OSError: No process can be started, for example because the working directory was removed.
    """
    return _start("spawn", target, *arguments)


def _start(method: str, target: Callable[..., None], *arguments: Any) -> tuple[BaseProcess, Connection[Any, Any]]:
    import multiprocessing

    if multiprocessing.current_process().daemon:
        raise OSError("a daemonic process cannot start processes")
    context: Any = multiprocessing.get_context(method)
    parent_end, child_end = context.Pipe()
    _parent_ends.add(parent_end)
    process = context.Process(target=target, args=(child_end, *arguments), daemon=True)
    with signals_deferred(), _empty_main_module() if method == "spawn" else nullcontext(), catch_warnings():
        simplefilter("ignore", DeprecationWarning)  # about jemalloc's thread
        process.start()
    child_end.close()
    return process, parent_end


@contextmanager
def _empty_main_module() -> Iterator[None]:
    """Keep a spawned process from running its parent's script again, which it does not need and may start processes."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
