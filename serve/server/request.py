"""One HTTP request and its response on plain ASGI, for routes where a framework would cost more than the network."""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter, deque
from ipaddress import IPv6Address, ip_address
from typing import Any
from urllib.parse import parse_qsl

import orjson

from serve.service.asgi import ClientDisconnected, HTTPError, Message, Receive, Send
from serve.service.pool import WorkItem

Headers = list[tuple[bytes, bytes]]

JSON = b"application/json"
MAX_FILES = 1000  # image files per request
SMALL_BODY_BYTES = 65_536  # always accepted, however many bytes other requests hold
STALL_S = 5.0  # the longest time without any byte of a body
GRACE_S, MIN_RATE = 5.0, 16_000  # after so many seconds, a body must have arrived with so many bytes/s on average
NUMBER = re.compile(r"[0-9]{1,18}")  # int() rejects thousands of digits


class Request:
    """An HTTP request, and methods that send its response.

    Every response carries the headers X-Request-ID and Server-Timing.
    """

    def __init__(
        self, scope: Message, receive: Receive, send: Send, request_id: str, budget: BodyBudget, stalls: Deadlines
    ) -> None:
        self.scope, self.receive, self._send = scope, receive, send
        self.method: str = scope["method"]
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self.started = time.perf_counter()
        self.id = request_id
        self.route = "other"  # of `serve.service.metrics.ROUTES`
        self.status = 0  # of the response; 0 before it begins
        self.sent_bytes = self.body_bytes = 0
        self.held_bytes = self.client_bytes = 0  # of the budget, and of the client's share
        self.complete = False  # whether the body has been received
        self.item: WorkItem | None = None
        self.added_headers: Headers = []  # of the response
        self.trace: dict[str, str] | None = None  # trace_id and span_id, for the access log
        self._body_wait_s = 0.0
        self._budget, self._stalls = budget, stalls

    def header(self, name: bytes) -> str | None:
        """A header of the request; `name` in lower case."""
        value = self.headers.get(name)
        return None if value is None else value.decode("latin-1")

    def client_network(self) -> str:
        """The client whose share of the budget the body takes; "" for this machine's own addresses."""
        host, *_ = self.scope.get("client") or ("",)
        try:
            address = ip_address(host)
        except ValueError:  # a Unix socket
            return ""
        if isinstance(address, IPv6Address):
            if address.ipv4_mapped is None:
                return "" if address.is_loopback else str(IPv6Address(int(address) >> 64 << 64))
            address = address.ipv4_mapped
        return "" if address.is_loopback else str(address)

    def query(self) -> dict[str, str]:
        text = self.scope["query_string"]
        return dict(parse_qsl(text.decode("latin-1"), keep_blank_values=True)) if text else {}

    async def body(self, limit: int) -> bytes:
        """The body. Raises HTTPError as soon as it is larger than `limit`, and ClientDisconnected."""
        self.check_length(limit)
        chunks: list[bytes] = []
        while not self.complete:
            message = await self.receive_chunk(limit)
            if message["type"] == "http.disconnect":
                raise ClientDisconnected
            chunks.append(message.get("body", b""))
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def check_length(self, limit: int) -> None:
        """Raises HTTPError if Content-Length is larger than `limit`."""
        declared = self.header(b"content-length")
        if declared is not None and NUMBER.fullmatch(declared) and int(declared) > limit:
            raise _too_large(limit)

    async def receive_chunk(self, limit: int) -> Message:
        """The next message of the request, counted.

        Raises HTTPError as soon as the body is larger than `limit`, or arrives too slowly.
        """
        began = time.perf_counter()
        try:
            with self._stalls.start():
                message = await self.receive()
        except TimeoutError:
            raise _too_slow(f"no data for {self._stalls.seconds:g} s") from None
        self._body_wait_s += time.perf_counter() - began
        chunk = message.get("body", b"")
        self.body_bytes += len(chunk)
        if self.body_bytes > limit:
            raise _too_large(limit)
        self._budget.take(self, len(chunk))
        if message["type"] == "http.request" and not message.get("more_body"):
            self.complete = True
        elif self.body_bytes < MIN_RATE * (self._body_wait_s - GRACE_S):
            raise _too_slow(f"less than {MIN_RATE // 1000} KB/s")
        return message

    def release(self) -> None:
        """Return the body's share of the budget."""
        self._budget.release(self)

    async def reply(self, status: int, body: bytes, content_type: bytes = JSON, headers: Headers | None = None) -> None:
        start = [(b"content-type", content_type), (b"content-length", str(len(body)).encode()), *(headers or ())]
        await self.send({"type": "http.response.start", "status": status, "headers": start})
        await self.send({"type": "http.response.body", "body": body})

    async def reply_json(self, status: int, value: Any, headers: Headers | None = None) -> None:
        await self.reply(status, orjson.dumps(value), headers=headers)

    async def send(self, message: Message) -> None:
        """ASGI's send. It adds headers to the response, and records the status and the bytes sent."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = [*message.get("headers", ()), *self.added_headers, (b"x-request-id", self.id.encode())]
            message["headers"] = [*headers, (b"server-timing", self._server_timing().encode())]
        elif self.method == "HEAD":
            message["body"] = b""
        else:
            self.sent_bytes += len(message.get("body", b""))
        await self._send(message)

    def _server_timing(self) -> str:
        """Milliseconds by stage, as in https://www.w3.org/TR/server-timing/."""
        total = f"total;dur={(time.perf_counter() - self.started) * 1e3:.3f}"
        if self.item is None:
            return total
        item = self.item
        return (
            f"decode;dur={item.decode_s * 1e3:.3f}, queue;dur={item.queue_s * 1e3:.3f}, "
            f"infer;dur={item.infer_s * 1e3:.3f}, {total}"
        )


def _too_slow(reason: str) -> HTTPError:
    return HTTPError(408, f"The request body arrives too slowly ({reason}). Send it again.", connection="close")


def _too_large(limit: int) -> HTTPError:
    message = f"The request body is larger than {limit / 1e6:g} MB. Send less, or a smaller image."
    return HTTPError(413, message, connection="close")


class BodyBudget:
    """Bytes of request bodies that the process holds at a time, so that many slow uploads cannot fill the memory.

    Small bodies are always accepted. One client, which is an IPv4 address or an IPv6 network of 64 bits, may hold
    `share` of the total. This machine's own addresses are exempt, because a proxy there stands for all of its clients.
    """

    def __init__(self, total_bytes: int, share: float = 0.25) -> None:
        self.total_bytes, self.bytes_per_client, self.held_bytes = total_bytes, int(total_bytes * share), 0
        self._by_client: Counter[str] = Counter()

    def take(self, request: Request, size: int) -> None:
        """Count received bytes. Raises HTTPError if the client, or all requests together, hold too many."""
        self.held_bytes += size
        request.held_bytes += size
        if request.held_bytes <= SMALL_BODY_BYTES:
            return
        client = request.client_network()
        if client:
            self._by_client[client] += request.held_bytes - request.client_bytes
            request.client_bytes = request.held_bytes
            if self._by_client[client] > self.bytes_per_client:
                message = "Too many large requests from your address at once. Try again in a moment."
                raise HTTPError(429, message, retry_after="1", connection="close")
        if self.held_bytes > self.total_bytes:
            message = "Too many large requests at once. Try again in a moment."
            raise HTTPError(503, message, retry_after="1", connection="close")

    def release(self, request: Request) -> None:
        """Return the bytes that a request holds."""
        self.held_bytes -= request.held_bytes
        if request.client_bytes:
            client = request.client_network()
            self._by_client[client] -= request.client_bytes
            if not self._by_client[client]:
                del self._by_client[client]
        request.held_bytes = request.client_bytes = 0


class Deadlines:
    """Cancels tasks that run longer than `seconds`; for one event loop at a time.

    All tasks get the same time, so the oldest one expires first and one timer is enough. `asyncio.timeout` sets a timer
    per request, which costs a tenth of classifying an image.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._running: deque[Deadline] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self) -> Deadline:
        """A deadline for the code in `with deadlines.start():`, which raises TimeoutError when it expires."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:  # the previous one has ended
            self._loop, self._timer = loop, None
            self._running.clear()
        running = self._running
        while running and running[0].done:  # or thousands would wait for the timer, and be visited by each collection
            running.popleft()
        deadline = Deadline(loop.time() + self.seconds, asyncio.current_task(loop))
        running.append(deadline)
        if self._timer is None:
            self._timer = loop.call_at(deadline.at, self._expire_due, loop)
        return deadline

    def _expire_due(self, loop: asyncio.AbstractEventLoop) -> None:
        """Expire what is due, drop what is done, and set the timer for the next."""
        now = loop.time()
        while self._running and (self._running[0].done or self._running[0].at <= now):
            self._running.popleft().expire()
        self._timer = loop.call_at(self._running[0].at, self._expire_due, loop) if self._running else None


class Deadline:
    __slots__ = ("_expired", "_task", "at", "done")

    def __init__(self, at: float, task: asyncio.Task[Any] | None) -> None:
        self.at, self._task = at, task
        self.done = self._expired = False

    def expire(self) -> None:
        if not self.done and self._task is not None:
            self._expired = True
            self._task.cancel()

    def __enter__(self) -> Deadline:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.done = True
        task, self._task = self._task, None  # a task's result may hold a body, and this object stays queued for a while
        if self._expired and task is not None:
            task.uncancel()
            if kind is asyncio.CancelledError:
                raise TimeoutError
