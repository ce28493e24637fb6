"""A server in this process, or the real one in another."""

import os
import re
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

STARTED = re.compile(r"zoo: (http://\S+) serves (.*)")


@dataclass
class Served:
    """url: of the server. process: its first, which watches the others. log: what it wrote on stderr so far."""

    url: str
    process: subprocess.Popen
    errors: Path

    @property
    def log(self):
        return self.errors.read_text()

    def children(self):
        """The server processes, from /proc."""
        found = []
        for status in Path("/proc").glob("[0-9]*/status"):
            try:
                lines = status.read_text().splitlines()
            except OSError:
                continue
            if f"PPid:\t{self.process.pid}" in lines:
                found.append(int(status.parent.name))
        return sorted(found)

    def stop(self, timeout=40):
        self.process.terminate()
        return self.process.wait(timeout)

    def state(self, name="live"):
        """What the server says of itself: True, False, or None where it does not answer."""
        try:
            return httpx.get(f"{self.url}/v2/health/{name}", timeout=2).json()[name]
        except httpx.TransportError:
            return None


def wait_for(condition, seconds=60.0):
    """Until a condition holds; fails after some seconds. Gives back how long it took."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() < began + seconds
        time.sleep(0.05)
    return time.monotonic() - began


@contextmanager
def serving(folder, *options, key=None, program="serve.cli", **environment):
    """`zoo serve` on a free port, ready; stopped at the end. program: the module or the file to run."""
    errors = folder / "errors"
    environment = {**os.environ, **environment} | ({"ZOO_API_KEY": key} if key else {})
    start = [str(program)] if isinstance(program, Path) else ["-m", program]
    command = [sys.executable, *start, "serve", "--port", "0", *options]
    with errors.open("w") as file:
        process = subprocess.Popen(command, stderr=file, stdout=file, env=environment)
    try:
        until = time.monotonic() + 90
        while not (told := STARTED.search(errors.read_text())):
            assert process.poll() is None, errors.read_text()
            assert time.monotonic() < until, errors.read_text()
            time.sleep(0.05)
        server = Served(told[1], process, errors)
        while httpx.get(server.url + "/v2/health/ready").status_code != 200:
            assert time.monotonic() < until, errors.read_text()
            time.sleep(0.05)
        yield server
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(40)
            except subprocess.TimeoutExpired:
                process.kill()
