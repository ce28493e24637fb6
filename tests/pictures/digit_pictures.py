"""Random images of digits as people make them: photographs of pen on paper, chalk, markers, drawings.

An image is a shape from `digit_shapes.py` in one of `STYLES`; the same seed gives the same image. Tests and benchmarks
classify them, and `examples/make_examples.py` draws the examples with the same functions.
"""

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np

from tests.pictures.digit_shapes import Array, Random


def placed(shape: Array, height: int, width: int, centre: tuple[float, float] = (0.5, 0.5)) -> Array:
    """The shape in an empty `(height, width)`, at a relative centre (x, y); what does not fit is cut off."""
    canvas = np.zeros((height, width), np.float32)
    top, left = round(centre[1] * height - shape.shape[0] / 2), round(centre[0] * width - shape.shape[1] / 2)
    y, x = max(0, top), max(0, left)
    part = shape[y - top : y - top + height - y, x - left : x - left + width - x]
    canvas[y : y + part.shape[0], x : x + part.shape[1]] = part
    return canvas


def _random_centre(random: Random, room: float) -> tuple[float, float]:
    return 0.5 + random.uniform(-room, room), 0.5 + random.uniform(-room, room)


def painted(coverage: Array, paper: Any, ink: Any) -> Array:
    """uint8 `(H, W, 3)`: ink over paper; both are colours, or arrays `(H, W, 3)`."""
    amount = coverage[:, :, None]
    mixed = np.asarray(paper, np.float32) * (1 - amount) + np.asarray(ink, np.float32) * amount
    return np.clip(np.rint(mixed), 0, 255).astype(np.uint8)


def light(random: Random, height: int, width: int, depth: float = 0.35, shadow: float = 0.0) -> Array:
    """float32 `(H, W, 1)`, 0 to 1: a gradient, a vignette and, with `shadow` > 0, the edge of a hand's shadow."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    x, y = x / width - 0.5, y / height - 0.5
    angle = random.uniform(0, 2 * np.pi)
    field = 1 - depth * (0.5 + x * np.cos(angle) + y * np.sin(angle))
    field *= 1 - random.uniform(0, 0.5) * (x * x + y * y)
    if shadow:
        angle, offset = random.uniform(0, 2 * np.pi), random.uniform(-0.25, 0.25)
        bend = random.uniform(-0.8, 0.8)
        along, across = x * np.cos(angle) + y * np.sin(angle), -x * np.sin(angle) + y * np.cos(angle)
        softness = random.choice([0.004, 0.02, 0.08])
        field *= 1 - shadow / (1 + np.exp(-np.clip((along + bend * across**2 - offset) / softness, -30, 30)))
    return np.clip(field, 0.02, 1)[:, :, None].astype(np.float32)


def grain(random: Random, height: int, width: int, strength: float = 3.0) -> Array:
    """float32 `(H, W, 1)`: the paper's texture, blotchy at several pixels."""
    noise = random.normal(0, 1, (max(1, height // 3), max(1, width // 3))).astype(np.float32)
    return strength * cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)[:, :, None]


def photographed(random: Random, scene: Array, noise: float = 4.0, blur: float = 0.8, quality: int = 80) -> Array:
    """The scene as a phone's photo: slight perspective, blur, sensor noise, JPEG compression."""
    height, width = scene.shape[:2]
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    moved = corners + random.uniform(-0.03, 0.03, (4, 2)).astype(np.float32) * (width, height)
    lens = cv2.getPerspectiveTransform(corners, moved.astype(np.float32))
    photo = cv2.warpPerspective(scene, lens, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    photo = cv2.GaussianBlur(photo, (0, 0), blur) if blur else photo
    noisy = photo + random.normal(0, noise, photo.shape) + random.normal(0, noise / 2, photo.shape[:2])[:, :, None]
    data = cv2.imencode(".jpg", np.clip(noisy, 0, 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)


def paper(random: Random, height: int, width: int) -> Array:
    """float32 `(H, W, 3)`: white or cream paper with grain."""
    tone = random.uniform(225, 250) * np.array([1, random.uniform(0.97, 1), random.uniform(0.88, 1)])
    return np.asarray(tone + grain(random, height, width), np.float32)


def pen_colour(random: Random) -> Array:
    """Black, blue, red, or pencil grey ink."""
    return np.array([[35, 35, 40], [30, 45, 130], [150, 30, 40], [95, 95, 100]][int(random.integers(4))], float)


def _pen(random: Random, shape: Array, shadow: float = 0.0, ground: Array | None = None, room: float = 0.12) -> Array:
    height, width = ((480, 640), (640, 480), (600, 600))[int(random.integers(3))]
    sheet = paper(random, height, width) if ground is None else ground[:height, :width]
    scene = painted(placed(shape, *sheet.shape[:2], _random_centre(random, room)), sheet, pen_colour(random))
    scene = scene * light(random, *sheet.shape[:2], depth=random.uniform(0.1, 0.5), shadow=shadow)
    return photographed(random, np.asarray(scene, np.float32), random.uniform(1, 6), random.uniform(0.4, 1.6))


def photo(random: Random, shape: Array) -> Array:
    return _pen(random, shape)


def shadowed(random: Random, shape: Array) -> Array:
    return _pen(random, shape, shadow=random.uniform(0.25, 0.6))


def squared(random: Random, shape: Array) -> Array:
    sheet = paper(random, 640, 640)
    step, tone = int(random.integers(24, 60)), random.uniform(150, 205)
    line = np.array([tone * 0.9, tone, min(255.0, tone * 1.12)])
    for place in range(int(random.integers(step)), 640, step):
        sheet[place : place + 1 + (step > 40)] = line
        sheet[:, place : place + 1 + (step > 40)] = line
    return _pen(random, shape, ground=sheet)


def ruled(random: Random, shape: Array) -> Array:
    sheet = paper(random, 640, 640)
    step, tone = int(random.integers(50, 110)), random.uniform(140, 200)
    for place in range(int(random.integers(step)), 640, step):
        sheet[place : place + 2] = [tone * 0.9, tone, min(255.0, tone * 1.15)]
    return _pen(random, shape, ground=sheet)


def chalk(random: Random, shape: Array) -> Array:
    height, width = 480, 600
    board = np.array([[30, 32, 34], [25, 55, 40]][int(random.integers(2))], np.float32)
    wiped = cv2.GaussianBlur(random.normal(0, 90, (height, width)).astype(np.float32), (0, 0), 14)[:, :, None]
    rough = np.clip(0.75 + random.normal(0, 0.22, (height, width)), 0.2, 1).astype(np.float32)
    cover = placed(shape, height, width, _random_centre(random, 0.12)) * rough
    scene = painted(cover, board + np.abs(wiped) + grain(random, height, width), (225, 225, 215))
    return photographed(random, np.asarray(scene * light(random, height, width), np.float32), 3.0, 0.9)


def marker(random: Random, shape: Array) -> Array:
    return _pen(random, cv2.dilate(shape, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (9, 9))), room=0.05)


def table_edge(random: Random, shape: Array) -> Array:
    """A sheet on a dark or wooden table; the table is visible on one or more sides."""
    height, width = 560, 560
    sheet = painted(
        placed(shape, height, width, _random_centre(random, 0.06)), paper(random, height, width), pen_colour(random)
    ).astype(np.float32)
    table = np.array([[45, 40, 38], [120, 85, 55], [70, 75, 85]][int(random.integers(3))], np.float32)
    wood = table + grain(random, height, width, 8)
    angle, sides = random.uniform(-0.12, 0.12), random.random(4) < 0.5
    sides[int(random.integers(4))] = True
    y, x = np.mgrid[0:height, 0:width] / height - 0.5
    u, v = x * np.cos(angle) - y * np.sin(angle), x * np.sin(angle) + y * np.cos(angle)
    reach = random.uniform(0.36, 0.46, 4)
    out = (
        (sides[0] & (u < -reach[0]))
        | (sides[1] & (u > reach[1]))
        | (sides[2] & (v < -reach[2]))
        | (sides[3] & (v > reach[3]))
    )
    scene = np.where(out[:, :, None], wood, sheet) * light(random, height, width)
    return photographed(random, np.asarray(scene, np.float32), random.uniform(1, 5), random.uniform(0.5, 1.3))


def canvas(random: Random, shape: Array) -> Array:
    """A paint program: hard or smooth edges, black on white or white on black."""
    side = int(max(random.choice([200, 280, 400, 600]), shape.shape[0] * 1.2))
    cover = placed(shape, side, side, _random_centre(random, 0.08))
    cover = (cover > 0.5).astype(np.float32) if random.random() < 0.5 else cover
    colours = ((255, 255, 255), (0, 0, 0))
    return painted(cover, *(colours if random.random() < 0.6 else colours[::-1]))


def off_centre(random: Random, shape: Array) -> Array:
    side = int(shape.shape[0] * random.uniform(1.6, 3.0))
    low = 0.5 * shape.shape[0] / side
    centre = (float(random.choice([low, 1 - low])), float(random.choice([low, 1 - low])))
    return painted(placed(shape, side, side, centre), (255, 255, 255), pen_colour(random))


def touching(random: Random, shape: Array) -> Array:
    """A drawing cropped to its ink, so that it touches all four borders."""
    x, y, width, height = cv2.boundingRect((shape > 0.5).astype(np.uint8))
    return painted(shape[y : y + height, x : x + width], (255, 255, 255), (0, 0, 0))


def transparent(random: Random, shape: Array) -> Array:
    """uint8 `(H, W, 4)`: white, black or coloured ink on transparency, which may hide any colour."""
    side = int(shape.shape[0] * random.uniform(1.05, 1.6))
    cover = placed(shape, side, side, _random_centre(random, 0.04))
    ink = [(255, 255, 255), (0, 0, 0), (200, 40, 30), (20, 60, 200)][int(random.integers(4))]
    pixels = np.zeros((side, side, 4), np.uint8)
    pixels[:, :, :3] = (0, 255)[int(random.integers(2))]
    pixels[cover > 0, :3] = ink
    pixels[:, :, 3] = np.rint(cover * 255)
    return pixels


def coloured(random: Random, shape: Array) -> Array:
    pairs = (
        ((250, 245, 130), (40, 70, 160)),
        ((30, 60, 190), (200, 20, 25)),
        ((255, 255, 255), (250, 215, 20)),
        ((40, 120, 60), (240, 220, 90)),
        ((250, 190, 200), (90, 20, 120)),
        ((120, 120, 255), (255, 90, 60)),
    )
    ground, ink = pairs[int(random.integers(len(pairs)))]
    if random.random() < 0.5:
        return painted(placed(shape, 400, 400, _random_centre(random, 0.06)), ground, ink)
    scene = painted(placed(shape, 480, 480, _random_centre(random, 0.1)), ground + grain(random, 480, 480), ink)
    return photographed(random, np.asarray(scene * light(random, 480, 480, 0.25), np.float32), 3.0, 0.8)


def tiny(random: Random, shape: Array) -> Array:
    """A digit of about a twentieth of the height of a large sheet."""
    height, width = 1800, 2400
    high = int(random.integers(90, 160))
    small = cv2.resize(shape, (high, high), interpolation=cv2.INTER_AREA)
    scene = painted(placed(small, height, width, _random_centre(random, 0.35)), (244, 243, 238), (40, 42, 60))
    scene = scene * light(random, height, width, 0.3)
    return photographed(random, np.asarray(scene, np.float32), 3.0, 0.8)


def huge(random: Random, shape: Array) -> Array:
    """Twelve megapixels; the digit has a quarter to two thirds of the height."""
    return np.asarray(cv2.resize(photo(random, shape), (4000, 3000), interpolation=cv2.INTER_CUBIC), np.uint8)


def low_resolution(random: Random, shape: Array) -> Array:
    side = int(random.choice([14, 16, 20, 24, 32]))
    small = cv2.resize(shape, (side, side), interpolation=cv2.INTER_AREA)
    return painted(small, (255, 255, 255), (0, 0, 0)) if random.random() < 0.5 else painted(small, (0,) * 3, (255,) * 3)


def framed(random: Random, shape: Array) -> Array:
    """A screenshot: a canvas with a thin border and a few pixels of the page around it."""
    pixels, page, gap = canvas(random, shape), int(random.integers(0, 14)), int(random.integers(1, 4))
    line = int(random.choice([0, 90, 170]))
    pixels = cv2.copyMakeBorder(pixels, gap, gap, gap, gap, cv2.BORDER_CONSTANT, value=(line,) * 3)
    return np.asarray(cv2.copyMakeBorder(pixels, page, page, page, page, cv2.BORDER_CONSTANT, value=(240,) * 3))


def specked(random: Random, shape: Array) -> Array:
    pixels = photo(random, shape) if random.random() < 0.5 else canvas(random, shape)
    dark = float(np.median(pixels)) > 100
    for _ in range(int(random.integers(4, 25))):
        place = (int(random.integers(pixels.shape[1])), int(random.integers(pixels.shape[0])))
        cv2.circle(pixels, place, int(random.integers(1, 4)), (40,) * 3 if dark else (220,) * 3, -1, cv2.LINE_AA)
    return pixels


def rounded(random: Random, shape: Array) -> Array:
    """uint8 `(H, W, 4)`: a photograph with transparent round corners."""
    pixels = photo(random, shape)
    height, width = pixels.shape[:2]
    alpha, r = np.zeros((height, width), np.uint8), 60
    cv2.rectangle(alpha, (r, 0), (width - r, height), 255, -1)
    cv2.rectangle(alpha, (0, r), (width, height - r), 255, -1)
    for centre in ((r, r), (width - r, r), (r, height - r), (width - r, height - r)):
        cv2.circle(alpha, centre, r, 255, -1, cv2.LINE_AA)
    return np.dstack([pixels, alpha])


Style = Callable[[Random, Array], Array]
STYLES: dict[str, Style] = {
    style.__name__: style
    for style in (
        photo, shadowed, squared, ruled, chalk, marker, table_edge, canvas, off_centre, touching, transparent, coloured,
        tiny, huge, low_resolution, framed, specked, rounded)
}  # fmt: skip
