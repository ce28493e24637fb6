"""The web page: Gradio Blocks, mounted in the server's own process. It loads nothing from other hosts."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from abc import ABCMeta
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from serve.demo.files import FileStore
from serve.demo.jobs import JobRunner
from serve.demo.sessions import Sessions

if TYPE_CHECKING:
    from gradio.routes import App

# Gradio reads these when it is imported. By default it computes statistics of the last 10,000 events after each event.
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("GRADIO_ANALYTICS_MAX_EVENTS", "100")
os.environ.setdefault("GRADIO_ANALYTICS_CACHE_FREQUENCY", "1000000000")

import cv2
import gradio as gr
from starlette.routing import Mount

from serve.demo import result, text
from serve.demo.callbacks import Callbacks
from serve.demo.guard import Guard
from serve.demo.sessions import MAX_STATES
from serve.service.asgi import ConcurrencyLimit
from serve.service.metrics import Metrics
from serve.service.models import Service
from serve.service.settings import Settings
from zoo.card import Form

if TYPE_CHECKING:
    from fastapi import FastAPI

HERE = Path(__file__).parent
EXAMPLE_FOLDER = next((folder for folder in (HERE / "examples", HERE.parents[1] / "examples") if folder.is_dir()), None)
EXAMPLES: dict[Form, list[str]] = {
    "digit": ["seven.png", "five.jpg", "two.jpg", "eight.png", "nine.png"],
    "photo": ["cat.jpg", "ship.jpg", "airplane.jpg", "truck.jpg"],
}
THUMBNAIL_PIXELS = 128
THEME = gr.themes.Default(primary_hue="teal", font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
MAX_QUEUE = 64  # waiting events of all visitors
LATEST_EVENT: dict[str, Any] = {
    "show_progress": "hidden",
    "trigger_mode": "always_last",
    "concurrency_limit": 8,
    "api_visibility": "private",
}
API_EVENT: dict[str, Any] = {"concurrency_limit": 8}  # `gr.on([], …)`: for API clients, started by nothing on the page
# The hidden one of drawing and file is not sent: the file may have expired
VISIBLE_INPUTS = """(source, drawing, file, ...rest) =>
    source === "draw" ? [source, drawing, null, ...rest] : [source, "", file, ...rest]"""
REFRESH_EVENT: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "concurrency_limit": 4}
JOB_EVENT: dict[str, Any] = {"concurrency_limit": None}  # `JobQueue` limits jobs, with a message
MAX_FILES_BODIES = 32  # what all visitors' files may take on the disk, in request bodies of the largest size
SWEEP_EVERY_S = 15.0  # removal of old files and sessions
SHUTDOWN_S = 2.0  # how long running events may take when the server stops
FORM_TITLES: dict[Form, str] = {"digit": "digits (MNIST)", "photo": "photographs (CIFAR-10)"}
FORM_CHOICES = [("Draw", "draw"), ("Image or camera", "picture")]
HEADER = (HERE / "header.html").read_text()
OWN_MODELS = """## A model of your own images

A folder with one subfolder of images per label is enough, and training takes minutes on a laptop. In the copy of the
repository, type:

```sh
pip install -e '.[cpu,train]'
zoo fit FOLDER --name mine
```

The model is then in the lists of this page: open or reload the page, or change the tab. So are the models of `zoo add`
and `zoo pull`. A server that was started with `--models PATTERN` shows those whose names match.
"""

# Gradio checks a value against the choices that it sent to the page last, but a model may come or go meanwhile. A
# method of the component is not enough, because an update makes a new one from its class. (A class statement would make
# Gradio write a file beside this one.)
ModelPicker: Any = ABCMeta.__new__(
    type(gr.Dropdown),
    "ModelPicker",
    (gr.Dropdown,),
    {"__module__": __name__, "is_template": True, "preprocess": lambda self, name: name},
)


def mount(
    app: FastAPI,
    service: Service,
    metrics: Metrics,
    settings: Settings,
    folder: Path,
    follow_folder: Callable[[], Awaitable[None]] | None = None,
) -> None:
    """Mount the page at the root of an application, with the same error responses.

    Args:
        folder: for the files of the page.
        follow_folder: loads and unloads models as the user's folder has them now.
    """
    files, jobs = FileStore(folder, MAX_FILES_BODIES * settings.max_body_bytes), JobRunner()
    blocks = build(Callbacks(service, metrics, files, jobs, _examples(), follow_folder))
    gr.mount_gradio_app(
        app,
        blocks,
        path="/",
        root_path=settings.root_path or None,
        footer_links=[],
        favicon_path=str(HERE / "favicon.svg"),
        run_history=False,
        ssr_mode=False,
        mcp_server=False,
        enable_monitoring=False,
        show_error=False,  # except for `gr.Error`; other errors go to the log only
        max_file_size=settings.max_body_bytes,
        theme=THEME,
        css_paths=HERE / "page.css",
    )
    # Gradio checks the paths of files only if it was launched, which a mounted page never is
    blocks.has_launched = blocks.is_running = True
    mounted, original_lifespan = app.routes[-1], app.router.lifespan_context
    assert isinstance(mounted, Mount)
    page = mounted.app
    assert isinstance(page, gr.routes.App)
    page.exception_handlers |= app.exception_handlers
    sessions = Sessions(page)
    mounted.app = ConcurrencyLimit(Guard(page, files, sessions, settings.max_body_bytes, settings.frame_ancestors))

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[Any]:
        async with original_lifespan(app) as state, run_in_background(page, files, sessions, jobs):
            yield state

    app.router.lifespan_context = lifespan


@asynccontextmanager
async def run_in_background(page: App, files: FileStore, sessions: Sessions, jobs: JobRunner) -> AsyncIterator[None]:
    """Sweep files and sessions while the server runs, and end streams and jobs when it stops.

    An open page listens to a stream that has no end, and a server stops only when its last response has ended.
    """

    def stop() -> None:
        page.stop_event.set()
        jobs.close()

    sweeping = asyncio.create_task(_sweep(page, files, sessions))
    try:
        with _on_signal(stop):
            yield
    finally:
        sweeping.cancel()
        jobs.close()
        await _end_events(page)


async def _end_events(page: App) -> None:
    """Cancel running events: Gradio leaves them, and a thread that works for one would keep the process alive."""
    queue = page.get_blocks()._queue
    queue.stopped = True
    running = set(queue._asyncio_tasks)
    if running:
        _, running = await asyncio.wait(running, timeout=SHUTDOWN_S)
    if running:
        for task in running:
            task.cancel()
        await asyncio.wait(running, timeout=SHUTDOWN_S)


async def _sweep(page: App, files: FileStore, sessions: Sessions) -> None:
    while True:
        await asyncio.sleep(SWEEP_EVERY_S)
        sessions.sweep()
        for names in page.get_blocks().temp_file_sets:
            names.clear()  # `files` removes files, not Gradio
        await asyncio.to_thread(files.sweep)


@contextmanager
def _on_signal(callback: Callable[[], None]) -> Iterator[None]:
    """Call a function in the event loop at SIGTERM and SIGINT, besides what the server does then.

    An event loop gets signals through a file descriptor and leaves Python's own handler empty, so this sets that one.
    """
    if threading.current_thread() is not threading.main_thread() or sys.platform == "win32":
        yield
        return
    loop = asyncio.get_running_loop()
    signals = (signal.SIGTERM, signal.SIGINT)
    previous = {number: signal.signal(number, lambda *_: loop.call_soon_threadsafe(callback)) for number in signals}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def build(callbacks: Callbacks) -> gr.Blocks:
    table_of_models, choices = callbacks.all_models(), callbacks.model_choices()
    with gr.Blocks(title="pocketzoo: small image classifiers", analytics_enabled=False) as page:
        gr.HTML(HEADER, elem_classes="zoo-header", apply_default_css=False)
        with gr.Tabs(overflow_behavior="wrap"):  # page.css makes it one line that scrolls
            with gr.Tab("What is this?", id="try") as try_tab:
                try_picker = _try_tab(callbacks, choices)
            with gr.Tab("Look inside", id="inside") as inspect_tab:
                inspect_picker = _inspect_tab(callbacks, choices)
            with gr.Tab("Compare", id="compare"):
                _compare_tab(callbacks)
            with gr.Tab("Many images", id="batch") as batch_tab:
                batch_picker = _batch_tab(callbacks, choices)
            with gr.Tab("Models", id="models") as models_tab:
                table = _models_tab(table_of_models)
            with gr.Tab("Benchmarks", id="benchmarks") as benchmarks_tab:
                plots = gr.HTML(callbacks.plots(), apply_default_css=False)
                measure = gr.Button("Measure again", size="sm")
        pickers = [try_picker, inspect_picker, batch_picker]
        page.load(callbacks.refresh_models, pickers, pickers, **REFRESH_EVENT)
        for tab, picker in zip((try_tab, inspect_tab, batch_tab), pickers, strict=True):
            tab.select(callbacks.refresh_model, picker, picker, **REFRESH_EVENT)
        models_tab.select(callbacks.refresh_table, None, table, **REFRESH_EVENT)
        benchmarks_tab.select(callbacks.refresh_plots, None, plots, **REFRESH_EVENT)
        measured = [table, plots]
        measure.click(callbacks.measure_models, None, measured, api_visibility="private", concurrency_limit=1)
    page.state_session_capacity = MAX_STATES
    return page.queue(max_size=MAX_QUEUE, api_open=False)  # type: ignore[no-any-return]


def _model_picker(choices: list[tuple[str, str]]) -> Any:
    """A choice of models. It is not on the page yet, because examples, which come before it, change it."""
    return ModelPicker(
        choices, value=choices[0][1], label="Model", filterable=False, elem_classes="zoo-model", render=False
    )


def _place(picker: gr.Dropdown, callbacks: Callbacks) -> None:
    """Put a choice of models on the page, with the card of the selected one below."""
    picker.render()  # type: ignore[no-untyped-call]
    with gr.Accordion("About this model", open=False):
        card = gr.Markdown(callbacks.model_card(picker.value), elem_classes="zoo-card")
    picker.change(callbacks.model_card, picker, card, show_progress="hidden", api_visibility="private")


def _try_tab(callbacks: Callbacks, choices: list[tuple[str, str]]) -> Any:
    """Canvas or image on the left, the answer on the right; on a phone one below the other, and the model last.

    page.css shows the canvas or the image, as the switch says. The hidden one keeps its content.
    """
    can_draw, picker = bool(callbacks.model_names("digit")), _model_picker(choices)
    with gr.Row(elem_classes="zoo-try"):
        with gr.Column(elem_classes="zoo-source"):
            source = gr.Radio(
                FORM_CHOICES if can_draw else FORM_CHOICES[1:],
                value="draw" if can_draw else "picture",
                label="Source",
                show_label=False,
                container=False,
                elem_classes="zoo-switch",
            )
            with gr.Column(min_width=0, elem_classes="zoo-drawing"):
                pad = _pad() if can_draw else gr.HTML("", visible=False)
            with gr.Column(min_width=0, elem_classes="zoo-file"):
                picture = _upload("Image: upload, paste, or use the camera")
                _example_picker(callbacks, picture, picker)
        with gr.Column(elem_classes="zoo-answer"):
            answer = gr.HTML(result.hint(), apply_default_css=False)
            explain = gr.Checkbox(label="Show where the answer comes from", container=False)
            row = gr.JSON(visible=False)
    with gr.Row(elem_classes="zoo-options"):
        with gr.Column(scale=2):
            _place(picker, callbacks)
        with gr.Column(scale=1):
            fit = gr.Radio(
                [("centre (crop)", "crop"), ("whole image (pad)", "whole")],
                value="crop",
                label="Photographs that are not square",
            )
    inputs = [source, pad, picture, picker, fit, explain]
    # One event for all inputs: with several, the page would show the result of whichever ends last
    triggers = [picture.change, *(component.input for component in inputs if component is not picture)]
    gr.on(triggers, callbacks.show_answer, inputs, answer, js=VISIBLE_INPUTS, **LATEST_EVENT)
    if can_draw:
        gr.on([], callbacks.predict_drawing, [pad, picker, explain], [answer, row], api_name="draw", **API_EVENT)
    gr.on([], callbacks.predict_file, [picture, picker, fit, explain], [answer, row], api_name="predict", **API_EVENT)
    return picker


def _pad() -> gr.HTML:
    return gr.HTML(
        "",
        html_template=(HERE / "pad.html").read_text(),
        js_on_load=(HERE / "pad.js").read_text(),
        elem_classes="zoo-pad",
        apply_default_css=False,
    )


def _return_path(component: Any, path: Callable[[Any], Any], example: Any) -> Any:
    """Make a file component return `path` of its value, instead of opening the files or writing new ones.

    (No subclass is needed as for `ModelPicker`, because no event updates these components.)
    """
    component.preprocess = lambda value: None if value is None else path(value)
    component.example_payload = component.example_value = lambda: example
    return component


def _upload(label: str) -> Any:
    """An image that is passed on as a file: our own decoder opens it, not Gradio with Pillow."""
    image = gr.Image(label=label, type="filepath", sources=["upload", "webcam", "clipboard"], height=300)
    return _return_path(image, lambda file: file.path, _file("image.png"))


def _uploads(label: str) -> Any:
    files = gr.File(label=label, file_count="multiple", height=180)
    return _return_path(files, lambda files: [file.path for file in files], [_file("images.zip")])


def _file(name: str) -> dict[str, Any]:
    """A file as an example in the documentation of the page's API."""
    return {"path": name, "url": name, "meta": {"_type": "gradio.FileData"}}


def _examples() -> dict[str, tuple[Path, Form]]:
    if EXAMPLE_FOLDER is None:
        return {}
    return {name: (EXAMPLE_FOLDER / name, form) for form, names in EXAMPLES.items() for name in names}


def _example_picker(callbacks: Callbacks, picture: gr.Image, choice: gr.Dropdown | gr.Radio) -> None:
    """Example images to click. Their thumbnails are part of the page, so no file of them can be removed.

    Args:
        choice: of a model, or of a form of images. An example of the other form changes it.
    """
    examples = {name: path for name, (path, form) in _examples().items() if callbacks.model_names(form)}
    if not examples:
        return
    buttons = "".join(
        f'<button type="button" data-example="{name}" aria-label="Example {name}"><img src="{_thumbnail(path)}" '
        'alt=""></button>'
        for name, path in examples.items()
    )
    picker = gr.HTML(
        "",
        html_template=f"<span>Or click an example:</span>{buttons}",
        js_on_load=(HERE / "examples.js").read_text(),
        elem_classes="zoo-examples",
        apply_default_css=False,
    )
    inputs, outputs = [picker, choice], [picture, choice]
    picker.input(callbacks.select_example, inputs, outputs, **LATEST_EVENT)


def _thumbnail(path: Path) -> str:
    """A small copy of an image as a data URL."""
    pixels = cv2.imread(str(path))
    assert pixels is not None
    scale = THUMBNAIL_PIXELS / max(pixels.shape[:2])
    small = cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return "data:image/jpeg;base64," + b64encode(cv2.imencode(".jpg", small)[1].tobytes()).decode()


def _inspect_tab(callbacks: Callbacks, choices: list[tuple[str, str]]) -> Any:
    picker = _model_picker(choices)
    with gr.Row():
        with gr.Column():
            gr.Markdown(
                "What each layer makes of an image, and which part of the image each of its units sees: its receptive "
                "field."
            )
            picture = _upload("Image")
            _example_picker(callbacks, picture, picker)
            _place(picker, callbacks)
            button = gr.Button("Show the layers", variant="primary")
        with gr.Column(scale=2):
            layers = gr.HTML(
                text.hint("The layers appear here."),
                js_on_load=(HERE / "inside.js").read_text(),
                elem_classes="zoo-inside",
                apply_default_css=False,
            )
    button.click(callbacks.inspect, [picture, picker], layers, api_name="inside", **JOB_EVENT)
    return picker


def _table(content: str) -> gr.HTML:
    return gr.HTML(content, js_on_load=(HERE / "table.js").read_text(), apply_default_css=False)


def _compare_tab(callbacks: Callbacks) -> None:
    kinds = [(title, form) for form, title in FORM_TITLES.items() if callbacks.model_names(form)]
    with gr.Row():
        with gr.Column():
            picture = _upload("Image")
            form = gr.Radio(kinds, value=kinds[0][1], label="Models for", render=False)
            _example_picker(callbacks, picture, form)
            form.render()  # type: ignore[no-untyped-call]
        with gr.Column(scale=2):
            table = _table(text.hint("The answers of all models appear here."))
    gr.on([picture.change, form.input], callbacks.show_comparison, [picture, form], table, **LATEST_EVENT)
    gr.on([], callbacks.compare, [picture, form], table, api_name="compare", **API_EVENT)


def _batch_tab(callbacks: Callbacks, choices: list[tuple[str, str]]) -> Any:
    picker = _model_picker(choices)
    with gr.Row():
        with gr.Column():
            files = _uploads("Images, or zip archives of images")
            _place(picker, callbacks)
            form = gr.Radio(["csv", "parquet"], value="csv", label="Download as")
            button = gr.Button("Classify all", variant="primary")
            rows = gr.File(label="Results", interactive=False, elem_classes="zoo-rows")
        with gr.Column(scale=2):
            table = _table(text.hint("The first answers appear here, and a file with all of them on the left."))
    button.click(callbacks.classify_batch, [files, picker, form], [table, rows], api_name="batch", **JOB_EVENT)
    return picker


def _models_tab(measured: str) -> gr.HTML:
    with gr.Row():
        with gr.Column(scale=2):
            table = _table(measured)
        with gr.Column():
            gr.Markdown(OWN_MODELS)
    return table
