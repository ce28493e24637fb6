"""Liveness and readiness of a server process, a listener for probes, and the end of a process that is stuck.

A thread cannot be ended from outside. So if a thread stays at one step for several deadlines, the process reports that
it is neither live nor ready, accepts nothing new, lets other requests finish for a short while, and exits. Its parent
starts another process.
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
from serve.service.metrics import Metrics, ProcessSlots
from serve.service.pool import Pool
from serve.service.settings import Settings

STUCK_DEADLINES = 3  # for one step: its client has got a 504 long before
CHECK_EVERY_S = 1.0
MAX_PROBES = 64  # connections to the listener for probes at a time
NOT_FOUND = "Not found. This port serves /v2/health/live and /v2/health/ready only."
PROBE_READ_S = 2.0  # in which a probe must send its request


class Health:
    """Health of one process, and of the other processes as far as it knows.

    - live: no worker thread of this process has died or is stuck, and no other process has died.
    - ready: live, and all processes have started.
    """

    def __init__(
        self,
        pool: Pool,
        slots: ProcessSlots,
        metrics: Metrics,
        settings: Settings,
        exit_process: Callable[[], None] | None = None,
    ) -> None:
        """Args:
        exit_process: ends a process that is stuck; None lets it run.
        """
        self._pool, self._slots, self._metrics, self._settings = pool, slots, metrics, settings
        self._exit_process = exit_process

    def live(self) -> bool:
        started = [slot for slot in range(self._slots.count) if self._metrics.started(slot)]
        return self._pool.alive and not self._pool.stuck and all(self._slots.alive(slot) for slot in started)

    def ready(self) -> bool:
        return self.live() and all(self._metrics.started(slot) for slot in range(self._slots.count))

    async def watch(self) -> None:
        """End the process if a worker thread is stuck or has died, or if this event loop itself is stuck."""
        limit_s = STUCK_DEADLINES * self._settings.deadline_s
        with _loop_watchdog(limit_s) if self._exit_process else nullcontext(lambda: None) as reset_watchdog:
            while self._pool.alive and self._pool.longest_step_s() < limit_s:
                reset_watchdog()
                await asyncio.sleep(CHECK_EVERY_S)
            self._pool.stuck = True
            self._metrics.set("up", 0)  # so that the other processes are not ready either
            LOG.message(f"zoo: a worker thread died or was stuck for {limit_s:g} s. Restarting this process.")
            until = time.monotonic() + self._settings.deadline_s
            while self._metrics.in_flight() and time.monotonic() < until:
                await asyncio.sleep(CHECK_EVERY_S / 10)
            if self._exit_process is not None:
                LOG.flush()
                self._exit_process()

    @asynccontextmanager
    async def watch_in_background(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.watch())
        try:
            yield
        finally:
            task.cancel()

    @asynccontextmanager
    async def listen_for_probes(self) -> AsyncIterator[None]:
        """Answer the health routes on the health port, if the settings have one.

        Its connections are its own, so it answers however many others the server has. Every process listens on it.
        """
        if self._settings.health_port is None:
            yield
            return
        server = await asyncio.start_server(
            self._answer_probe,
            self._settings.address or self._settings.host,
            self._settings.health_port,
            reuse_port=True,
            limit=4096,
        )
        self._probes = 0
        async with server:
            yield

    async def _answer_probe(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._probes += 1
        try:
            with suppress(OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
                if self._probes <= MAX_PROBES:
                    async with asyncio.timeout(PROBE_READ_S):
                        head = await reader.readuntil(b"\r\n\r\n")
                        writer.write(self._response(head))
                        await writer.drain()
        finally:
            self._probes -= 1
            writer.close()

    def _response(self, head: bytes) -> bytes:
        method, path, *_ = (*head.split(b" ", 2), b"", b"")
        states = {b"/v2/health/live": ("live", self.live), b"/v2/health/ready": ("ready", self.ready)}
        if method not in (b"GET", b"HEAD") or path not in states:
            status, body = b"404 Not Found", orjson.dumps({"error": NOT_FOUND})
        else:
            name, state_of = states[path]
            state = state_of()
            status, body = b"200 OK" if state else b"503 Service Unavailable", orjson.dumps({name: state})
        fields = b"Content-Type: application/json\r\nContent-Length: %d\r\nConnection: close" % len(body)
        return b"HTTP/1.1 %b\r\n%b\r\n\r\n%b" % (status, fields, b"" if method == b"HEAD" else body)


@contextmanager
def _loop_watchdog(limit_s: float) -> Iterator[Callable[[], None]]:
    """Yields a function to call every `limit_s` at least. Otherwise the process ends, even if the interpreter hangs."""
    with open(os.devnull, "w") as devnull:
        try:
            yield lambda: faulthandler.dump_traceback_later(limit_s + CHECK_EVERY_S, exit=True, file=devnull)
        finally:
            faulthandler.cancel_dump_traceback_later()
