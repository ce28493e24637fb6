"""Processes that are started with a pipe to their parent, and end with it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, Any

from serve.signals import held_back

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from multiprocessing.context import SpawnProcess


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
