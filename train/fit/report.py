"""The report of a training: one HTML file that needs nothing else."""

import base64
import html
import io
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image

from train.fit.data import OwnData
from train.report import confusion, reliability
from train.runs import Run
from zoo.card import Card
from zoo.evaluation import Evaluation, Mistake
from zoo.loading import load

SHOWN = 20  # mistakes and suspected labels
MAX_CONFUSION = 30  # classes in the plot
TIMED_CALLS = 100
STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:60em;margin:2em auto;padding:0 1em}td,th{padding:.1em .8em;"
    "text-align:right}td:first-child,th:first-child{text-align:left}img{max-width:100%}figure{display:inline-block;"
    "margin:.4em;width:9em;font-size:12px;vertical-align:top;overflow-wrap:anywhere}figure img{width:96px;"
    "image-rendering:pixelated}"
)


def write_report(path: Path, card: Card, run: Run, data: OwnData, test: Evaluation) -> None:
    """Write curves, confusion matrix, mistakes, suspected labels, reliability and latency."""
    model = load(path_of(card), "cpu")
    split = data.part("test")
    logits = torch.cat([torch.from_numpy(model.run(x.numpy()).logits) for x in split.images.split(64)])
    labels = tuple(label[:20].replace("$", r"\$") for label in card.labels)
    low, high = test.interval95
    images = dict(zip(data.names_of("test"), split.images.numpy(), strict=True))
    parts = [
        f"<h1>{html.escape(card.name)}</h1><p>{html.escape(card.title)}</p>",
        f"<p><b>{test.accuracy:.2%}</b> of {test.images:,} test images ({low:.2%} to {high:.2%}, 95 % interval). "
        f"Expected calibration error {test.calibration_error:.2%}, temperature {card.calibration.temperature:g}, "
        f"unsure below {card.calibration.unsure_below:.1%}. One image takes "
        f"{latency_ms(card, split.images[:1].numpy()):.2f} ms on one core of this machine "
        f"({html.escape(str(card.trained.training.environment.get('machine', '')))}).</p>",
        "<h2>Data</h2><ul>" + "".join(f"<li>{html.escape(fact)}</li>" for fact in data.facts) + "</ul>",
        "<h2>Training</h2>" + _image(curves(run)),
        "<h2>Classes</h2>" + _classes(test),
    ]
    if len(labels) <= MAX_CONFUSION:
        parts.append("<h2>Confusion matrix</h2>" + _image(confusion(logits, split, labels, "test")))
    parts.append("<h2>Reliability</h2>" + _image(
        reliability(logits, split.labels, card.calibration.temperature, "test")
    ))  # fmt: skip
    parts.append("<h2>Worst mistakes</h2>" + _pictures(test.worst, images, "None."))
    suspects = "None found." if test.suspected_labels is not None else "Not searched: cleanlab is not installed."
    parts.append("<h2>Labels that are probably wrong</h2>" + _pictures(test.suspected_labels or (), images, suspects))
    head = "<meta charset=utf-8><meta name=viewport content='width=device-width'>"
    title = f"{head}<title>{html.escape(card.name)}</title><style>{STYLE}</style>"
    path.write_text(f"<!doctype html><html lang=en>{title}{''.join(parts)}</html>\n", encoding="utf-8")


def path_of(card: Card) -> str:
    from zoo import registry

    return str(registry.home() / "models" / card.name)


def latency_ms(card: Card, image: np.ndarray) -> float:
    """The median milliseconds for one prepared image."""
    model = load(path_of(card), "cpu")
    times = []
    for _ in range(TIMED_CALLS):
        started = time.perf_counter()
        model.run(image)
        times.append(time.perf_counter() - started)
    return statistics.median(times) * 1000


def curves(run: Run) -> Figure:
    """Loss and accuracy of training and validation by epoch."""
    lines = run.metrics()
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    for axes, quantity in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        for part, colour in (("train", "#888888"), ("validation", "#1f6feb")):
            values = [line[f"{part}_{quantity}"] for line in lines]
            axes.plot([line["epoch"] for line in lines], values, color=colour, label=part)
        axes.set(title=quantity, xlabel="epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend()
    return figure


def _classes(test: Evaluation) -> str:
    rows = "".join(
        f"<tr><td>{html.escape(x.label)}</td><td>{x.images}</td><td>{_share(x.precision)}</td><td>{_share(x.recall)}</td>"
        "</tr>"
        for x in test.classes
    )
    return f"<table><tr><th>class<th>test images<th>precision<th>recall</tr>{rows}</table>"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"


def _image(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    return f'<img alt="plot" src="data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}">'


def _pictures(mistakes: tuple[Mistake, ...], images: dict[str, np.ndarray], none: str) -> str:
    parts = []
    for mistake in mistakes[:SHOWN]:
        buffer = io.BytesIO()
        Image.fromarray(images[mistake.image].squeeze()).save(buffer, "PNG")
        encoded = base64.b64encode(buffer.getvalue()).decode()
        text = html.escape(
            f"{mistake.image}: label {mistake.label}, prediction {mistake.prediction} ({mistake.probability:.0%})"
        )
        parts.append(
            f'<figure><img alt="" src="data:image/png;base64,{encoded}"><figcaption>{text}</figcaption></figure>'
        )
    return "".join(parts) or f"<p>{none}</p>"
