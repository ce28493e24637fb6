"""The HTTP application of one server process: what classifies is in front, pages and cards are FastAPI's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, nullcontext, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from serve.server import inference_protocol as inference
from serve.server.gateway import Front
from serve.server.health import Health
from serve.server.log import LOG
from serve.server.page_proxy import Relay, listening
from serve.service.asgi import status_of
from serve.service.metrics import CONTENT_TYPE, Metrics, Slots
from serve.service.models import Service
from serve.service.settings import Settings
from zoo import __version__
from zoo.errors import ZooError
from zoo.runtime import PROVIDERS

if TYPE_CHECKING:
    from fastapi import FastAPI

# The two routes that the framework does not see, as OpenAPI describes them.

_NAME = {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}, "example": "mnist14k"}
_GUESS = {"type": "object", "properties": {"label": {"type": "string"}, "probability": {"type": "number"}}}
_ROW = {
    "type": "object",
    "properties": {
        "input": {"type": "string"},
        "model": {"type": "string"},
        "label": {"type": "string", "nullable": True},
        "probability": {"type": "number", "nullable": True},
        "unsure": {"type": "boolean", "nullable": True},
        "top_k": {"type": "array", "items": _GUESS},
        "corrections": {"type": "array", "items": {"type": "string"}},
        "error": {"type": "string", "nullable": True},
    },
}
_REFUSALS = {
    "400": "Not an image, or one that cannot be classified.",
    "401": "The server wants its key.",
    "403": "Pages of that site may not use the server.",
    "404": "No such model.",
    "408": "The request did not come whole in time, or too slowly.",
    "413": "The request, or its JSON, is too large.",
    "415": "The body is of another kind.",
    "421": "The server does not answer to that host name.",
    "422": "A parameter or the form cannot be understood.",
    "429": "Too many large requests at once from one address.",
    "503": "Too many wait already: see Retry-After.",
    "504": "No answer before the deadline.",
}
_ERROR = {"application/json": {"schema": {"type": "object", "properties": {"error": {"type": "string"}}}}}


def _answers(schema: dict[str, Any]) -> dict[str, Any]:
    good = {"200": {"description": "The answer.", "content": {"application/json": {"schema": schema}}}}
    return good | {status: {"description": told, "content": _ERROR} for status, told in _REFUSALS.items()}


_FILES = {"type": "object", "properties": {"file": {"type": "array", "items": {"type": "string", "format": "binary"}}}}
_PREDICT = {
    "summary": "Classify an image, or a form of image files",
    "description": "An image as the body gives one row, as an object; multipart/form-data gives a list of rows, in the "
    "files' order, also for one file. as=list and as=object choose the one or the other for both.",
    "tags": ["models"],
    "parameters": [
        _NAME,
        {"name": "top_k", "in": "query", "schema": {"type": "integer", "minimum": 1, "default": 3}},
        {"name": "fit", "in": "query", "schema": {"type": "string", "enum": ["crop", "whole"], "default": "crop"}},
        {"name": "as", "in": "query", "schema": {"type": "string", "enum": ["object", "list"]}},
    ],
    "requestBody": {
        "required": True,
        "content": {
            "image/*": {"schema": {"type": "string", "format": "binary"}},
            "multipart/form-data": {"schema": _FILES},
        },
    },
    "responses": _answers({"oneOf": [_ROW, {"type": "array", "items": _ROW}]}),
}
_TENSORS = {"type": "array", "items": {"type": "object"}}
_INFER = {
    "summary": "Classify tensors (Open Inference Protocol)",
    "description": "Input `image`, UINT8 [N,H,W,C], or `encoded`, BYTES [N]: image files, in JSON as base64. At most "
    "4 MB of JSON; tensors may follow it as bytes.",
    "tags": ["Open Inference Protocol"],
    "parameters": [_NAME],
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {"type": "object", "properties": {"id": {"type": "string"}, "inputs": _TENSORS}}
            }
        },
    },
    "responses": _answers({"type": "object", "properties": {"outputs": _TENSORS}}),
}
_VERSION = {"name": "version", "in": "path", "required": True, "schema": {"type": "string"}}

HOT_ROUTES: dict[str, Any] = {
    "/models/{name}/predict": {"post": _PREDICT},
    "/v2/models/{name}/infer": {"post": _INFER},
    "/v2/models/{name}/versions/{version}/infer": {"post": {**_INFER, "parameters": [_NAME, _VERSION]}},
}


DESCRIPTION = "Small image classifiers. Every answer has X-Request-ID and Server-Timing; errors are sentences."


MountPage = Callable[["FastAPI", Service, Metrics, Settings], None]


def build(settings: Settings, mount_page: MountPage | None = None, leave: Callable[[], None] | None = None) -> Front:
    """Open the models and put everything together. Called in each server process, as its first act.

    `mount_page` adds the web page (serve/cli/serve.py), which is not known here. `leave` ends the process; it is
    called where a worker is stuck (`serve/server/health.py`).
    """
    service = Service(settings)
    slots = Slots(Path(settings.folder, "slots"), settings.workers)
    metrics = Metrics(Path(settings.folder, "metrics"), slots.own, slots.count, list(service.runners))
    health = Health(service.pool, slots, metrics, settings, leave)
    page = Path(settings.folder, "page") if settings.demo and slots.count > 1 else None
    app = _pages(settings, service, health, metrics, page if slots.own == 0 else None)
    if page and slots.own > 0:
        app.mount("/", Relay(page))  # in which there may be no room: that process tells
    elif settings.demo and mount_page:
        mount_page(app, service, metrics, settings)
    return Front(app, service, settings, metrics)


def _pages(settings: Settings, service: Service, health: Health, metrics: Metrics, socket: Path | None) -> FastAPI:
    """Everything but the page; `socket` is where other processes ask this one for it."""
    from fastapi import Request
    from fastapi.responses import JSONResponse, RedirectResponse, Response
    from fastapi_offline import FastAPIOffline
    from starlette.exceptions import HTTPException

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.pool.start()
        async with listening(app, socket) if socket else nullcontext(), health.listening(), health.watching():
            metrics.set("up", 1)
            telling = asyncio.create_task(tell(settings, service, health.ready)) if metrics.slot == 0 else None
            yield
            if telling:
                telling.cancel()
        service.pool.close(settings.deadline_s)

    app = FastAPIOffline(title="pocketzoo", version=__version__, description=DESCRIPTION, lifespan=lifespan)

    @app.exception_handler(HTTPException)
    async def sentence(request: Request, error: HTTPException) -> JSONResponse:
        what = f"{request.method} {request.url.path}"
        message = (
            f"There is nothing at {what}" if error.status_code == 404 else f"{what}: {str(error.detail).rstrip('.')}"
        )
        answer = {"error": f"{message}: /docs shows what there is."}
        if request.url.path.startswith("/gradio_api/"):
            answer["detail"] = error.detail  # which Gradio's clients read
        return JSONResponse(answer, error.status_code, error.headers)

    @app.exception_handler(ZooError)
    async def refused(_: Any, error: ZooError) -> JSONResponse:
        headers = {name.decode(): value.decode() for name, value in getattr(error, "headers", ())}
        return JSONResponse({"error": str(error)}, status_of(error), headers)

    cards = [asdict(card) for card in service.cards]  # which never change, so they are written once
    all_cards = orjson.dumps(cards)
    card_of = {card["name"]: orjson.dumps(card) for card in cards}
    metadata_of = {card.name: orjson.dumps(inference.metadata(card)) for card in service.cards}

    def written(json: bytes) -> Response:
        return Response(json, media_type="application/json")

    def state_of(name: str, state: bool) -> JSONResponse:
        return JSONResponse({name: state}, 200 if state else 503)

    @app.get("/models", summary="The cards of all models", tags=["models"])
    async def models() -> Response:
        return written(all_cards)

    @app.get("/models/{name}", summary="A model's card", tags=["models"])
    async def model(name: str) -> Response:
        return written(card_of[service.runner(name).model.card.name])

    @app.get("/v2", summary="The server", tags=["Open Inference Protocol"])
    async def server() -> dict[str, Any]:
        return {"name": "pocketzoo", "version": __version__, "extensions": ["binary_tensor_data"]}

    @app.get("/v2/health/live", summary="Whether no worker has died", tags=["Open Inference Protocol"])
    async def live() -> JSONResponse:
        return state_of("live", health.live())

    @app.get("/v2/health/ready", summary="Whether it can answer", tags=["Open Inference Protocol"])
    async def ready() -> JSONResponse:
        return state_of("ready", health.ready())

    @app.get("/v2/models/{name}/versions/{version}/ready", tags=["Open Inference Protocol"])
    @app.get("/v2/models/{name}/ready", summary="Whether a model can answer", tags=["Open Inference Protocol"])
    async def model_ready(name: str, version: str | None = None) -> JSONResponse:
        card = service.runner(name).model.card
        inference.check_version(card, version)
        state = health.ready()
        return JSONResponse({"name": card.name, "ready": state}, 200 if state else 503)

    @app.get("/v2/models/{name}/versions/{version}", tags=["Open Inference Protocol"])
    @app.get("/v2/models/{name}", summary="A model's inputs and outputs", tags=["Open Inference Protocol"])
    async def model_metadata(name: str, version: str | None = None) -> Response:
        card = service.runner(name).model.card
        inference.check_version(card, version)
        return written(metadata_of[card.name])

    @app.get("/metrics", summary="For Prometheus", tags=["watching"], response_class=Response)
    async def scrape() -> Response:
        return Response(metrics.text(), media_type=CONTENT_TYPE)

    if not settings.demo:

        @app.get("/", include_in_schema=False)
        async def root() -> RedirectResponse:
            return RedirectResponse("/docs")

    framework = app.openapi

    def openapi() -> dict[str, Any]:
        schema = framework()
        schema["paths"] |= HOT_ROUTES
        return schema

    app.openapi = openapi  # type: ignore[method-assign]
    return app


# The line that says what is served, told when it can be asked.

EVERY_S = 0.05


async def tell(settings: Settings, service: Service, ready: Callable[[], bool]) -> None:
    """Print the line as soon as all processes are ready and a connection is taken.

    An application is started before its server listens, so whoever then read the line could be turned away.
    """
    while not (ready() and await _listens(settings)):
        await asyncio.sleep(EVERY_S)
    LOG.message(line(settings, service))


async def _listens(settings: Settings) -> bool:
    try:
        _, writer = await asyncio.open_connection(settings.host, settings.port)
    except OSError:
        return False
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()
    return True


def line(settings: Settings, service: Service) -> str:
    """Where, which models, on which device with which provider."""
    names, threads = list(service.runners), len(service.pool.threads)
    shown = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
    processes = f"{settings.workers} processes of " if settings.workers > 1 else ""
    on = f"{service.device} ({PROVIDERS[service.device]}, {processes}{threads} thread{'s' if threads > 1 else ''})"
    return f"zoo: {settings.url} serves {shown} on {on}; API: {settings.url}/docs"
