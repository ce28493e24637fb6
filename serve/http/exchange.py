"""One HTTP request and its answer, on plain ASGI: for routes where a framework would cost more than the network."""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import parse_qsl

import orjson

from serve.http.errors import ClientLeft, Refused
from serve.pool import Ticket

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

JSON = b"application/json"
MOST_FILES = 1000  # image files in one request
NUMBER = re.compile(r"[0-9]{1,18}")  # int() refuses thousands of digits


class Budget:
    """Bytes of request bodies that the process may hold at a time, so that many slow uploads cannot fill the memory."""

    def __init__(self, most: int) -> None:
        self.most, self.held = most, 0


class Exchange:
    """What a handler gets: the request, and `reply`. Every answer carries the request's id and a Server-Timing."""

    def __init__(self, scope: Message, receive: Receive, send: Send, request_id: str, budget: Budget) -> None:
        self.scope, self.receive, self._send = scope, receive, send
        self._headers = dict(scope["headers"])
        self.started = time.perf_counter()
        self.id, self.route, self.model = request_id, "other", ""
        self.status, self.sent_bytes, self.body_bytes = 0, 0, 0
        self.whole = False  # whether the request's body has been read
        self.ticket: Ticket | None = None
        self._budget = budget

    def header(self, name: bytes) -> str | None:
        """A header of the request, its name in lower case."""
        value = self._headers.get(name)
        return None if value is None else value.decode("latin-1")

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
        """The next message of the request, counted. Raises Refused as soon as the body is larger than `limit`."""
        message = await self.receive()
        part = message.get("body", b"")
        self.body_bytes += len(part)
        self._budget.held += len(part)
        if self.body_bytes > limit:
            raise self._too_large(limit)
        if self._budget.held > self._budget.most:
            raise Refused(503, "Too many large requests at once: ask again in a moment.", retry_after="1")
        self.whole = message["type"] == "http.request" and not message.get("more_body")
        return message

    def _too_large(self, limit: int) -> Refused:
        return Refused(413, f"The request is larger than {limit / 1e6:g} MB: send less, or a smaller image.",
                       connection="close")  # fmt: skip

    def release(self) -> None:
        """Give the body's share of the budget back."""
        self._budget.held -= self.body_bytes

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
            headers = [*message.get("headers", ()), (b"x-request-id", self.id.encode())]
            message["headers"] = [*headers, (b"server-timing", self._timing().encode())]
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
