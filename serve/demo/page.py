"""The page for people: Gradio Blocks, mounted in the server's own process. It loads nothing from other hosts."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from serve.demo.files import Files
from serve.demo.jobs import Jobs
from serve.demo.sessions import Sessions

if TYPE_CHECKING:
    from gradio.routes import App

# Read when gradio is imported. It would make statistics of the last 10,000 events after each event.
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("GRADIO_ANALYTICS_MAX_EVENTS", "100")
os.environ.setdefault("GRADIO_ANALYTICS_CACHE_FREQUENCY", "1000000000")

import cv2
import gradio as gr
from starlette.routing import Mount

from serve.demo import text as words
from serve.demo.callbacks import SHOWN, Answers
from serve.demo.guard import Guard
from serve.demo.sessions import STATES
from serve.service.asgi import Room
from serve.service.metrics import Metrics
from serve.service.models import Service
from serve.service.settings import Settings
from zoo.card import Form

if TYPE_CHECKING:
    from fastapi import FastAPI

HERE = Path(__file__).parent
EXAMPLES = next((folder for folder in (HERE / "examples", HERE.parents[1] / "examples") if folder.is_dir()), None)
PICTURES = ["seven.png", "five.jpg", "two.jpg", "eight.png", "nine.png"]
THUMBNAIL = 128  # pixels
THEME = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
QUEUE = 64  # events that wait, of all visitors
LIVE: dict[str, Any] = {"show_progress": "hidden", "trigger_mode": "always_last", "concurrency_limit": 8}
JOB: dict[str, Any] = {"concurrency_limit": None}  # for which there is a place, or a message, in `Places`
FILES_BODIES = 32  # what all visitors' files may take on the disk, in bodies of the largest size
KINDS: dict[Form, str] = {"digit": "digits (MNIST)", "photo": "photographs (CIFAR-10)"}
INTRODUCTION = (
    "# pocketzoo\nSmall image classifiers with numbers that anyone can check. "
    "Programs ask the same models over [HTTP](/docs)."
)


def mount(app: FastAPI, service: Service, metrics: Metrics, settings: Settings, folder: Path) -> None:
    """Put the page at the root of an application, whose errors it tells as that does; `folder` has its files."""
    files, jobs = Files(folder, FILES_BODIES * settings.max_body_bytes), Jobs()
    blocks = build(Answers(service, metrics, files, jobs, _examples()))
    gr.mount_gradio_app(
        app,
        blocks,
        path="/",
        footer_links=["api"],
        run_history=False,
        ssr_mode=False,
        mcp_server=False,
        enable_monitoring=False,
        show_error=False,  # but for `gr.Error`: what else goes wrong is for the log
        max_file_size=settings.max_body_bytes,
        theme=THEME,
        css_paths=HERE / "page.css",
    )
    # Gradio looks at the paths that it is to open only where it was launched, which a mounted page never is
    blocks.has_launched = blocks.is_running = True
    mounted, started = app.routes[-1], app.router.lifespan_context
    assert isinstance(mounted, Mount)
    page = mounted.app
    assert isinstance(page, gr.routes.App)
    page.exception_handlers |= app.exception_handlers
    sessions = Sessions(page)
    mounted.app = Room(Guard(page, files, sessions, settings.max_body_bytes))

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[Any]:
        async with started(app) as state, lifetime(page, files, sessions, jobs):
            yield state

    app.router.lifespan_context = lifespan


def build(answers: Answers) -> gr.Blocks:
    with gr.Blocks(title="pocketzoo", analytics_enabled=False) as page:
        gr.Markdown(INTRODUCTION)
        with gr.Tabs():
            if answers.names("digit"):
                with gr.Tab("Draw a digit", id="draw"):
                    _draw(answers)
            with gr.Tab("Picture", id="picture"):
                _picture(answers)
            with gr.Tab("Look inside", id="inside"):
                _inside(answers)
            with gr.Tab("Compare", id="compare"):
                _compare(answers)
            with gr.Tab("Many pictures", id="batch"):
                _batch(answers)
    page.state_session_capacity = STATES
    return page.queue(max_size=QUEUE, api_open=False)  # type: ignore[no-any-return]


def _picker(answers: Answers, names: list[str]) -> gr.Dropdown:
    """A choice of models, with the card of the chosen one below."""
    picker = gr.Dropdown(names, value=names[0], label="Model", filterable=False, elem_classes="zoo-model")
    with gr.Accordion("Its card", open=False):
        card = gr.Markdown(answers.card(names[0]), elem_classes="zoo-card")
    picker.change(answers.card, picker, card, show_progress="hidden", api_visibility="private")
    return picker


def _answer() -> list[Any]:
    """Where an answer is shown: bars, what the network sees, words."""
    text = gr.Markdown(words.HINT, elem_classes="zoo-answer", container=False)
    bars = gr.Label(label="Most probable", num_top_classes=SHOWN)
    seen = gr.Image(label="What the network sees", interactive=False, format="png", buttons=[], height=264,
                    elem_classes="zoo-seen")  # fmt: skip
    return [bars, seen, text]


def _draw(answers: Answers) -> None:
    with gr.Row():
        with gr.Column():
            pad = gr.HTML(
                "",
                html_template=(HERE / "pad.html").read_text(),
                js_on_load=(HERE / "pad.js").read_text(),
                elem_classes="zoo-pad",
                apply_default_css=False,
            )
            picker = _picker(answers, answers.names("digit"))
        with gr.Column():
            shown = _answer()
    pad.input(answers.drawn, [pad, picker], shown, api_name="draw", **LIVE)
    picker.input(answers.drawn, [pad, picker], shown, api_visibility="private", **LIVE)


def _as_uploaded(component: Any, path: Callable[[Any], Any], example: Any) -> Any:
    """Have a component of files give `path` of its value, instead of opening the files or leaving new ones behind.

    (A class of our own would do too, but Gradio writes a file beside the source of each.)
    """
    component.preprocess = lambda value: None if value is None else path(value)
    component.example_payload = component.example_value = lambda: example
    return component


def _upload(label: str) -> Any:
    """A picture as it was uploaded: Gradio would open it with Pillow, and our own decoder is to do that."""
    picture = gr.Image(label=label, type="filepath", sources=["upload", "webcam", "clipboard"], height=300)
    return _as_uploaded(picture, lambda file: file.path, _file("picture.png"))


def _uploads(label: str) -> Any:
    files = gr.File(label=label, file_count="multiple", height=180)
    return _as_uploaded(files, lambda files: [file.path for file in files], [_file("pictures.zip")])


def _file(name: str) -> dict[str, Any]:
    """A file as it stands in the documentation of the page's API."""
    return {"path": name, "url": name, "meta": {"_type": "gradio.FileData"}}


def _examples() -> dict[str, Path]:
    return {} if EXAMPLES is None else {name: EXAMPLES / name for name in PICTURES}


def _choice_of_examples(answers: Answers, picture: gr.Image) -> None:
    """Pictures to click, which are in the page itself: there is no file that could be removed under them."""
    if not _examples():
        return
    buttons = "".join(
        f'<button type="button" data-example="{name}" aria-label="Example {name}"><img src="{_thumbnail(path)}" '
        'alt=""></button>' for name, path in _examples().items()
    )  # fmt: skip
    chosen = gr.HTML(
        "",
        html_template=f"<span>Or one of these:</span>{buttons}",
        js_on_load=(HERE / "examples.js").read_text(),
        elem_classes="zoo-examples",
        apply_default_css=False,
    )
    chosen.input(answers.example, chosen, picture, show_progress="hidden", api_visibility="private")


def _thumbnail(path: Path) -> str:
    """A small copy of a picture as a data URL."""
    pixels = cv2.imread(str(path))
    assert pixels is not None
    scale = THUMBNAIL / max(pixels.shape[:2])
    small = cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return "data:image/jpeg;base64," + b64encode(cv2.imencode(".jpg", small)[1].tobytes()).decode()


def _picture(answers: Answers) -> None:
    with gr.Row():
        with gr.Column():
            picture = _upload("A photograph: upload, paste or webcam")
            _choice_of_examples(answers, picture)
            picker = _picker(answers, answers.names())
            fit = gr.Radio(
                [("its middle", "crop"), ("all of it", "whole")],
                value="crop",
                label="Of a photograph, the network gets",
            )
        with gr.Column():
            shown = _answer()
    picture.change(answers.pictured, [picture, picker, fit], shown, api_name="predict", **LIVE)
    for choice in (picker, fit):
        choice.input(answers.pictured, [picture, picker, fit], shown, api_visibility="private", **LIVE)


def _inside(answers: Answers) -> None:
    gr.Markdown(
        "Every layer at work on one picture: what kernels look for, the feature maps that they make, and how much of "
        "the input one value sees (its receptive field). Each picture explains one term."
    )
    with gr.Row():
        with gr.Column():
            picture = _upload("A picture")
            _choice_of_examples(answers, picture)
            picker = _picker(answers, answers.names())
            button = gr.Button("Look inside", variant="primary")
        with gr.Column(scale=2):
            gallery = gr.Gallery(
                label="Inside", show_label=False, columns=1, height=None, format="png", elem_classes="zoo-inside"
            )
    button.click(answers.inside, [picture, picker], gallery, api_name="inside", **JOB)


def _compare(answers: Answers) -> None:
    kinds = [(title, form) for form, title in KINDS.items() if answers.names(form)]
    with gr.Row():
        with gr.Column():
            picture = _upload("A picture")
            _choice_of_examples(answers, picture)
            form = gr.Radio(kinds, value=kinds[0][1], label="Models for")
        with gr.Column(scale=2):
            table = gr.HTML(label="Side by side")
    picture.change(answers.compared, [picture, form], table, api_name="compare", **LIVE)
    form.input(answers.compared, [picture, form], table, api_visibility="private", **LIVE)


def _batch(answers: Answers) -> None:
    with gr.Row():
        with gr.Column():
            files = _uploads("Pictures, or zip archives of them")
            picker = _picker(answers, answers.names())
            form = gr.Radio(["csv", "parquet"], value="csv", label="File to take away")
            button = gr.Button("Classify all", variant="primary")
            rows = gr.File(label="The rows", interactive=False, elem_classes="zoo-rows")
        with gr.Column(scale=2):
            table = gr.HTML(label="The first rows")
    button.click(answers.classified, [files, picker, form], [table, rows], api_name="batch", **JOB)


# What the page does as long as its server lives, and when that is to end.

SWEEP_S = 15.0  # how often what is too old is removed
PATIENCE_S = 2.0  # for events that run when the server is to end


@asynccontextmanager
async def lifetime(page: App, files: Files, sessions: Sessions, jobs: Jobs) -> AsyncIterator[None]:
    """An open page listens to a stream that does not end by itself, and a server ends when the last answer has."""

    def end() -> None:
        page.stop_event.set()
        jobs.close()

    sweeping = asyncio.create_task(_sweep(page, files, sessions))
    try:
        with _when_ending(end):
            yield
    finally:
        sweeping.cancel()
        jobs.close()
        await _end_events(page)


async def _end_events(page: App) -> None:
    """Gradio leaves events running when the loop ends; a thread that works for one keeps the process from ending."""
    queue = page.get_blocks()._queue
    queue.stopped = True
    running = set(queue._asyncio_tasks)
    if running:
        _, running = await asyncio.wait(running, timeout=PATIENCE_S)
    if running:
        for task in running:
            task.cancel()
        await asyncio.wait(running, timeout=PATIENCE_S)


async def _sweep(page: App, files: Files, sessions: Sessions) -> None:
    while True:
        await asyncio.sleep(SWEEP_S)
        sessions.sweep()
        for names in page.get_blocks().temp_file_sets:
            names.clear()  # files that Gradio would remove, which `files` does
        await asyncio.to_thread(files.sweep)


@contextmanager
def _when_ending(tell: Callable[[], None]) -> Iterator[None]:
    """Call `tell` in the event loop at SIGTERM and SIGINT, besides what the server does then.

    A loop hears of signals through a descriptor and leaves the handler that Python calls empty: that one is taken.
    """
    if threading.current_thread() is not threading.main_thread() or sys.platform == "win32":
        yield
        return
    loop = asyncio.get_running_loop()
    signals = (signal.SIGTERM, signal.SIGINT)
    before = {one: signal.signal(one, lambda *_: loop.call_soon_threadsafe(tell)) for one in signals}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
