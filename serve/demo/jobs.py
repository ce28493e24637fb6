"""Long work for the page, each in a process of its own: many pictures, and looks inside.

What a visitor sends may keep a decoder busy for ever or ask for all memory; a thread that does cannot be stopped, a
process can. It has a deadline, a bound on its memory and a low priority, reads its one request on stdin and writes
lines of JSON on stdout (`serve/demo/job.py`).
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from contextvars import copy_context
from functools import partial
from typing import Any

from zoo.errors import ZooError

DEADLINE_S = 60.0
RUNNING, WAITING = 2, 8  # jobs of a kind
WAITING_OF_ONE = WAITING // 2  # that may come from one address
THREADS = 2 * RUNNING  # that watch jobs: of two kinds
HIDDEN = frozenset({"ZOO_API_KEY"})  # of the environment: a job need not know it

# A process that was not started by a file has the paths of this one, as `multiprocessing` does it
_START = (
    "import json, sys; request = json.loads(sys.stdin.readline()); sys.path[:] = request.pop('sys_path'); "
    "from serve.demo.job import main; main(request)"
)


class JobFailed(ZooError):
    """A job that was not begun, or was stopped; the message says what to do."""


class Places:
    """Room for so many jobs at a time. For the thread of one event loop."""

    def __init__(self, running: int = RUNNING, waiting: int = WAITING) -> None:
        self._most_running, self._most_waiting = running, waiting
        self._running = Counter[str]()  # by address
        self._waiting: dict[asyncio.Future[None], str] = {}  # the address of each, in the order in which they came
        self._sessions: set[str] = set()

    @asynccontextmanager
    async def place(self, session: str, address: str) -> AsyncIterator[None]:
        """Wait for a place and have it. Next is whoever has the fewest running jobs. Raises JobFailed."""
        if session in self._sessions:
            raise JobFailed("A job of yours is running: wait until it is done.")
        of_address = sum(other == address for other in self._waiting.values())
        if len(self._waiting) >= self._most_waiting or of_address >= WAITING_OF_ONE:
            raise JobFailed(f"{len(self._waiting)} jobs are waiting already: try again in a minute.")
        self._sessions.add(session)
        try:
            await self._enter(address)
            try:
                yield
            finally:
                self._leave(address)
        finally:
            self._sessions.discard(session)

    async def _enter(self, address: str) -> None:
        if self._running.total() < self._most_running:
            self._running[address] += 1
            return
        place = asyncio.get_running_loop().create_future()
        self._waiting[place] = address
        try:
            await place
        except asyncio.CancelledError:
            if self._waiting.pop(place, None) is None:  # it was given the place at the same moment
                self._leave(address)
            raise

    def _leave(self, address: str) -> None:
        self._running[address] -= 1
        if not self._running[address]:
            del self._running[address]
        if self._waiting:
            place = min(self._waiting, key=lambda one: self._running[self._waiting[one]])  # the first of equals
            self._running[self._waiting.pop(place)] += 1
            place.set_result(None)


class Jobs:
    """The running jobs of a server."""

    def __init__(self, deadline_s: float = DEADLINE_S) -> None:
        self._deadline_s = deadline_s
        self._threads = ThreadPoolExecutor(THREADS, "zoo-job")  # the loop's own are few, and for what is quick
        self._processes: set[subprocess.Popen[str]] = set()
        self._closed = False

    async def run(self, kind: str, request: dict[str, Any], progress: Callable[[int, int | None], object]) -> Any:
        """Have a job of `serve/demo/job.py` done.

        Args:
            kind: which. request: what it gets; all of it goes through JSON, and so does the result.
            progress: called in another thread, with what is done and how much there is, None where that is not known.
        Raises:
            ZooError: what the job raised; JobFailed: it was stopped, or ended by itself.
        """
        if self._closed:
            raise JobFailed("The server is stopping: try again in a moment.")
        request = {**request, "kind": kind, "sys_path": sys.path}
        run = partial(copy_context().run, self._run, request, progress)  # progress asks the context whose it is
        return await asyncio.get_running_loop().run_in_executor(self._threads, run)

    def _run(self, request: dict[str, Any], progress: Callable[[int, int | None], object]) -> Any:
        process = subprocess.Popen(
            [sys.executable, "-I", "-c", _START],
            stdin=subprocess.PIPE,  # stays open: the job ends where it is closed, for this process has ended
            stdout=subprocess.PIPE,
            encoding="utf-8",
            env={name: value for name, value in os.environ.items() if name not in HIDDEN},
            start_new_session=True,  # Ctrl-C in a terminal is for the server, which ends its jobs
        )
        self._processes.add(process)
        late = threading.Timer(self._deadline_s, process.kill)
        late.start()
        try:
            if self._closed:
                process.kill()
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
            for line in process.stdout:
                message = json.loads(line)
                if "result" in message:
                    return message["result"]
                if "error" in message:
                    raise ZooError(message["error"])
                progress(*message["progress"])
        except BrokenPipeError:
            pass
        finally:
            in_time = late.is_alive()
            late.cancel()
            process.kill()
            with suppress(BrokenPipeError), process:  # closes the pipes, and waits
                self._processes.discard(process)
        if in_time:
            raise JobFailed("The job ended without an answer, as happens where it needs more memory than the page "
                            "may have: use the command, `zoo predict` or `zoo inspect`.")  # fmt: skip
        raise JobFailed(f"The job was stopped after {self._deadline_s:g} s: send less, or use the command, which has "
                        "no such limit.")  # fmt: skip

    def close(self) -> None:
        """Stop all jobs, and any that come."""
        self._closed = True
        for process in list(self._processes):
            process.kill()
        self._threads.shutdown(wait=False)
