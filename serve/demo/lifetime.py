"""What the page does as long as its server lives, and when that is to end."""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

from serve.demo.files import Files
from serve.demo.jobs import Jobs
from serve.demo.sessions import Sessions

if TYPE_CHECKING:
    from gradio.routes import App

SWEEP_S = 15.0  # how often what is too old is removed
PATIENCE_S = 2.0  # for events that run when the server is to end


@asynccontextmanager
async def lifetime(page: App, files: Files, sessions: Sessions, jobs: Jobs) -> AsyncIterator[None]:
    """An open page listens to a stream that does not end by itself, and a server ends when the last answer has."""

    def end() -> None:
        page.stop_event.set()
        jobs.close()

    sweeping = asyncio.create_task(_sweep(page, files, sessions))
    try:
        with _when_ending(end):
            yield
    finally:
        sweeping.cancel()
        jobs.close()
        await _end_events(page)


async def _end_events(page: App) -> None:
    """Gradio leaves events running when the loop ends; a thread that works for one keeps the process from ending."""
    queue = page.get_blocks()._queue
    queue.stopped = True
    running = set(queue._asyncio_tasks)
    if running:
        _, running = await asyncio.wait(running, timeout=PATIENCE_S)
    if running:
        for task in running:
            task.cancel()
        await asyncio.wait(running, timeout=PATIENCE_S)


async def _sweep(page: App, files: Files, sessions: Sessions) -> None:
    while True:
        await asyncio.sleep(SWEEP_S)
        sessions.sweep()
        for names in page.get_blocks().temp_file_sets:
            names.clear()  # files that Gradio would remove, which `files` does
        await asyncio.to_thread(files.sweep)


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
