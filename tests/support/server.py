"""Starts `zoo serve` in a process of its own, and finds a browser."""

import inspect
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

STARTUP_LINE = re.compile(r"zoo: Running on (https?://\S+) with (.*)")
STARTUP_S = 300  # on a machine that is busy with other things
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


# httpx waits 5 seconds for a response unless a call says otherwise; on a busy machine that is too short.
DEFAULT_TIMEOUT = inspect.signature(httpx.get).parameters["timeout"].default
DEFAULT_TIMEOUT.connect = DEFAULT_TIMEOUT.read = DEFAULT_TIMEOUT.write = DEFAULT_TIMEOUT.pool = 60.0


@dataclass
class RunningServer:
    url: str
    process: subprocess.Popen  # the first process, which starts and restarts the server processes
    stderr_file: Path

    @property
    def log(self):
        """What the server wrote to stderr so far."""
        return self.stderr_file.read_text()

    def children(self):
        """The ids of the server processes."""
        return children_of(self.process.pid)

    def stop(self, timeout=40):
        self.process.terminate()
        return self.process.wait(timeout)

    def state(self, name="live"):
        """Whether the server is live or ready; None if it does not respond."""
        try:
            return httpx.get(f"{self.url}/v2/health/{name}", timeout=2).json()[name]
        except httpx.TransportError:
            return None


def children_of(pid):
    """The ids of a process's children, from /proc."""
    children = []
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            lines = status.read_text().splitlines()
        except OSError:
            continue
        if f"PPid:\t{pid}" in lines:
            children.append(int(status.parent.name))
    return sorted(children)


def resident_mb(pid):
    """The resident memory of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1000


def cpu_seconds(pid):
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def find_browser() -> str | None:
    """The path of a Chromium browser: $ZOO_CHROMIUM, or one on PATH; None if there is none."""
    return os.environ.get("ZOO_CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)


def wait_for(condition, seconds=60.0):
    """Wait until a condition holds, and return how long that took. Fails after `seconds`."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() < began + seconds, "timed out"
        time.sleep(0.05)
    return time.monotonic() - began


@contextmanager
def serving(folder, *options, key=None, program="serve.cli", verify=True, **environment):
    """Run `zoo serve` on a free port. It is ready on entry and stopped on exit.

    Args:
        folder: for its log.
        key: the API key.
        program: the module or the file to run.
        verify: as for httpx: how to check the certificate of a server with TLS.
        environment: additional environment variables.
    """
    stderr_file = folder / "errors"
    environment = {**os.environ, **environment} | ({"ZOO_API_KEY": key} if key else {})
    start = [str(program)] if isinstance(program, Path) else ["-m", program]
    command = [sys.executable, *start, "serve", "--port", "0", *options]
    with stderr_file.open("w") as file:
        process = subprocess.Popen(command, stderr=file, stdout=file, env=environment)
    try:
        until = time.monotonic() + STARTUP_S
        while not (match := STARTUP_LINE.search(stderr_file.read_text())):
            assert process.poll() is None, stderr_file.read_text()
            assert time.monotonic() < until, stderr_file.read_text()
            time.sleep(0.05)
        server = RunningServer(match[1], process, stderr_file)
        while httpx.get(server.url + "/v2/health/ready", verify=verify).status_code != 200:
            assert time.monotonic() < until, stderr_file.read_text()
            time.sleep(0.05)
        yield server
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(40)
            except subprocess.TimeoutExpired:
                process.kill()
