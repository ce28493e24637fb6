"""The outermost layer: the two routes that classify are plain ASGI, everything else goes to the framework behind.

Every answer, whoever gives it, has a request id and a Server-Timing, is counted and logged. Here it is decided who may
ask: the names that the server answers to, pages of which sites (`serve/server/origins.py`), and the key.
"""

from __future__ import annotations

import asyncio
import hmac
import re
import time
from base64 import b64decode
from binascii import Error as NotBase64
from collections.abc import Awaitable, Callable
from contextlib import suppress
from uuid import uuid4

from serve.server import inference_protocol as inference
from serve.server import predict_route as images
from serve.server.log import LOG
from serve.server.origins import READING, Sites
from serve.server.request import STALL_S, Budget, Deadlines, Exchange
from serve.service.asgi import Application, Behind, ClientLeft, Message, Receive, Refused, Send, status_of
from serve.service.metrics import Metrics
from serve.service.models import Service
from serve.service.settings import Settings
from zoo.errors import ZooError
from zoo.images.prepare import unexpected_errors

# A request on its way to the framework behind, which reads what it is given: the front bounds the body for it.

CORS = b"access-control-"


class Bounded:
    """Gives exchanges to an application, bodies of at most `limit` bytes that are whole after `seconds`.

    Where a body is refused, or stops coming, the application hears that the client has left, which frameworks know how
    to end; what it answers to that goes nowhere.
    """

    def __init__(self, app: Application, limit: int, seconds: float) -> None:
        self._app, self._limit, self._seconds = app, limit, seconds

    async def __call__(self, exchange: Exchange) -> None:
        """Raises Refused and ClientLeft, if the answer has not begun, and what the application raises."""
        exchange.look_at_length(self._limit)
        until = asyncio.get_running_loop().time() + self._seconds
        to_disk = (exchange.header(b"content-type") or "").lower().startswith("multipart/")
        ended: Refused | ClientLeft | None = None

        async def receive() -> Message:
            nonlocal ended
            if exchange.whole:
                return await exchange.receive()
            try:
                if ended is None:
                    if to_disk:  # forms are written to files part by part, so the last part is no longer held
                        exchange.release()
                    async with asyncio.timeout_at(until):
                        message = await exchange.part(self._limit)
                    if message["type"] != "http.disconnect":
                        return message
                    ended = ClientLeft()
            except Refused as refused:
                ended = refused
            except TimeoutError:
                ended = Refused(408, f"The request was not here whole within {self._seconds:g} s: send it again.",
                                connection="close")  # fmt: skip
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            if ended is not None:
                return
            if message["type"] == "http.response.start":  # which sites may read answers is the front's to say
                kept = [(name, value) for name, value in message["headers"] if not name.lower().startswith(CORS)]
                message = {**message, "headers": kept}
            await exchange.send(message)

        try:
            await self._app(exchange.scope, receive, send)
        except Exception:
            if ended is None:
                raise
        if ended is not None:
            raise ended if exchange.status == 0 else ClientLeft


Handler = Callable[[Exchange, Service, Settings, dict[str, str]], Awaitable[None]]

HOT: list[tuple[str, re.Pattern[str], Handler]] = [
    ("predict", re.compile(r"/models/(?P<name>[^/]+)/predict/?"), images.predict),
    ("infer", re.compile(r"/v2/models/(?P<name>[^/]+)(/versions/(?P<version>[^/]+))?/infer/?"), inference.infer),
]
OURS = re.compile(r"/|/(models|v2|metrics|docs|redoc|openapi\.json)(/.*)?")  # and not the page's
OPEN = ("/v2/health/live", "/v2/health/ready")  # for whatever watches the server: without key, by any name
LARGE_REQUESTS = 16  # of the largest size, held at a time
SLOWER = 10  # deadlines that a body for the page may take: people send photographs, from telephones
GIVEN_ID = re.compile(r"[\x21-\x7e]{1,128}")
CHALLENGE = 'Basic realm="pocketzoo: any name, the key as password", Bearer'  # a browser asks for the first


class Front:
    """ASGI application around another one."""

    def __init__(self, app: Application, service: Service, settings: Settings, metrics: Metrics) -> None:
        """Raises WrongUsage for hosts or origins that are none."""
        self._behind, self._service, self._settings, self._metrics = Behind(app), service, settings, metrics
        self._sites = Sites(settings)
        self._bounded = Bounded(self._behind, settings.max_body_bytes, SLOWER * settings.deadline_s)
        self._budget = Budget(LARGE_REQUESTS * settings.max_body_bytes)
        self._deadlines, self._stalls = Deadlines(settings.deadline_s), Deadlines(STALL_S)
        self._run, self._count = uuid4().hex[:12], 0  # an id for each request, at the price of an addition

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._behind(scope, receive, send)
            LOG.flush()
            return
        if scope["type"] != "http":  # the server takes no websockets (serve/cli/serve.py)
            await send({"type": "websocket.close", "code": 1008})
            return
        self._count += 1
        exchange = Exchange(scope, receive, send, f"{self._run}-{self._count}", self._budget, self._stalls)
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
            self._metrics.set("unexpected", unexpected_errors())
            status = exchange.status or 499
            self._metrics.request(exchange.route, status, time.perf_counter() - exchange.started)
            if exchange.ticket is not None:
                self._metrics.ticket(exchange.ticket)
            if self._settings.access_log:
                LOG.request(exchange, status)

    async def _answer(self, exchange: Exchange) -> None:
        try:
            if self._settings.cors_origins and await self._answered_as_preflight(exchange):
                return
            self._check_caller(exchange)
            path = exchange.scope["path"]
            for route, pattern, handler in HOT:
                if match := pattern.fullmatch(path):
                    exchange.route = route
                    await self._classify(exchange, handler, match.groupdict())
                    return
            _normalise(exchange)
            await self._bounded(exchange)
        except ClientLeft:
            if exchange.status == 0:
                await _end_broken(exchange)
        except ZooError as error:
            await _refuse(exchange, error)
        except Exception as error:
            LOG.failure(exchange.id, error)
            if exchange.status == 0:
                await _refuse(exchange, error)

    async def _answered_as_preflight(self, exchange: Exchange) -> bool:
        """Set what every answer to a page adds to its head; whether this was a browser's question before a request."""
        origin = exchange.headers.get(b"origin")
        exchange.added_headers = self._sites.cors(origin)
        if exchange.method != "OPTIONS" or origin is None or b"access-control-request-method" not in exchange.headers:
            return False
        wanted = exchange.headers.get(b"access-control-request-headers", b"")
        await exchange.reply(204, b"", headers=self._sites.preflight(origin, wanted))
        return True

    def _check_caller(self, exchange: Exchange) -> None:
        """Raises Refused for a name that is not this server's, another site's page, or a missing key."""
        headers = exchange.headers
        if exchange.scope["path"].rstrip("/") in OPEN:
            return
        host = headers.get(b"host")
        if host:  # granian gives an empty one where there is none
            self._sites.check_host(host)
        elif exchange.scope["http_version"] != "1.0":
            raise Refused(400, "The request has no Host header: send one.")
        if len(headers) != len(exchange.scope["headers"]):  # one was sent twice
            if [name for name, _ in exchange.scope["headers"]].count(b"host") > 1:
                raise Refused(400, "The request has more than one Host header: send one.")
        origin = headers.get(b"origin")
        if origin is not None and exchange.method not in READING:
            self._sites.check_origin(origin, host or b"")
        if self._settings.key is not None and not self._shows_key(exchange):
            raise Refused(
                401, "This server wants its key: send 'Authorization: Bearer KEY'.", www_authenticate=CHALLENGE
            )

    def _shows_key(self, exchange: Exchange) -> bool:
        shown = [_key_in(name, value) for name, value in exchange.scope["headers"]]
        wanted = (self._settings.key or "").encode()
        return any([hmac.compare_digest(key, wanted) for key in shown if key])

    async def _classify(self, exchange: Exchange, handler: Handler, found: dict[str, str]) -> None:
        if exchange.method != "POST":
            raise Refused(405, f"{exchange.scope['path']} is for POST, not {exchange.method}.", allow="POST")
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


def _normalise(exchange: Exchange) -> None:
    """Our own routes are found with a slash behind them too, and answer HEAD as they answer GET."""
    scope = exchange.scope
    path = scope["path"]
    if not OURS.fullmatch(path):
        return
    if path.endswith("/") and path != "/":
        raw = scope.get("raw_path") or b""
        exchange.scope = scope = {**scope, "path": path.rstrip("/"), "raw_path": raw.rstrip(b"/")}
    if exchange.method == "HEAD":
        exchange.scope = {**scope, "method": "GET"}


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


async def _end_broken(exchange: Exchange) -> None:
    """Answer who has left, in case he has not: a body whose chunks are no chunks ends like one whose client leaves."""
    sentence = "The request's body cannot be read to its end: send it again."
    with suppress(Exception):  # nobody is there
        await exchange.reply_json(400, {"error": sentence}, [(b"connection", b"close")])
    exchange.status, exchange.sent_bytes = 499, 0


async def _refuse(exchange: Exchange, error: Exception) -> None:
    status = status_of(error)
    headers = error.headers if isinstance(error, Refused) else [(b"retry-after", b"1")] if status == 503 else []
    sentence = str(error) if isinstance(error, ZooError) else (
        f"The server failed at this request ({type(error).__name__}): its log tells more under id {exchange.id}."
    )  # fmt: skip
    await exchange.reply_json(status, {"error": sentence}, headers)
