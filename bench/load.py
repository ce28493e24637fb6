"""Sends images with known labels to a server and checks the label of every response.

`closed_loop` runs wrk: every connection sends its next request after the response to the last. `open_loop` sends
requests at random times, as users do: they do not wait for the server, and the time in the queue counts as latency.
"""

import asyncio
import re
import shutil
import subprocess
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic  # uvloop's own clock counts whole milliseconds
from typing import cast
from urllib.parse import urlsplit

import numpy as np

from bench.measure import Seconds, Timing

_SCRIPT = """
bodies = {%s}
wrk.method = "POST"
wrk.headers["Content-Type"] = "%s"
local n = 0
function request() n = n %% #bodies + 1; return wrk.format(nil, nil, nil, bodies[n]) end
local threads = {}
function setup(thread) table.insert(threads, thread) end
wrong = 0
%s
function done(summary)
  local all = 0
  for _, thread in ipairs(threads) do all = all + thread:get("wrong") end
  io.write(string.format("wrong %%d of %%d, errors %%d\\n", all + summary.errors.status, summary.requests,
    summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout))
end
"""

_CHECK = """
function response(status, headers, body)
  if status == 200 and not body:find('"label": ?"%s"') then wrong = wrong + 1 end
end
"""
BOUNDARY = "a-line-between-parts"
FORM = f"multipart/form-data; boundary={BOUNDARY}"


@dataclass(frozen=True)
class Load:
    """The result of a closed loop."""

    per_second: float
    p50_ms: float
    p99_ms: float
    requests: int  # with a response
    wrong: int  # responses without status 200 and the expected label
    errors: int  # of connections


def cpu_seconds(pid: int) -> float:
    """CPU time of the threads of a process and of its descendants so far (Linux)."""
    seconds = 0.0
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(OSError):  # the thread has ended
            seconds += int((task / "schedstat").read_text().split()[0]) / 1e9
            seconds += sum(cpu_seconds(int(child)) for child in (task / "children").read_text().split())
    return seconds


def memory_mb(pid: int) -> list[float]:
    """Proportional set size of each child of a process, in MB: shared pages are divided among those that share them."""
    children = [
        child for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()
    ]
    rollups = [Path(f"/proc/{child}/smaps_rollup").read_text() for child in children]
    return [int(re.findall(r"^Pss:\s+(\d+)", rollup, re.MULTILINE)[0]) / 1e3 for rollup in rollups]


def wrk_is_here() -> bool:
    return shutil.which("wrk") is not None


def as_form(file: bytes) -> bytes:
    """A multipart body with one file, for servers that only take forms; its Content-Type is `FORM`."""
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="7.png"\r\n\r\n'
    return head.encode() + file + f"\r\n--{BOUNDARY}--\r\n".encode()


def closed_loop(
    url: str,
    files: list[bytes],
    label: str | None,
    folder: Path,
    seconds: float,
    connections: int = 32,
    content_type: str = "image/png",
) -> Load:
    """Run wrk with one thread.

    Args:
        label: expected in every response. None checks statuses only, which takes wrk less time.
    Raises:
        RuntimeError: wrk failed.
    """
    script = folder / "load.lua"
    bodies = ", ".join('"' + "".join(f"\\{byte:03}" for byte in file) + '"' for file in files)
    script.write_text(_SCRIPT % (bodies, content_type, _CHECK % label if label else ""))
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:.0f}s", "--latency", "-s", str(script), url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 30)
    counts = re.search(r"wrong (\d+) of (\d+), errors (\d+)", done.stdout)
    rate = re.search(r"Requests/sec:\s+([\d.]+)", done.stdout)
    if done.returncode or not counts or not rate:
        raise RuntimeError(f"wrk failed: {done.stdout}{done.stderr}")
    wrong, requests, errors = map(int, counts.groups())
    return Load(float(rate[1]), _percentile(done.stdout, 50), _percentile(done.stdout, 99), requests, wrong, errors)


def _percentile(printed: str, percent: int) -> float:
    """Milliseconds from wrk's table of latencies."""
    match = re.search(rf"^\s+{percent}%\s+([\d.]+)(us|ms|s)\s*$", printed, re.MULTILINE)
    if not match:
        raise RuntimeError(f"wrk printed no latencies: {printed}")
    return float(match[1]) * {"us": 1e-3, "ms": 1.0, "s": 1e3}[match[2]]


def open_loop(url: str, files: list[bytes], label: str, rate: float, seconds: float, connections: int = 64) -> Timing:
    """Poisson arrivals; latency counts from when a request was due. Raises RuntimeError for a wrong response.

    The client is an asyncio protocol on uvloop, because it takes its CPU time from the server on the same machine.
    """
    import uvloop

    return uvloop.run(_open_loop(url, files, label, rate, seconds, connections))


async def _open_loop(url: str, files: list[bytes], label: str, rate: float, seconds: float, connections: int) -> Timing:
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or 80
    head = f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: image/png\r\nContent-Length: "
    requests = [(head + f"{len(file)}\r\n\r\n").encode() + file for file in files]
    expected = re.compile(rf'"label": ?"{label}"'.encode())
    loop = asyncio.get_running_loop()
    due = monotonic() + 0.1 + np.cumsum(np.random.default_rng(0).exponential(1 / rate, int(rate * seconds)))
    latencies: list[float] = []
    finished: asyncio.Future[None] = loop.create_future()
    all_connections: list[_Connection] = []
    idle: deque[_Connection] = deque()
    waiting: deque[float] = deque()  # when the requests without a connection were due

    def answered(connection: _Connection, due_time: float, response: bytes) -> None:
        latencies.append(monotonic() - due_time)
        if not expected.search(response):
            fail(f"A wrong response: {response!r}")
        elif len(latencies) == len(due):
            finished.set_result(None)
        elif waiting:
            connection.send(requests[len(latencies) % len(requests)], waiting.popleft())
        else:
            idle.append(connection)

    def fail(reason: str) -> None:
        if not finished.done():
            finished.set_exception(RuntimeError(reason))

    try:
        for _ in range(connections):
            _, connection = await loop.create_connection(lambda: _Connection(answered, fail), host, port)
            all_connections.append(connection)
        idle.extend(all_connections)
        for number, due_time in enumerate(due.tolist()):
            if (delay := due_time - monotonic()) > 0:
                await asyncio.sleep(delay)
            if idle:
                idle.popleft().send(requests[number % len(requests)], due_time)
            else:
                waiting.append(due_time)
        await finished
    finally:
        await asyncio.gather(*(connection.close() for connection in all_connections))
    return Timing(np.array(latencies))


def closed_loop_of_one(
    url: str, files: list[bytes], label: str, begin: float, seconds: float, connections: int
) -> Seconds:
    """Latencies of a closed loop in this process, where wrk is missing: those of the responses within `seconds`.

    Args:
        begin: the time of the first request by `monotonic()`, the same for several processes.
    Raises:
        RuntimeError: a wrong response.
    """
    import uvloop

    return np.array(uvloop.run(_closed_loop(url, files, label, begin, seconds, connections)))


async def _closed_loop(
    url: str, files: list[bytes], label: str, begin: float, seconds: float, connections: int
) -> list[float]:
    parts = urlsplit(url)
    head = f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: image/png\r\nContent-Length: "
    requests = [(head + f"{len(file)}\r\n\r\n").encode() + file for file in files]
    expected = re.compile(rf'"label": ?"{label}"'.encode())
    loop = asyncio.get_running_loop()
    latencies: list[float] = []
    failed: asyncio.Future[None] = loop.create_future()

    def answered(connection: _Connection, sent: float, response: bytes) -> None:
        now = monotonic()
        if now > until:
            return
        latencies.append(now - sent)
        if not expected.search(response):
            fail(f"A wrong response: {response!r}")
        connection.send(requests[len(latencies) % len(requests)], now)

    def fail(reason: str) -> None:
        if not failed.done():
            failed.set_exception(RuntimeError(reason))

    opened = [
        (await loop.create_connection(lambda: _Connection(answered, fail), parts.hostname or "", parts.port or 80))[1]
        for _ in range(connections)
    ]
    await asyncio.sleep(begin - monotonic())
    until = monotonic() + seconds
    try:
        for number, connection in enumerate(opened):
            connection.send(requests[number % len(requests)], monotonic())
        await asyncio.wait([failed], timeout=seconds)
        if failed.done():
            failed.result()
    finally:
        failed.cancel()
        await asyncio.gather(*(connection.close() for connection in opened))
    return latencies


class _Connection(asyncio.Protocol):
    """One connection; it has at most one request at a time."""

    def __init__(self, answered: Callable[["_Connection", float, bytes], None], fail: Callable[[str], None]) -> None:
        self._answered, self._fail = answered, fail
        self._received, self._due = b"", 0.0
        self._closed = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def send(self, request: bytes, due: float) -> None:
        self._received, self._due = b"", due
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, separator, body = self._received.partition(b"\r\n\r\n")
        if not separator:
            return
        length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
        if not length:
            self._fail(f"A response without Content-Length: {head!r}")
        elif len(body) >= int(length[1]):
            self._answered(self, self._due, self._received)

    def connection_lost(self, error: Exception | None) -> None:
        self._fail(f"The server closed a connection ({error}).")
        self._closed.set_result(None)

    async def close(self) -> None:
        self._transport.close()
        await self._closed
