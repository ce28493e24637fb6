"""The page for people: Gradio Blocks, mounted in the server's own process. It loads nothing from other hosts."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # read when gradio is imported

import gradio as gr
from starlette.routing import Mount

from serve.demo import batches, files, words
from serve.demo.answers import SHOWN, Answers
from serve.demo.lifetime import lifetime
from serve.http.metrics import Metrics
from serve.http.room import Room
from serve.service import Service
from serve.settings import Settings
from zoo.card import Form

if TYPE_CHECKING:
    from fastapi import FastAPI

HERE = Path(__file__).parent
EXAMPLES = next((folder for folder in (HERE / "examples", HERE.parents[1] / "examples") if folder.is_dir()), None)
PICTURES = ["seven.png", "five.jpg", "two.jpg", "eight.png", "nine.png"]
THEME = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
LIVE: dict[str, Any] = {"show_progress": "hidden", "trigger_mode": "always_last", "concurrency_limit": None}
KINDS: dict[Form, str] = {"digit": "digits (MNIST)", "photo": "photographs (CIFAR-10)"}
INTRODUCTION = (
    "# pocketzoo\nSmall image classifiers with numbers that anyone can check. "
    "Programs ask the same models over [HTTP](/docs)."
)


def mount(app: FastAPI, service: Service, metrics: Metrics, settings: Settings, folder: Path) -> None:
    """Put the page at the root of an application, whose errors it tells as that does; `folder` has its files."""
    gr.mount_gradio_app(
        app,
        build(Answers(service, metrics), service),
        path="/",
        footer_links=["api"],
        run_history=False,
        ssr_mode=False,
        enable_monitoring=False,
        max_file_size=settings.max_body_bytes,
        theme=THEME,
        css_paths=HERE / "page.css",
    )
    mounted, started = app.routes[-1], app.router.lifespan_context
    assert isinstance(mounted, Mount)
    page = mounted.app
    assert isinstance(page, gr.routes.App)
    page.exception_handlers |= app.exception_handlers
    mounted.app = Room(page)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[Any]:
        async with started(app) as state, lifetime(folder, page.stop_event.set):
            yield state

    app.router.lifespan_context = lifespan


def build(answers: Answers, service: Service) -> gr.Blocks:
    with gr.Blocks(title="pocketzoo", analytics_enabled=False, delete_cache=files.CLEANED) as page:
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
                _batch(answers, service)
    return page  # type: ignore[no-any-return]


def _picker(answers: Answers, names: list[str]) -> gr.Dropdown:
    """A choice of models, with the card of the chosen one below."""
    picker = gr.Dropdown(names, value=names[0], label="Model", filterable=False, elem_classes="zoo-model")
    with gr.Accordion("Its card", open=False):
        card = gr.Markdown(answers.card(names[0]), elem_classes="zoo-card")
    picker.change(answers.card, picker, card, show_progress="hidden", api_visibility="private")
    return picker


def _answer() -> list[Any]:
    """Where an answer is shown: bars, what the network sees, words."""
    told = gr.Markdown(words.HINT, elem_classes="zoo-answer", container=False)
    bars = gr.Label(label="Most probable", num_top_classes=SHOWN)
    seen = gr.Image(label="What the network sees", interactive=False, format="png", buttons=[], height=264,
                    elem_classes="zoo-seen")  # fmt: skip
    return [bars, seen, told]


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


def _upload(label: str) -> gr.Image:
    """A picture as it is, file and all: what is corrected, our own code corrects."""
    return gr.Image(
        label=label, type="filepath", image_mode=None, sources=["upload", "webcam", "clipboard"], height=300
    )


def _examples(picture: gr.Image) -> None:
    if EXAMPLES is not None:
        gr.Examples([str(EXAMPLES / name) for name in PICTURES], picture, label="Or one of these")


def _picture(answers: Answers) -> None:
    with gr.Row():
        with gr.Column():
            picture = _upload("A photograph: upload, paste or webcam")
            _examples(picture)
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
            _examples(picture)
            picker = _picker(answers, answers.names())
            button = gr.Button("Look inside", variant="primary")
        with gr.Column(scale=2):
            gallery = gr.Gallery(
                label="Inside", show_label=False, columns=1, height=None, format="png", elem_classes="zoo-inside"
            )
    button.click(answers.inside, [picture, picker], gallery, api_name="inside", concurrency_limit=2)


def _compare(answers: Answers) -> None:
    kinds = [(title, form) for form, title in KINDS.items() if answers.names(form)]
    with gr.Row():
        with gr.Column():
            picture = _upload("A picture")
            _examples(picture)
            form = gr.Radio(kinds, value=kinds[0][1], label="Models for")
        with gr.Column(scale=2):
            table = gr.HTML(label="Side by side")
    picture.change(answers.compared, [picture, form], table, api_name="compare", **LIVE)
    form.input(answers.compared, [picture, form], table, api_visibility="private", **LIVE)


def _batch(answers: Answers, service: Service) -> None:
    with gr.Row():
        with gr.Column():
            files = gr.File(label="Pictures, or zip archives of them", file_count="multiple", height=180)
            picker = _picker(answers, answers.names())
            form = gr.Radio(["csv", "parquet"], value="csv", label="File to take away")
            button = gr.Button("Classify all", variant="primary")
            taken = gr.File(label="The rows", interactive=False, elem_classes="zoo-rows")
        with gr.Column(scale=2):
            table = gr.HTML(label="The first rows")

    def classify(
        paths: list[str] | None,
        name: str,
        form: str,
        progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> tuple[str, str | None]:
        return partial(batches.classify, service)(paths, name, form, progress)

    button.click(classify, [files, picker, form], [table, taken], api_name="batch", concurrency_limit=1)
