"""The outermost layer: the two routes that classify are plain ASGI, everything else goes to the framework behind.

Every answer, whoever gives it, has a request id and a Server-Timing, is counted and logged; the key is checked here.
"""

from __future__ import annotations

import hmac
import re
import sys
import time
import traceback
from base64 import b64decode
from binascii import Error as NotBase64
from collections.abc import Awaitable, Callable
from uuid import uuid4

from serve.http import images, inference
from serve.http.access_log import AccessLog
from serve.http.behind import Application, Behind
from serve.http.bounded import Bounded
from serve.http.deadlines import Deadlines
from serve.http.errors import ClientLeft, Refused, status_of
from serve.http.exchange import Budget, Exchange, Message, Receive, Send
from serve.http.metrics import Metrics
from serve.service import Service
from serve.settings import Settings
from zoo.errors import ZooError

Handler = Callable[[Exchange, Service, Settings, dict[str, str]], Awaitable[None]]

HOT: list[tuple[str, re.Pattern[str], Handler]] = [
    ("predict", re.compile(r"/models/(?P<name>[^/]+)/predict"), images.predict),
    ("infer", re.compile(r"/v2/models/(?P<name>[^/]+)(/versions/(?P<version>[^/]+))?/infer"), inference.infer),
]
OPEN = ("/v2/health/live", "/v2/health/ready")  # never behind the key: what watches the server has none
LARGE_REQUESTS = 16  # of the largest size, held at a time
SLOWER = 10  # deadlines that a body for the page may take: people send photographs, from telephones
GIVEN_ID = re.compile(r"[\x21-\x7e]{1,128}")
CHALLENGE = 'Basic realm="pocketzoo: any name, the key as password", Bearer'  # a browser asks for the first


class Front:
    """ASGI application around another one."""

    def __init__(self, app: Application, service: Service, settings: Settings, metrics: Metrics) -> None:
        self._behind, self._service, self._settings, self._metrics = Behind(app), service, settings, metrics
        seconds = settings.deadline_ms / 1e3
        self._bounded = Bounded(self._behind, settings.max_body_bytes, SLOWER * seconds)
        self._budget = Budget(LARGE_REQUESTS * settings.max_body_bytes)
        self._log = AccessLog() if settings.access_log else None
        self._deadlines = Deadlines(seconds)
        self._run, self._count = uuid4().hex[:12], 0  # an id for each request, at the price of an addition

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "websocket" and not self._allowed(scope):
                await send({"type": "websocket.close", "code": 1008})
                return
            await self._behind(scope, receive, send)
            if scope["type"] == "lifespan" and self._log:
                self._log.flush()  # its end: no timer will come
            return
        self._count += 1
        exchange = Exchange(scope, receive, send, f"{self._run}-{self._count}", self._budget)
        given = exchange.header(b"x-request-id")
        if given and GIVEN_ID.fullmatch(given):
            exchange.id = given
        self._metrics.add("in_flight")
        try:
            await self._answer(exchange)
        finally:
            exchange.release()
            self._metrics.add("in_flight", -1)
            self._metrics.set("queue", self._service.pool.waiting)
            status = exchange.status or 499
            self._metrics.request(exchange.route, status, time.perf_counter() - exchange.started)
            if exchange.ticket is not None:
                self._metrics.ticket(exchange.ticket)
            if self._log:
                self._log.write(exchange, status)

    async def _answer(self, exchange: Exchange) -> None:
        try:
            if not self._allowed(exchange.scope):
                raise Refused(
                    401, "This server wants its key: send 'Authorization: Bearer KEY'.", www_authenticate=CHALLENGE
                )
            path = exchange.scope["path"]
            for route, pattern, handler in HOT:
                if match := pattern.fullmatch(path):
                    exchange.route = route
                    await self._classify(exchange, handler, match.groupdict())
                    return
            await self._bounded(exchange)
        except ClientLeft:
            return
        except ZooError as error:
            await _refuse(exchange, error)
        except Exception as error:
            print(f"zoo: request {exchange.id} failed:\n{traceback.format_exc()}", file=sys.stderr)
            if exchange.status == 0:
                await _refuse(exchange, error)

    async def _classify(self, exchange: Exchange, handler: Handler, found: dict[str, str]) -> None:
        if exchange.scope["method"] != "POST":
            raise Refused(405, f"{exchange.scope['path']} is for POST, not {exchange.scope['method']}.", allow="POST")
        self._service.pool.admit()
        milliseconds = self._settings.deadline_ms
        try:
            with self._deadlines.start():
                await handler(exchange, self._service, self._settings, found)
        except TimeoutError:
            if exchange.status:
                raise ClientLeft from None  # it does not read its answer
            if not exchange.whole:
                raise Refused(408, f"The request was not here whole within {milliseconds} ms: send it again.",
                              connection="close") from None  # fmt: skip
            raise Refused(504, f"There was no answer within {milliseconds} ms: ask again in a moment.",
                          retry_after="1") from None  # fmt: skip

    def _allowed(self, scope: Message) -> bool:
        if self._settings.key is None or scope["path"] in OPEN:
            return True
        shown = [_key_in(name, value) for name, value in scope["headers"]]
        wanted = self._settings.key.encode()
        return any([hmac.compare_digest(key, wanted) for key in shown if key])


def _key_in(name: bytes, value: bytes) -> bytes | None:
    """The key that a header shows: `X-API-Key: KEY`, `Authorization: Bearer KEY`, or a password as browsers send it."""
    if name == b"x-api-key":
        return value
    if name != b"authorization":
        return None
    scheme, _, rest = value.partition(b" ")
    if scheme.lower() == b"basic":
        try:
            return b64decode(rest).partition(b":")[2]
        except NotBase64:
            return None
    return rest.strip() if scheme.lower() == b"bearer" else None


async def _refuse(exchange: Exchange, error: Exception) -> None:
    status = status_of(error)
    headers = error.headers if isinstance(error, Refused) else [(b"retry-after", b"1")] if status == 503 else []
    sentence = str(error) if isinstance(error, ZooError) else (
        f"The server failed at this request ({type(error).__name__}): its log tells more under id {exchange.id}."
    )  # fmt: skip
    await exchange.reply_json(status, {"error": sentence}, headers)
