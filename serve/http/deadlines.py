"""One deadline for many things: as all get the same time, those that began first end first, and one timer will do.

`asyncio.timeout` sets a timer a request, which costs a tenth of classifying an image.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any


class Deadlines:
    """Cancels what is not done after `seconds`; for one event loop at a time."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._running: deque[Deadline] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self) -> Deadline:
        """To be used around what has a deadline, `with deadlines.start():`. Raises TimeoutError when it has passed."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:  # the one before has ended
            self._loop, self._timer = loop, None
            self._running.clear()
        deadline = Deadline(loop.time() + self.seconds, asyncio.current_task())
        self._running.append(deadline)
        if self._timer is None:
            self._timer = loop.call_at(deadline.at, self._sweep, loop)
        return deadline

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        """End what is late, forget what is done, and come back for the next."""
        now = loop.time()
        while self._running and (self._running[0].done or self._running[0].at <= now):
            self._running.popleft().expire()
        self._timer = loop.call_at(self._running[0].at, self._sweep, loop) if self._running else None


class Deadline:
    __slots__ = ("_expired", "_task", "at", "done")

    def __init__(self, at: float, task: asyncio.Task[Any] | None) -> None:
        self.at, self._task = at, task
        self.done = self._expired = False

    def expire(self) -> None:
        if not self.done and self._task is not None:
            self._expired = True
            self._task.cancel()

    def __enter__(self) -> Deadline:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.done = True
        task, self._task = self._task, None  # its result may hold a request's body, and this waits here for its turn
        if self._expired and task is not None:
            task.uncancel()
            if kind is asyncio.CancelledError:
                raise TimeoutError
