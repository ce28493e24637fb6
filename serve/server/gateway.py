"""The outermost ASGI layer: it checks who may use the server, routes requests, and counts and logs every response.

The two routes that classify are plain ASGI; everything else goes to FastAPI. A request must name an allowed host, come
from an allowed site (`serve/server/origins.py`), and carry the API key.
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
from urllib.parse import quote
from uuid import uuid4

from serve.server import inference_protocol, predict_route
from serve.server.log import LOG
from serve.server.origins import SAFE_METHODS, OriginPolicy
from serve.server.request import STALL_S, BodyBudget, Deadlines, Request
from serve.server.tracing import start_tracer, trace_context
from serve.service.asgi import (
    Application,
    ClientDisconnected,
    FrameworkAdapter,
    HTTPError,
    Message,
    Receive,
    Send,
    status_of,
)
from serve.service.metrics import Metrics
from serve.service.models import Service
from serve.service.settings import Settings
from zoo.errors import ZooError
from zoo.images.prepare import unexpected_errors

Handler = Callable[[Request, Service, Settings, dict[str, str]], Awaitable[None]]

CLASSIFY_ROUTES: list[tuple[str, re.Pattern[str], Handler]] = [
    ("predict", re.compile(r"/models/(?P<name>[^/]+)/predict/?"), predict_route.predict),
    (
        "infer",
        re.compile(r"/v2/models/(?P<name>[^/]+)(/versions/(?P<version>[^/]+))?/infer/?"),
        inference_protocol.infer,
    ),
]
API_PATHS = re.compile(r"/|/(models|v2|metrics|docs|redoc|openapi\.json)(/.*)?")  # all others are the page's
PUBLIC_PATHS = ("/v2/health/live", "/v2/health/ready")  # for probes: without a key, under any host name
MAX_LARGE_BODIES = 16  # of the largest size, held at a time
PAGE_UPLOAD_DEADLINES = 10  # that a body for the page may take: people send photographs from phones
CLIENT_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")
CHALLENGE = 'Basic realm="pocketzoo: any user name, the API key as password", Bearer'  # browsers use the first one
CORS_PREFIX = b"access-control-"


class Gateway:
    """ASGI application around the framework's."""

    def __init__(self, app: Application, service: Service, settings: Settings, metrics: Metrics) -> None:
        """Raises WrongUsage for invalid allowed hosts or CORS origins, and ZooError if spans cannot be sent."""
        self._app, self._service, self._settings, self._metrics = FrameworkAdapter(app), service, settings, metrics
        self._policy, self._tracer = OriginPolicy(settings), start_tracer(settings)
        self._limited_app = BodyLimit(self._app, settings.max_body_bytes, PAGE_UPLOAD_DEADLINES * settings.deadline_s)
        self._budget = BodyBudget(MAX_LARGE_BODIES * settings.max_body_bytes)
        self._deadlines, self._stalls = Deadlines(settings.deadline_s), Deadlines(STALL_S)
        self._id_prefix, self._count = uuid4().hex[:12], 0  # a request id costs one addition

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            if self._tracer is not None:
                self._tracer.close()
            LOG.flush()
            return
        if scope["type"] != "http":  # the server accepts no websockets (serve/cli/serve.py)
            await send({"type": "websocket.close", "code": 1008})
            return
        self._count += 1
        request = Request(scope, receive, send, f"{self._id_prefix}-{self._count}", self._budget, self._stalls)
        client_id = request.header(b"x-request-id")
        if client_id and CLIENT_REQUEST_ID.fullmatch(client_id):
            request.id = client_id
        self._metrics.add("in_flight")
        try:
            await self._respond(request)
        finally:
            request.release()
            self._metrics.add("in_flight", -1)
            self._metrics.set("queue", self._service.pool.waiting)
            self._metrics.set("unexpected", unexpected_errors())
            status = request.status or 499
            self._metrics.count_request(request.route, status, time.perf_counter() - request.started)
            if request.item is not None:
                self._metrics.count_images(request.item)
            if self._tracer is not None:
                request.trace = self._tracer.record(request, status)
            elif b"traceparent" in request.headers:
                request.trace = trace_context(request.scope["headers"])
            if self._settings.access_log:
                LOG.request(request, status)

    async def _respond(self, request: Request) -> None:
        try:
            root_path = self._settings.root_path
            if root_path:
                _remove_prefix(request, root_path)
            if self._settings.cors_origins and await self._answer_preflight(request):
                return
            self._check_access(request)
            path = request.scope["path"]
            if root_path and path == root_path:  # the page's relative links need the slash behind it
                query = request.scope["query_string"]
                location = f"{root_path}/".encode() + (b"?" + query if query else b"")
                await request.reply(308, b"", headers=[(b"location", location)])
                return
            for route, pattern, handler in CLASSIFY_ROUTES:
                if match := pattern.fullmatch(path):
                    request.route = route
                    await self._classify(request, handler, match.groupdict())
                    return
            _normalise(request)
            await self._limited_app(request)
        except ClientDisconnected:
            if request.status == 0:
                await _reply_incomplete(request)
        except ZooError as error:
            await _reply_error(request, error)
        except Exception as error:
            LOG.failure(request.id, error)
            if request.status == 0:
                await _reply_error(request, error)

    async def _answer_preflight(self, request: Request) -> bool:
        """Set the CORS headers of the response. Returns whether the request was a preflight, which is then answered."""
        origin = request.headers.get(b"origin")
        request.added_headers = self._policy.cors_headers(origin)
        if request.method != "OPTIONS" or origin is None or b"access-control-request-method" not in request.headers:
            return False
        requested = request.headers.get(b"access-control-request-headers", b"")
        await request.reply(204, b"", headers=self._policy.preflight_headers(origin, requested))
        return True

    def _check_access(self, request: Request) -> None:
        """Raises HTTPError for a host that is not allowed, for a page of another site, or for a missing key."""
        headers = request.headers
        if request.scope["path"].rstrip("/") in PUBLIC_PATHS:
            return
        host = headers.get(b"host")
        if host:  # granian gives an empty one if there is none
            self._policy.check_host(host)
        elif request.scope["http_version"] != "1.0":
            raise HTTPError(400, "The request has no Host header. Send one.")
        if len(headers) != len(request.scope["headers"]):  # a header is repeated
            if [name for name, _ in request.scope["headers"]].count(b"host") > 1:
                raise HTTPError(400, "The request has more than one Host header. Send one.")
        origin = headers.get(b"origin")
        if origin is not None and request.method not in SAFE_METHODS:
            self._policy.check_origin(origin, host or b"")
        if self._settings.key is not None and not self._has_key(request):
            message = "Missing or invalid API key. Send it as 'Authorization: Bearer KEY'."
            raise HTTPError(401, message, www_authenticate=CHALLENGE)

    def _has_key(self, request: Request) -> bool:
        candidates = [_key_in_header(name, value) for name, value in request.scope["headers"]]
        expected = (self._settings.key or "").encode()
        return any([hmac.compare_digest(candidate, expected) for candidate in candidates if candidate])

    async def _classify(self, request: Request, handler: Handler, path_parameters: dict[str, str]) -> None:
        if request.method != "POST":
            raise HTTPError(405, f"{request.scope['path']} accepts POST, not {request.method}.", allow="POST")
        self._service.pool.admit()
        deadline_ms = self._settings.deadline_ms
        try:
            with self._deadlines.start():
                await handler(request, self._service, self._settings, path_parameters)
        except TimeoutError:
            if request.status:
                raise ClientDisconnected from None  # the client does not read the response
            if not request.complete:
                raise _body_timeout(f"{deadline_ms} ms") from None
            message = f"Timed out after {deadline_ms} ms. Try again in a moment."
            raise HTTPError(504, message, retry_after="1") from None


class BodyLimit:
    """Passes requests to an application; bodies have at most `limit` bytes and are complete within `seconds`.

    If a body is rejected, or stops arriving, the application receives the message that the client has disconnected,
    which frameworks know how to handle; its response to that is dropped.
    """

    def __init__(self, app: Application, limit: int, seconds: float) -> None:
        self._app, self._limit, self._seconds = app, limit, seconds

    async def __call__(self, request: Request) -> None:
        """Raises HTTPError and ClientDisconnected if no response has begun, and what the application raises."""
        request.check_length(self._limit)
        until = asyncio.get_running_loop().time() + self._seconds
        to_disk = (request.header(b"content-type") or "").lower().startswith("multipart/")
        failure: HTTPError | ClientDisconnected | None = None

        async def receive() -> Message:
            nonlocal failure
            if request.complete:
                return await request.receive()
            try:
                if failure is None:
                    if to_disk:  # a form is written to files chunk by chunk, so the last chunk is no longer held
                        request.release()
                    async with asyncio.timeout_at(until):
                        message = await request.receive_chunk(self._limit)
                    if message["type"] != "http.disconnect":
                        return message
                    failure = ClientDisconnected()
            except HTTPError as error:
                failure = error
            except TimeoutError:
                failure = _body_timeout(f"{self._seconds:g} s")
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            if failure is not None:
                return
            if message["type"] == "http.response.start":  # the gateway alone sets CORS headers
                headers = [pair for pair in message["headers"] if not pair[0].lower().startswith(CORS_PREFIX)]
                message = {**message, "headers": headers}
            await request.send(message)

        try:
            await self._app(request.scope, receive, send)
        except Exception:
            if failure is None:
                raise
        if failure is not None:
            raise failure if request.status == 0 else ClientDisconnected


def _remove_prefix(request: Request, root_path: str) -> None:
    """Remove the prefix of a proxy from the path, unless the proxy has done it, and tell the framework about it."""
    scope = request.scope
    path, raw_path = scope["path"], scope.get("raw_path") or b""
    if path.startswith(f"{root_path}/"):
        path = path.removeprefix(root_path)
        encoded = root_path.encode()
        raw_path = raw_path.removeprefix(encoded) if raw_path.startswith(encoded) else quote(path).encode()
    request.scope = {**scope, "path": path, "raw_path": raw_path, "root_path": root_path}


def _normalise(request: Request) -> None:
    """Let the API's own routes accept a trailing slash, and answer HEAD as GET."""
    scope = request.scope
    path = scope["path"]
    if not API_PATHS.fullmatch(path):
        return
    if path.endswith("/") and path != "/":
        raw_path = scope.get("raw_path") or b""
        request.scope = scope = {**scope, "path": path.rstrip("/"), "raw_path": raw_path.rstrip(b"/")}
    if request.method == "HEAD":
        request.scope = {**scope, "method": "GET"}


def _key_in_header(name: bytes, value: bytes) -> bytes | None:
    """The key in a header: `X-API-Key: KEY`, `Authorization: Bearer KEY`, or the password of Basic authentication."""
    if name == b"x-api-key":
        return value
    if name != b"authorization":
        return None
    scheme, _, credentials = value.partition(b" ")
    if scheme.lower() == b"basic":
        try:
            return b64decode(credentials).partition(b":")[2]
        except NotBase64:
            return None
    return credentials.strip() if scheme.lower() == b"bearer" else None


def _body_timeout(duration: str) -> HTTPError:
    message = f"Timed out after {duration} waiting for the request body. Send it again."
    return HTTPError(408, message, connection="close")


async def _reply_incomplete(request: Request) -> None:
    """Answer a client that seems to have left: a body with malformed chunks ends in the same way."""
    message = "The request body is incomplete or malformed. Send it again."
    with suppress(Exception):  # the client is gone
        await request.reply_json(400, {"error": message}, [(b"connection", b"close")])
    request.status, request.sent_bytes = 499, 0


async def _reply_error(request: Request, error: Exception) -> None:
    status = status_of(error)
    headers = error.headers if isinstance(error, HTTPError) else [(b"retry-after", b"1")] if status == 503 else []
    if isinstance(error, ZooError):
        message = str(error)
    else:
        message = f"Internal server error ({type(error).__name__}). See the server's log for request {request.id}."
    await request.reply_json(status, {"error": message}, headers)
