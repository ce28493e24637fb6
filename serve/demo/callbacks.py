"""The functions of the page's events and of its API's endpoints."""

from __future__ import annotations

import asyncio
import re
from base64 import b64decode
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any
from weakref import WeakKeyDictionary

import gradio as gr
import numpy as np

from serve.demo import benchmarks, result, text
from serve.demo.files import FileStore
from serve.demo.jobs import JobQueue, JobRunner
from serve.demo.newest import Newest
from serve.service.metrics import Metrics
from serve.service.models import Service
from serve.service.pool import Runner, WorkItem
from serve.service.settings import DEFAULT_MODEL
from zoo.card import Card, Form
from zoo.errors import ModelNotFound, ZooError
from zoo.images.decode import Pixels
from zoo.images.photos import Fit
from zoo.images.read import Named
from zoo.model import Model, onnx_bytes
from zoo.registry import find
from zoo.rows import Row

TOP_K = 10
DATA_URL = re.compile(r"data:image/[\w.+-]+;base64,")
FORMS: tuple[Form, ...] = ("digit", "photo")
LATENCY_CALLS = 7  # the median of so many calls is a model's latency here

Result = tuple[str, dict[str, Any] | None]  # HTML of the answer, and the row as in all interfaces


class Callbacks:
    """The page's functions. They use the worker pool of the HTTP routes; what takes seconds is a job (jobs.py)."""

    def __init__(
        self,
        service: Service,
        metrics: Metrics,
        files: FileStore,
        jobs: JobRunner,
        examples: dict[str, tuple[Path, Form]],
        follow_folder: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """Args:
        examples: images that visitors may choose instead of their own, by name, with the form of models for it.
        follow_folder: loads and unloads models as the user's folder has them now.
        """
        self._service, self._metrics, self._files, self._jobs = service, metrics, files, jobs
        self._examples, self._follow_folder = examples, follow_folder
        self._batch_queue, self._inspect_queue = JobQueue(), JobQueue()
        self._newest = Newest()
        self._latencies: WeakKeyDictionary[Runner, float | None] = WeakKeyDictionary()  # seconds per image

    def model_names(self, form: Form | None = None) -> list[str]:
        """Names of the models for one form of images, or of all; the default model first."""
        cards = [card for card in self._service.cards if form is None or card.input.form == form]
        default = _default_model_name()
        return [card.name for card in sorted(cards, key=lambda card: card.name != default)]

    def model_choices(self) -> list[tuple[str, str]]:
        """A line for each model, with its name; models for digits first, and the default model before all.

        The latency is in it where `all_models` has measured it.
        """
        names = sorted(self.model_names(), key=lambda name: self._card(name).input.form != "digit")
        return [(self._choice(self._runner(name)), name) for name in names]

    def _choice(self, runner: Runner) -> str:
        return text.choice(runner.model.card, len(onnx_bytes(runner.model)), self._latencies.get(runner))

    async def refresh_models(self, *names: str) -> list[dict[str, Any]]:
        """New states of the choices of models, whose values are `names`, after a look into the user's folder."""
        if self._follow_folder is not None:
            await self._follow_folder()
        choices = await asyncio.to_thread(self.model_choices)
        served = [name for _, name in choices]
        for name in dict.fromkeys(name for name in names if name not in served):
            gr.Info(f"The model {name} is no longer on this server.", title="Model removed")
        # The value is left alone where possible: the visitor may have chosen another one meanwhile
        first = next(iter(served), None)
        return [
            gr.update(choices=choices) if name in served else gr.update(choices=choices, value=first) for name in names
        ]

    async def refresh_model(self, name: str) -> dict[str, Any]:
        """As `refresh_models`, for one choice."""
        return (await self.refresh_models(name))[0]

    async def refresh_table(self) -> str:
        """The table of all models, after a look into the user's folder. Only new models are measured."""
        if self._follow_folder is not None:
            await self._follow_folder()
        return await asyncio.to_thread(self.all_models)

    def model_card(self, name: str | None) -> str:
        if name is None:
            return "This server has no models."
        return text.card(self._card(name), len(onnx_bytes(self._runner(name).model)))

    def measure_models(self) -> tuple[str, str]:
        """The table of all models and the plots, with all latencies measured again."""
        self._latencies.clear()
        return self.all_models(), self.plots()

    async def refresh_plots(self) -> str:
        """As `refresh_table`, for the plots."""
        if self._follow_folder is not None:
            await self._follow_folder()
        return await asyncio.to_thread(self.plots)

    def plots(self) -> str:
        """Accuracy of all models against latency and size: in the report, and on this machine."""
        points = []
        for name in self.model_names():
            runner = self._runner(name)
            card, latency = runner.model.card, self._latency(runner)
            if card.accuracy is not None:
                points.append(
                    benchmarks.Point(
                        model=name,
                        form=card.input.form,
                        accuracy=card.accuracy.value,
                        parameters=card.parameters.count,
                        default=card.default,
                        report_ms=benchmarks.report_latency(name),
                        here_ms=None if latency is None else latency * 1e3,
                    )
                )
        return benchmarks.html(points, text.KINDS, LATENCY_CALLS, self._service.device.upper())

    def _latency(self, runner: Runner) -> float | None:
        """Seconds for one image, measured once for each model."""
        if runner not in self._latencies:
            self._latencies[runner] = measure_latency(runner.model)
        return self._latencies[runner]

    def all_models(self) -> str:
        """A table of all models: accuracy, size, and latency on this machine."""
        rows = []
        for name in self.model_names():
            runner = self._runner(name)
            card, latency = runner.model.card, self._latency(runner)
            accuracy = text.percent(card.accuracy.value) if card.accuracy else "unknown"
            size = f"{len(onnx_bytes(runner.model)) / 1000:,.0f} KB"
            here = "unknown" if latency is None else text.milliseconds(latency)
            rows.append([name, text.KINDS[card.input.form], accuracy, f"{card.parameters.count:,}", size, here])
        header = ["model", "for", "test accuracy", "parameters", "file size", "latency here"]
        return text.table(
            header, rows, f"Latency: one image, {self._service.device.upper()}, median of {LATENCY_CALLS} calls."
        )

    def _card(self, name: str) -> Card:
        return self._runner(name).model.card

    def _runner(self, name: str) -> Runner:
        """A model by its name; one that was on the list of an open page may have been removed since."""
        try:
            return self._service.runner(name)
        except ModelNotFound:
            raise _visitor_error(
                f"The model {name} is not on this server, or no longer. Reload the page and choose another one."
            ) from None

    async def predict_drawing(self, drawing: str | None, name: str, explain: bool = False) -> Result:
        """Classify a drawing, a data URL; "" for an empty canvas."""
        if not drawing:
            return result.hint(), None
        return await self._predict(Named("drawing", _decode_drawing(drawing)), name, "crop", explain)

    async def predict_file(self, path: str | None, name: str, fit: Fit, explain: bool = False) -> Result:
        """Classify an uploaded image file."""
        if path is None:
            return result.hint(), None
        return await self._predict(await self._read(path), name, fit, explain)

    async def show_answer(
        self,
        source: str,
        drawing: str | None,
        path: str | None,
        name: str,
        fit: Fit,
        explain: bool,
        request: gr.Request,
    ) -> str | dict[str, Any]:
        """HTML of the answer, or of an error, for what the page shows now: the drawing or the file."""

        async def show() -> str:
            try:
                if source == "draw":
                    return (await self.predict_drawing(drawing, name, explain))[0]
                return (await self.predict_file(path, name, fit, explain))[0]
            except gr.Error as error:
                return result.failure(error.message)

        return await self._newest.result(("answer", request.session_hash), show())

    async def _predict(self, source: Named, name: str, fit: Fit, explain: bool) -> Result:
        item = await self._process(source, name, fit)
        return await asyncio.to_thread(result.answer, item, source, explain), item.rows[0].to_dict()

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

    async def select_example(self, name: str, choice: str, request: gr.Request) -> tuple[str, str]:
        """The path of an example image, stored as if the visitor had uploaded it, and the model or form for it.

        Args:
            choice: the current model or form.
        """
        if name not in self._examples:
            raise _visitor_error(f"There is no such example. Examples: {', '.join(self._examples)}.")
        path, form = self._examples[name]
        if choice in FORMS:
            choice = form
        elif self._card(choice).input.form != form:
            choice = self._preferred_model(form)
        return str(self._files.save(name, path.read_bytes(), _address(request))), choice

    def _preferred_model(self, form: Form) -> str:
        """The default model if it takes that form, or the most accurate one."""
        names = self.model_names(form)
        if not names:
            raise _visitor_error(f"This server has no model for {text.KINDS[form]}.")
        if names[0] == _default_model_name():
            return names[0]
        return max(names, key=lambda name: accuracy.value if (accuracy := self._card(name).accuracy) else 0.0)

    async def compare(self, path: str | None, form: Form) -> str:
        """A table of the results of all models of one form for one image."""
        if path is None:
            return text.hint("Choose an image to compare the results of all models.")
        source = await self._read(path)
        results = []
        for name in self.model_names(form):
            item = await self._process(source, name)
            row, model = item.rows[0], item.runner.model
            if row.error:
                raise _visitor_error(row.error)
            latency = await asyncio.to_thread(measure_latency, model, item.prepared[0].pixels)
            results.append((row, model, item.infer_s if latency is None else latency))
        if not results:
            return text.hint(f"This server has no model for {text.KINDS[form]}.")
        return _comparison(results)

    async def show_comparison(self, path: str | None, form: Form, request: gr.Request) -> str | dict[str, Any]:
        """As `compare`, for the page: an error takes the place of the table of an earlier image."""

        async def show() -> str:
            try:
                return await self.compare(path, form)
            except gr.Error as error:
                return result.failure(error.message)

        return await self._newest.result(("comparison", request.session_hash), show())

    async def inspect(self, path: str | None, name: str, request: gr.Request) -> str:
        """HTML of every layer for one image."""
        if path is None:
            return text.hint("Choose an image first: upload one, or click an example.")
        job = {"path": path, "model": self._card(name).name}
        html, folder = await self._run_job("inside", job, self._inspect_queue, request)
        self._files.remove(folder)
        return str(html)

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


def measure_latency(model: Model, pixels: Pixels | None = None) -> float | None:
    """Median seconds of `model.run` for one image: `pixels`, or a black one. None if the network fails."""
    images = np.zeros((1, *model.card.input.shape), np.uint8) if pixels is None else pixels[np.newaxis]
    seconds = []
    try:
        model.run(images)
        for _ in range(LATENCY_CALLS):
            started = perf_counter()
            model.run(images)
            seconds.append(perf_counter() - started)
    except ZooError:
        return None
    return median(seconds)


def _comparison(results: list[tuple[Row, Model, float]]) -> str:
    """A table, the surest model first, below a sentence on how many agree."""
    results = sorted(results, key=lambda result: -(result[0].probability or 0))
    fastest = min(latency for _, _, latency in results)
    surest = max(row.probability or 0 for row, _, _ in results)
    rows = []
    for row, model, latency in results:
        assert row.probability is not None
        accuracy = text.percent(model.card.accuracy.value) if model.card.accuracy else "unknown"
        doubt = "none of the classes" if row.known is False else "unsure" if row.unsure else ""
        rows.append(
            [
                row.model,
                f"{row.label}\t{doubt}",
                f"{text.percent(row.probability)}\t{'surest' if row.probability == surest else ''}",
                f"{text.milliseconds(latency)}\t{'fastest' if latency == fastest else ''}",
                f"{len(onnx_bytes(model)) / 1000:,.0f} KB",
                accuracy,
            ]
        )
    labels = Counter(row.label for row, _, _ in results)
    label, count = labels.most_common(1)[0]
    agreement = f"All {len(rows)}" if count == len(rows) else f"{count} of {len(rows)}"
    header = ["model", "label", "probability", "latency", "file size", "test accuracy"]
    caption = f"{agreement} models answer {label}. Latency: median of {LATENCY_CALLS} calls. A heading sorts the table."
    return text.table(header, rows, caption)


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
