"""What happens when somebody draws, uploads or clicks: each function is one event of the page and one of its API."""

from __future__ import annotations

import asyncio
import re
from base64 import b64decode
from pathlib import Path
from typing import Any

import cv2
import gradio as gr
import numpy as np
import numpy.typing as npt

from serve.demo import text as words
from serve.demo.files import Files
from serve.demo.jobs import Jobs, Places
from serve.service.metrics import Metrics
from serve.service.models import Service
from serve.service.pool import Ticket
from serve.service.settings import DEFAULT_MODEL
from zoo.card import Card, Form
from zoo.errors import ModelNotFound, ZooError
from zoo.images.photos import Fit
from zoo.images.read import Named
from zoo.model import onnx_bytes
from zoo.registry import find

SHOWN = 5  # guesses
DATA_URL = re.compile(r"data:image/[\w.+-]+;base64,")
SIDE = 224  # pixels of the picture that shows what the network sees, about

Answer = tuple[dict[str, float] | None, str | None, str]


class Answers:
    """The page's functions, on the workers that the HTTP routes use too; what takes seconds is a job of its own."""

    def __init__(self, service: Service, metrics: Metrics, files: Files, jobs: Jobs, examples: dict[str, Path]) -> None:
        """Args: examples: pictures that a visitor may take instead of his own, by name."""
        self._service, self._metrics, self._files, self._jobs = service, metrics, files, jobs
        self._examples = examples
        self._batches, self._looks = Places(), Places()

    def names(self, form: Form | None = None) -> list[str]:
        """Models that are served, of one kind of pictures or all; the one that the command takes by default first."""
        cards = [card for card in self._service.cards if form is None or card.input.form == form]
        default = _default()
        return [card.name for card in sorted(cards, key=lambda card: card.name != default)]

    def card(self, name: str) -> str:
        return words.card(self._card(name), len(onnx_bytes(self._service.runner(name).model)))

    def _card(self, name: str) -> Card:
        return self._service.runner(name).model.card

    async def drawn(self, drawing: str | None, name: str, request: gr.Request) -> Answer:
        """A drawing as a data URL, as the page's sheet gives it; "" for an empty sheet."""
        if not drawing:
            return None, None, words.HINT
        return await self._answer(Named("drawing", _drawing(drawing)), name, "crop", request)

    async def pictured(self, path: str | None, name: str, fit: Fit, request: gr.Request) -> Answer:
        """A picture file as it was uploaded."""
        if path is None:
            return None, None, words.HINT
        return await self._answer(await self._read(path), name, fit, request)

    async def _answer(self, source: Named, name: str, fit: Fit, request: gr.Request) -> Answer:
        ticket = await self._ticket(source, name, fit)
        row, pixels = ticket.rows[0], ticket.prepared[0].pixels
        bars = None if row.error else {guess.label: guess.probability for guess in row.top_k}
        seen = None
        if pixels is not None:
            seen = str(self._files.save("seen.png", _png(magnified(pixels)), _address(request)))
        return bars, seen, words.answer(row, self._card(name), ticket)

    async def _ticket(self, source: Named, name: str, fit: Fit = "crop") -> Ticket:
        ticket = Ticket(self._service.runner(name), [source], top_k=SHOWN, fit=fit)
        try:
            await self._service.pool.answer(ticket)
        except ZooError as error:
            raise _shown(str(error)) from None
        finally:
            self._metrics.ticket(ticket)
        return ticket

    async def _read(self, path: str) -> Named:
        """An uploaded file, which may have been removed since it was named."""
        try:
            return Named(Path(path).name, await asyncio.to_thread(Path(path).read_bytes))
        except OSError:
            raise _shown("This file is no longer kept: upload it again.") from None

    async def example(self, name: str, request: gr.Request) -> str:
        """A picture that comes with the page, as if it had been uploaded."""
        if name not in self._examples:
            raise _shown(f"There is no such example: there are {', '.join(self._examples)}.")
        return str(self._files.save(name, self._examples[name].read_bytes(), _address(request)))

    async def compared(self, path: str | None, form: Form) -> str:
        """One picture through all models of its kind, side by side."""
        if path is None:
            return words.hint("Choose a picture: the answers of all models stand here.")
        source = await self._read(path)
        rows = []
        for name in self.names(form):
            ticket = await self._ticket(source, name)
            row, card = ticket.rows[0], self._card(name)
            if row.error:
                raise _shown(row.error)
            assert row.probability is not None
            doubt = " (unsure)" if row.unsure else ""
            size = len(onnx_bytes(self._service.runner(name).model))
            answer = [f"{row.label}{doubt}", words.percent(row.probability), f"{ticket.infer_s * 1e3:.2f} ms"]
            rows.append([name, *answer, f"{size / 1000:,.0f} KB", f"{card.accuracy.value:.2%}"])
        head = ["model", "answer", "probability", "latency", "size", "test accuracy"]
        return words.table(head, rows, f"{len(rows)} models, one after the other")

    async def inside(self, path: str | None, name: str, request: gr.Request) -> list[tuple[str, str]]:
        """Pictures of every layer at work, with their names."""
        if path is None:
            gr.Info("Choose a picture first: upload one, or click one of the examples.", title="No picture")
            return []
        job = {"path": path, "model": self._card(name).name}
        names, folder = await self._job("inside", job, self._looks, request)
        return [(str(folder / one), Path(one).stem.lstrip("0123456789-").replace("-", " ")) for one in names]

    async def classified(
        self,
        paths: list[str] | None,
        name: str,
        form: str,
        request: gr.Request,
        progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> tuple[str, str | None]:
        """A table of the first rows, and the path of a file with all, "csv" or "parquet"."""
        if not paths:
            return words.hint("Choose files first: pictures, or zip archives of them."), None
        job = {"paths": paths, "model": self._card(name).name, "form": form}
        result, folder = await self._job("batch", job, self._batches, request, progress)
        return result["table"], str(folder / result["file"])

    async def _job(
        self, kind: str, job: dict[str, Any], places: Places, request: gr.Request, progress: gr.Progress | None = None
    ) -> tuple[Any, Path]:
        """The result of a job, and the folder that has its files."""

        def show(done: int, total: int | None) -> None:
            if progress is not None:
                progress((done, total), unit="images")

        folder = None
        try:
            async with places.place(request.session_hash or "", _address(request)):
                folder = self._files.folder(_address(request))
                result = await self._jobs.run(kind, {**job, "folder": str(folder)}, show)
            await asyncio.to_thread(self._files.count, folder)
            return result, folder
        except BaseException as error:
            if folder is not None:
                self._files.remove(folder)
            if isinstance(error, ZooError):
                raise _shown(self._files.without_folders(str(error))) from None
            raise


def _default() -> str | None:
    """The model that the command, the library and the HTTP routes mean where none is named."""
    try:
        return find(DEFAULT_MODEL).card.name
    except ModelNotFound:
        return None


def _address(request: gr.Request) -> str:
    return getattr(request.client, "host", None) or ""


def _shown(message: str) -> gr.Error:
    """A message for the visitor, which is no failure of the server."""
    return gr.Error(message, print_exception=False)


def _drawing(url: Any) -> bytes:
    """The file in a data URL, which the page makes and others may get wrong."""
    found = DATA_URL.match(url) if isinstance(url, str) else None
    try:
        if found:
            return b64decode(url[found.end() :], validate=True)
    except ValueError:
        pass
    raise _shown("A drawing is a data URL: data:image/png;base64,…")


def _png(pixels: npt.NDArray[np.uint8]) -> bytes:
    """uint8 `(H, W)` or RGB `(H, W, 3)` → a PNG file."""
    return cv2.imencode(".png", pixels if pixels.ndim == 2 else pixels[..., ::-1])[1].tobytes()


def magnified(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """uint8 `(H, W, C)` → every pixel a square, as RGB or grey `(H, W)`."""
    times = max(1, SIDE // pixels.shape[0])
    large = pixels.repeat(times, axis=0).repeat(times, axis=1)
    return large[..., 0] if large.shape[-1] == 1 else large
