"""Shapes of digits, drawn from hand-written strokes or from an MNIST image.

`SKELETONS` has a few ways to write each digit: strokes of points in a unit square, x to the right and y down. Smooth
curves go through the points.
"""

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Stroke = list[tuple[float, float]]
Random = np.random.Generator

_RING = [(0.55, 0.02), (0.25, 0.1), (0.05, 0.45), (0.15, 0.85), (0.45, 1.0), (0.8, 0.85), (0.92, 0.5), (0.8, 0.15)]

SKELETONS: dict[int, list[list[Stroke]]] = {
    0: [
        [[*_RING, (0.5, 0.0)]],
        [[(0.6, 0.04), (0.35, 0.0), (0.15, 0.25), (0.1, 0.6), (0.25, 0.95), (0.5, 1.0), (0.75, 0.75), (0.8, 0.4),
          (0.68, 0.1), (0.5, 0.02), (0.4, 0.06)]],
        [[(0.4, 0.0), (0.1, 0.2), (0.0, 0.55), (0.2, 0.95), (0.55, 1.0), (0.95, 0.8), (1.0, 0.4), (0.75, 0.05),
          (0.38, 0.02)]],
    ],
    1: [
        [[(0.5, 0.0), (0.5, 0.5), (0.5, 1.0)]],
        [[(0.3, 0.22), (0.42, 0.12), (0.55, 0.0)], [(0.55, 0.0), (0.54, 0.5), (0.52, 1.0)]],
        [[(0.58, 0.0), (0.52, 0.5), (0.42, 1.0)]],
    ],
    2: [
        [[(0.1, 0.25), (0.25, 0.05), (0.55, 0.0), (0.8, 0.15), (0.8, 0.38), (0.55, 0.68), (0.1, 1.0)],
         [(0.1, 1.0), (0.5, 0.97), (0.95, 0.98)]],
        [[(0.12, 0.2), (0.4, 0.0), (0.75, 0.08), (0.8, 0.35), (0.55, 0.7), (0.25, 0.93), (0.08, 0.9), (0.15, 0.78),
          (0.35, 0.82), (0.65, 0.97), (0.98, 0.9)]],
        [[(0.2, 0.12), (0.5, 0.0), (0.75, 0.14), (0.7, 0.45), (0.4, 0.8), (0.15, 1.0)],
         [(0.15, 1.0), (0.5, 0.93), (0.9, 1.0)]],
    ],
    3: [
        [[(0.15, 0.12), (0.45, 0.0), (0.75, 0.1), (0.75, 0.32), (0.4, 0.46)],
         [(0.4, 0.46), (0.75, 0.55), (0.85, 0.78), (0.6, 0.98), (0.1, 0.92)]],
        [[(0.1, 0.02), (0.45, 0.02), (0.8, 0.03)], [(0.8, 0.03), (0.6, 0.22), (0.4, 0.4)],
         [(0.4, 0.4), (0.75, 0.48), (0.85, 0.75), (0.55, 1.0), (0.1, 0.9)]],
        [[(0.2, 0.08), (0.55, 0.0), (0.78, 0.2), (0.6, 0.42), (0.36, 0.48), (0.62, 0.5), (0.82, 0.7), (0.62, 0.97),
          (0.15, 0.95)]],
    ],
    4: [
        [[(0.25, 0.0), (0.2, 0.3), (0.12, 0.58)], [(0.12, 0.58), (0.5, 0.55), (0.9, 0.54)],
         [(0.72, 0.1), (0.68, 0.5), (0.62, 1.0)]],
        [[(0.65, 0.0), (0.35, 0.35), (0.05, 0.68)], [(0.05, 0.68), (0.5, 0.67), (0.98, 0.66)],
         [(0.66, 0.3), (0.65, 0.65), (0.64, 1.0)]],
        [[(0.15, 0.05), (0.12, 0.3), (0.2, 0.52), (0.5, 0.54), (0.78, 0.45)], [(0.8, 0.02), (0.76, 0.5), (0.7, 1.0)]],
    ],
    5: [
        [[(0.25, 0.05), (0.22, 0.25), (0.2, 0.45)],
         [(0.2, 0.45), (0.5, 0.36), (0.8, 0.52), (0.82, 0.8), (0.5, 1.0), (0.1, 0.92)],
         [(0.25, 0.05), (0.55, 0.03), (0.85, 0.0)]],
        [[(0.85, 0.02), (0.55, 0.03), (0.3, 0.04)], [(0.3, 0.04), (0.25, 0.22), (0.2, 0.42)],
         [(0.2, 0.42), (0.55, 0.38), (0.8, 0.6), (0.7, 0.9), (0.4, 1.0), (0.1, 0.9)]],
        [[(0.3, 0.1), (0.26, 0.3), (0.24, 0.44)],
         [(0.24, 0.44), (0.52, 0.4), (0.75, 0.58), (0.72, 0.85), (0.42, 1.0), (0.12, 0.95)],
         [(0.34, 0.04), (0.6, 0.02), (0.88, 0.0)]],
    ],
    6: [
        [[(0.7, 0.0), (0.38, 0.25), (0.15, 0.6), (0.22, 0.92), (0.5, 1.0), (0.8, 0.85), (0.78, 0.62), (0.5, 0.52),
          (0.22, 0.68)]],
        [[(0.55, 0.0), (0.25, 0.35), (0.12, 0.7), (0.3, 0.98), (0.65, 0.95), (0.78, 0.72), (0.55, 0.56), (0.28, 0.65),
          (0.18, 0.8)]],
        [[(0.85, 0.02), (0.5, 0.08), (0.18, 0.45), (0.15, 0.85), (0.45, 1.0), (0.8, 0.88), (0.85, 0.65), (0.55, 0.5),
          (0.2, 0.62)]],
    ],
    7: [
        [[(0.1, 0.05), (0.5, 0.03), (0.88, 0.0)], [(0.88, 0.0), (0.65, 0.45), (0.45, 1.0)]],
        [[(0.1, 0.06), (0.45, 0.03), (0.85, 0.02)], [(0.85, 0.02), (0.6, 0.45), (0.38, 1.0)],
         [(0.35, 0.52), (0.6, 0.5), (0.85, 0.49)]],
        [[(0.1, 0.2), (0.12, 0.06), (0.5, 0.04), (0.9, 0.03)], [(0.9, 0.03), (0.66, 0.4), (0.52, 1.0)]],
    ],
    8: [
        [[(0.75, 0.12), (0.5, 0.0), (0.22, 0.12), (0.28, 0.34), (0.55, 0.5), (0.8, 0.72), (0.7, 0.95), (0.42, 1.0),
          (0.18, 0.82), (0.35, 0.58), (0.65, 0.38), (0.78, 0.18), (0.7, 0.06)]],
        [[(0.5, 0.46), (0.25, 0.3), (0.3, 0.06), (0.55, 0.0), (0.75, 0.15), (0.68, 0.36), (0.5, 0.46), (0.25, 0.62),
          (0.18, 0.85), (0.45, 1.0), (0.75, 0.9), (0.78, 0.65), (0.5, 0.46)]],
    ],
    9: [
        [[(0.75, 0.2), (0.5, 0.02), (0.22, 0.12), (0.18, 0.38), (0.42, 0.5), (0.68, 0.38), (0.76, 0.18)],
         [(0.76, 0.18), (0.72, 0.6), (0.62, 1.0)]],
        [[(0.72, 0.08), (0.4, 0.02), (0.18, 0.22), (0.3, 0.45), (0.6, 0.42), (0.76, 0.12), (0.76, 0.5), (0.68, 0.85),
          (0.42, 1.0), (0.2, 0.92)]],
        [[(0.7, 0.12), (0.45, 0.0), (0.2, 0.2), (0.25, 0.42), (0.5, 0.46), (0.74, 0.24)],
         [(0.74, 0.1), (0.72, 0.55), (0.7, 1.0)]],
    ],
}  # fmt: skip


def curve(points: Stroke, steps: int = 24) -> Array:
    """float64 `(P, 2)`: a Catmull-Rom curve through the points."""
    known = np.asarray([points[0], *points, points[-1]], float)
    t = np.linspace(0, 1, steps, endpoint=False)[:, None]
    parts = []
    for a, b, c, d in zip(known, known[1:], known[2:], known[3:], strict=False):
        parts.append(0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3))
    return np.concatenate([*parts, known[-1:]])


def strokes(
    digit: int, random: Random, variant: int | None = None, skeletons: dict[int, list[list[Stroke]]] = SKELETONS
) -> list[Array]:
    """The digit's strokes, float64 `(P, 2)` each, about 0 to 1, with random slant, tilt, width and point positions."""
    variants = skeletons[digit]
    skeleton = variants[int(random.integers(len(variants))) if variant is None else variant]
    slant, tilt = random.normal(0.08, 0.12), random.normal(0, 0.06)
    stretch = random.uniform(0.62, 0.95)
    turn = np.array([[np.cos(tilt), -np.sin(tilt)], [np.sin(tilt), np.cos(tilt)]])
    moved = {point: np.asarray(point) + random.normal(0, 0.018, 2) for stroke in skeleton for point in stroke}
    result = []
    for stroke in skeleton:
        line = curve([tuple(moved[point]) for point in stroke]) - 0.5
        line[:, 0] = line[:, 0] * stretch - line[:, 1] * slant
        result.append(line @ turn.T + 0.5)
    return result


def draw(
    digit: int,
    random: Random,
    size: int = 240,
    width: float = 0.08,
    variant: int | None = None,
    pressure: float = 0.15,
    skeletons: dict[int, list[list[Stroke]]] = SKELETONS,
) -> Array:
    """Draw a digit `size` pixels high: float32 `(size·1.3, size·1.3)`, coverage 0 to 1.

    Args:
        width: of the stroke, as a share of `size`. pressure: how much the width varies along a stroke.
        skeletons: the ways to write each digit.
    """
    side = round(size * 1.3)
    big = np.zeros((side * 2, side * 2), np.uint8)
    for line in strokes(digit, random, variant, skeletons):
        phase, speed = random.uniform(0, 6.3), random.uniform(2, 6)
        places = np.rint((line * size + 0.15 * size) * 2 * 16).astype(int)
        for index in range(len(places) - 1):
            press = 1 + pressure * np.sin(phase + speed * index / len(places) * 3)
            thick = max(1, round(width * size * 2 * press))
            cv2.line(big, places[index].tolist(), places[index + 1].tolist(), 255, thick, cv2.LINE_AA, 4)
    return cv2.resize(big, (side, side), interpolation=cv2.INTER_AREA).astype(np.float32) / 255


def from_array(image: Array, size: int = 240) -> Array:
    """Enlarge an MNIST image, uint8 `(28, 28)`, to a smooth float32 coverage; the digit is `size` pixels high."""
    side = round(size * 1.4)
    large = cv2.resize(np.asarray(image, np.float32), (side, side), interpolation=cv2.INTER_CUBIC)
    large = cv2.GaussianBlur(large, (0, 0), side / 28 * 0.45)
    return np.clip((large - 110) / 30 * 28 / side * 8 + 0.5, 0, 1).astype(np.float32)
