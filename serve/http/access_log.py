"""A line of JSON on stderr for each request. Ten writes a second: a write costs as much as a decode."""

from __future__ import annotations

import asyncio
import sys
import time

import orjson

from serve.http.exchange import Exchange

EVERY_S = 0.1


class AccessLog:
    """For one event loop. `flush` writes what waits."""

    def __init__(self) -> None:
        self._lines: list[bytes] = []
        self._timer: asyncio.TimerHandle | None = None

    def write(self, exchange: Exchange, status: int) -> None:
        client = exchange.scope.get("client")
        ticket = exchange.ticket
        told = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime()) + "Z",
            "id": exchange.id,
            "client": client[0] if client else None,
            "method": exchange.scope["method"],
            "path": exchange.scope["path"],
            "status": status,
            "ms": round((time.perf_counter() - exchange.started) * 1e3, 3),
            "bytes_in": exchange.body_bytes,
            "bytes_out": exchange.sent_bytes,
        }
        if ticket is not None:
            told |= {"model": ticket.runner.model.card.name, "images": ticket.size}
        self._lines.append(orjson.dumps(told))
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(EVERY_S, self.flush)

    def flush(self) -> None:
        self._timer = None
        lines, self._lines = self._lines, []
        if lines:
            sys.stderr.buffer.write(b"\n".join(lines) + b"\n")
            sys.stderr.flush()
