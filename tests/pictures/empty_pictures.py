"""Random images without a digit: blank, ruled and squared paper, empty forms, shadows, creases, a line, a staple.

Each of `EMPTY` makes one kind. The same seed gives the same image. A classifier of digits must refuse them, or say that
they show none of its classes.
"""

from collections.abc import Callable

import cv2
import numpy as np

from tests.pictures import digit_obstacles as obstacles
from tests.pictures import digit_pictures as pictures
from tests.pictures.digit_obstacles import Layer
from tests.pictures.digit_shapes import Array, Random

_WORDS = ("Name", "Date", "Total", "No", "Sum", "Page", "Age", "Tel", "Signature", "Amount", "Form", "cm", "kg", "EUR")


def _empty(random: Random) -> Array:
    """float32 zeros of a random size, wide or high."""
    height, width = (int(side) for side in random.integers(180, 641, 2))
    return np.zeros((height, width), np.float32)


def _tone(random: Random) -> tuple[float, float, float]:
    """Grey or bluish print, from pale to nearly black."""
    tone = float(random.uniform(30, 195))
    return (tone * float(random.uniform(0.85, 1)), tone, min(255.0, tone * float(random.uniform(1, 1.3))))


def _straight(page: Array, ends: tuple[tuple[float, float], tuple[float, float]], width: float) -> Array:
    line = np.zeros(page.shape, np.uint8)
    first, last = (tuple(round(value * 16) for value in end) for end in ends)
    cv2.line(line, first, last, 255, max(1, round(width)), cv2.LINE_AA, 4)
    return line.astype(np.float32) / 255


def _parallel(random: Random, page: Array, step: float, thick: float, tilt: float, start: float | None = None) -> Array:
    """Coverage of lines from the left to the right border."""
    height, width = page.shape
    drop = tilt * width / 2
    place = float(random.uniform(-step, step)) if start is None else start
    lines = np.zeros(page.shape, np.float32)
    while place < height + step:
        lines = np.maximum(lines, _straight(page, ((-5, place - drop), (width + 5, place + drop)), thick))
        place += step
    return lines


def _shown(random: Random, page: Array, layers: list[Layer]) -> Array:
    return (obstacles.pen, obstacles.pen, obstacles.screen)[int(random.integers(3))](random, page, layers)


def blank(random: Random) -> Array:
    """Paper, a board, or a canvas, with nothing on it."""
    return obstacles.shown(random, _empty(random), [])


def ruled(random: Random) -> Array:
    """Ruled paper, from one line to many, sometimes with a margin line."""
    page = _empty(random)
    lines = _parallel(
        random, page, random.uniform(0.06, 0.6) * len(page), random.uniform(1, 4), random.uniform(-0.05, 0.05)
    )
    layers: list[Layer] = [(lines, _tone(random))]
    if random.random() < 0.3:
        layers.append((_margin_line(random, page), (200, 70, 80)))
    return _shown(random, page, layers)


def squared(random: Random) -> Array:
    """Squared paper."""
    page = _empty(random)
    step, thick = random.uniform(0.05, 0.4) * min(page.shape), random.uniform(1, 4)
    tilt = random.uniform(-0.05, 0.05)
    across = _parallel(random, page, step, thick, tilt)
    down = _parallel(random, page.T, step, thick, -tilt).T
    return _shown(random, page, [(np.maximum(across, down), _tone(random))])


def dotted(random: Random) -> Array:
    """Paper with a grid of dots."""
    page = _empty(random)
    step, radius = random.uniform(0.04, 0.25) * min(page.shape), random.uniform(1, 4)
    dots = np.zeros(page.shape, np.uint8)
    offset = random.uniform(0, step, 2)
    for y in np.arange(offset[0], page.shape[0], step):
        for x in np.arange(offset[1], page.shape[1], step):
            cv2.circle(dots, (round(x * 16), round(y * 16)), round(radius * 16), 255, -1, cv2.LINE_AA, 4)
    return _shown(random, page, [(dots.astype(np.float32) / 255, _tone(random))])


def _margin_line(random: Random, page: Array) -> Array:
    height, width = page.shape
    place, tilt = random.uniform(0.03, 0.97) * width, random.uniform(-0.03, 0.03) * width
    return _straight(page, ((place - tilt, -5), (place + tilt, height + 5)), random.uniform(1, 5))


def margin(random: Random) -> Array:
    """One line from border to border, such as a margin's, and sometimes a second one, side by side or across."""
    page = _empty(random)
    layers: list[Layer] = [(_margin_line(random, page), _tone(random))]
    if random.random() < 0.5:
        second = _margin_line(random, page) if random.random() < 0.5 else _margin_line(random, page.T).T
        layers.append((second, layers[0][1]))
    if random.random() < 0.5:
        page, layers = page.T, [(layer.T, colour) for layer, colour in layers]
    return _shown(random, page, layers)


def cell(random: Random) -> Array:
    """An empty cell of a table: whole, or cut off by the crop on one to three sides; edges may go on beyond corners."""
    page = _empty(random)
    height, width = page.shape
    thick, tilt = random.uniform(1, 6), random.uniform(-0.03, 0.03)
    x0, x1 = random.uniform(0.02, 0.3) * width, random.uniform(0.7, 0.98) * width
    y0, y1 = random.uniform(0.02, 0.3) * height, random.uniform(0.7, 0.98) * height
    corners = [(x0, y0 + tilt * width), (x1, y0 - tilt * width), (x1, y1 - tilt * width), (x0, y1 + tilt * width)]
    count, turn = int(random.integers(1, 5)), int(random.integers(4))
    beyond = float(random.choice([0, 0, 0.1, 2]))  # how far an edge goes on beyond a corner, as a share of its length
    edges = np.zeros(page.shape, np.float32)
    for index in range(count):
        side = (turn + index) % 4
        first, last = np.array(corners[side]), np.array(corners[(side + 1) % 4])
        along = last - first
        is_cut = np.array([index == 0, index == count - 1]) & (count < 4)  # runs out of the image
        before, after = np.where(is_cut, 2.0, beyond).tolist()
        edges = np.maximum(edges, _straight(page, (tuple(first - before * along), tuple(last + after * along)), thick))
    return _shown(random, page, [(edges, _tone(random))])


def form(random: Random) -> Array:
    """An empty form: a row of boxes or dashes to fill in, a table, or fields with words in front of them."""
    page = _empty(random)
    height, width = page.shape
    thick = max(1, round(random.uniform(1, 4)))
    ink = np.zeros(page.shape, np.uint8)
    kind = int(random.integers(3))
    if kind == 0:
        count, side = int(random.integers(2, 9)), 0.0
        side = 0.9 * width / count
        top = random.uniform(0.1, 0.6) * height
        gap = float(random.choice([0.0, 0.12])) * side
        only_feet = random.random() < 0.3
        for index in range(count):
            left = 0.05 * width + index * side
            box = [
                (left + gap, top),
                (left + gap, top + side),
                (left + side - gap, top + side),
                (left + side - gap, top),
            ]
            points = np.array(box[1:3] if only_feet else box, np.int32)
            cv2.polylines(ink, [points], not only_feet, 255, thick, cv2.LINE_AA)
    elif kind == 1:
        rows, columns = int(random.integers(2, 8)), int(random.integers(2, 8))
        ys = np.linspace(random.uniform(0.03, 0.2), random.uniform(0.8, 0.97), rows) * height
        xs = np.linspace(random.uniform(0.03, 0.2), random.uniform(0.8, 0.97), columns) * width
        for y in ys:
            cv2.line(ink, (round(xs[0]), round(y)), (round(xs[-1]), round(y)), 255, thick, cv2.LINE_AA)
        for x in xs:
            cv2.line(ink, (round(x), round(ys[0])), (round(x), round(ys[-1])), 255, thick, cv2.LINE_AA)
    else:
        rows = int(random.integers(1, 6))
        for index in range(rows):
            y = round((index + 0.7) / rows * height)
            scale = random.uniform(0.4, 1.2)
            word = str(random.choice(_WORDS)) + (":" if random.random() < 0.5 else "")
            (text_width, _), _ = cv2.getTextSize(word, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
            cv2.putText(ink, word, (round(0.04 * width), y), cv2.FONT_HERSHEY_SIMPLEX, scale, 255, 1, cv2.LINE_AA)
            start = round(0.06 * width) + text_width
            if start < 0.9 * width:
                cv2.line(ink, (start, y + 2), (round(0.96 * width), y + 2), 255, thick, cv2.LINE_AA)
    return _shown(random, page, [(ink.astype(np.float32) / 255, _tone(random))])


def shadow(random: Random) -> Array:
    """An empty sheet with the shadow of a hand."""
    return pictures.shadowed(random, np.zeros((100, 100), np.float32))


def table(random: Random) -> Array:
    """An empty sheet on a table."""
    return pictures.table_edge(random, np.zeros((100, 100), np.float32))


def crumpled(random: Random) -> Array:
    """Paper that was crumpled or folded: facets with their own light, and creases between them."""
    height, width = _empty(random).shape
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    if random.random() < 0.5:
        field = np.ones((height, width), np.float32)
        for _ in range(int(random.integers(1, 4))):
            angle, place = random.uniform(0, np.pi), random.uniform(-0.3, 0.3)
            along = (x / width - 0.5) * np.cos(angle) + (y / height - 0.5) * np.sin(angle) - place
            field *= 1 + random.uniform(-0.12, 0.12) * np.tanh(along / 0.01) * np.exp(-np.abs(along) / 0.3)
            field *= 1 - random.uniform(0.02, 0.2) * np.exp(-((along / random.uniform(0.003, 0.01)) ** 2))
    else:
        places = random.uniform(-0.1, 1.1, (int(random.integers(8, 60)), 2)) * (height, width)
        slopes = random.normal(0, random.uniform(0.05, 0.25), (len(places), 3))
        distances = np.stack([np.hypot(y - py, x - px) for py, px in places])
        nearest = distances.argmin(axis=0)
        offsets = np.stack([(y - places[nearest, 0]) / height, (x - places[nearest, 1]) / width])
        field = 1 + slopes[nearest, 0] * 0.4 + (slopes[nearest, 1:].transpose(2, 0, 1) * offsets).sum(axis=0)
        field = cv2.GaussianBlur(field.astype(np.float32), (0, 0), random.uniform(0.7, 2.5))
    sheet = pictures.paper(random, height, width) * np.clip(field, 0.3, 1.15)[:, :, None]
    scene = sheet * pictures.light(random, height, width, random.uniform(0.1, 0.4))
    return pictures.photographed(random, np.asarray(scene, np.float32), random.uniform(1, 5), random.uniform(0.3, 1.2))


def stroke(random: Random) -> Array:
    """A long line by hand, level or slanted: none of the digits is one. An upright one is a one, and is not drawn."""
    page = _empty(random)
    height, width = page.shape
    angle = random.uniform(-0.7, 0.7)  # from level; a one is steeper
    half = random.uniform(0.15, 0.45) * min(height, width)
    along = np.linspace(-1, 1, 40)
    bend = random.uniform(-0.03, 0.03) * half * along**2
    points = np.stack([along * np.cos(angle) * half - bend * np.sin(angle),
                       along * np.sin(angle) * half + bend * np.cos(angle)], axis=1)  # fmt: skip
    places = points + np.array([width, height]) * random.uniform(0.45, 0.55, 2)
    ink = np.zeros(page.shape, np.uint8)
    thick = max(2, round(half * random.uniform(0.02, 0.15)))
    cv2.polylines(ink, [np.rint(places * 16).astype(np.int32)], False, 255, thick, cv2.LINE_AA, 4)
    return obstacles.shown(random, ink.astype(np.float32) / 255, [])


def staple(random: Random) -> Array:
    """A staple or two holes of a punch, near a corner or border of an empty sheet."""
    page = _empty(random)
    height, width = page.shape
    side = min(height, width)
    centre = np.array([width, height]) * (0.5 + random.choice([-1, 1], 2) * random.uniform(0.2, 0.42, 2))
    ink = np.zeros(page.shape, np.uint8)
    if random.random() < 0.6:
        angle, half = random.uniform(-0.8, 0.8), random.uniform(0.03, 0.12) * side  # an upright one looks like a one
        reach = half * np.array([np.cos(angle), np.sin(angle)])
        first, last = np.rint(centre - reach).astype(int).tolist(), np.rint(centre + reach).astype(int).tolist()
        cv2.line(ink, first, last, 255, max(2, round(0.12 * half)), cv2.LINE_AA)
    else:
        apart, radius = random.uniform(0.2, 0.5) * height, round(random.uniform(0.01, 0.03) * side)
        for y in (height / 2 - apart / 2, height / 2 + apart / 2):
            cv2.circle(ink, (round(0.06 * width), round(y)), radius, 255, -1, cv2.LINE_AA)
    colour = (random.uniform(60, 160),) * 3
    return obstacles.pen(random, page, [(ink.astype(np.float32) / 255, colour)])


EMPTY: dict[str, Callable[[Random], Array]] = {
    kind.__name__: kind
    for kind in (
        blank, ruled, squared, dotted, margin, cell, form, shadow, table, crumpled, stroke, staple)
}  # fmt: skip
