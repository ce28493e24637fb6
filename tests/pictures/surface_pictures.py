"""Random photographs of things on which no digit is written.

No rule of the corrections was chosen on those of `UNSEEN`. The same seed gives the same image.
"""

from collections.abc import Callable

import cv2
import numpy as np

from tests.pictures import digit_pictures as pictures
from tests.pictures.digit_shapes import Array, Random

_PHOTOGRAPHS = (
    "astronaut", "brick", "camera", "cell", "chelsea", "clock", "coffee", "coins", "grass", "gravel",
    "hubble_deep_field", "immunohistochemistry", "microaneurysms", "moon", "rocket")  # fmt: skip


def _size(random: Random) -> tuple[int, int]:
    height, width = (int(side) for side in random.integers(240, 641, 2))
    return height, width


def _shot(random: Random, scene: Array) -> Array:
    """A photograph of a scene, float32 `(H, W, 3)`, under uneven light."""
    height, width = scene.shape[:2]
    lit = scene * pictures.light(random, height, width, random.uniform(0.1, 0.5))
    return pictures.photographed(random, np.asarray(lit, np.float32), random.uniform(1, 5), random.uniform(0.4, 1.6))


def _noise(random: Random, height: int, width: int, across: float, down: float) -> Array:
    """Smooth noise with a standard deviation of 1."""
    noise = random.normal(0, 1, (height, width)).astype(np.float32)
    noise = cv2.GaussianBlur(noise, (0, 0), sigmaX=across, sigmaY=down, borderType=cv2.BORDER_REFLECT)
    return np.asarray(noise / max(float(noise.std()), 1e-6), np.float32)


def _coloured(tone: Array, colour: tuple[float, float, float]) -> Array:
    return np.asarray(tone[:, :, None] * np.array(colour, np.float32), np.float32)


def wood(random: Random) -> Array:
    """A table top: bent grain, pores, and sometimes a knot or the joint of two boards."""
    height, width = _size(random)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    rings = y / height * random.uniform(4, 25) + _noise(random, height, width, 0.3 * width, 0.1 * height)
    if random.random() < 0.5:
        place = random.uniform(0.1, 0.9, 2) * (height, width)
        knot = np.exp(-(((y - place[0]) / (0.08 * height)) ** 2 + ((x - place[1]) / (0.15 * width)) ** 2))
        rings = rings + random.uniform(1, 4) * knot
    grain = np.sin(rings * 2 * np.pi) * random.uniform(0.03, 0.15) - 0.05 * np.abs(
        _noise(random, height, width, 12, 0.8)
    )
    tone = 1 + grain
    if random.random() < 0.4:
        row = int(random.uniform(0.2, 0.8) * height)
        tone[row : row + int(random.integers(2, 6))] *= random.uniform(0.3, 0.7)
        tone[row:] *= random.uniform(0.85, 1.15)
    if random.random() < 0.5:
        tone = np.ascontiguousarray(tone.T)
    base = random.uniform(90, 210)
    return _shot(random, _coloured(base * tone, (0.95, 0.75, 0.55)))


def fabric(random: Random) -> Array:
    """Woven cloth with threads, soft folds, and sometimes stripes or checks."""
    height, width = _size(random)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    step = random.uniform(2.5, 9)
    weave = np.sin(2 * np.pi * x / step) * np.sin(2 * np.pi * y / step)
    folds = _noise(random, height, width, random.uniform(0.03, 0.12) * width, random.uniform(0.05, 0.4) * height)
    tone = 1 + random.uniform(0.02, 0.12) * weave + random.uniform(0.03, 0.15) * folds
    if random.random() < 0.5:
        wide = random.uniform(20, 120)
        tone *= 1 - random.uniform(0.1, 0.5) * (np.sin(2 * np.pi * (x + 6 * folds) / wide) > 0.4)
        if random.random() < 0.5:
            tone *= 1 - random.uniform(0.1, 0.4) * (np.sin(2 * np.pi * (y + 6 * folds) / wide) > 0.4)
    colour = random.uniform(0.4, 1, 3)
    return _shot(random, _coloured(random.uniform(80, 240) * tone, tuple(colour.tolist())))


def keyboard(random: Random) -> Array:
    """Keys of a keyboard or a pocket calculator without letters, light or dark."""
    height, width = _size(random)
    base, key = random.uniform(30, 200), random.uniform(30, 230)
    scene = np.full((height, width, 3), base, np.float32)
    step, gap = random.uniform(40, 160), random.uniform(0.06, 0.2)
    shift = random.uniform(0, step, 2)
    for row, top in enumerate(np.arange(-shift[0], height, step)):
        for left in np.arange(-shift[1] - (row % 3) * 0.3 * step, width, step):
            ends = (round(left), round(top)), (round(left + (1 - gap) * step), round(top + (1 - gap) * step))
            cv2.rectangle(scene, *ends, (key,) * 3, -1, cv2.LINE_AA)
            cv2.rectangle(scene, *ends, (key * 0.8,) * 3, max(1, round(0.03 * step)), cv2.LINE_AA)
    return _shot(random, scene)


def coffee(random: Random) -> Array:
    """Stains on paper: rings of a cup, open or closed, splashes and drops."""
    height, width = _size(random)
    scene = pictures.paper(random, height, width)
    stain = np.zeros((height, width), np.float32)
    for _ in range(int(random.integers(1, 4))):
        centre = random.uniform(0, 1, 2) * (width, height)
        radius = random.uniform(0.08, 0.5) * min(height, width)
        y, x = np.mgrid[0:height, 0:width].astype(np.float32)
        angle = np.arctan2(y - centre[1], x - centre[0])
        bent = radius * (1 + 0.03 * np.sin(angle * 3 + random.uniform(0, 6)))
        away = np.hypot(x - centre[0], y - centre[1]) - bent
        rim = np.exp(-((away / (radius * random.uniform(0.02, 0.08))) ** 2))
        fade = 0.5 + 0.5 * np.sin(angle + random.uniform(0, 6))
        inside = random.uniform(0, 0.4) / (1 + np.exp(np.clip(away / 2, -30, 30)))
        stain = np.maximum(stain, np.maximum(rim * fade, inside))
    for _ in range(int(random.integers(0, 8))):
        place = tuple(int(value) for value in random.uniform(0, 1, 2) * (width, height))
        cv2.circle(stain, place, int(random.integers(1, 8)), float(random.uniform(0.3, 0.9)), -1, cv2.LINE_AA)
    stain = np.clip(stain * (1 + 0.2 * _noise(random, height, width, 4, 4)), 0, 1) * random.uniform(0.2, 0.7)
    return _shot(random, np.asarray(scene * (1 - stain[:, :, None] * np.array([0.5, 0.7, 0.9])), np.float32))


def hand(random: Random) -> Array:
    """The shadow of a hand with its fingers, or of a phone, on an empty sheet."""
    height, width = _size(random)
    shade = np.zeros((height, width), np.float32)
    if random.random() < 0.7:
        palm = random.uniform(0.2, 0.8, 2) * (width, height)
        size, turn = random.uniform(0.15, 0.4) * min(height, width), random.uniform(0, 2 * np.pi)
        cv2.circle(shade, tuple(np.rint(palm).astype(int).tolist()), round(size), 1.0, -1)
        for finger in range(5):
            angle = turn + (finger - 2) * random.uniform(0.25, 0.45)
            tip = palm + np.array([np.cos(angle), np.sin(angle)]) * size * random.uniform(1.6, 2.6)
            ends = [tuple(np.rint(end).astype(int).tolist()) for end in (palm, tip)]
            cv2.line(shade, ends[0], ends[1], 1.0, max(2, round(0.35 * size)))
    else:
        box = cv2.boxPoints(((width * random.random(), height * random.random()),
                             (0.4 * width, 0.8 * height), float(random.uniform(0, 180))))  # fmt: skip
        cv2.fillPoly(shade, [np.rint(box).astype(np.int32)], 1.0)
    shade = cv2.GaussianBlur(shade, (0, 0), random.uniform(1.5, 30))
    dim = 1 - random.uniform(0.1, 0.6) * shade[:, :, None]
    return _shot(random, np.asarray(pictures.paper(random, height, width) * dim, np.float32))


def window(random: Random) -> Array:
    """A glossy board or a screen that is off, with the reflection of a window and of lamps."""
    height, width = _size(random)
    tone = float(random.choice([15.0, 40.0, 120.0, 215.0]))
    light = np.zeros((height, width), np.float32)
    centre, size = random.uniform(0.2, 0.8, 2) * (width, height), random.uniform(0.1, 0.5) * min(height, width)
    turn, ratio = float(random.uniform(-20, 20)), random.uniform(0.6, 1.6)
    panes = int(random.integers(1, 4))
    for column in range(panes):
        for row in range(panes):
            place = centre + (np.array([column, row]) - (panes - 1) / 2) * size * np.array([1, ratio]) * 1.08
            box = cv2.boxPoints((tuple(place.tolist()), (size, size * ratio), turn))
            cv2.fillPoly(light, [np.rint(box).astype(np.int32)], 1.0)
    for _ in range(int(random.integers(0, 4))):
        place = tuple(int(value) for value in random.uniform(0, 1, 2) * (width, height))
        cv2.ellipse(light, place, (int(random.integers(4, 60)), int(random.integers(2, 12))),
                    float(random.uniform(0, 180)), 0, 360, 1.0, -1, cv2.LINE_AA)  # fmt: skip
    light = cv2.GaussianBlur(light, (0, 0), random.uniform(0.8, 20))
    scene = np.full((height, width, 3), tone, np.float32) + pictures.grain(random, height, width)
    scene = scene + (250 - tone) * random.uniform(0.1, 0.8) * light[:, :, None]
    return _shot(random, np.asarray(scene, np.float32))


def bricks(random: Random) -> Array:
    """A wall of bricks or tiles with joints."""
    height, width = _size(random)
    wide = random.uniform(50, 220)
    high, joint = wide * random.uniform(0.3, 1.0), random.uniform(2, 10)
    offset = float(random.choice([0.0, 0.5]))
    tone = np.full((height, width), random.uniform(100, 230), np.float32)
    start = random.uniform(0, wide, 2)
    for row, top in enumerate(np.arange(-start[0], height, high)):
        for left in np.arange(-start[1] - (row % 2) * offset * wide, width, wide):
            part = (
                slice(max(0, round(top)), max(0, round(top + high - joint))),
                slice(max(0, round(left)), max(0, round(left + wide - joint))),
            )
            tone[part] = random.uniform(60, 190)
    tone = tone * (1 + random.uniform(0.01, 0.1) * _noise(random, height, width, 2, 2))
    return _shot(random, _coloured(tone, (1.0, float(random.uniform(0.6, 1)), float(random.uniform(0.5, 1)))))


def textured(random: Random) -> Array:
    """A part of a real photograph from scikit-image: brick, grass, coins, stars, a person, a cat, a cup."""
    from skimage import data

    photo = np.asarray(getattr(data, str(random.choice(_PHOTOGRAPHS)))())
    photo = np.repeat(photo[:, :, None], 3, axis=2) if photo.ndim == 2 else photo[:, :, :3]
    height, width = (int(random.uniform(0.3, 1.0) * side) for side in photo.shape[:2])
    top, left = (
        int(random.integers(0, whole - part + 1)) for whole, part in zip(photo.shape[:2], (height, width), strict=True)
    )
    return np.ascontiguousarray(photo[top : top + height, left : left + width])


Kinds = dict[str, Callable[[Random], Array]]
SURFACES: Kinds = {kind.__name__: kind for kind in (wood, fabric, keyboard, coffee)}
UNSEEN: Kinds = {kind.__name__: kind for kind in (hand, window, bricks, textured)}
