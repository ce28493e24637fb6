"""Runs jobs of the page that take seconds (many images, inspection), each in a process of its own.

A visitor's file may keep a decoder busy for ever, or make it allocate all memory. A thread cannot be stopped then, but
a process can. It has a deadline, a memory limit and a low priority. It reads one request from stdin and writes lines of
JSON to stdout (`serve/demo/job.py`).
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
MAX_RUNNING, MAX_WAITING = 2, 8  # jobs of a kind
MAX_WAITING_PER_ADDRESS = MAX_WAITING // 2
THREADS = 2 * MAX_RUNNING  # each watches a job, of two kinds
HIDDEN_VARIABLES = frozenset({"ZOO_API_KEY"})  # of the environment; jobs do not need it

# The process gets the import paths of this one, as with `multiprocessing`
_START = (
    "import json, sys; request = json.loads(sys.stdin.readline()); sys.path[:] = request.pop('sys_path'); "
    "from serve.demo.job import main; main(request)"
)


class JobFailed(ZooError):
    """A job that was not started, or was stopped."""


class JobQueue:
    """Limits how many jobs run and wait at a time. For the thread of one event loop."""

    def __init__(self, max_running: int = MAX_RUNNING, max_waiting: int = MAX_WAITING) -> None:
        self._max_running, self._max_waiting = max_running, max_waiting
        self._running = Counter[str]()  # by address
        self._waiting: dict[asyncio.Future[None], str] = {}  # the address of each, in the order of arrival
        self._sessions: set[str] = set()

    @asynccontextmanager
    async def slot(self, session: str, address: str) -> AsyncIterator[None]:
        """Wait for a slot and hold it. The next slot goes to the address with the fewest running jobs.

        Raises:
            JobFailed: the session has a job, or too many jobs are waiting.
        """
        if session in self._sessions:
            raise JobFailed("You already have a job running. Wait until it is done.")
        waiting_of_address = sum(other == address for other in self._waiting.values())
        if len(self._waiting) >= self._max_waiting or waiting_of_address >= MAX_WAITING_PER_ADDRESS:
            raise JobFailed(f"{len(self._waiting)} jobs are already waiting. Try again in a minute.")
        self._sessions.add(session)
        try:
            await self._acquire(address)
            try:
                yield
            finally:
                self._release(address)
        finally:
            self._sessions.discard(session)

    async def _acquire(self, address: str) -> None:
        if self._running.total() < self._max_running:
            self._running[address] += 1
            return
        slot = asyncio.get_running_loop().create_future()
        self._waiting[slot] = address
        try:
            await slot
        except asyncio.CancelledError:
            if self._waiting.pop(slot, None) is None:  # it got the slot at the same moment
                self._release(address)
            raise

    def _release(self, address: str) -> None:
        self._running[address] -= 1
        if not self._running[address]:
            del self._running[address]
        if self._waiting:
            slot = min(self._waiting, key=lambda waiting: self._running[self._waiting[waiting]])  # the first of equals
            self._running[self._waiting.pop(slot)] += 1
            slot.set_result(None)


class JobRunner:
    """Runs the jobs of a server."""

    def __init__(self, deadline_s: float = DEADLINE_S) -> None:
        self._deadline_s = deadline_s
        self._threads = ThreadPoolExecutor(THREADS, "zoo-job")  # the loop's own threads are few, and for quick work
        self._processes: set[subprocess.Popen[str]] = set()
        self._closed = False

    async def run(self, kind: str, request: dict[str, Any], progress: Callable[[int, int | None], object]) -> Any:
        """Run a job of `serve/demo/job.py` and return its result.

        Args:
            kind: a key of `serve.demo.job.KINDS`.
            request: its arguments. They and the result are converted to JSON.
            progress: called in another thread with the images done, and with all of them; None if that is not known.

        Raises:
            JobFailed: the job was stopped, or ended without a result.
            ZooError: what the job raised.
        """
        if self._closed:
            raise JobFailed("The server is stopping. Try again in a moment.")
        request = {**request, "kind": kind, "sys_path": sys.path}
        run = partial(copy_context().run, self._run, request, progress)  # gradio.Progress needs the context
        return await asyncio.get_running_loop().run_in_executor(self._threads, run)

    def _run(self, request: dict[str, Any], progress: Callable[[int, int | None], object]) -> Any:
        process = subprocess.Popen(
            [sys.executable, "-I", "-c", _START],
            stdin=subprocess.PIPE,  # stays open: if this process ends, it is closed, and the job exits
            stdout=subprocess.PIPE,
            encoding="utf-8",
            env={name: value for name, value in os.environ.items() if name not in HIDDEN_VARIABLES},
            start_new_session=True,  # Ctrl-C in a terminal reaches the server, which ends its jobs
        )
        self._processes.add(process)
        deadline = threading.Timer(self._deadline_s, process.kill)
        deadline.start()
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
            in_time = deadline.is_alive()
            deadline.cancel()
            process.kill()
            with suppress(BrokenPipeError), process:  # closes the pipes and waits
                self._processes.discard(process)
        if in_time:
            raise JobFailed(
                "The job ended without a result, perhaps because it ran out of memory. Use the command `zoo predict` "
                "or `zoo inspect`."
            )
        raise JobFailed(
            f"The job was stopped after {self._deadline_s:g} s. Send less, or use the command, which has no time limit."
        )

    def close(self) -> None:
        """Stop all jobs, and reject new ones."""
        self._closed = True
        for process in list(self._processes):
            process.kill()
        self._threads.shutdown(wait=False)
