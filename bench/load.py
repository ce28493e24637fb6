"""Sends images with known labels to a server and checks the label of every response.

`closed_loop` runs wrk: every connection sends its next request after the response to the last. `open_loop` sends
requests at random times, as users do: they do not wait for the server, and the time in the queue counts as latency.
"""

import asyncio
import re
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

from bench.measure import Timing

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
    match = re.search(rf"^\s+{percent}%\s+([\d.]+)(us|ms|s)$", printed, re.MULTILINE)
    if not match:
        raise RuntimeError(f"wrk printed no latencies: {printed}")
    return float(match[1]) * {"us": 1e-3, "ms": 1.0, "s": 1e3}[match[2]]


def open_loop(url: str, files: list[bytes], label: str, rate: float, seconds: float, connections: int = 64) -> Timing:
    """Poisson arrivals; latency counts from when a request was due. Raises RuntimeError for a wrong response."""
    return asyncio.run(_open_loop(url, files, label, rate, seconds, connections))


async def _open_loop(url: str, files: list[bytes], label: str, rate: float, seconds: float, connections: int) -> Timing:
    parts = urlsplit(url)
    head = f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: image/png\r\nContent-Length: "
    requests = [(head + f"{len(file)}\r\n\r\n").encode() + file for file in files]
    expected = re.compile(rf'"label": ?"{label}"'.encode())
    pool: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()
    for _ in range(connections):
        pool.put_nowait(await asyncio.open_connection(parts.hostname, parts.port))
    due = time.perf_counter() + 0.1 + np.cumsum(np.random.default_rng(0).exponential(1 / rate, int(rate * seconds)))
    latencies: list[float] = []

    async def send(number: int) -> None:
        reader, writer = await pool.get()
        writer.write(requests[number % len(requests)])
        headers = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", headers, re.IGNORECASE)
        if not length:
            raise RuntimeError(f"A response without Content-Length: {headers!r}")
        body = await reader.readexactly(int(length[1]))
        latencies.append(time.perf_counter() - due[number])
        if not expected.search(body):
            raise RuntimeError(f"A wrong response: {headers + body!r}")
        pool.put_nowait((reader, writer))

    async with asyncio.TaskGroup() as tasks:
        for number, due_time in enumerate(due):
            if (delay := due_time - time.perf_counter()) > 0:
                await asyncio.sleep(delay)
            tasks.create_task(send(number))
    while not pool.empty():
        pool.get_nowait()[1].close()
    return Timing(np.array(latencies))
