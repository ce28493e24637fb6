"""What a server process writes on stderr: a line of JSON per request, and messages. Nothing here waits for the reader.

Lines wait in a bounded queue for a thread that writes them ten times a second: a write costs as much as decoding a
small image. A reader that has stopped reading blocks that thread alone. Further lines are dropped and counted.
"""

from __future__ import annotations

import io
import os
import sys
import threading
import time
import traceback
from collections import deque
from contextlib import suppress
from typing import Any, TextIO

import orjson

from serve.server.request import Exchange
from zoo.errors import printable

EVERY_S = 0.1
MAX_LINES = 5_000  # of 300 bytes as a rule, and at most about MAX_TEXT signs
MAX_TEXT = 1_000  # signs of a path or a message that are written
FAILURE_EVERY_S = 60.0  # at most one line per kind of failure in this time
MAX_KINDS = 200


class Log:
    """Lines for stderr, from any thread."""

    def __init__(self) -> None:
        self._stream: TextIO | None = None
        self._lines: deque[bytes] = deque()
        self._dropped = 0
        self._writing = self._awake = False
        self._start, self._waiting = threading.Lock(), threading.Event()
        self._thread: threading.Thread | None = None
        self._failures: dict[str, tuple[float, int]] = {}
        self._second = (0, "")

    def take_stderr(self) -> None:
        """Make this the process's stderr, for what libraries print must not block the server either.

        C libraries write to the descriptor itself: libtiff prints a line for each damaged file. It becomes a pipe that
        a thread empties into this log.
        """
        self._stream = sys.stderr
        with suppress(OSError, ValueError):  # stderr has no descriptor
            descriptor = sys.stderr.fileno()
            self._stream = open(os.dup(descriptor), "w", encoding="utf-8", errors="backslashreplace")
            reading, writing = os.pipe()
            os.dup2(writing, descriptor)
            os.close(writing)
            threading.Thread(target=self._read, args=(reading,), name="zoo-stderr", daemon=True).start()
        sys.stderr = _Lines(self)

    def _read(self, descriptor: int) -> None:
        """Queue what is written to the process's stderr descriptor."""
        with open(descriptor, "rb") as lines:
            for line in lines:
                self.message(line.decode("utf-8", "backslashreplace").rstrip("\n"))

    def write(self, line: bytes) -> None:
        """Queue a line, without its line end. Never blocks."""
        if len(self._lines) >= MAX_LINES:
            self._dropped += 1
            return
        self._lines.append(line)
        if not self._awake:
            self._awake = True
            self._waiting.set()
            if self._thread is None:
                self._start_thread()

    def message(self, text: str) -> None:
        """Queue a message for a person, on one line; what a terminal would obey (control characters) is escaped."""
        self.write(printable(text[:MAX_TEXT]).encode("utf-8", "backslashreplace"))

    def request(self, exchange: Exchange, status: int) -> None:
        """Queue the access log's line of an answered request."""
        client = exchange.scope.get("client")
        ticket = exchange.ticket
        entry: dict[str, Any] = {
            "time": self._time(),
            "id": exchange.id,
            "client": client[0] if client else None,
            "method": exchange.method,
            "path": exchange.scope["path"][:MAX_TEXT],
            "status": status,
            "ms": round((time.perf_counter() - exchange.started) * 1e3, 3),
            "bytes_in": exchange.body_bytes,
            "bytes_out": exchange.sent_bytes,
        }
        if ticket is not None:
            entry |= {"model": ticket.runner.model.card.name, "images": ticket.size}
        try:
            self.write(orjson.dumps(entry))
        except TypeError:  # a path whose bytes are no UTF-8
            self.write(orjson.dumps(entry | {"path": entry["path"].encode("utf-8", "backslashreplace").decode()}))

    def _time(self) -> str:
        """The present second, written once."""
        now = int(time.time())
        if self._second[0] != now:
            self._second = now, time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now))
        return self._second[1]

    def failure(self, request_id: str, error: BaseException) -> None:
        """Queue one line about an error that nobody expected, once a minute per kind: type and place where raised."""
        kind = _kind(error)
        if kind not in self._failures and len(self._failures) >= MAX_KINDS:
            kind = "an error of yet another kind"
        now = time.monotonic()
        since, count = self._failures.get(kind, (-FAILURE_EVERY_S, 0))
        if now - since < FAILURE_EVERY_S:
            self._failures[kind] = since, count + 1
            return
        self._failures[kind] = now, 0
        repeated = f" ({count} more like it since the last such line)" if count else ""
        self.message(f"zoo: request {request_id} failed: {kind}: {str(error)[:500]}{repeated}")

    def flush(self, timeout_s: float = 1.0) -> None:
        """Wait until what is queued has been written, or for `timeout_s`."""
        until = time.monotonic() + timeout_s
        while (self._lines or self._writing) and time.monotonic() < until:
            time.sleep(0.005)

    def _start_thread(self) -> None:
        with self._start:
            if self._thread is None:
                self._thread = threading.Thread(target=self._write_all, name="zoo-log", daemon=True)
                self._thread.start()

    def _write_all(self) -> None:
        while True:
            self._waiting.wait()
            self._writing = True
            self._waiting.clear()
            self._awake = False  # before the lines are taken: a later one wakes this thread again
            lines = [self._lines.popleft() for _ in range(len(self._lines))]
            dropped, self._dropped = self._dropped, 0
            if dropped:
                lines.append(f"zoo: {dropped} lines of the log were dropped: nobody read stderr.".encode())
            try:
                _write(self._stream or sys.stderr, b"".join(line + b"\n" for line in lines))
            except (OSError, ValueError):  # stderr is closed
                pass
            self._writing = False
            time.sleep(EVERY_S)


LOG = Log()


def _write(stream: TextIO, data: bytes) -> None:
    if binary := getattr(stream, "buffer", None):
        binary.write(data)
    else:
        stream.write(data.decode("utf-8", "replace"))
    stream.flush()


def _kind(error: BaseException) -> str:
    """An error's type and the innermost places that raised it: "KeyError in read (serve/x.py:10) < answer (…)"."""
    frames = traceback.extract_tb(error.__traceback__)[-3:]
    places = [f"{frame.name} ({'/'.join(frame.filename.split('/')[-3:])}:{frame.lineno})" for frame in reversed(frames)]
    return f"{type(error).__name__} in {' < '.join(places) or 'unknown'}"


class _Lines(io.TextIOBase):
    """A text stream whose lines go to the log."""

    encoding = "utf-8"

    def __init__(self, log: Log) -> None:
        self._log, self._begun = log, ""

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        *lines, self._begun = (self._begun + text).split("\n")
        for line in lines:
            self._log.write(line.encode("utf-8", "backslashreplace"))
        self._begun = self._begun[-100_000:]
        return len(text)
