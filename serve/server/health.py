"""Whether a server process works, who may hear it, and what happens when it does not.

A thread cannot be ended from outside. So where one stays in an item for several deadlines, the process says that it is
neither live nor ready, takes nothing new, gives what else it has a short while, and ends; its parent starts another.
"""

from __future__ import annotations

import asyncio
import faulthandler
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext, suppress

import orjson

from serve.server.log import LOG
from serve.service.metrics import Metrics, Slots
from serve.service.pool import Pool
from serve.service.settings import Settings

STUCK_DEADLINES = 3  # for one item: whoever waited for it has been answered with 504 long before
EVERY_S = 1.0
CONNECTIONS, READ_S = 64, 2.0  # of the second listener: at a time, and seconds for a request


class Health:
    """live: no worker has died or is stuck, here, and no process beside this one has died. ready: and all have started.

    leaving: what ends this process where it cannot go on; None leaves it as it is.
    """

    def __init__(
        self, pool: Pool, slots: Slots, metrics: Metrics, settings: Settings, leave: Callable[[], None] | None = None
    ) -> None:
        self._pool, self._slots, self._metrics, self._settings, self._leave = pool, slots, metrics, settings, leave

    def live(self) -> bool:
        started = [slot for slot in range(self._slots.count) if self._metrics.started(slot)]
        return self._pool.alive and not self._pool.stuck and all(self._slots.alive(slot) for slot in started)

    def ready(self) -> bool:
        return self.live() and all(self._metrics.started(slot) for slot in range(self._slots.count))

    async def watch(self) -> None:
        """End the process where a worker thread is stuck or has died, or where this event loop itself stands still."""
        limit_s = STUCK_DEADLINES * self._settings.deadline_s
        with _watched_loop(limit_s) if self._leave else nullcontext(lambda: None) as alive:
            while self._pool.alive and self._pool.longest_s() < limit_s:
                alive()
                await asyncio.sleep(EVERY_S)
            self._pool.stuck = True
            self._metrics.set("up", 0)  # the processes beside this one are not ready either
            LOG.message(f"zoo: a worker has died, or is at one item for {limit_s:g} s: this process is replaced.")
            until = time.monotonic() + self._settings.deadline_s
            while self._metrics.in_flight() and time.monotonic() < until:
                await asyncio.sleep(EVERY_S / 10)
            if self._leave is not None:
                LOG.flush()
                self._leave()

    @asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.watch())
        try:
            yield
        finally:
            task.cancel()

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        """Answer the health routes on a port of their own, where the settings name one: a reserve for probes.

        It has own connections, so it answers however many others the server has. Every process listens on it.
        """
        if self._settings.health_port is None:
            yield
            return
        server = await asyncio.start_server(
            self._answer, self._settings.host, self._settings.health_port, reuse_port=True, limit=4096
        )
        self._open = 0
        async with server:
            yield

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open += 1
        try:
            with suppress(OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
                if self._open <= CONNECTIONS:
                    async with asyncio.timeout(READ_S):
                        head = await reader.readuntil(b"\r\n\r\n")
                        writer.write(self._response(head))
                        await writer.drain()
        finally:
            self._open -= 1
            writer.close()

    def _response(self, head: bytes) -> bytes:
        method, path, *_ = (*head.split(b" ", 2), b"", b"")
        states = {b"/v2/health/live": ("live", self.live), b"/v2/health/ready": ("ready", self.ready)}
        if method not in (b"GET", b"HEAD") or path not in states:
            status, body = b"404 Not Found", orjson.dumps({"error": "/v2/health/live and /v2/health/ready are here."})
        else:
            name, state_of = states[path]
            state = state_of()
            status, body = b"200 OK" if state else b"503 Service Unavailable", orjson.dumps({name: state})
        fields = b"Content-Type: application/json\r\nContent-Length: %d\r\nConnection: close" % len(body)
        return b"HTTP/1.1 %b\r\n%b\r\n\r\n%b" % (status, fields, b"" if method == b"HEAD" else body)


@contextmanager
def _watched_loop(limit_s: float) -> Iterator[Callable[[], None]]:
    """End the process where what this gives is not called for `limit_s`, even if the interpreter stands still."""
    with open(os.devnull, "w") as nowhere:
        try:
            yield lambda: faulthandler.dump_traceback_later(limit_s + EVERY_S, exit=True, file=nowhere)
        finally:
            faulthandler.cancel_dump_traceback_later()
