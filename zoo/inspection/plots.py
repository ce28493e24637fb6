"""Draws what `zoo/inspection/activations.py` found, as PNG pictures with a title and a sentence each.

Maps and kernels are tiled with NumPy and coloured with a table, text is Pillow's: a picture takes some 20 ms, where a
figure of matplotlib with one pair of axes a map took 0.3 to 1 s.
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

from zoo.errors import BadInput
from zoo.inspection.activations import Inside, Stage, pixels_seen, unit_of

INK, PAPER, GREY, BOX = "#1f2328", "#ffffff", "#8c959f", "#d1242f"
MOST = 64  # maps or kernels in one picture; more are too small to see
ALL_LABELS = 12  # up to so many every label has its bar; of more the likeliest

MARGIN = 12  # pixels, as everything below
BODY = 84  # where a picture begins under its title and sentence
CELL, GAP = 95, 10  # of a grid of maps or kernels
NARROWEST = 825
LARGEST = 1e38  # stands for an infinite value of a foreign network
TITLE, SENTENCE, CAPTION = 20, 15, 12  # heights of letters

RGB = npt.NDArray[np.uint8]  # (H, W, 3)
Unit = tuple[str, int | None, int | None]  # name of a layer, row, column

# Red for positive and blue for negative: the 11 colours of RdBu (https://colorbrewer2.org), from the negative end.
_RED_BLUE = "053061 2166ac 4393c3 92c5de d1e5f0 f7f7f7 fddbc7 f4a582 d6604d b2182b 67001f"

# Week 1's terms, each told where it can be seen.
KERNEL = "A kernel (or filter) is a small pattern of weights that is moved over the picture: a feature extractor."
FEATURE_MAP = "A feature map is the new picture that one kernel makes: bright where it found its pattern."
ACTIVATION = "The activation function, ReLU, keeps what is above zero: without it all layers would be one."
ONE_BY_ONE = "A 1x1 convolution mixes the channels of each position and looks at no neighbour."
THREE_BY_THREE = "A 3x3 convolution looks at each position and its eight neighbours."
POOL = "A max pool keeps the largest of each 2x2 block: half the size, and twice the reach of what follows."
AVERAGE = "A global average pool gives one number a feature map: how much of its pattern there is anywhere."
DENSE = "A dense layer weighs all its inputs for each of its outputs."
LOCAL = "The local receptive field is the kernel's size; the global one is all the input that a value depends on."


def write_pictures(inside: Inside, folder: Path, unit: Unit | None = None) -> list[Path]:
    """All that `draw_pictures` draws, as a list."""
    return list(draw_pictures(inside, folder, unit))


def draw_pictures(inside: Inside, folder: Path, unit: Unit | None = None) -> Iterator[Path]:
    """Draw answer, receptive fields, kernels and feature maps into PNG files of a folder.

    Args:
        unit: name of a layer, row and column of a unit whose receptive field is drawn; default: the middle of each.
    Returns:
        The paths in reading order, each as soon as its picture is there.
    Raises:
        BadInput: there is no such unit.
    """
    names = [stage.layer.name for stage in inside.stages]
    if unit and unit[0] not in names:
        raise BadInput(f"{inside.card.name} has no layer {unit[0]!r}: there are {', '.join(names)}.")
    for stage in inside.stages:
        if unit and stage.layer.name == unit[0]:
            unit_of(stage, *unit[1:])
    folder.mkdir(parents=True, exist_ok=True)
    return _written(_pictures(inside, unit), folder)


def _written(pictures: Iterator[tuple[str, Image.Image]], folder: Path) -> Iterator[Path]:
    for name, picture in pictures:
        path = folder / f"{name}.png"
        picture.save(path)
        yield path


def _pictures(inside: Inside, unit: Unit | None) -> Iterator[tuple[str, Image.Image]]:
    """Names and pictures, in reading order."""
    yield "1-answer", _answer(inside)
    yield "2-receptive-fields", _fields(inside, unit)
    convolutions = [stage for stage in inside.stages if stage.kernels is not None and stage.kernels.shape[-1] > 1]
    for stage in convolutions[:2]:
        yield f"3-kernels-{stage.layer.name}", _kernels(stage)
    for number, stage in enumerate(inside.stages, 1):
        if prod(stage.values.shape[1:]) > 1:
            yield f"4-maps-{number:02}-{stage.layer.name}", _maps(inside, stage)


@cache
def _font(size: int, bold: bool = False) -> Any:
    """DejaVu Sans where matplotlib has brought it, for it knows most alphabets; else the font inside Pillow."""
    found = find_spec("matplotlib")
    if found is not None and found.origin is not None:
        fonts = Path(found.origin).parent / "mpl-data" / "fonts" / "ttf"
        try:
            return ImageFont.truetype(str(fonts / ("DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf")), size)
        except (OSError, ImportError):  # no such file; a Pillow without FreeType
            pass
    return ImageFont.load_default(size)


def _sheet(width: int, height: int, title: str, sentence: str) -> tuple[Image.Image, Any]:
    """An empty picture and its pen, with a title at the top left and a sentence of two lines at most below it."""
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
    """A first line of whole words that fits, and the rest."""
    words = text.split(" ")
    count = len(words)
    while count > 1 and font.getlength(" ".join(words[:count])) > room:
        count -= 1
    return _shortened(" ".join(words[:count]), font, room), " ".join(words[count:])


def _centred(pen: Any, middle: float, top: float, text: str, room: float, size: int = CAPTION) -> None:
    text = _shortened(text, _font(size), room)
    pen.text((middle - _font(size).getlength(text) / 2, top), text, INK, _font(size))


def _rgb(pixels: npt.NDArray[np.uint8]) -> RGB:
    """uint8 `(H, W, C)`, C 1, 3 or 4, as RGB; what is transparent lies on white."""
    if pixels.shape[2] == 1:
        return np.repeat(pixels, 3, axis=2)
    if pixels.shape[2] == 3:
        return pixels
    weight = pixels[:, :, 3:].astype(np.float32) / 255
    return np.asarray(np.rint(pixels[:, :, :3] * weight + 255 * (1 - weight)), np.uint8)


def _scaled(pixels: RGB, side: int) -> tuple[RGB, float]:
    """As large as fits into a square of that side, and by how much: pixels as squares, or averaged where it shrinks."""
    height, width = pixels.shape[:2]
    scale = side / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    method = cv2.INTER_NEAREST if scale >= 1 else cv2.INTER_AREA
    return np.asarray(cv2.resize(np.ascontiguousarray(pixels), size, interpolation=method), np.uint8), scale


def _paste(sheet: Image.Image, pixels: RGB, left: int, top: int, side: int) -> tuple[int, int, float]:
    """Lay a picture into the middle of a square; where it then begins, and its scale."""
    scaled, scale = _scaled(pixels, side)
    left, top = left + (side - scaled.shape[1]) // 2, top + (side - scaled.shape[0]) // 2
    sheet.paste(Image.fromarray(scaled), (left, top))
    return left, top, scale


def _answer(inside: Inside) -> Image.Image:
    side, bars = 281, 606
    title = f"What {inside.card.name} sees, and what it answers"
    sheet, pen = _sheet(1045, BODY + side + 44, title, "; ".join(inside.corrections))
    _centred(pen, MARGIN + side / 2, BODY, "the picture", side)
    _paste(sheet, _rgb(inside.picture), MARGIN, BODY + 22, side)
    height, width = inside.seen.shape[:2]
    _centred(pen, 2 * MARGIN + 1.5 * side, BODY, f"what the network sees: {height}x{width}", side)
    _paste(sheet, _rgb(inside.seen), 2 * MARGIN + side, BODY + 22, side)
    probabilities, labels = np.nan_to_num(inside.probabilities), inside.card.labels
    best = int(probabilities.argmax())
    shown = range(len(labels)) if len(labels) <= ALL_LABELS else np.argsort(-probabilities)[:ALL_LABELS].tolist()
    _centred(pen, (bars + 90 + 1012) / 2, BODY, f"{labels[best]}: {probabilities[best]:.1%}", 400, SENTENCE)
    _bars(pen, [(labels[index], float(probabilities[index]), index == best) for index in shown],
          (bars + 90, BODY + 22, 1012, BODY + 22 + side))  # fmt: skip
    return sheet


def _bars(pen: Any, shares: Sequence[tuple[str, float, bool]], box: tuple[int, int, int, int]) -> None:
    """A bar a label, from the top; box: left, top, right and bottom of the bars. The best one is red."""
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
    """For one unit of each layer, or of the one that was chosen, the input that it sees."""
    chosen = [stage for stage in inside.stages if unit is None or stage.layer.name == unit[0]]
    side, caption, columns = 218, 36, max(1, min(5, len(chosen)))
    height = BODY + ceil(len(chosen) / columns) * (side + caption + MARGIN)
    width = max(NARROWEST, MARGIN + columns * (side + GAP))
    sheet, pen = _sheet(width, height, "Receptive fields: what one unit sees of the input", LOCAL)
    seen = _rgb(inside.seen)
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
    """Small pictures in rows."""
    columns = 5 if len(cells) <= 10 else 8 if len(cells) <= 32 else 16  # full rows for the usual 10, 16, 32 and 64
    rows, step = ceil(len(cells) / columns), CELL + GAP
    sheet, _ = _sheet(max(NARROWEST, 2 * MARGIN + columns * step - GAP), BODY + rows * step, title, sentence)
    for index, cell in enumerate(cells):
        _paste(sheet, cell, MARGIN + index % columns * step, BODY + index // columns * step, CELL)
    return sheet


def _kernels(stage: Stage) -> Image.Image:
    """The kernels of a layer, red where a weight is positive and blue where it is negative, each on the same scale."""
    assert stage.kernels is not None
    outputs, inputs = stage.kernels.shape[:2]
    kernels = np.nan_to_num(stage.kernels.reshape(-1, *stage.kernels.shape[2:])[:MOST], posinf=LARGEST, neginf=-LARGEST)
    of = f"the first {MOST} of {outputs * inputs}" if outputs * inputs > MOST else f"all {outputs * inputs}"
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
    """The feature maps of a layer, each from its own least to its own largest value."""
    count, height, width = stage.values.shape
    of = f" (the first {MOST})" if count > MOST else ""
    title = f"{stage.layer.name}, {stage.layer.kind}: {count} feature maps{of} of {height}x{width}"
    return _grid([_coloured(values) for values in stage.values[:MOST]], title, _sentence(inside, stage))


def _coloured(values: npt.NDArray[np.float32]) -> RGB:
    """float32 `(H, W)` → RGB, black for the least value and pale yellow for the largest."""
    finite = np.nan_to_num(values.astype(np.float64), posinf=LARGEST, neginf=-LARGEST)
    low, high = float(finite.min()), float(finite.max())
    steps = np.rint((finite - low) * (255 / (high - low) if high > low else 0)).astype(np.uint8)
    return _magma()[steps]


@cache
def _magma() -> RGB:
    """uint8 `(256, 3)`: the colours from the least to the largest value."""
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
    position = next(index for index, other in enumerate(same) if other is stage)
    return (FEATURE_MAP, ACTIVATION, THREE_BY_THREE)[position] if position < 3 and "3x3" in kind else LOCAL
