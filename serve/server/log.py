"""The log of a server process on stderr: an access log of JSON lines, and messages. Logging never blocks a request.

Lines wait in a bounded queue for a thread that writes them ten times a second, because a write costs as much as
decoding a small image. A reader that has stopped blocks that thread alone. Further lines are dropped and counted.
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

from serve.server.request import Request
from zoo.errors import printable

WRITE_EVERY_S = 0.1
MAX_LINES = 5_000  # in the queue; usually of 300 bytes, at most of about MAX_TEXT characters
MAX_TEXT = 1_000  # characters of a path or a message; the rest is cut off
FAILURE_EVERY_S = 60.0  # at most one line per kind of failure in this time
MAX_KINDS = 200


class Log:
    """Writes lines to stderr. Methods may be called from any thread."""

    def __init__(self) -> None:
        self._stream: TextIO | None = None
        self._lines: deque[bytes] = deque()
        self._dropped = 0
        self._writing = self._awake = False
        self._start_lock, self._lines_added = threading.Lock(), threading.Event()
        self._thread: threading.Thread | None = None
        self._failures: dict[str, tuple[float, int]] = {}
        self._timestamp = (0, "")  # the last second, and its text

    def take_stderr(self) -> None:
        """Send the process's stderr to this log, so that what libraries print cannot block the server either.

        C libraries write to the file descriptor: libtiff prints a line per damaged file. The descriptor becomes a pipe
        that a thread reads into this log.
        """
        self._stream = sys.stderr
        with suppress(OSError, ValueError):  # stderr has no descriptor
            descriptor = sys.stderr.fileno()
            self._stream = open(os.dup(descriptor), "w", encoding="utf-8", errors="backslashreplace")
            reading, writing = os.pipe()
            os.dup2(writing, descriptor)
            os.close(writing)
            threading.Thread(target=self._read_pipe, args=(reading,), name="zoo-stderr", daemon=True).start()
        sys.stderr = _LogStream(self)

    def _read_pipe(self, descriptor: int) -> None:
        """Queue the lines that are written to the stderr descriptor."""
        with open(descriptor, "rb") as lines:
            for line in lines:
                self.message(line.decode("utf-8", "backslashreplace").rstrip("\n"))

    def write(self, line: bytes) -> None:
        """Queue a line that has no line end. Never blocks."""
        if len(self._lines) >= MAX_LINES:
            self._dropped += 1
            return
        self._lines.append(line)
        if not self._awake:
            self._awake = True
            self._lines_added.set()
            if self._thread is None:
                self._start_thread()

    def message(self, text: str) -> None:
        """Queue a message as one line. Control characters, which a terminal would obey, are escaped."""
        self.write(printable(text[:MAX_TEXT]).encode("utf-8", "backslashreplace"))

    def request(self, request: Request, status: int) -> None:
        """Queue the line of a request in the access log."""
        client = request.scope.get("client")
        item = request.item
        entry: dict[str, Any] = {
            "time": self._time(),
            "id": request.id,
            "client": client[0] if client else None,
            "method": request.method,
            "path": request.scope["path"][:MAX_TEXT],
            "status": status,
            "ms": round((time.perf_counter() - request.started) * 1e3, 3),
            "bytes_in": request.body_bytes,
            "bytes_out": request.sent_bytes,
        }
        if item is not None:
            entry |= {"model": item.runner.model.card.name, "images": item.image_count}
        if request.trace:
            entry |= request.trace
        try:
            self.write(orjson.dumps(entry))
        except TypeError:  # the path is not UTF-8
            self.write(orjson.dumps(entry | {"path": entry["path"].encode("utf-8", "backslashreplace").decode()}))

    def _time(self) -> str:
        """The current time, formatted once per second."""
        now = int(time.time())
        if self._timestamp[0] != now:
            self._timestamp = now, time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now))
        return self._timestamp[1]

    def failure(self, request_id: str, error: BaseException) -> None:
        """Queue a line about an unexpected error, with its type and where it was raised; once a minute per kind."""
        kind = _kind(error)
        if kind not in self._failures and len(self._failures) >= MAX_KINDS:
            kind = "another kind of error"
        now = time.monotonic()
        since, count = self._failures.get(kind, (-FAILURE_EVERY_S, 0))
        if now - since < FAILURE_EVERY_S:
            self._failures[kind] = since, count + 1
            return
        self._failures[kind] = now, 0
        repeated = f" ({count} more since the last such line)" if count else ""
        self.message(f"zoo: request {request_id} failed: {kind}: {str(error)[:500]}{repeated}")

    def flush(self, timeout_s: float = 1.0) -> None:
        """Wait until all queued lines are written; at most `timeout_s`."""
        until = time.monotonic() + timeout_s
        while (self._lines or self._writing) and time.monotonic() < until:
            time.sleep(0.005)

    def _start_thread(self) -> None:
        with self._start_lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._write_all, name="zoo-log", daemon=True)
                self._thread.start()

    def _write_all(self) -> None:
        while True:
            self._lines_added.wait()
            self._writing = True
            self._lines_added.clear()
            self._awake = False  # before the lines are taken: a later one wakes this thread again
            lines = [self._lines.popleft() for _ in range(len(self._lines))]
            dropped, self._dropped = self._dropped, 0
            if dropped:
                lines.append(f"zoo: {dropped} log lines were dropped because nobody read stderr.".encode())
            try:
                _write(self._stream or sys.stderr, b"".join(line + b"\n" for line in lines))
            except (OSError, ValueError):  # stderr is closed
                pass
            self._writing = False
            time.sleep(WRITE_EVERY_S)


LOG = Log()


def _write(stream: TextIO, data: bytes) -> None:
    if binary := getattr(stream, "buffer", None):
        binary.write(data)
    else:
        stream.write(data.decode("utf-8", "replace"))
    stream.flush()


def _kind(error: BaseException) -> str:
    """The type of an error and its innermost frames: "KeyError in read (serve/x.py:10) < process (…)"."""
    frames = traceback.extract_tb(error.__traceback__)[-3:]
    places = [f"{frame.name} ({'/'.join(frame.filename.split('/')[-3:])}:{frame.lineno})" for frame in reversed(frames)]
    return f"{type(error).__name__} in {' < '.join(places) or 'unknown'}"


class _LogStream(io.TextIOBase):
    """A text stream that writes lines to the log."""

    encoding = "utf-8"

    def __init__(self, log: Log) -> None:
        self._log, self._partial = log, ""

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        *lines, self._partial = (self._partial + text).split("\n")
        for line in lines:
            self._log.write(line.encode("utf-8", "backslashreplace"))
        self._partial = self._partial[-100_000:]
        return len(text)
