"""The HTTP application of one server process: what classifies is in front, pages and cards are FastAPI's."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from serve.http import inference
from serve.http.errors import status_of
from serve.http.front import Front
from serve.http.health import Health
from serve.http.metrics import CONTENT_TYPE, Metrics
from serve.http.openapi import HOT_ROUTES
from serve.http.relay import Relay, listening
from serve.http.slots import Slots
from serve.http.startup import tell
from serve.service import Service
from serve.settings import Settings
from zoo import __version__
from zoo.errors import ZooError

if TYPE_CHECKING:
    from fastapi import FastAPI

DESCRIPTION = "Small image classifiers. Every answer has X-Request-ID and Server-Timing; errors are sentences."


def build(settings: Settings, leave: Callable[[], None] | None = None) -> Front:
    """Open the models and put everything together. Called in each server process, as its first act.

    `leave` ends the process; it is called where a worker is stuck (`serve/http/health.py`).
    """
    service = Service(settings)
    slots = Slots(Path(settings.folder, "slots"), settings.workers)
    metrics = Metrics(Path(settings.folder, "metrics"), slots.own, slots.count, list(service.runners))
    health = Health(service.pool, slots, metrics, settings, leave)
    page = Path(settings.folder, "page") if settings.demo and slots.count > 1 else None
    app = _pages(settings, service, health, metrics, page if slots.own == 0 else None)
    if page and slots.own > 0:
        app.mount("/", Relay(page))  # in which there may be no room: that process tells
    elif settings.demo:
        from serve.demo.files import keep_in

        files = keep_in(Path(settings.folder, "files"))  # which Gradio looks at when it is imported
        from serve.demo.page import mount

        mount(app, service, metrics, settings, files)
    return Front(app, service, settings, metrics)


def _pages(settings: Settings, service: Service, health: Health, metrics: Metrics, socket: Path | None) -> "FastAPI":
    """Everything but the page; `socket` is where other processes ask this one for it."""
    from fastapi import Request
    from fastapi.responses import JSONResponse, RedirectResponse, Response
    from fastapi_offline import FastAPIOffline
    from starlette.exceptions import HTTPException

    @asynccontextmanager
    async def lifespan(app: "FastAPI") -> AsyncIterator[None]:
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
