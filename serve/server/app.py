"""The HTTP application of one server process: the gateway with its two routes, and the other routes in FastAPI."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response  # FastAPI resolves annotations in this module

from serve.server import inference_protocol
from serve.server.gateway import Gateway
from serve.server.health import Health
from serve.server.log import LOG
from serve.server.page_proxy import PageProxy, serve_on_socket
from serve.server.repository import MAX_REQUEST, Repository, check_parameters
from serve.service.asgi import HTTPError, status_of
from serve.service.metrics import CONTENT_TYPE, Metrics, ProcessSlots
from serve.service.models import Service
from serve.service.pool import Runner
from serve.service.settings import Settings
from zoo import __version__
from zoo.errors import WrongUsage, ZooError, not_importable
from zoo.runtime import PROVIDERS

if TYPE_CHECKING:
    from fastapi import FastAPI

DESCRIPTION = (
    "Small image classifiers. Every response has the headers X-Request-ID and Server-Timing. "
    'The body of an error is {"error": message}.'
)
PROTOCOL = "Open Inference Protocol"
REPOSITORY = "Model repository"
START_POLL_S = 0.05
POOL_END_S = 2.0  # for the worker threads to end: by then all requests are answered

MountPage = Callable[["FastAPI", Service, Metrics, Settings, Callable[[], Awaitable[None]]], None]


def build(settings: Settings, mount_page: MountPage | None = None, leave: Callable[[], None] | None = None) -> Gateway:
    """Open the models and assemble the application. Each server process calls this first.

    Args:
        mount_page: adds the web page, which this package does not know (serve/cli/serve.py).
        leave: ends the process; called if a worker thread is stuck (`serve/server/health.py`).
    """
    slots = ProcessSlots(Path(settings.folder, "slots"), settings.workers)
    repository = Repository(settings, slots)
    service, metrics = repository.service, repository.metrics
    health = Health(service.pool, slots, metrics, settings, leave)
    socket = Path(settings.folder, "page") if settings.demo and slots.count > 1 else None
    app = build_api(settings, repository, health, socket if slots.own == 0 else None)
    if socket and slots.own > 0:
        app.mount("/", PageProxy(socket))  # the first process has the page, and the limit of its requests
    elif settings.demo and mount_page:
        mount_page(app, service, metrics, settings, repository.follow_folder)
    return Gateway(app, service, settings, metrics)


def build_api(settings: Settings, repository: Repository, health: Health, socket: Path | None) -> FastAPI:
    """All routes but the page and the two that classify.

    Args:
        socket: where other processes forward requests for the page to; None if this process does not run it.
    """
    from fastapi_offline import FastAPIOffline

    service, metrics = repository.service, repository.metrics
    listen_grpc = import_grpc() if settings.grpc_port is not None else None

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.pool.start()
        page_socket = serve_on_socket(app, socket, settings.root_path) if socket else nullcontext()
        async with (
            page_socket,
            repository.watch_in_background(),
            health.listen_for_probes(),
            health.watch_in_background(),
            listen_grpc(settings, repository, health) if listen_grpc else nullcontext(),
        ):
            metrics.set("up", 1)
            is_first = metrics.slot == 0
            announcing = asyncio.create_task(announce(settings, service, health.ready)) if is_first else None
            yield
            if announcing:
                announcing.cancel()
        service.pool.close(min(settings.deadline_s, POOL_END_S))

    app = FastAPIOffline(title="pocketzoo", version=__version__, description=DESCRIPTION, lifespan=lifespan)

    @app.exception_handler(HTTPException)
    async def handle_http_exception(request: Request, error: HTTPException) -> JSONResponse:
        reasons = {404: "Not found", 405: "Method not allowed"}
        reason = reasons.get(error.status_code) or str(error.detail).rstrip(".")
        body = {"error": f"{reason}: {request.method} {request.url.path}. See /docs."}
        if request.url.path.startswith("/gradio_api/"):
            body["detail"] = error.detail  # Gradio's clients read it
        return JSONResponse(body, error.status_code, error.headers)

    @app.exception_handler(ZooError)
    async def handle_zoo_error(_: Any, error: ZooError) -> JSONResponse:
        headers = {name.decode(): value.decode() for name, value in getattr(error, "headers", ())}
        return JSONResponse({"error": str(error)}, status_of(error), headers)

    def json_response(value: Any) -> Response:  # orjson takes cards as they are
        return Response(orjson.dumps(value), media_type="application/json")

    all_cards = Encoded(lambda runners: orjson.dumps([runner.model.card for runner in runners.values()]))

    def state_of(name: str, state: bool) -> JSONResponse:
        return JSONResponse({name: state}, 200 if state else 503)

    @app.get("/models", summary="List the cards of all models", tags=["models"])
    async def models() -> Response:
        return Response(all_cards.of(service.runners), media_type="application/json")

    @app.get("/models/{name}", summary="Get the card of a model", tags=["models"])
    async def model(name: str) -> Response:
        return json_response(service.runner(name).model.card)

    @app.get("/v2", summary="Server metadata", tags=[PROTOCOL])
    async def server() -> dict[str, Any]:
        return {"name": "pocketzoo", "version": __version__, "extensions": repository.extensions()}

    @app.get("/v2/health/live", summary="Liveness: no worker has died or is stuck", tags=[PROTOCOL])
    async def live() -> JSONResponse:
        return state_of("live", health.live())

    @app.get("/v2/health/ready", summary="Readiness: the server accepts requests", tags=[PROTOCOL])
    async def ready() -> JSONResponse:
        return state_of("ready", health.ready())

    @app.get("/v2/models/stats", summary="Statistics of all models", tags=[PROTOCOL])
    async def all_statistics() -> Response:
        return json_response({"model_stats": [metrics.statistics(card.name, card.version) for card in service.cards]})

    @app.get("/v2/models/{name}/versions/{version}/ready", summary="Readiness of a model version", tags=[PROTOCOL])
    @app.get("/v2/models/{name}/ready", summary="Readiness of a model", tags=[PROTOCOL])
    async def model_ready(name: str, version: str | None = None) -> JSONResponse:
        card = service.runner(name).model.card
        inference_protocol.check_version(card, version)
        state = health.ready()
        return JSONResponse({"name": card.name, "ready": state}, 200 if state else 503)

    @app.get("/v2/models/{name}/versions/{version}", summary="Metadata of a model version", tags=[PROTOCOL])
    @app.get("/v2/models/{name}", summary="Metadata of a model: its inputs and outputs", tags=[PROTOCOL])
    async def model_metadata(name: str, version: str | None = None) -> Response:
        card = service.runner(name).model.card
        inference_protocol.check_version(card, version)
        return json_response(inference_protocol.metadata(card))

    @app.get("/v2/models/{name}/versions/{version}/stats", summary="Statistics of a version", tags=[PROTOCOL])
    @app.get("/v2/models/{name}/stats", summary="Statistics of a model: counts and times", tags=[PROTOCOL])
    async def statistics(name: str, version: str | None = None) -> Response:
        card = service.runner(name).model.card
        inference_protocol.check_version(card, version)
        return json_response({"model_stats": [metrics.statistics(card.name, card.version)]})

    @app.post("/v2/repository/index", summary="List the models, loaded or not", tags=[REPOSITORY])
    async def index(request: Request) -> Response:
        options = check_parameters(await small_body(request), ())
        return json_response(await repository.index(options.get("ready") is True))

    @app.post("/v2/repository/models/{name}/load", summary="Load a model, or load it again", tags=[REPOSITORY])
    async def load(name: str, request: Request) -> Response:
        repository.check_controlled()
        check_parameters(await small_body(request), ())
        await repository.load(name)
        return Response()

    @app.post("/v2/repository/models/{name}/unload", summary="Unload a model", tags=[REPOSITORY])
    async def unload(name: str, request: Request) -> Response:
        repository.check_controlled()
        check_parameters(await small_body(request), ("unload_dependents",))
        await repository.unload(name)
        return Response()

    @app.get("/metrics", summary="Metrics in Prometheus' text format", tags=["monitoring"], response_class=Response)
    async def scrape() -> Response:
        return Response(await asyncio.to_thread(metrics.text), media_type=CONTENT_TYPE)

    if not settings.demo:

        @app.get("/", include_in_schema=False)
        async def root() -> RedirectResponse:
            return RedirectResponse(f"{settings.root_path}/docs")

    framework_openapi = app.openapi

    def openapi() -> dict[str, Any]:
        schema = framework_openapi()
        schema["paths"] |= CLASSIFY_PATHS
        return schema

    app.openapi = openapi  # type: ignore[method-assign]
    return app


def import_grpc() -> Any:
    """`serve.server.grpc_server.listen`. Raises WrongUsage if gRPC is not installed."""
    try:
        from serve.server.grpc_server import listen
    except ImportError as error:
        raise WrongUsage(not_importable("--grpc-port", error, "grpc")) from None
    return listen


class Encoded:
    """A response that is encoded again only when the models have changed."""

    def __init__(self, encode: Callable[[dict[str, Runner]], bytes]) -> None:
        self._encode, self._response = encode, b""
        self._runners: dict[str, Runner] | None = None

    def of(self, runners: dict[str, Runner]) -> bytes:
        if runners is not self._runners:
            self._runners, self._response = runners, self._encode(runners)
        return self._response


async def small_body(request: Request) -> bytes:
    """The body of a request. Raises HTTPError 413 as soon as it is larger than MAX_REQUEST."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_REQUEST:
            raise HTTPError(413, f"The request has more than {MAX_REQUEST} bytes of JSON.")
    return body


async def announce(settings: Settings, service: Service, ready: Callable[[], bool]) -> None:
    """Print the startup line as soon as all processes are ready and the server accepts a connection.

    An application starts before its server listens: if the line were printed then, a client that reads it could be
    rejected.
    """
    while not (ready() and await _accepts_connections(settings)):
        await asyncio.sleep(START_POLL_S)
    LOG.message(startup_line(settings, service))


async def _accepts_connections(settings: Settings) -> bool:
    try:
        _, writer = await asyncio.open_connection(settings.host, settings.port)
    except OSError:
        return False
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()
    return True


def startup_line(settings: Settings, service: Service) -> str:
    """The URL, the models, the device and its execution provider."""
    names, threads = list(service.runners), len(service.pool.threads)
    models = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
    processes = f"{settings.workers} processes, " if settings.workers > 1 else ""
    of_each = " each" if settings.workers > 1 else ""
    workers = f"{processes}{threads} worker thread{'s' if threads > 1 else ''}{of_each}"
    device = f"{service.device} ({PROVIDERS[service.device]}, {workers})"
    grpc = "" if settings.grpc_port is None else f". gRPC: {settings.grpc_address}"
    return f"zoo: Running on {settings.url} with {models} on {device}. API docs: {settings.url}/docs{grpc}"


# OpenAPI description of the two routes that FastAPI does not know

_NAME = {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}, "example": "mnist14k"}
_LABEL_PROBABILITY: dict[str, Any] = {
    "type": "object",
    "properties": {"label": {"type": "string"}, "probability": {"type": "number"}},
}
_DIGIT = {
    "type": "object",
    "properties": {
        **_LABEL_PROBABILITY["properties"],
        "box": {"type": "array", "items": {"type": "integer"}, "minItems": 4, "maxItems": 4},
    },
}
_ROW = {
    "type": "object",
    "properties": {
        "input": {"type": "string"},
        "model": {"type": "string"},
        "label": {"type": "string", "nullable": True},
        "probability": {"type": "number", "nullable": True},
        "unsure": {"type": "boolean", "nullable": True},
        "known": {"type": "boolean", "nullable": True},
        "top_k": {"type": "array", "items": _LABEL_PROBABILITY},
        "digits": {"type": "array", "items": _DIGIT},
        "corrections": {"type": "array", "items": {"type": "string"}},
        "error": {"type": "string", "nullable": True},
    },
}
_ERRORS = {
    "400": "The body is not an image, or the image cannot be classified.",
    "401": "Missing or invalid API key.",
    "403": "Requests from pages of this site are not allowed.",
    "404": "No such model.",
    "408": "The request body arrived too slowly.",
    "413": "The request body, or its JSON, is too large.",
    "415": "Unsupported Content-Type or Content-Encoding.",
    "421": "The host name is not allowed.",
    "422": "Invalid parameter, form or tensor.",
    "429": "Too many large requests from one address at once.",
    "503": "Too many requests are waiting. Retry after Retry-After seconds.",
    "504": "Timed out.",
}
_ERROR = {"application/json": {"schema": {"type": "object", "properties": {"error": {"type": "string"}}}}}


def _responses(schema: dict[str, Any]) -> dict[str, Any]:
    success = {"200": {"description": "Success.", "content": {"application/json": {"schema": schema}}}}
    return success | {status: {"description": text, "content": _ERROR} for status, text in _ERRORS.items()}


_FILES = {"type": "object", "properties": {"file": {"type": "array", "items": {"type": "string", "format": "binary"}}}}
_PREDICT = {
    "summary": "Classify an image, or several image files",
    "description": "Send an image as the body to get one row, as an object. Send files as multipart/form-data to get a "
    "list of rows in the order of the files, also for one file. as=list or as=object overrides this.",
    "tags": ["models"],
    "parameters": [
        _NAME,
        {"name": "top_k", "in": "query", "schema": {"type": "integer", "minimum": 1, "default": 3}},
        {"name": "fit", "in": "query", "schema": {"type": "string", "enum": ["crop", "whole"], "default": "crop"}},
        {"name": "as", "in": "query", "schema": {"type": "string", "enum": ["object", "list"]}},
        {"name": "single", "in": "query", "schema": {"type": "boolean", "default": False}},
    ],
    "requestBody": {
        "required": True,
        "content": {
            "image/*": {"schema": {"type": "string", "format": "binary"}},
            "multipart/form-data": {"schema": _FILES},
        },
    },
    "responses": _responses({"oneOf": [_ROW, {"type": "array", "items": _ROW}]}),
}
_TENSORS = {"type": "array", "items": {"type": "object"}}
_INFER = {
    "summary": "Classify tensors (Open Inference Protocol)",
    "description": "The input is `image`, UINT8 [N,H,W,C], or `encoded`, BYTES [N]: image files, in JSON as base64. "
    "JSON may have at most 4 MB; tensors may follow it as binary data.",
    "tags": [PROTOCOL],
    "parameters": [_NAME],
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {"type": "object", "properties": {"id": {"type": "string"}, "inputs": _TENSORS}}
            }
        },
    },
    "responses": _responses({"type": "object", "properties": {"outputs": _TENSORS}}),
}
_VERSION = {"name": "version", "in": "path", "required": True, "schema": {"type": "string"}}

CLASSIFY_PATHS: dict[str, Any] = {
    "/models/{name}/predict": {"post": _PREDICT},
    "/v2/models/{name}/infer": {"post": _INFER},
    "/v2/models/{name}/versions/{version}/infer": {"post": {**_INFER, "parameters": [_NAME, _VERSION]}},
}
