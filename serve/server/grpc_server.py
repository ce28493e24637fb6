"""The Open Inference Protocol over gRPC, on a port of its own, with the worker pool and the limits of the HTTP routes.

Protocol: https://github.com/kserve/open-inference-protocol, with NVIDIA Triton's extensions for statistics and the
model repository; and the standard health service, https://github.com/grpc/grpc/blob/master/doc/health-checking.md.

Every method is registered as one that receives a stream, which is the same on the wire: so a call can be refused before
its message is received, and a message that arrives too slowly can be given up. gRPC itself would buffer all messages.
"""

from __future__ import annotations

import asyncio
import hmac
import os
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv6Address, ip_address
from typing import Any
from urllib.parse import unquote
from uuid import uuid4

os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # otherwise it logs a line for every invalid call
import grpc
import orjson
from tritonclient.grpc import service_pb2 as messages

from serve.server.grpc_messages import infer_response, parse, parse_infer_request, read_infer_request
from serve.server.health import Health
from serve.server.inference_protocol import JSON_THREAD, LARGE_REQUEST, LARGE_RESPONSE, check_version, metadata
from serve.server.log import LOG
from serve.server.repository import Repository, reject_parameters
from serve.server.request import SMALL_BODY_BYTES
from serve.service.asgi import HTTPError, status_of
from serve.service.pool import WorkItem
from serve.service.settings import Settings
from zoo import __version__
from zoo.errors import ModelNotFound, ZooError
from zoo.images.prepare import unexpected_errors
from zoo.images.read import Named

INFERENCE, HEALTH = "inference.GRPCInferenceService", "grpc.health.v1.Health"
INFER = f"/{INFERENCE}/ModelInfer"
PUBLIC = {f"/{INFERENCE}/ServerLive", f"/{INFERENCE}/ServerReady", f"/{HEALTH}/Check", f"/{HEALTH}/Watch"}

MAX_CONNECTIONS = 1024  # per process
MAX_STREAMS = 1024  # of one connection. More than MAX_CALLS // SHARE, because gRPC also counts calls that have ended
MAX_CALLS = 2048  # per process; a quarter of them for one client
HEALTH_CALLS = 64  # further calls to the public methods
MAX_WATCHES = 64  # calls to Watch, which do not end
MAX_RECEIVING = 32  # messages being received at a time; a quarter of them for one client
MAX_LARGE_MESSAGES = 16  # of the largest size, held at a time; a quarter of them for one client
SHARE = 4
RECEIVE_S = 5.0  # in which a message must have arrived
MAX_SMALL_MESSAGE = 65_536  # bytes of a message that is not ModelInfer
CONNECT_MS = 5000  # in which a connection must have sent the preface of HTTP/2
IDLE_MS = 60_000  # after which a connection without calls is closed
PING_EVERY_MS = 30_000  # keepalive pings of the server; a client that does not answer in PING_MS is disconnected
PING_MS = 15_000
MIN_CLIENT_PING_MS = 10_000  # a client that sends pings more often is disconnected
WATCH_EVERY_S = 0.5
LINGER_S = 0.25  # between NOT_SERVING and the end: gRPC cancels calls that it has received but not yet handed over
CLIENT_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")
SERVING, NOT_SERVING = b"\x08\x01", b"\x08\x02"  # HealthCheckResponse

CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    408: grpc.StatusCode.DEADLINE_EXCEEDED,
    409: grpc.StatusCode.FAILED_PRECONDITION,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    422: grpc.StatusCode.INVALID_ARGUMENT,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    503: grpc.StatusCode.UNAVAILABLE,  # which clients try again
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}

Method = Callable[[bytes, "Call"], Awaitable[bytes]]


@dataclass
class Call:
    """One call, for the log and the metrics."""

    method: str
    peer: str  # as gRPC writes it, for example "ipv4:127.0.0.1:40000" or "ipv6:%5B::1%5D:40000"
    client: str  # who shares the limits
    id: str
    started: float
    received_bytes: int = 0
    sent_bytes: int = 0
    item: WorkItem | None = None


@asynccontextmanager
async def listen(settings: Settings, repository: Repository, health: Health) -> AsyncIterator[None]:
    """Serve gRPC on the port of the settings, in this event loop. At the end, calls in progress are completed.

    With several processes, each listens on the same port, and the kernel gives each connection to one of them.

    Raises:
        ZooError: the port cannot be used.
    """
    methods = Methods(settings, repository, health)
    largest = settings.max_body_bytes
    server = grpc.aio.server(
        handlers=[methods],
        options=[
            ("grpc.so_reuseport", int(settings.workers > 1)),
            ("grpc.max_receive_message_length", largest),
            ("grpc.max_send_message_length", -1),
            ("grpc.max_metadata_size", 16_384),
            ("grpc.absolute_max_metadata_size", 16_384),
            ("grpc.max_concurrent_streams", MAX_STREAMS),
            ("grpc.max_allowed_incoming_connections", MAX_CONNECTIONS),
            ("grpc.compression_enabled_algorithms_bitset", 1),  # none: a small message could become a large one
            ("grpc.http2.bdp_probe", 0),  # it would enlarge the buffers of messages that nobody has asked for
            ("grpc.server_handshake_timeout_ms", CONNECT_MS),
            ("grpc.max_connection_idle_ms", IDLE_MS),
            ("grpc.keepalive_time_ms", PING_EVERY_MS),
            ("grpc.keepalive_timeout_ms", PING_MS),
            ("grpc.http2.min_recv_ping_interval_without_data_ms", MIN_CLIENT_PING_MS),
            ("grpc.http2.max_ping_strikes", 2),
        ],
    )
    try:
        if settings.tls_cert and settings.tls_key:
            certificate = [(settings.tls_key.read_bytes(), settings.tls_cert.read_bytes())]
            server.add_secure_port(settings.grpc_address, grpc.ssl_server_credentials(certificate))
        else:
            server.add_insecure_port(settings.grpc_address)
    except RuntimeError:
        raise ZooError(f"Cannot listen on {settings.grpc_address}. Choose another port with --grpc-port.") from None
    await server.start()
    try:
        yield
    finally:
        methods.stopping.set()
        await asyncio.sleep(LINGER_S)
        await server.stop(settings.deadline_s)


class Methods(grpc.GenericRpcHandler):  # type: ignore[misc]
    """The methods of both services."""

    def __init__(self, settings: Settings, repository: Repository, health: Health) -> None:
        self._settings, self._repository, self._health = settings, repository, health
        self._service, self._metrics = repository.service, repository.metrics
        self._clients = Clients(MAX_LARGE_MESSAGES * settings.max_body_bytes)
        self._id_prefix, self._count, self._watches = uuid4().hex[:12], 0, 0
        self.stopping = asyncio.Event()
        methods: dict[str, Method] = {
            INFER: self._infer,
            f"/{INFERENCE}/ServerLive": self._server_live,
            f"/{INFERENCE}/ServerReady": self._server_ready,
            f"/{INFERENCE}/ServerMetadata": self._server_metadata,
            f"/{INFERENCE}/ModelReady": self._model_ready,
            f"/{INFERENCE}/ModelMetadata": self._model_metadata,
            f"/{INFERENCE}/ModelStatistics": self._model_statistics,
            f"/{INFERENCE}/RepositoryIndex": self._index,
            f"/{INFERENCE}/RepositoryModelLoad": self._load,
            f"/{INFERENCE}/RepositoryModelUnload": self._unload,
            f"/{HEALTH}/Check": self._check_health,
        }
        self._handlers = {path: self._handler(path, method) for path, method in methods.items()}
        self._handlers[f"/{HEALTH}/Watch"] = grpc.stream_stream_rpc_method_handler(self._watch_health)

    def service(self, details: Any) -> Any:
        """The handler of a call; None for a method that does not exist, which gRPC answers with UNIMPLEMENTED."""
        return self._handlers.get(details.method)

    def _handler(self, path: str, method: Method) -> Any:
        async def handle(_: Any, context: Any) -> bytes:
            return await self._handle(path, method, context)

        return grpc.stream_unary_rpc_method_handler(handle)

    async def _handle(self, path: str, method: Method, context: Any) -> bytes:
        self._count += 1
        peer = context.peer()
        call = Call(path, peer, _client(peer), f"{self._id_prefix}-{self._count}", time.perf_counter())
        self._metrics.add("in_flight")
        status = 499
        try:
            async with asyncio.timeout(self._timeout(path, context)):
                self._check_access(path, call, context)
                with self._clients.open(call.client, MAX_CALLS + HEALTH_CALLS * (path in PUBLIC)):
                    response = await self._answer(path, method, call, context)
            status, call.sent_bytes = 200, len(response)
            context.set_trailing_metadata((("x-request-id", call.id),))
            return response
        except TimeoutError:
            status, message = 504, f"Timed out after {(time.perf_counter() - call.started) * 1e3:.0f} ms."
        except ZooError as error:
            status, message = status_of(error), str(error)
        except Exception as error:
            LOG.failure(call.id, error)
            status, message = (
                500,
                f"Internal server error ({type(error).__name__}). See the server's log for {call.id}.",
            )
        finally:
            self._record(call, status)
        await context.abort(CODES.get(status, grpc.StatusCode.INTERNAL), message, (("x-request-id", call.id),))
        raise AssertionError  # abort raises

    def _timeout(self, path: str, context: Any) -> float:
        """Seconds that a call may take: the client's deadline or the server's. Loading may wait for other processes."""
        limit = self._settings.deadline_s if "/RepositoryModel" not in path else 600.0
        remaining = context.time_remaining()
        return limit if remaining is None else min(limit, float(remaining))

    def _check_access(self, path: str, call: Call, context: Any) -> None:
        """Take the client's request id. Raises HTTPError 401 for a missing key."""
        expected, valid = self._settings.key, False
        for name, value in context.invocation_metadata() or ():
            if name == "x-request-id" and isinstance(value, str) and CLIENT_REQUEST_ID.fullmatch(value):
                call.id = value
            elif expected is not None and name in ("x-api-key", "authorization"):
                text = value if isinstance(value, str) else ""
                if name == "authorization":
                    scheme, _, text = text.partition(" ")
                    text = text.strip() if scheme.lower() == "bearer" else ""
                valid = hmac.compare_digest(text.encode(), expected.encode()) or valid
        if expected is not None and not valid and path not in PUBLIC:
            raise HTTPError(401, "Missing or invalid API key. Send it as the metadata 'authorization: Bearer KEY'.")

    async def _answer(self, path: str, method: Method, call: Call, context: Any) -> bytes:
        if path == INFER:
            self._service.pool.admit()
        message = await self._receive(call.client, context)
        call.received_bytes = len(message)
        if path != INFER and len(message) > MAX_SMALL_MESSAGE:
            raise HTTPError(413, f"The message has more than {MAX_SMALL_MESSAGE} bytes.")
        with self._clients.hold(call.client, len(message)):
            return await method(message, call)

    async def _receive(self, client: str, context: Any) -> bytes:
        """The message of a call. Raises HTTPError if none arrives, or too slowly."""
        async with self._clients.receiving(client):
            try:
                async with asyncio.timeout(RECEIVE_S):
                    message = await context.read()
            except TimeoutError:
                raise HTTPError(408, f"The message did not arrive within {RECEIVE_S:g} s.") from None
        if not isinstance(message, bytes):  # the end of the stream
            raise HTTPError(400, "The call has no message, or a message that is too large.")
        return message

    def _record(self, call: Call, status: int) -> None:
        self._metrics.add("in_flight", -1)
        self._metrics.set("queue", self._service.pool.waiting)
        self._metrics.set("unexpected", unexpected_errors())
        seconds = time.perf_counter() - call.started
        self._metrics.count_request("grpc" if call.method == INFER else "other", status, seconds)
        if call.item is not None:
            self._metrics.count_images(call.item)
        if self._settings.access_log:
            entry = {
                "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                "id": call.id,
                "client": _host(call.peer),
                "method": "gRPC",
                "path": call.method,
                "status": status,
                "ms": round(seconds * 1e3, 3),
                "bytes_in": call.received_bytes,
                "bytes_out": call.sent_bytes,
            }
            if call.item is not None:
                entry |= {"model": call.item.runner.model.card.name, "images": call.item.image_count}
            LOG.write(orjson.dumps(entry))

    # Methods of the Open Inference Protocol

    async def _infer(self, message: bytes, call: Call) -> bytes:
        large = len(message) > LARGE_REQUEST
        request = await _run(large, parse_infer_request, message)
        runner = self._service.runner(request.model_name)
        card = runner.model.card
        tensor, outputs = await _run(large, read_infer_request, request, card)
        sources = [Named(f"Image {number} of {len(tensor.items)}", data) for number, data in enumerate(tensor.items, 1)]
        item = call.item = WorkItem(runner, sources, tensor.array, output="scores")
        request_id = request.id
        del message, request, tensor
        await self._service.pool.process(item)
        assert item.scores is not None
        large = item.scores.logits.size > LARGE_RESPONSE
        response: bytes = await _run(large, infer_response, item.scores, card, outputs, request_id)
        return response

    async def _server_live(self, message: bytes, call: Call) -> bytes:
        return _encode(messages.ServerLiveResponse(live=self._health.live()))

    async def _server_ready(self, message: bytes, call: Call) -> bytes:
        return _encode(messages.ServerReadyResponse(ready=self._health.ready()))

    async def _server_metadata(self, message: bytes, call: Call) -> bytes:
        extensions = [name for name in self._repository.extensions() if name != "binary_tensor_data"]  # HTTP's
        return _encode(messages.ServerMetadataResponse(name="pocketzoo", version=__version__, extensions=extensions))

    async def _model_ready(self, message: bytes, call: Call) -> bytes:
        """Also for a model that does not exist, as in Triton: it is not ready."""
        request = parse(messages.ModelReadyRequest, message)
        ready = False
        with suppress(ModelNotFound, HTTPError):
            check_version(self._service.runner(request.name).model.card, request.version or None)
            ready = self._health.ready()
        return _encode(messages.ModelReadyResponse(ready=ready))

    async def _model_metadata(self, message: bytes, call: Call) -> bytes:
        request = parse(messages.ModelMetadataRequest, message)
        card = self._service.runner(request.name).model.card
        check_version(card, request.version or None)
        return _encode(messages.ModelMetadataResponse(**metadata(card)))

    async def _model_statistics(self, message: bytes, call: Call) -> bytes:
        request = parse(messages.ModelStatisticsRequest, message)
        cards = [self._service.runner(request.name).model.card] if request.name else self._service.cards
        statistics = [self._metrics.statistics(card.name, card.version) for card in cards]
        return _encode(messages.ModelStatisticsResponse(model_stats=statistics))

    async def _index(self, message: bytes, call: Call) -> bytes:
        request = parse(messages.RepositoryIndexRequest, message)
        models = await self._repository.index(request.ready)
        return _encode(messages.RepositoryIndexResponse(models=models))

    async def _load(self, message: bytes, call: Call) -> bytes:
        self._repository.check_controlled()
        request = parse(messages.RepositoryModelLoadRequest, message)
        reject_parameters(request.parameters, ())
        await self._repository.load(request.model_name)
        return _encode(messages.RepositoryModelLoadResponse())

    async def _unload(self, message: bytes, call: Call) -> bytes:
        self._repository.check_controlled()
        request = parse(messages.RepositoryModelUnloadRequest, message)
        reject_parameters(request.parameters, ("unload_dependents",))
        await self._repository.unload(request.model_name)
        return _encode(messages.RepositoryModelUnloadResponse())

    # The health service. Its messages have one field each, so they are written by hand.

    async def _check_health(self, message: bytes, call: Call) -> bytes:
        return self._state_of(_service_name(message))

    def _state_of(self, name: bytes) -> bytes:
        """The state of the server ("" or the protocol's name), or of one of its two probes, "live" and "ready"."""
        if name not in (b"", INFERENCE.encode(), b"ready", b"live"):
            raise HTTPError(404, "There is no such service. Services: '', 'live', 'ready'.")
        state = self._health.live() if name == b"live" else self._health.ready()
        return SERVING if state and not self.stopping.is_set() else NOT_SERVING

    async def _watch_health(self, _: Any, context: Any) -> AsyncIterator[bytes]:
        if self._watches >= MAX_WATCHES:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"{MAX_WATCHES} clients are watching.")
        self._watches += 1
        sent = b""
        try:
            try:
                async with asyncio.timeout(RECEIVE_S):
                    message = await context.read()
                name = _service_name(message if isinstance(message, bytes) else b"")
            except TimeoutError:
                await context.abort(CODES[408], f"The message did not arrive within {RECEIVE_S:g} s.")
            except HTTPError as error:
                await context.abort(CODES[error.status], str(error))
            while not self.stopping.is_set():
                try:
                    state = self._state_of(name)
                except HTTPError:
                    state = b"\x08\x03"  # SERVICE_UNKNOWN
                if state != sent:
                    yield state
                    sent = state
                with suppress(TimeoutError):
                    await asyncio.wait_for(self.stopping.wait(), WATCH_EVERY_S)
            yield NOT_SERVING
        finally:
            self._watches -= 1


def _service_name(message: bytes) -> bytes:
    """The field `service` of a HealthCheckRequest. Raises HTTPError 400."""
    if not message:
        return b""
    if message[0] != 0x0A or len(message) < 2 or message[1] > 100 or len(message) != 2 + message[1]:
        raise HTTPError(400, "The message is not a HealthCheckRequest, or its service name is too long.")
    return message[2:]


def _encode(message: Any) -> bytes:
    return bytes(message.SerializeToString())


async def _run(large: bool, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function; for large data in the thread that parses JSON, so that the event loop is not blocked."""
    if not large:
        return function(*arguments)
    return await asyncio.get_running_loop().run_in_executor(JSON_THREAD, function, *arguments)


def _host(peer: str) -> str:
    return unquote(peer).partition(":")[2].rpartition(":")[0].strip("[]")


@lru_cache(4096)
def _client(peer: str) -> str:
    """The client that shares a limit: an IPv4 address, an IPv6 network of 64 bits, or a connection from this machine.

    A proxy on this machine stands for all of its clients, so its connections count as one client each.
    """
    try:
        address = ip_address(_host(peer).partition("%")[0])
    except ValueError:
        return peer
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    if address.is_loopback:
        return peer
    return str(IPv6Address(int(address) >> 64 << 64)) if isinstance(address, IPv6Address) else str(address)


class Clients:
    """What clients use at a time: calls, messages being received, and bytes. One client gets a quarter of each."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._open: Counter[str] = Counter()
        self._held: Counter[str] = Counter()
        self._all_receiving = asyncio.Semaphore(MAX_RECEIVING)
        self._receiving: dict[str, asyncio.Semaphore] = {}

    @contextmanager
    def open(self, client: str, limit: int) -> Iterator[None]:
        """Count a call. Raises HTTPError 429 if the client has too many, 503 if all clients have."""
        if self._open.total() >= limit:
            raise HTTPError(503, "Too many calls at once. Try again in a moment.")
        if self._open[client] >= MAX_CALLS // SHARE:
            raise HTTPError(429, "Too many calls from your address at once. Try again in a moment.")
        self._open[client] += 1
        try:
            yield
        finally:
            self._open[client] -= 1
            if not self._open[client]:
                del self._open[client]
                self._receiving.pop(client, None)

    @asynccontextmanager
    async def receiving(self, client: str) -> AsyncIterator[None]:
        """Wait for a place to receive a message."""
        own = self._receiving.setdefault(client, asyncio.Semaphore(MAX_RECEIVING // SHARE))
        async with own, self._all_receiving:
            yield

    @contextmanager
    def hold(self, client: str, size: int) -> Iterator[None]:
        """Count the bytes of a message. Raises HTTPError 429 or 503 for a large one where too many are held."""
        if size > SMALL_BODY_BYTES:
            if self._held[client] + size > self._max_bytes // SHARE:
                raise HTTPError(429, "Too many large requests from your address at once. Try again in a moment.")
            if self._held.total() + size > self._max_bytes:
                raise HTTPError(503, "Too many large requests at once. Try again in a moment.")
        self._held[client] += size
        try:
            yield
        finally:
            self._held[client] -= size
            if not self._held[client]:
                del self._held[client]
