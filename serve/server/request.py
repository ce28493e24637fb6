"""One HTTP request and its answer, on plain ASGI: for routes where a framework would cost more than the network."""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter, deque
from ipaddress import IPv6Address, ip_address
from typing import Any
from urllib.parse import parse_qsl

import orjson

from serve.service.asgi import ClientLeft, Message, Receive, Refused, Send
from serve.service.pool import Ticket

# One deadline for many things: as all get the same time, those that began first end first, and one timer will do.
#
# `asyncio.timeout` sets a timer a request, which costs a tenth of classifying an image.


class Deadlines:
    """Cancels what is not done after `seconds`; for one event loop at a time."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._running: deque[Deadline] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self) -> Deadline:
        """To be used around what has a deadline, `with deadlines.start():`. Raises TimeoutError when it has passed."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:  # the one before has ended
            self._loop, self._timer = loop, None
            self._running.clear()
        deadline = Deadline(loop.time() + self.seconds, asyncio.current_task())
        self._running.append(deadline)
        if self._timer is None:
            self._timer = loop.call_at(deadline.at, self._sweep, loop)
        return deadline

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        """End what is late, forget what is done, and come back for the next."""
        now = loop.time()
        while self._running and (self._running[0].done or self._running[0].at <= now):
            self._running.popleft().expire()
        self._timer = loop.call_at(self._running[0].at, self._sweep, loop) if self._running else None


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
        task, self._task = self._task, None  # its result may hold a request's body, and this waits here for its turn
        if self._expired and task is not None:
            task.uncancel()
            if kind is asyncio.CancelledError:
                raise TimeoutError


Headers = list[tuple[bytes, bytes]]

JSON = b"application/json"
MOST_FILES = 1000  # image files in one request
SMALL = 65_536  # bytes of a body that are always taken, however much others hold
STALL_S = 5.0  # in which some byte of a body must come
GRACE_S, MIN_RATE = 5.0, 16_000  # seconds after which a body must have come with so many bytes a second on average
NUMBER = re.compile(r"[0-9]{1,18}")  # int() refuses thousands of digits


class Budget:
    """Bytes of request bodies that the process holds at a time, so that many slow uploads cannot fill the memory.

    Small bodies always pass. One client, which is an address or an IPv6 network of 64 bits, may hold `share` of all.
    Addresses of this machine are exempt from that: there a proxy stands for all of its clients.
    """

    def __init__(self, most: int, share: float = 0.25) -> None:
        self.most, self.share, self.held = most, int(most * share), 0
        self._by_client: Counter[str] = Counter()

    def take(self, exchange: Exchange, size: int) -> None:
        """Count bytes that came. Raises Refused where the request, or its client, holds more than there is room for."""
        self.held += size
        exchange.held += size
        if exchange.held <= SMALL:
            return
        client = exchange.client_network()
        if client:
            self._by_client[client] += exchange.held - exchange.held_by_client
            exchange.held_by_client = exchange.held
            if self._by_client[client] > self.share:
                raise Refused(429, "Too many large requests at once from your address: ask again in a moment.",
                              retry_after="1", connection="close")  # fmt: skip
        if self.held > self.most:
            raise Refused(503, "Too many large requests at once: ask again in a moment.",
                          retry_after="1", connection="close")  # fmt: skip

    def release(self, exchange: Exchange) -> None:
        """Forget what a request held."""
        self.held -= exchange.held
        if exchange.held_by_client:
            client = exchange.client_network()
            self._by_client[client] -= exchange.held_by_client
            if not self._by_client[client]:
                del self._by_client[client]
        exchange.held = exchange.held_by_client = 0


class Exchange:
    """What a handler gets: the request, and `reply`. Every answer carries the request's id and a Server-Timing."""

    def __init__(
        self, scope: Message, receive: Receive, send: Send, request_id: str, budget: Budget, stalls: Deadlines
    ) -> None:
        self.scope, self.receive, self._send = scope, receive, send
        self.method: str = scope["method"]
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self.started = time.perf_counter()
        self.id, self.route, self.model = request_id, "other", ""
        self.status, self.sent_bytes, self.body_bytes = 0, 0, 0
        self.held = self.held_by_client = 0  # bytes, of the budget and of the client's share
        self.whole = False  # whether the request's body has been read
        self.ticket: Ticket | None = None
        self._waited = 0.0  # seconds, for parts of the body
        self.added_headers: Headers = []  # to the head of the answer
        self._budget, self._stalls = budget, stalls

    def header(self, name: bytes) -> str | None:
        """A header of the request, its name in lower case."""
        value = self.headers.get(name)
        return None if value is None else value.decode("latin-1")

    def client_network(self) -> str:
        """Whose share of the budget the body takes, "" for this machine's own addresses."""
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
        """The request's body. Raises Refused as soon as it is larger than `limit`, or ClientLeft."""
        self.look_at_length(limit)
        parts: list[bytes] = []
        while not self.whole:
            message = await self.part(limit)
            if message["type"] == "http.disconnect":
                raise ClientLeft
            parts.append(message.get("body", b""))
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def look_at_length(self, limit: int) -> None:
        """Raises Refused where the request says itself that it is larger than `limit`."""
        declared = self.header(b"content-length")
        if declared is not None and NUMBER.fullmatch(declared) and int(declared) > limit:
            raise self._too_large(limit)

    async def part(self, limit: int) -> Message:
        """The next message of the request, counted.

        Raises Refused as soon as the body is larger than `limit`, or comes too slowly.
        """
        began = time.perf_counter()
        try:
            with self._stalls.start():
                message = await self.receive()
        except TimeoutError:
            raise self._too_slow(f"no byte of it came in {self._stalls.seconds:g} s") from None
        self._waited += time.perf_counter() - began
        part = message.get("body", b"")
        self.body_bytes += len(part)
        if self.body_bytes > limit:
            raise self._too_large(limit)
        self._budget.take(self, len(part))
        if message["type"] == "http.request" and not message.get("more_body"):
            self.whole = True
        elif self.body_bytes < MIN_RATE * (self._waited - GRACE_S):
            raise self._too_slow(f"less than {MIN_RATE // 1000} KB of it came in a second")
        return message

    def _too_slow(self, why: str) -> Refused:
        return Refused(408, f"The request came too slowly ({why}): send it again.", connection="close")

    def _too_large(self, limit: int) -> Refused:
        return Refused(413, f"The request is larger than {limit / 1e6:g} MB: send less, or a smaller image.",
                       connection="close")  # fmt: skip

    def release(self) -> None:
        """Give the body's share of the budget back."""
        self._budget.release(self)

    async def reply(self, status: int, body: bytes, content_type: bytes = JSON, headers: Headers | None = None) -> None:
        start = [(b"content-type", content_type), (b"content-length", str(len(body)).encode()), *(headers or ())]
        await self.send({"type": "http.response.start", "status": status, "headers": start})
        await self.send({"type": "http.response.body", "body": body})

    async def reply_json(self, status: int, value: Any, headers: Headers | None = None) -> None:
        await self.reply(status, orjson.dumps(value), headers=headers)

    async def send(self, message: Message) -> None:
        """ASGI's send, which adds id and timing to the head of the answer and remembers what was sent."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = [*message.get("headers", ()), *self.added_headers, (b"x-request-id", self.id.encode())]
            message["headers"] = [*headers, (b"server-timing", self._timing().encode())]
        elif self.method == "HEAD":
            message["body"] = b""
        else:
            self.sent_bytes += len(message.get("body", b""))
        await self._send(message)

    def _timing(self) -> str:
        """Milliseconds by stage, as in https://www.w3.org/TR/server-timing/."""
        total = f"total;dur={(time.perf_counter() - self.started) * 1e3:.3f}"
        if self.ticket is None:
            return total
        ticket = self.ticket
        return (
            f"decode;dur={ticket.decode_s * 1e3:.3f}, queue;dur={ticket.queue_s * 1e3:.3f}, "
            f"infer;dur={ticket.infer_s * 1e3:.3f}, {total}"
        )
