"""Draws the results of `zoo/inspection/activations.py` as PNG figures, each with a title and an explanation.

Maps and kernels are tiled with NumPy and coloured with a table; Pillow draws the text. A figure takes about 20 ms. A
matplotlib figure with one pair of axes per map took 0.3 to 1 s.
"""

from collections.abc import Iterator, Sequence
from functools import cache
from importlib.util import find_spec
from math import ceil, prod
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from zoo.errors import WrongUsage
from zoo.inspection.activations import Inside, Stage, percent, pixels_seen, unit_of
from zoo.inspection.overlay import RGB, Canvas, rgb

INK, PAPER, GREY, BOX = "#1f2328", "#ffffff", "#8c959f", "#d1242f"
MAX_TILES = 64  # maps or kernels in one figure; more would be too small to see
MAX_BARS = 12  # labels with a bar; for more labels, only the most probable ones

MARGIN = 12  # pixels, like all numbers below
BODY = 84  # top of the drawing, below title and explanation
CELL, GAP = 95, 10  # of a grid of maps or kernels
MIN_WIDTH = 825
LARGEST = 1e38  # replaces infinite values of a foreign network
TITLE, SENTENCE, CAPTION = 20, 15, 12  # font sizes

Unit = tuple[str, int | None, int | None]  # name of a layer, row, column

# Red for positive and blue for negative: the 11 colours of RdBu (https://colorbrewer2.org), from the negative end.
_RED_BLUE = "053061 2166ac 4393c3 92c5de d1e5f0 f7f7f7 fddbc7 f4a582 d6604d b2182b 67001f"

# Explanations of the basic terms of convolutional networks, each shown below a figure's title.
KERNEL = "A kernel (or filter) is a small pattern of weights that slides over the image: a feature extractor."
FEATURE_MAP = "A feature map is the output of one kernel: bright where the image matches the kernel's pattern."
ACTIVATION = (
    "The activation function, ReLU, sets negative values to zero. Without it, several layers could be replaced by one."
)
ONE_BY_ONE = "A 1x1 convolution mixes the channels of each position, without its neighbours."
THREE_BY_THREE = "A 3x3 convolution combines each position with its eight neighbours."
POOL = (
    "A max pool keeps the largest value of each 2x2 block. This halves the size of the maps, "
    "so later layers combine values from larger parts of the image."
)
AVERAGE = (
    "A global average pool reduces each feature map to its mean: how strongly its pattern occurs in the whole image."
)
DENSE = "A dense layer computes each output as a weighted sum of all inputs."
LOCAL = (
    "The local receptive field is the kernel's size; the global one is the part of the input that a value depends on."
)
WHY = {
    "class activation": (
        "Bright where the last feature maps, times their weights, speak for the label (class activation). "
        "Each map has its own scale."
    ),
    "occlusion": (
        "Bright where covering a square of the image makes the network less sure of the label (occlusion). "
        "Each map has its own scale."
    ),
}
UNSEEN = " The network does not see the dark part."


def write_figures(inside: Inside, folder: Path, unit: Unit | None = None) -> list[Path]:
    """Draw all figures of `draw_figures` and return their paths as a list."""
    return list(draw_figures(inside, folder, unit))


def draw_figures(inside: Inside, folder: Path, unit: Unit | None = None) -> Iterator[Path]:
    """Draw the result, where it comes from, receptive fields, kernels and feature maps into PNG files in a folder.

    Args:
        unit: layer name, row and column of the unit whose receptive field is drawn. Default: the middle of each layer.
    Returns:
        An iterator over the paths in reading order, each as soon as its figure is written.
    Raises:
        WrongUsage: there is no such unit.
    """
    names = [stage.layer.name for stage in inside.stages]
    if unit and unit[0] not in names:
        raise WrongUsage(f"{inside.card.name} has no layer {unit[0]!r}: use one of {', '.join(names)}.")
    for stage in inside.stages:
        if unit and stage.layer.name == unit[0]:
            unit_of(stage, *unit[1:])
    folder.mkdir(parents=True, exist_ok=True)
    return _written(_figures(inside, unit), folder)


def _written(figures: Iterator[tuple[str, Image.Image]], folder: Path) -> Iterator[Path]:
    for name, figure in figures:
        path = folder / f"{name}.png"
        figure.save(path)
        yield path


def _figures(inside: Inside, unit: Unit | None) -> Iterator[tuple[str, Image.Image]]:
    """Names and figures, in reading order."""
    yield "1-answer", _answer(inside)
    yield "1-why", _why(inside)
    yield "2-receptive-fields", _fields(inside, unit)
    convolutions = [stage for stage in inside.stages if stage.kernels is not None and stage.kernels.shape[-1] > 1]
    for stage in convolutions[:2]:
        yield f"3-kernels-{stage.layer.name}", _kernels(stage)
    for number, stage in enumerate(inside.stages, 1):
        if prod(stage.values.shape[1:]) > 1:
            yield f"4-maps-{number:02}-{stage.layer.name}", _maps(inside, stage)


@cache
def _font(size: int, bold: bool = False) -> Any:
    """DejaVu Sans, which has most alphabets, if matplotlib is installed; otherwise Pillow's own font."""
    matplotlib = find_spec("matplotlib")
    if matplotlib is not None and matplotlib.origin is not None:
        fonts = Path(matplotlib.origin).parent / "mpl-data" / "fonts" / "ttf"
        try:
            return ImageFont.truetype(str(fonts / ("DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf")), size)
        except (OSError, ImportError):  # no such file; Pillow without FreeType
            pass
    return ImageFont.load_default(size)


def _sheet(width: int, height: int, title: str, sentence: str) -> tuple[Image.Image, Any]:
    """An empty figure and its pen, with a title at the top left and an explanation of at most two lines below it."""
    sheet = Image.new("RGB", (width, height), PAPER)
    pen = ImageDraw.Draw(sheet)
    room = width - 2 * MARGIN
    pen.text((MARGIN, MARGIN), _shortened(title, _font(TITLE, bold=True), room), INK, _font(TITLE, bold=True))
    first, rest = _broken(sentence, _font(SENTENCE), room)
    pen.text((MARGIN, 42), first, INK, _font(SENTENCE))
    pen.text((MARGIN, 60), _shortened(rest, _font(SENTENCE), room), INK, _font(SENTENCE))
    return sheet, pen


def _shortened(text: str, font: Any, room: float) -> str:
    if font.getlength(text) <= room:
        return text
    while text and font.getlength(f"{text}...") > room:
        text = text[: len(text) * 9 // 10]
    return f"{text}..."


def _broken(text: str, font: Any, room: float) -> tuple[str, str]:
    """The whole words that fit into a line, and the rest of the text."""
    words = text.split(" ")
    count = len(words)
    while count > 1 and font.getlength(" ".join(words[:count])) > room:
        count -= 1
    return _shortened(" ".join(words[:count]), font, room), " ".join(words[count:])


def _centred(pen: Any, middle: float, top: float, text: str, room: float, size: int = CAPTION) -> None:
    text = _shortened(text, _font(size), room)
    pen.text((middle - _font(size).getlength(text) / 2, top), text, INK, _font(size))


def _scaled(pixels: RGB, side: int) -> tuple[RGB, float]:
    """The image scaled to fit into a square, and the scale: enlarged to blocks, or averaged if it is reduced."""
    height, width = pixels.shape[:2]
    scale = side / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    method = cv2.INTER_NEAREST if scale >= 1 else cv2.INTER_AREA
    return np.asarray(cv2.resize(np.ascontiguousarray(pixels), size, interpolation=method), np.uint8), scale


def _paste(sheet: Image.Image, pixels: RGB, left: int, top: int, side: int) -> tuple[int, int, float]:
    """Paste an image into the middle of a square; returns its left and top edge, and its scale."""
    scaled, scale = _scaled(pixels, side)
    left, top = left + (side - scaled.shape[1]) // 2, top + (side - scaled.shape[0]) // 2
    sheet.paste(Image.fromarray(scaled), (left, top))
    return left, top, scale


def _answer(inside: Inside) -> Image.Image:
    side, bars = 281, 606
    title = f"{inside.card.name}: {inside.verdict}. Input and output"
    notes = (f"drawn{inside.of_number}", *inside.corrections) if inside.of_number else inside.corrections
    sheet, pen = _sheet(1045, BODY + side + 44, title, "; ".join(notes))
    _centred(pen, MARGIN + side / 2, BODY, "input image", side)
    _paste(sheet, rgb(inside.image), MARGIN, BODY + 22, side)
    height, width = inside.seen.shape[:2]
    _centred(pen, 2 * MARGIN + 1.5 * side, BODY, f"network input: {height}x{width}", side)
    _paste(sheet, rgb(inside.seen), 2 * MARGIN + side, BODY + 22, side)
    probabilities, labels = np.nan_to_num(inside.probabilities), inside.card.labels
    best = int(probabilities.argmax())
    bar_labels = range(len(labels)) if len(labels) <= MAX_BARS else np.argsort(-probabilities)[:MAX_BARS].tolist()
    caption = f"{labels[best]}: {percent(float(probabilities[best]))}"
    if inside.row.known is False:
        caption = f"nearest class, {caption}"
    _centred(pen, (bars + 90 + 1012) / 2, BODY, caption, 400, SENTENCE)
    _bars(pen, [(labels[index], float(probabilities[index]), index == best) for index in bar_labels],
          (bars + 90, BODY + 22, 1012, BODY + 22 + side))  # fmt: skip
    return sheet


def _why(inside: Inside) -> Image.Image:
    """The evidence for the first and the second guess, over the image; each map on its own scale."""
    side = 281
    canvas = Canvas(inside.image, [place for each in inside.evidence for place in each.maps], side)
    of = "digit" if inside.digit is None else "digits"
    images = [(f"input image, around the {of}" if canvas.is_part else "input image", canvas.picture)]
    for guess, each in zip(inside.guesses, inside.evidence, strict=True):
        share = percent(float(np.nan_to_num(guess.probability)))
        images.append((f"{guess.label}: {share}", canvas.draw(each.maps)))
    title = f"{inside.card.name}: {inside.verdict}. Why?"
    sentence = WHY[inside.evidence[0].method] + ("" if canvas.is_covered else UNSEEN)
    figure_width = MARGIN + 3 * (side + MARGIN)
    sheet, pen = _sheet(figure_width, BODY + canvas.picture.shape[0] + 34, title, sentence)
    for number, (caption, image) in enumerate(images):
        left = MARGIN + number * (side + MARGIN)
        _centred(pen, left + side / 2, BODY, caption, side)
        sheet.paste(Image.fromarray(image), (left + (side - image.shape[1]) // 2, BODY + 22))
    return sheet


def _bars(pen: Any, shares: Sequence[tuple[str, float, bool]], box: tuple[int, int, int, int]) -> None:
    """Draw one bar per label, from the top; the best one is red.

    Args:
        box: left, top, right and bottom of the bars.
    """
    left, top, right, bottom = box
    step = (bottom - top) / len(shares)
    for index, (label, share, best) in enumerate(shares):
        middle = top + (index + 0.5) * step
        text = _shortened(label, _font(CAPTION), 80)
        pen.text((left - 8 - _font(CAPTION).getlength(text), middle - CAPTION / 2 - 1), text, INK, _font(CAPTION))
        length = (right - left) * min(1.0, max(0.0, share))
        pen.rectangle((left, middle - 0.38 * step, left + length, middle + 0.38 * step), BOX if best else GREY)
    pen.line((left, top, left, bottom), INK)
    pen.line((left, bottom, right, bottom), INK)
    for tick in range(0, 101, 20):
        place = left + (right - left) * tick / 100
        pen.line((place, bottom, place, bottom + 4), INK)
        _centred(pen, place, bottom + 5, f"{tick} %", 60)


def _fields(inside: Inside, unit: Unit | None) -> Image.Image:
    """The receptive field of one unit of each layer, or of the chosen unit only."""
    chosen = [stage for stage in inside.stages if unit is None or stage.layer.name == unit[0]]
    side, caption, columns = 218, 36, max(1, min(5, len(chosen)))
    height = BODY + ceil(len(chosen) / columns) * (side + caption + MARGIN)
    width = max(MIN_WIDTH, MARGIN + columns * (side + GAP))
    sheet, pen = _sheet(width, height, "Receptive fields: the part of the input that one unit depends on", LOCAL)
    seen = rgb(inside.seen)
    for index, stage in enumerate(chosen):
        left = MARGIN + index % columns * (side + GAP)
        upper = BODY + index // columns * (side + caption + MARGIN)
        row, column = unit_of(stage, *(unit[1:] if unit else (None, None)))
        size = stage.field.size
        _centred(pen, left + side / 2, upper, f"{stage.layer.name}, {stage.layer.kind}", side)
        _centred(pen, left + side / 2, upper + 16, f"unit {row},{column}: {size}x{size}", side)
        x, y, scale = _paste(sheet, seen, left, upper + caption, side)
        top, start, bottom, end = (round(edge * scale) for edge in pixels_seen(inside, stage, row, column))
        pen.rectangle((x + start, y + top, x + max(start, end - 1), y + max(top, bottom - 1)), outline=BOX, width=3)
    return sheet


def _grid(cells: Sequence[RGB], title: str, sentence: str) -> Image.Image:
    """Small images in rows."""
    columns = 5 if len(cells) <= 10 else 8 if len(cells) <= 32 else 16  # full rows for the usual 10, 16, 32 and 64
    rows, step = ceil(len(cells) / columns), CELL + GAP
    sheet, _ = _sheet(max(MIN_WIDTH, 2 * MARGIN + columns * step - GAP), BODY + rows * step, title, sentence)
    for index, cell in enumerate(cells):
        _paste(sheet, cell, MARGIN + index % columns * step, BODY + index // columns * step, CELL)
    return sheet


def _kernels(stage: Stage) -> Image.Image:
    """The kernels of a layer on one scale: positive weights are red, negative ones blue."""
    assert stage.kernels is not None
    outputs, inputs = stage.kernels.shape[:2]
    kernels = stage.kernels.reshape(-1, *stage.kernels.shape[2:])[:MAX_TILES]
    kernels = np.nan_to_num(kernels, posinf=LARGEST, neginf=-LARGEST)
    of = f"the first {MAX_TILES} of {outputs * inputs}" if outputs * inputs > MAX_TILES else f"all {outputs * inputs}"
    title = f"Kernels of {stage.layer.name}: {of}, {'x'.join(map(str, kernels.shape[1:]))}"
    bound = float(np.abs(kernels).max()) or 1.0
    steps = np.rint((kernels / bound + 1) * 127.5).astype(np.uint8)
    return _grid(list(_red_blue()[steps]), title, KERNEL)


@cache
def _red_blue() -> RGB:
    """uint8 `(256, 3)`: the colours from the most negative to the most positive."""
    anchors = [bytes.fromhex(colour) for colour in _RED_BLUE.split()]
    places, steps = np.linspace(0, 255, len(anchors)), np.arange(256)
    channels = [np.interp(steps, places, [anchor[channel] for anchor in anchors]) for channel in range(3)]
    return np.rint(np.stack(channels, axis=1)).astype(np.uint8)


def _maps(inside: Inside, stage: Stage) -> Image.Image:
    """The feature maps of a layer, each scaled from its own smallest to its own largest value."""
    count, height, width = stage.values.shape
    of = f" (the first {MAX_TILES})" if count > MAX_TILES else ""
    title = f"{stage.layer.name}, {stage.layer.kind}: {count} feature maps{of} of {height}x{width}"
    return _grid([_coloured(values) for values in stage.values[:MAX_TILES]], title, _sentence(inside, stage))


def _coloured(values: npt.NDArray[np.float32]) -> RGB:
    """float32 `(H, W)` → RGB, black for the smallest value and pale yellow for the largest."""
    finite = np.nan_to_num(values.astype(np.float64), posinf=LARGEST, neginf=-LARGEST)
    low, high = float(finite.min()), float(finite.max())
    steps = np.rint((finite - low) * (255 / (high - low) if high > low else 0)).astype(np.uint8)
    return _magma()[steps]


@cache
def _magma() -> RGB:
    """uint8 `(256, 3)`: the colours from the smallest to the largest value."""
    steps = np.arange(256, dtype=np.uint8)[:, np.newaxis]
    return np.asarray(cv2.applyColorMap(steps, cv2.COLORMAP_MAGMA)[:, 0, ::-1], np.uint8)


def _sentence(inside: Inside, stage: Stage) -> str:
    kind = stage.layer.kind
    if "pool" in kind:
        return AVERAGE if "global" in kind else POOL
    if kind == "dense":
        return DENSE
    if "1x1" in kind:
        return ONE_BY_ONE
    same = [other for other in inside.stages if other.kernels is not None and other.layer.kind == kind]
    position = next((index for index, other in enumerate(same) if other is stage), len(same))
    return (FEATURE_MAP, ACTIVATION, THREE_BY_THREE)[position] if position < 3 and "3x3" in kind else LOCAL
