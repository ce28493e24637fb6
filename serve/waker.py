"""Ends futures of an event loop from other threads, many with one call: waking a loop costs as much as a network."""

from __future__ import annotations

import asyncio
from collections import deque


class Waker:
    """For one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._finished: deque[asyncio.Future[None]] = deque()
        self._called = False

    def wake(self, future: asyncio.Future[None]) -> None:
        """From any thread. Raises RuntimeError where the loop is closed."""
        self._finished.append(future)  # before the look at _called, which is cleared before they are taken
        if not self._called:
            self._called = True
            self.loop.call_soon_threadsafe(self._end_all)

    def _end_all(self) -> None:
        self._called = False
        while self._finished:
            future = self._finished.popleft()
            if not future.done():
                future.set_result(None)
