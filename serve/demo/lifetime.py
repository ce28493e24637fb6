"""What the page does as long as its server lives, and when that is to end."""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from serve.demo.files import sweep


@asynccontextmanager
async def lifetime(folder: Path, end_streams: Callable[[], None]) -> AsyncIterator[None]:
    """An open page listens to a stream that does not end by itself, and a server ends when the last answer has."""
    sweeping = asyncio.create_task(sweep(folder))
    try:
        with _when_ending(end_streams):
            yield
    finally:
        sweeping.cancel()


@contextmanager
def _when_ending(tell: Callable[[], None]) -> Iterator[None]:
    """Call `tell` in the event loop at SIGTERM and SIGINT, besides what the server does then.

    A loop hears of signals through a descriptor and leaves the handler that Python calls empty: that one is taken.
    """
    if threading.current_thread() is not threading.main_thread() or sys.platform == "win32":
        yield
        return
    loop = asyncio.get_running_loop()
    signals = (signal.SIGTERM, signal.SIGINT)
    before = {one: signal.signal(one, lambda *_: loop.call_soon_threadsafe(tell)) for one in signals}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
