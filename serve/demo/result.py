"""HTML of one answer: the label, probabilities to scale, what the network sees, and what was changed in the image."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator
from html import escape
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from serve.demo import text
from serve.service.pool import WorkItem
from zoo.card import Calibration, Card
from zoo.errors import ZooError
from zoo.images.digits import found_ink
from zoo.images.read import Named, decode
from zoo.rows import Row

HINT = "Draw a digit, or choose an image. The answer appears here."
MAX_COLUMNS, COLUMN_LETTERS = 12, 2  # so many labels of so few letters become columns in a fixed order
MAX_BARS = 5  # of other labels, most probable first
SMALLEST_BAR = 0.005  # probabilities below this have no bar, because it would read 0 %
PREVIEW_PIXELS = 320  # longest side of the copy of the image on which boxes are drawn
INK_COLOURS = (0, 0, 0), (242, 184, 102), (255, 255, 255)  # RGB of paper, of ink that is left out, and of the digit
COLOURFUL = 25  # mean difference of the channels, of 255, above which an image is a colour photograph

Pixels = npt.NDArray[np.uint8]


class Box(NamedTuple):
    """One digit of a number: its place on the image, in pixels."""

    label: str
    probability: float
    box: tuple[int, int, int, int]  # x0, y0, x1, y1


def hint(message: str = HINT) -> str:
    return f'<div class="zoo-result zoo-empty" role="status" aria-live="polite"><p>{escape(message)}</p></div>'


def answer(item: WorkItem, source: Named, explain: bool = False) -> str:
    """The answer for one image.

    Args:
        item: a finished item of one image.
        source: the image file.
        explain: show also which parts of the image the answer comes from, for the two most probable labels.
    """
    row, card, pixels = item.rows[0], item.runner.model.card, item.prepared[0].pixels
    if row.error is not None or row.probability is None:
        return failure(_error_message(row), _time(item, card.name))
    boxes = [Box(digit.label, digit.probability, digit.box) for digit in row.digits]
    original = _decoded(source)
    parts = [_headline(*_verdict(row, card))]
    if boxes:
        parts.append(_digits(boxes))
    else:
        parts.append(bars(card.labels, {guess.label: guess.probability for guess in row.top_k}))
    figures = [] if original is None else [_original(original, boxes)]
    if pixels is not None and not boxes:
        if original is not None and card.input.form == "digit" and row.corrections:
            figures += _ink(original)
        figures.append(_network_input(pixels))
    parts.append(f'<div class="zoo-pair">{"".join(figures)}</div>')
    if explain and original is not None:
        parts.append(f'<div class="zoo-pair zoo-maps-pair">{"".join(_heat_maps(item, original))}</div>')
    if row.corrections:
        chips = "".join(f"<li>{escape(correction)}</li>" for correction in row.corrections)
        parts.append(f'<ul class="zoo-chips" aria-label="Changes made to the image">{chips}</ul>')
    if card.input.form == "digit" and not boxes and _is_colourful(original):
        parts.append('<p class="zoo-note">A colour photograph? Choose a model for photographs below.</p>')
    return _panel(*parts, _time(item, card.name), css_class="zoo-unknown" if row.known is False else "")


def failure(message: str, *more: str) -> str:
    """What takes the place of an answer."""
    return _panel(_headline("?", "No answer", message), *more)


def _panel(*parts: str, css_class: str = "") -> str:
    return f'<div class="zoo-result {css_class}" role="status" aria-live="polite">{"".join(parts)}</div>'


def _headline(label: str, title: str, sentence: str = "") -> str:
    size = "zoo-long" if len(label) > 4 else ""
    more = f"<p>{escape(sentence)}</p>" if sentence else ""
    return (
        f'<div class="zoo-headline"><div class="zoo-label {size}">{escape(label)}</div>'
        f"<div><strong>{escape(title)}</strong>{more}</div></div>"
    )


def _verdict(row: Row, card: Card) -> tuple[str, str, str]:
    """The large label, a title and a sentence."""
    assert row.label is not None
    assert row.probability is not None
    probability = text.percent(row.probability)
    if row.known is False:
        return "–", "None of the classes", f"The nearest is {row.label}, with {probability}."
    if row.unsure:
        return row.label, f"Unsure, {probability}", _reason_for_doubt(row.probability, card.calibration)
    return row.label, probability, ""


def _reason_for_doubt(probability: float, calibration: Calibration) -> str:
    if probability >= calibration.unsure_below:
        return "A correction is doubtful. The corrections below say why."
    threshold = text.percent(calibration.unsure_below)
    if text.is_calibrated(calibration):
        return f"Half of this model's mistakes have a probability below {threshold}."
    return f"The probability is below {threshold}, the default threshold."


def _error_message(row: Row) -> str:
    message = row.error or "unknown error"
    if message.startswith(f"{row.input} "):
        message = f"The image {message.removeprefix(row.input).lstrip()}"
    return message


def bars(labels: tuple[str, ...], probabilities: dict[str, float]) -> str:
    """Short labels become columns in their own order; others rows, the most probable first."""
    if len(labels) <= MAX_COLUMNS and all(len(label) <= COLUMN_LETTERS for label in labels):
        columns = "".join(_bar(label, probabilities.get(label, 0.0), "height") for label in labels)
        return f'<ol class="zoo-columns" aria-label="Probability of each label">{columns}</ol>'
    shown = [item for item in probabilities.items() if item[1] >= SMALLEST_BAR][:MAX_BARS]
    rows = "".join(_bar(label, probability, "width") for label, probability in shown)
    return f'<ol class="zoo-bars" aria-label="Most probable labels">{rows}</ol>'


def sorted_shares(labels: tuple[str, ...], shares: list[float]) -> list[tuple[str, float]]:
    """Labels and their probabilities, the most probable first."""
    return sorted(zip(labels, shares, strict=True), key=lambda pair: -pair[1])


def _bar(label: str, probability: float, dimension: str) -> str:
    visible = probability >= SMALLEST_BAR
    figure = text.percent(probability).replace(".00", "") if dimension == "width" else _whole_percent(probability)
    exact = escape(text.percent(probability))
    length = f"{max(probability, 0.01):.2%}" if visible else "0"
    return (
        f'<li class="{"" if visible else "zoo-zero"}"><span class="zoo-name">{escape(label)}</span>'
        f'<span class="zoo-track"><span class="zoo-fill" style="{dimension}:{length}"></span></span>'
        f'<span class="zoo-figure" title="{exact}">{escape(figure) if visible else ""}</span></li>'
    )


def _whole_percent(probability: float) -> str:
    """A probability between 99 % and 1 is not shown as 99 or 100."""
    return ">99" if 0.99 < probability < 1 else f"{probability * 100:.0f}"


def _digits(boxes: list[Box]) -> str:
    cells = "".join(
        f"<li><b>{escape(box.label)}</b><span>{escape(text.percent(box.probability))}</span></li>" for box in boxes
    )
    return f'<ol class="zoo-digits" aria-label="Each digit and its probability">{cells}</ol>'


def _decoded(source: Named) -> Pixels | None:
    try:
        return decode(source).pixels
    except ZooError:
        return None


def _original(pixels: Pixels, boxes: list[Box]) -> str:
    """The image as it came, with boxes around the digits of a number."""
    height, width = pixels.shape[:2]
    scale = min(1.0, PREVIEW_PIXELS / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    rectangles = "".join(
        f'<rect x="{x0}" y="{y0}" width="{x1 - x0}" height="{y1 - y0}"/>' for _, _, (x0, y0, x1, y1) in boxes
    )
    small: Any = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    overlay = f'<svg viewBox="0 0 {width} {height}" aria-hidden="true">{rectangles}</svg>' if rectangles else ""
    caption = f"{len(boxes)} digits" if boxes else "Your image"
    return _figure(f'<img src="{data_url(small)}" alt="Your image">{overlay}', caption, "zoo-wide" if boxes else "")


def _ink(original: Pixels) -> Iterator[str]:
    """What the correction takes for ink: white the digit, amber what it leaves out."""
    try:
        ink = found_ink(original)
    except ZooError:
        return
    if ink is None:
        return
    scale = min(1.0, PREVIEW_PIXELS / max(ink.shape))
    size = max(1, round(ink.shape[1] * scale)), max(1, round(ink.shape[0] * scale))
    colours = np.array(INK_COLOURS, np.uint8)[(ink > 0).astype(int) + (ink == 255)]
    small: Any = cv2.resize(colours, size, interpolation=cv2.INTER_AREA)
    left_out = (ink == 128).any()
    caption = "Ink found; amber is left out" if left_out else "Ink found"
    yield _figure(f'<img src="{data_url(small)}" alt="Ink that was found in the image">', caption)


def _network_input(pixels: Pixels) -> str:
    height, width = pixels.shape[:2]
    image = f'<img class="zoo-pixels" src="{data_url(pixels)}" alt="Input of the network">'
    return _figure(image, f"What the network sees, {width}×{height}")


def _heat_maps(item: WorkItem, original: Pixels) -> Iterator[str]:
    """For the first and the second guess, the image and in yellow what speaks for that label, or for each digit."""
    from zoo.inspection.evidence import evidence, inputs_of
    from zoo.inspection.overlay import Canvas

    row, model = item.rows[0], item.runner.model
    try:
        inputs = inputs_of(model, original, item.prepared[0], row, item.fit)
        found = evidence(model, inputs, [guess.label for guess in row.top_k[:2]])
    except ZooError as error:
        yield f'<p class="zoo-note">{escape(str(error))}</p>'
        return
    canvas = Canvas(original, [place for each in found for place in each.maps], PREVIEW_PIXELS)
    for each in found:
        image = f'<img src="{data_url(canvas.draw(each.maps))}" alt="What speaks for {escape(each.label)}">'
        yield _figure(image, f"Speaks for {each.label}{', enlarged' if canvas.is_part else ''}")


def _figure(images: str, caption: str, css_class: str = "") -> str:
    below = f"<figcaption>{escape(caption)}</figcaption>"
    return f'<figure class="{css_class}"><span class="zoo-stack">{images}</span>{below}</figure>'


def _is_colourful(pixels: Pixels | None) -> bool:
    if pixels is None or pixels.ndim != 3 or pixels.shape[2] < 3:
        return False
    sample = pixels[:: max(1, pixels.shape[0] // 64), :: max(1, pixels.shape[1] // 64), :3].astype(np.int16)
    return float((sample.max(axis=2) - sample.min(axis=2)).mean()) > COLOURFUL


def data_url(pixels: Pixels) -> str:
    """uint8 `(H, W)`, `(H, W, 1)`, RGB or RGBA → a PNG file as a data URL."""
    if pixels.ndim == 3:
        order = {1: None, 3: cv2.COLOR_RGB2BGR, 4: cv2.COLOR_RGBA2BGRA}[pixels.shape[2]]
        stored: Any = pixels[..., 0] if order is None else cv2.cvtColor(pixels, order)
    else:
        stored = pixels
    return "data:image/png;base64," + b64encode(cv2.imencode(".png", stored)[1].tobytes()).decode()


def _time(item: WorkItem, model: str) -> str:
    return (
        f'<p class="zoo-time">{escape(model)} · network {item.infer_s * 1e3:.2f} ms · '
        f"decode and correct {item.decode_s * 1e3:.1f} ms</p>"
    )
