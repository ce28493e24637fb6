"""The functions of the page: each answers one event of the page and one endpoint of its API."""

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

from serve.demo import text
from serve.demo.files import FileStore
from serve.demo.jobs import JobQueue, JobRunner
from serve.service.metrics import Metrics
from serve.service.models import Service
from serve.service.pool import Runner, WorkItem
from serve.service.settings import DEFAULT_MODEL
from zoo.card import Card, Form
from zoo.errors import ModelNotFound, ZooError
from zoo.images.photos import Fit
from zoo.images.read import Named
from zoo.model import onnx_bytes
from zoo.registry import find

TOP_K = 5
DATA_URL = re.compile(r"data:image/[\w.+-]+;base64,")
INPUT_VIEW_PIXELS = 224  # approximate side of the image that shows the network's input

Result = tuple[dict[str, float] | None, str | None, str]  # probabilities, file with the network's input, Markdown


class Callbacks:
    """The page's functions. They use the worker pool of the HTTP routes; what takes seconds is a job (jobs.py)."""

    def __init__(
        self, service: Service, metrics: Metrics, files: FileStore, jobs: JobRunner, examples: dict[str, Path]
    ) -> None:
        """Args:
        examples: images that visitors may choose instead of their own, by name.
        """
        self._service, self._metrics, self._files, self._jobs = service, metrics, files, jobs
        self._examples = examples
        self._batch_queue, self._inspect_queue = JobQueue(), JobQueue()

    def model_names(self, form: Form | None = None) -> list[str]:
        """Names of the models for one form of images, or of all; the default model first."""
        cards = [card for card in self._service.cards if form is None or card.input.form == form]
        default = _default_model_name()
        return [card.name for card in sorted(cards, key=lambda card: card.name != default)]

    def model_card(self, name: str) -> str:
        return text.card(self._card(name), len(onnx_bytes(self._runner(name).model)))

    def _card(self, name: str) -> Card:
        return self._runner(name).model.card

    def _runner(self, name: str) -> Runner:
        """The page lists the models of its start; one of them may have been unloaded since."""
        try:
            return self._service.runner(name)
        except ModelNotFound as error:
            raise _visitor_error(str(error)) from None

    async def predict_drawing(self, drawing: str | None, name: str, request: gr.Request) -> Result:
        """Classify a drawing, a data URL; "" for an empty canvas."""
        if not drawing:
            return None, None, text.HINT
        return await self._predict(Named("drawing", _decode_drawing(drawing)), name, "crop", request)

    async def predict_file(self, path: str | None, name: str, fit: Fit, request: gr.Request) -> Result:
        """Classify an uploaded image file."""
        if path is None:
            return None, None, text.HINT
        return await self._predict(await self._read(path), name, fit, request)

    async def _predict(self, source: Named, name: str, fit: Fit, request: gr.Request) -> Result:
        item = await self._process(source, name, fit)
        row, pixels = item.rows[0], item.prepared[0].pixels
        probabilities = None if row.error else {guess.label: text.bar(guess.probability) for guess in row.top_k}
        network_input = None
        if pixels is not None:
            network_input = str(self._files.save("seen.png", _encode_png(magnify(pixels)), _address(request)))
        return probabilities, network_input, text.result(row, item.runner.model.card, item)

    async def _process(self, source: Named, name: str, fit: Fit = "crop") -> WorkItem:
        item = WorkItem(self._runner(name), [source], top_k=TOP_K, fit=fit)
        try:
            await self._service.pool.process(item)
        except ZooError as error:
            raise _visitor_error(str(error)) from None
        finally:
            self._metrics.count_images(item)
        return item

    async def _read(self, path: str) -> Named:
        """An uploaded file, which may have expired since the event was accepted."""
        try:
            return Named(Path(path).name, await asyncio.to_thread(Path(path).read_bytes))
        except OSError:
            raise _visitor_error("This file has expired. Upload it again.") from None

    async def select_example(self, name: str, request: gr.Request) -> str:
        """The path of an example image, stored as if the visitor had uploaded it."""
        if name not in self._examples:
            raise _visitor_error(f"There is no such example. Examples: {', '.join(self._examples)}.")
        return str(self._files.save(name, self._examples[name].read_bytes(), _address(request)))

    async def compare(self, path: str | None, form: Form) -> str:
        """A table of the results of all models of one form for one image."""
        if path is None:
            return text.hint("Choose an image to compare the results of all models.")
        source = await self._read(path)
        rows = []
        for name in self.model_names(form):
            item = await self._process(source, name)
            row, card = item.rows[0], item.runner.model.card
            if row.error:
                raise _visitor_error(row.error)
            assert row.probability is not None
            doubt = " (unsure)" if row.unsure else ""
            size = len(onnx_bytes(item.runner.model))
            accuracy = text.percent(card.accuracy.value) if card.accuracy else "unknown"
            result = [f"{row.label}{doubt}", text.percent(row.probability), f"{item.infer_s * 1e3:.2f} ms"]
            rows.append([name, *result, f"{size / 1000:,.0f} KB", accuracy])
        header = ["model", "label", "probability", "latency", "file size", "test accuracy"]
        return text.table(header, rows, f"{len(rows)} models, run one after the other.")

    async def inspect(self, path: str | None, name: str, request: gr.Request) -> list[tuple[str, str]]:
        """Figures of every layer for one image: their paths and titles."""
        if path is None:
            gr.Info("Choose an image first: upload one, or click an example.", title="No image")
            return []
        job = {"path": path, "model": self._card(name).name}
        names, folder = await self._run_job("inside", job, self._inspect_queue, request)
        return [(str(folder / name), Path(name).stem.lstrip("0123456789-").replace("-", " ")) for name in names]

    async def classify_batch(
        self,
        paths: list[str] | None,
        name: str,
        form: str,
        request: gr.Request,
        progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> tuple[str, str | None]:
        """A table of the first rows, and the path of a file with all rows, "csv" or "parquet"."""
        if not paths:
            return text.hint("Choose files first: images, or zip archives of images."), None
        job = {"paths": paths, "model": self._card(name).name, "form": form}
        result, folder = await self._run_job("batch", job, self._batch_queue, request, progress)
        return result["table"], str(folder / result["file"])

    async def _run_job(
        self, kind: str, job: dict[str, Any], queue: JobQueue, request: gr.Request, progress: gr.Progress | None = None
    ) -> tuple[Any, Path]:
        """The result of a job, and the folder of its files."""

        def show_progress(done: int, total: int | None) -> None:
            if progress is not None:
                progress((done, total), unit="images")

        folder = None
        try:
            async with queue.slot(request.session_hash or "", _address(request)):
                folder = self._files.new_folder(_address(request))
                result = await self._jobs.run(kind, {**job, "folder": str(folder)}, show_progress)
            await asyncio.to_thread(self._files.update_size, folder)
            return result, folder
        except BaseException as error:
            if folder is not None:
                self._files.remove(folder)
            if isinstance(error, ZooError):
                raise _visitor_error(self._files.hide_folders(str(error))) from None
            raise


def _default_model_name() -> str | None:
    """The model that the command, the library and the HTTP routes use by default."""
    try:
        return find(DEFAULT_MODEL).card.name
    except ModelNotFound:
        return None


def _address(request: gr.Request) -> str:
    return getattr(request.client, "host", None) or ""


def _visitor_error(message: str) -> gr.Error:
    """A message for the visitor. It is not a failure of the server, so no traceback is printed."""
    return gr.Error(message, print_exception=False)


def _decode_drawing(url: Any) -> bytes:
    """The file in a data URL; API clients may send anything."""
    match = DATA_URL.match(url) if isinstance(url, str) else None
    try:
        if match:
            return b64decode(url[match.end() :], validate=True)
    except ValueError:
        pass
    raise _visitor_error("A drawing must be a data URL: data:image/png;base64,…")


def _encode_png(pixels: npt.NDArray[np.uint8]) -> bytes:
    """uint8 `(H, W)` or RGB `(H, W, 3)` → a PNG file."""
    return cv2.imencode(".png", pixels if pixels.ndim == 2 else pixels[..., ::-1])[1].tobytes()


def magnify(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """uint8 `(H, W, C)` → the same with each pixel enlarged to a square; RGB, or grey `(H, W)`."""
    times = max(1, INPUT_VIEW_PIXELS // pixels.shape[0])
    large = pixels.repeat(times, axis=0).repeat(times, axis=1)
    return large[..., 0] if large.shape[-1] == 1 else large
