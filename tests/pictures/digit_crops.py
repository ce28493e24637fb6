"""Random images of digits, cropped tightly: as a detector crops them, or a person with a mouse or scissors.

An image is a shape (from `digit_shapes.py`, or a printed digit) with narrow margins or none, in two colours, drawn or
photographed. The same seed gives the same image.
"""

from functools import cache
from pathlib import Path

import cv2
import numpy as np

from tests.pictures.digit_pictures import painted
from tests.pictures.digit_shapes import Array, Random

HEIGHTS = (16, 28, 40, 64, 100, 180, 300, 450)
PAIRS = (  # paper and ink: pen on white, chalk on black, and black on white and white on black as in paint programs
    ((235, 232, 225), (35, 35, 45)),
    ((30, 32, 34), (225, 225, 215)),
    ((255, 255, 255), (0, 0, 0)),
    ((0, 0, 0), (255, 255, 255)),
)


@cache
def fonts() -> tuple[str, ...]:
    """Font files of matplotlib: DejaVu Sans, Serif and Mono, from extra light to bold, upright and slanted."""
    import matplotlib

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    return tuple(sorted(str(path) for path in folder.glob("DejaVuS*.ttf") if "Display" not in path.name))


@cache
def printed(digit: int, font: str, size: int = 300) -> Array:
    """float32 coverage of a printed digit."""
    from PIL import Image, ImageDraw, ImageFont

    page = Image.new("L", (3 * size, 3 * size), 0)
    ImageDraw.Draw(page).text((size, size // 2), str(digit), font=ImageFont.truetype(font, size), fill=255)
    return np.asarray(page, np.float32) / 255


def cut(shape: Array, margins: tuple[float, float, float, float]) -> Array:
    """The shape with margins above, below, left and right, as shares of its longer side; negative ones cut the ink."""
    x, y, width, height = cv2.boundingRect((shape > 0.5).astype(np.uint8))
    side = max(width, height)
    above, below, left, right = (round(margin * side) for margin in margins)
    return np.pad(shape, side)[side + y - above : side + y + height + below, side + x - left : side + x + width + right]


def margins(random: Random) -> tuple[float, float, float, float]:
    """Random margins: none, a few percent on all sides, or on some sides only."""
    kind = random.random()
    if kind < 0.35:
        sides = np.zeros(4)
    elif kind < 0.5:
        sides = np.full(4, random.uniform(0, 0.03))
    elif kind < 0.75:
        sides = random.uniform(0, 0.12, 4) * (random.random(4) < 0.5)
    elif kind < 0.9:
        sides = random.uniform(0, 0.3, 4) * (random.random(4) < 0.6)
    else:
        sides = random.uniform(-0.02, 0.02, 4)
    above, below, left, right = sides.tolist()
    return above, below, left, right


def colours(random: Random) -> tuple[Array, Array]:
    """Paper and ink: a usual pair, or random colours that differ by 90 levels in one channel and by 25 on average."""
    if random.random() < 0.6:
        paper, ink = (np.array(colour, float) for colour in PAIRS[int(random.integers(len(PAIRS)))])
        return paper, ink
    while True:
        paper, ink = random.uniform(0, 255, 3), random.uniform(0, 255, 3)
        if abs(paper - ink).max() > 90 and abs((paper - ink).mean()) > 25:
            return paper, ink


def tight(random: Random, shape: Array) -> Array:
    """uint8 `(H, W, 3)`: the shape with narrow margins, 16 to 450 pixels high; a quarter of the images are widened.

    40 % are drawn; the others have light that changes by up to half, blur, noise and JPEG compression.
    """
    coverage = cut(shape, margins(random))
    height = int(random.choice(HEIGHTS))
    width = height * coverage.shape[1] / coverage.shape[0]
    if random.random() < 0.25:
        width = min(float(height), 1.5 * width)  # more would turn a one into a seven
    width = max(2, round(width))
    shrinks = max(coverage.shape) > max(height, width)
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    coverage = np.clip(cv2.resize(coverage, (width, height), interpolation=method), 0, 1)
    flat = painted(coverage, *colours(random))
    return flat if random.random() < 0.4 else photographed(random, flat)


def geometric(digit: int, width: float) -> Array:
    """float32 coverage of a digit of straight lines and arcs, 300 pixels high; `width` of its strokes as a share."""
    page = np.zeros((600, 600), np.uint8)
    thick = max(1, round(300 * width))
    for points in _LINES.get(digit, ()):
        cv2.polylines(page, [np.array(points, np.int32)], False, 255, thick, cv2.LINE_AA)
    for x, y, half_width, half_height, start, end in _ARCS.get(digit, ()):
        cv2.ellipse(page, (x, y), (half_width, half_height), 0, start, end, 255, thick, cv2.LINE_AA)
    return page.astype(np.float32) / 255


_LINES: dict[int, list[list[tuple[int, int]]]] = {
    1: [[(250, 200), (310, 150), (310, 450)]],
    2: [[(380, 258), (215, 450), (390, 450)]],
    4: [[(320, 150), (205, 350), (400, 350)], [(340, 260), (340, 450)]],
    5: [[(380, 150), (240, 150), (230, 285)]],
    6: [[(350, 150), (240, 280), (205, 360)]],
    7: [[(210, 150), (390, 150), (280, 450)]],
    9: [[(388, 235), (385, 350), (340, 450)]],
}
_ARCS: dict[int, list[tuple[int, int, int, int, int, int]]] = {  # centre, half axes, first and last angle
    0: [(300, 300, 95, 150, 0, 360)],
    2: [(300, 230, 85, 80, 180, 380)],
    3: [(290, 225, 85, 75, 200, 450), (290, 375, 95, 75, 270, 520)],
    5: [(285, 355, 100, 95, 235, 500)],
    6: [(300, 360, 95, 90, 0, 360)],
    8: [(300, 222, 75, 72, 0, 360), (300, 372, 92, 78, 0, 360)],
    9: [(300, 235, 88, 85, 0, 360)],
}


def detected(random: Random, digit: int, height: int, width: float) -> Array:
    """uint8 `(height, W, 3)`: a photograph of a `geometric` digit, cut to its ink's box as a detector does."""
    coverage = cut(geometric(digit, width), (0.0,) * 4)
    size = (max(1, round(coverage.shape[1] * height / coverage.shape[0])), height)
    ink = cv2.resize(coverage, size, interpolation=cv2.INTER_AREA)[:, :, None]
    slope = random.uniform(0, 0.25)
    light = np.linspace(1 - slope / 2, 1 + slope / 2, size[0])[None, :, None]
    scene = (205 - 165 * ink) * light * np.array([1, 0.97, 0.9])
    photo = np.clip(scene + random.normal(0, random.uniform(2, 6), scene.shape), 0, 255).astype(np.uint8)
    quality = int(random.choice([0, 70, 90]))  # 0: PNG
    if not quality:
        return photo
    data = cv2.imencode(".jpg", photo, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)


def photographed(random: Random, flat: Array) -> Array:
    """Add a photograph's light, blur, noise and, mostly, JPEG compression."""
    height, width = flat.shape[:2]
    angle = random.uniform(0, 2 * np.pi)
    y, x = np.mgrid[0:height, 0:width]
    along = (x / width - 0.5) * np.cos(angle) + (y / height - 0.5) * np.sin(angle)
    scene = flat * (1 + random.uniform(0, 0.5) * along)[:, :, None]
    blur = random.choice([0, 0.5, 1.0]) * min(1, height / 60)
    scene = cv2.GaussianBlur(scene, (0, 0), blur) if blur else scene
    scene = scene + random.normal(0, random.choice([0, 2, 5, 9]), scene.shape)
    scene = scene + random.normal(0, random.choice([0, 2, 4]), scene.shape[:2])[:, :, None]
    photo = np.clip(scene, 0, 255).astype(np.uint8)
    quality = int(random.choice([0, 45, 70, 90]))  # 0: PNG
    if not quality:
        return photo
    data = cv2.imencode(".jpg", photo, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)
