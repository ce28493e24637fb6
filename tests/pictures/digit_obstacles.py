"""Random images of digits that something disturbs: other marks, the pen, the crop, or the lines of the paper.

Each of `OBSTACLES` takes a shape (float32 coverage, from `digit_shapes.py` or an MNIST image) and draws it with one
kind of disturbance, in one of `SETTINGS`. The same seed gives the same image.
"""

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np

from tests.pictures import digit_crops as crops
from tests.pictures import digit_pictures as pictures
from tests.pictures import digit_shapes
from tests.pictures.digit_shapes import Array, Random, Stroke

Layer = tuple[Array, Any]  # coverage, and the colour of its ink or None for the digit's own
Setting = Callable[[Random, Array, list[Layer]], Array]

# --- Settings: what the digit is drawn on, and how the image was made.


def screen(random: Random, shape: Array, layers: list[Layer]) -> Array:
    """A drawing in a paint program or a screenshot: black on white, white on black, or two colours."""
    pairs = (((255,) * 3, (0,) * 3), ((255,) * 3, (0,) * 3), ((0,) * 3, (255,) * 3), ((246, 246, 240), (30, 60, 160)))
    paper, ink = pairs[int(random.integers(len(pairs)))]
    page = pictures.painted(shape, paper, ink)
    for coverage, colour in layers:
        page = pictures.painted(coverage, page, ink if colour is None else colour)
    return page


def pen(random: Random, shape: Array, layers: list[Layer]) -> Array:
    """A photograph of pen on paper."""
    height, width = shape.shape
    ink = pictures.pen_colour(random)
    page = pictures.painted(shape, pictures.paper(random, height, width), ink)
    for coverage, colour in layers:
        page = pictures.painted(coverage, page, ink if colour is None else colour)
    scene = page * pictures.light(random, height, width, random.uniform(0.1, 0.4))
    return pictures.photographed(random, np.asarray(scene, np.float32), random.uniform(1, 5), random.uniform(0.3, 1.2))


def chalk(random: Random, shape: Array, layers: list[Layer]) -> Array:
    """A photograph of chalk on a board."""
    height, width = shape.shape
    board = np.array([[30, 32, 34], [25, 55, 40]][int(random.integers(2))], np.float32)
    wiped = cv2.GaussianBlur(random.normal(0, 50, (height, width)).astype(np.float32), (0, 0), 14)[:, :, None]
    page: Array = board + np.abs(wiped) + pictures.grain(random, height, width)
    rough = np.clip(0.8 + random.normal(0, 0.2, (height, width)), 0.2, 1).astype(np.float32)
    for coverage, colour in [(shape, None), *layers]:
        page = pictures.painted(coverage * rough, page, (225, 225, 215) if colour is None else colour)
    scene = page * pictures.light(random, height, width)
    return pictures.photographed(random, np.asarray(scene, np.float32), 3.0, 0.8)


def whiteboard(random: Random, shape: Array, layers: list[Layer]) -> Array:
    """A photograph of a marker on a whiteboard, with the soft reflection of a lamp and traces of wiped ink."""
    height, width = shape.shape
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    centre = random.uniform(0, 1, 2) * (height, width)
    lamp = np.exp(-((y - centre[0]) ** 2 + (x - centre[1]) ** 2) / (2 * (0.25 * max(height, width)) ** 2))
    traces = cv2.GaussianBlur(random.normal(0, 40, (height, width)).astype(np.float32), (0, 0), 9)
    board = 205 - np.abs(traces)[:, :, None] + pictures.grain(random, height, width, 1.0)
    ink = np.array([[25, 25, 30], [20, 40, 150], [170, 25, 35], [20, 110, 60]][int(random.integers(4))], float)
    page: Array = pictures.painted(shape, np.repeat(board, 3, axis=2), ink)
    for coverage, colour in layers:
        page = pictures.painted(coverage, page, ink if colour is None else colour)
    scene = page * pictures.light(random, height, width, 0.25) + 60 * lamp[:, :, None]
    return pictures.photographed(random, np.asarray(scene, np.float32), 3.0, 0.8)


SETTINGS: tuple[Setting, ...] = (screen, pen, pen, chalk, whiteboard)


def shown(random: Random, shape: Array, layers: list[Layer]) -> Array:
    return SETTINGS[int(random.integers(len(SETTINGS)))](random, shape, layers)


def on_page(random: Random, shape: Array, room: float = 0.6) -> Array:
    """The shape on an empty page, larger by 0.15 to `room` of the shape's size on each side."""
    shape = crops.cut(shape, (0.0,) * 4)
    side = max(shape.shape)
    above, below, left, right = (int(side * random.uniform(0.15, room)) for _ in range(4))
    return np.pad(shape, ((above, below), (left, right)))


def _box(shape: Array) -> tuple[int, int, int, int]:
    x, y, width, height = cv2.boundingRect((shape > 0.5).astype(np.uint8))
    return x, y, width, height


def _stroke(shape: Array) -> float:
    """Width of the shape's strokes in pixels."""
    depth = cv2.distanceTransform((shape > 0.5).astype(np.uint8), cv2.DIST_L2, 5)
    middle = depth[(depth >= cv2.dilate(depth, np.ones((3, 3), np.uint8))) & (depth > 0)]
    return float(2 * np.median(middle))


def _line(shape: Array, points: Array, width: float) -> Array:
    """Coverage of a smooth line through points (x, y) in pixels."""
    page = np.zeros(shape.shape, np.uint8)
    places = np.rint(points * 16).astype(np.int32)
    cv2.polylines(page, [places], False, 255, max(1, round(width)), cv2.LINE_AA, 4)
    return page.astype(np.float32) / 255


def _mark_colour(random: Random) -> Any:
    return None if random.random() < 0.6 else [(190, 30, 40), (40, 70, 170), (60, 140, 70)][int(random.integers(3))]


# --- Marks around the digit.


def circled(random: Random, shape: Array) -> Array:
    """A circle, an ellipse or a box around the digit, drawn by hand, closed or with a small gap."""
    shape = crops.cut(shape, (0.95,) * 4)
    x, y, width, height = _box(shape)
    reach = random.uniform(1.25, 1.8)
    semi = np.array([width, height]) / 2 * reach
    semi = np.maximum(semi, max(semi) * random.uniform(0.6, 1.0))
    angle = np.linspace(0, 2 * np.pi * random.choice([1.0, 1.0, 0.96, 1.03]), 200) + random.uniform(0, 2 * np.pi)
    power = 2 if random.random() < 0.7 else 8  # a superellipse of power 8 is a box with round corners
    radius = (np.abs(np.cos(angle)) ** power + np.abs(np.sin(angle)) ** power) ** (-1 / power)
    wobble = 1 + 0.03 * np.sin(angle * random.uniform(1, 3) + random.uniform(0, 6)) * random.random()
    ring = np.stack([np.cos(angle), np.sin(angle)], axis=1) * (radius * wobble)[:, None] * semi
    centre = np.array([x + width / 2, y + height / 2]) + random.uniform(-0.08, 0.08, 2) * semi
    line = _line(shape, ring + centre, _stroke(shape) * random.uniform(0.5, 1.2))
    layer = line * (cv2.dilate(shape, np.ones((5, 5), np.uint8)) < 0.1)  # it does not touch the digit
    left, top, wide, high = cv2.boundingRect(((shape + layer) > 0.3).astype(np.uint8))
    pad = int(max(wide, high) * random.uniform(0.04, 0.3))
    rows = slice(max(0, top - pad), top + high + pad)
    columns = slice(max(0, left - pad), left + wide + pad)
    return shown(random, shape[rows, columns], [(layer[rows, columns], _mark_colour(random))])


def underlined(random: Random, shape: Array) -> Array:
    """One or two lines below the digit."""
    shape = on_page(random, shape, 0.9)
    shape = np.pad(shape, ((0, int(0.3 * shape.shape[0])), (0, 0)))
    x, y, width, height = _box(shape)
    layers: list[Layer] = []
    place = y + height + _stroke(shape) * 0.9 + height * random.uniform(0.03, 0.2)
    colour, tilt = _mark_colour(random), random.uniform(-0.06, 0.06)
    half = max(width, 0.5 * height) * random.uniform(0.5, 0.9)
    thick = max(2.0, _stroke(shape) * random.uniform(0.4, 1.1))
    for _ in range(1 + (random.random() < 0.25)):
        across = np.linspace(-1, 1, 30)
        bend = random.uniform(-0.02, 0.02) * height * across**2 + abs(tilt) * half
        points = np.stack([x + width / 2 + across * half, place + tilt * across * half + bend], axis=1)
        layers.append((_line(shape, points, thick), colour))
        place += 2.5 * thick + 0.05 * height
    return shown(random, shape, layers)


# --- Lines of the paper.


def celled(random: Random, shape: Array) -> Array:
    """A cell of a form or table: printed lines around the digit, some of them cut off by the crop."""
    shape = on_page(random, shape, 0.5)
    height, width = shape.shape
    x, y, wide, high = _box(shape)
    thick = max(1, round(max(height, width) * random.uniform(0.006, 0.02)))
    layer = np.zeros(shape.shape, np.float32)
    gap = 2 * thick
    for low, near, far, end, vertical in (
        (0, y, y + high, height, False),
        (0, x, x + wide, width, True),
    ):
        for first, last in ((low, near - gap - thick), (far + gap, end - thick)):
            if random.random() < 0.75 and last > first:
                place = int(random.integers(first, last))
                band = slice(place, place + thick)
                layer[(slice(None), band) if vertical else (band, slice(None))] = 1
    tone = random.uniform(20, 150)
    light = random.choice([True, False])
    setting = pen if light else screen
    return setting(random, shape, [(layer, (tone, tone, tone))])


def edged(random: Random, shape: Array) -> Array:
    """A cell's edges on one to four sides, near the digit or touching it; the crop cuts them off."""
    shape = on_page(random, shape, 0.4)
    height, width = shape.shape
    x, y, wide, high = _box(shape)
    thick = max(1, round(max(height, width) * random.uniform(0.006, 0.02)))
    sides = random.random(4) < 0.5
    sides[int(random.integers(4))] = True
    near = thick * random.uniform(-0.5, 4)  # between the digit and the closest edge; below 0 they overlap
    corner_x, corner_y = x - thick - near if sides[0] else -5, y - thick - near if sides[1] else -5
    far_x = x + wide + near if sides[2] else width + 5
    far_y = y + high + near if sides[3] else height + 5
    layer = np.zeros(shape.shape, np.float32)
    beyond = random.random() < 0.5  # the edges go on beyond the corners
    rows = slice(0, None) if beyond else slice(max(0, round(corner_y)), round(far_y) + thick)
    columns = slice(0, None) if beyond else slice(max(0, round(corner_x)), round(far_x) + thick)
    for place, is_drawn in ((corner_x, sides[0]), (far_x, sides[2])):
        if is_drawn:
            layer[rows, max(0, round(place)) : max(0, round(place) + thick)] = 1
    for place, is_drawn in ((corner_y, sides[1]), (far_y, sides[3])):
        if is_drawn:
            layer[max(0, round(place)) : max(0, round(place) + thick), columns] = 1
    tone = random.uniform(20, 150)
    return (pen, screen)[int(random.integers(2))](random, shape, [(layer, (tone, tone, tone))])


def encircled(random: Random, shape: Array) -> Array:
    """A heavy digit in a ring that it nearly touches."""
    shape = np.pad(crops.cut(shape, (0.3,) * 4), 10)
    x, y, width, height = _box(shape)
    grow = max(0, round(height * random.uniform(0.14, 0.24) - _stroke(shape)))
    shape = cv2.dilate(shape, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (grow + 1, grow + 1)))
    x, y, width, height = _box(shape)
    ys, xs = np.nonzero(shape > 0.5)
    centre = np.array([x + width / 2, y + height / 2])
    reach = float(np.hypot(xs - centre[0], ys - centre[1]).max())
    thick = height * random.uniform(0.04, 0.14)
    radius = reach + thick / 2 + height * random.uniform(0.02, 0.07)
    pad = round(radius + thick + height * random.uniform(0.05, 0.3)) - round(min(centre))
    shape = np.pad(shape, max(0, pad))
    angle = np.linspace(0, 2 * np.pi, 200)
    ring = np.stack([np.cos(angle), np.sin(angle)], axis=1) * radius + centre + max(0, pad)
    return shown(random, shape, [(_line(shape, ring, thick), _mark_colour(random))])


def lined(random: Random, shape: Array) -> Array:
    """Ruled lines as strong as pencil or print; some of them cross the digit."""
    shape = on_page(random, shape, 0.9)
    height, width = shape.shape
    size = _box(shape)[3]
    thick = max(1.0, min(0.4 * _stroke(shape), 0.012 * max(height, width)))
    layers: list[Layer] = []
    tone = random.uniform(70, 160)
    colour = (tone, tone, min(255.0, tone * random.uniform(1, 1.4)))
    tilt = random.uniform(-0.04, 0.04)
    step = size * random.uniform(0.45, 1.4)
    for place in np.arange(random.uniform(0, step), height + step, step):
        ends = np.array([[-5, place - tilt * width / 2], [width + 5, place + tilt * width / 2]])
        layers.append((_line(shape, ends, thick), colour))
    if random.random() < 0.2:
        place = random.uniform(0.02, 0.15) * width
        layers.append((_line(shape, np.array([[place, -5], [place, height + 5]]), thick), (200, 70, 80)))
    return pen(random, shape, layers)


def letterboxed(random: Random, shape: Array) -> Array:
    """A crop with bars of one colour, as programs add them to make an image square."""
    shape = crops.cut(shape, tuple(random.uniform(0.03, 0.25, 4).tolist()))
    flat = (pen, chalk, screen)[int(random.integers(3))](random, shape, [])
    height, width = flat.shape[:2]
    side = round(max(height, width) * random.uniform(1, 1.2))
    colour = int(random.choice([0, 114, 128, 255]))
    above, left = (side - height) // 2, (side - width) // 2
    return cv2.copyMakeBorder(
        flat, above, side - height - above, left, side - width - left, cv2.BORDER_CONSTANT, value=(colour,) * 3
    )


# --- The pen.


def faded(random: Random, shape: Array) -> Array:
    """A part of the digit, such as a nine's loop, has 25 to 60 % of the ink."""
    shape = on_page(random, shape)
    x, y, width, height = _box(shape)
    angle = random.uniform(0, 2 * np.pi)
    rows, columns = np.mgrid[0 : shape.shape[0], 0 : shape.shape[1]].astype(np.float32)
    across = ((columns - x) / width - 0.5) * np.cos(angle) + ((rows - y) / height - 0.5) * np.sin(angle)
    ramp = 1 / (1 + np.exp(-across / random.choice([0.03, 0.1])))
    least = random.uniform(0.25, 0.6)
    return shown(random, np.asarray(shape * (least + (1 - least) * ramp), np.float32), [])


def fading(random: Random, shape: Array) -> Array:
    """The upper or lower half has 25 to 60 % of the ink, such as a nine's loop where the pen begins to write."""
    shape = on_page(random, shape)
    _, y, _, height = _box(shape)
    along = ((np.arange(shape.shape[0]) - y) / height - random.uniform(0.35, 0.65)) * random.choice([-1, 1])
    ramp = 1 / (1 + np.exp(-along / random.choice([0.03, 0.1])))
    least = random.uniform(0.25, 0.6)
    return shown(random, np.asarray(shape * (least + (1 - least) * ramp)[:, None], np.float32), [])


def dry(random: Random, shape: Array) -> Array:
    """A dry pen: gaps across the strokes, or streaks along one direction."""
    shape = on_page(random, shape)
    x, y, width, height = _box(shape)
    size = max(width, height)
    if random.random() < 0.5:
        keep = np.ones(shape.shape, np.float32)
        for _ in range(int(random.integers(4, 14))):
            centre = np.array([random.uniform(x, x + width), random.uniform(y, y + height)])
            angle, half = random.uniform(0, np.pi), 0.2 * size
            ends = np.stack([centre - half * _unit(angle), centre + half * _unit(angle)])
            keep -= _line(shape, ends, size * random.uniform(0.015, 0.05))
        return shown(random, shape * np.clip(keep, 0, 1), [])
    noise = random.normal(0, 1, shape.shape).astype(np.float32)
    noise = cv2.GaussianBlur(noise, (0, 0), sigmaX=size * 0.04, sigmaY=size * 0.006)
    turn = cv2.getRotationMatrix2D((x + width / 2, y + height / 2), random.uniform(0, 180), 1)
    noise = cv2.warpAffine(noise, turn, shape.shape[::-1], borderMode=cv2.BORDER_REFLECT)
    streaks = np.clip((noise / noise.std() - random.uniform(-1.2, -0.2)) * 3 + 0.5, 0, 1)
    return shown(random, np.asarray(shape * streaks, np.float32), [])


def _unit(angle: float) -> Array:
    return np.array([np.cos(angle), np.sin(angle)])


def outlined(random: Random, shape: Array) -> Array:
    """Only the outline of wide strokes, as a child fills letters, or as a font's outline style."""
    shape = on_page(random, shape)
    size = max(_box(shape)[2:])
    grow = max(0, round(size * random.uniform(0.13, 0.2) - _stroke(shape)))
    shape = np.pad(shape, grow)
    brush = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (grow + 1, grow + 1))
    wide = (cv2.dilate(shape, brush) > 0.5).astype(np.uint8)
    line = max(2.0, size * random.uniform(0.012, 0.03))
    distance = cv2.distanceTransform(wide, cv2.DIST_L2, 5)
    return shown(random, np.asarray(((distance > 0) & (distance <= line)), np.float32), [])


def bold(random: Random, shape: Array) -> Array:
    """Strokes of a quarter to two fifths of the digit's height."""
    shape = on_page(random, shape)
    size = max(_box(shape)[2:])
    grow = max(0, round(size * random.uniform(0.22, 0.34) - _stroke(shape)))
    shape = np.pad(shape, grow)
    brush = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (grow + 1, grow + 1))
    return shown(random, cv2.dilate(shape, brush), [])


# --- The crop.


def tight(random: Random, shape: Array) -> Array:
    """A photograph cut to the box of its ink, by a detector or by hand, 24 to 400 pixels high."""
    margin = float(random.choice([0, 0, 0, 0.01, 0.03]))
    coverage = crops.cut(shape, (margin,) * 4)
    height = int(random.choice([24, 28, 48, 60, 100, 150, 250, 400]))
    size = (max(3, round(coverage.shape[1] * height / coverage.shape[0])), height)
    coverage = cv2.resize(coverage, size, interpolation=cv2.INTER_AREA)
    kind = int(random.integers(4))
    if kind == 3:
        flat = pictures.painted(coverage, (35, 50, 42), (215, 215, 205))
    else:
        flat = pictures.painted(coverage, pictures.paper(random, height, size[0]), pictures.pen_colour(random))
    return crops.photographed(random, flat)


Obstacle = Callable[[Random, Array], Array]
OBSTACLES: dict[str, Obstacle] = {
    kind.__name__: kind
    for kind in (
        tight, letterboxed, circled, encircled, underlined, celled, edged, lined, faded, fading, dry, outlined, bold)
}  # fmt: skip


# --- A four whose top is closed, as in print.

CLOSED_FOURS: list[list[Stroke]] = [
    [
        [(0.68, 0.0), (0.36, 0.34), (0.05, 0.66)],
        [(0.05, 0.66), (0.5, 0.66), (0.98, 0.65)],
        [(0.68, 0.0), (0.67, 0.5), (0.66, 1.0)],
    ],
    [
        [(0.62, 0.02), (0.3, 0.3), (0.1, 0.6)],
        [(0.1, 0.6), (0.5, 0.6), (0.9, 0.58)],
        [(0.62, 0.02), (0.64, 0.5), (0.62, 1.0)],
    ],
    [
        [(0.7, 0.0), (0.4, 0.25), (0.02, 0.7)],
        [(0.02, 0.7), (0.4, 0.71), (0.72, 0.7)],
        [(0.7, 0.0), (0.7, 0.5), (0.7, 1.0)],
    ],
]


def closed_four(random: Random) -> Array:
    """Coverage of such a four, by hand."""
    width = float(random.choice([0.04, 0.07, 0.11, 0.15]))
    return digit_shapes.draw(4, random, 200, width, skeletons={4: CLOSED_FOURS})
