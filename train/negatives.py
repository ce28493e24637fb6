"""Made images that are none of a model's classes, and made variants of its training images, for `train/known.py`.

Nothing here is read from another data set: letters are rendered from fonts, the rest is drawn, or cut from training
images. Each image depends only on the seed and its number.

For digits, an image is drawn large and brought into MNIST's form as a picture of a user is (`zoo/images/digits.py`):

- letters: of Latin, Greek and Cyrillic, and signs, but not those that look like a digit (B, I, l, O, S, Z, b, g, o, q)
- strokes: one to four random curves and polylines, as scribbles
- shapes: filled and outlined polygons, stars, ellipses, dots, grids, houses, crosses
- pairs: two digits, apart or touching, in the place of one
- parts: a piece of one digit or of two touching digits, cut vertically
- textures: smoothed noise of several sizes, gradients, uniform images

For photographs: noise, textures in colour, letters and shapes in one or two colours, scrambled and enlarged patches of
training images.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from zoo.errors import BadInput
from zoo.images.digits import to_mnist

Array = npt.NDArray[Any]
Random = np.random.Generator

SIDE = 160  # pixels of the square that digits, letters and shapes are drawn on
LETTERS = (
    "ACDEFGHJKLMNPQRTUVWXYacdefhijkmnprtuvwxyACDEFGHJKMNPRTUVWXY@#&%$?!+=<>{}ÄÖß§€æþΔΣΩπψλЖЮЯДЩ"  # plain ones twice
)
# Beginnings of the names of font files. Handwriting fonts are left out: they are among the evaluation sets.
FONT_FAMILIES = ("DejaVuS", "Liberation", "Free", "Cabin", "Comfortaa", "Carlito")
DIGITS = "0123456789"
PRINTED = 0.25  # of the varied digits
FONT_FOLDERS = ("/usr/share/fonts", "/usr/local/share/fonts", "C:/Windows/Fonts", "/Library/Fonts")


@dataclass(frozen=True)
class Made:
    """Made images and the kind of each."""

    images: Array  # `(N, H, W, C)`
    kinds: tuple[str, ...]  # N names


@cache
def fonts() -> tuple[str, ...]:
    """Font files of this machine that letters are rendered from; matplotlib brings DejaVu."""
    folders = [Path(folder) for folder in FONT_FOLDERS]
    try:
        import matplotlib

        folders.append(Path(matplotlib.get_data_path(), "fonts/ttf"))
    except ImportError:
        pass
    files: dict[str, str] = {}
    for folder in folders:
        for path in sorted(folder.rglob("*.[ot]tf")) if folder.is_dir() else ():
            if path.name.startswith(FONT_FAMILIES) and "Display" not in path.name:
                files.setdefault(path.name, str(path))
    return tuple(files[name] for name in sorted(files))


def negatives(form: str, images: Array, count: int, seed: int) -> Made:
    """`count` made images that are none of the classes.

    Args:
        form: `card.input.form`.
        images: uint8 `(N, H, W, C)` training images, for pairs, parts and patches.
    """
    kinds = DIGIT_KINDS if form == "digit" else PHOTO_KINDS
    names, shares = list(kinds), np.array([share for share, _ in kinds.values()])
    made, chosen = np.empty((count, *images.shape[1:]), np.uint8), []
    for number in range(count):
        random = np.random.default_rng([seed, number])
        name = names[int(random.choice(len(names), p=shares / shares.sum()))]
        made[number] = kinds[name][1](random, images)
        chosen.append(name)
    return Made(made, tuple(chosen))


def positives(form: str, images: Array, seed: int) -> Array:
    """A variant of every image, as other people's pictures of the same class vary."""
    vary = _digit_variant if form == "digit" else _photo_variant
    return np.stack([vary(np.random.default_rng([seed, number]), image) for number, image in enumerate(images)])


# Digits


def _digit_variant(random: Random, digit: Array) -> Array:
    """A printed digit, or one of a data set with other strokes and another slant; photographed and corrected."""
    is_printed = random.random() < PRINTED
    drawn = _rendered(random, DIGITS[int(random.integers(10))]) if is_printed else _enlarged(random, digit[:, :, 0])
    if random.random() < 0.5 and not is_printed:
        side = int(random.integers(2, 9))
        brush = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
        drawn = cv2.dilate(drawn, brush) if random.random() < 0.7 else cv2.erode(drawn, brush)
    drawn = _tilted(random, drawn, 10)
    if random.random() < 0.6:
        drawn = _photographed(random, drawn)
    return _corrected(drawn, digit[:, :, 0])


def _enlarged(random: Random, digit: Array) -> Array:
    """A digit on the large square, with smooth edges."""
    side = int(SIDE * random.uniform(0.7, 1))
    large = cv2.resize(digit, (side, side), interpolation=cv2.INTER_CUBIC)
    before = (SIDE - side) // 2
    return np.pad(large, (before, SIDE - side - before))


def _tilted(random: Random, drawn: Array, degrees: float) -> Array:
    height, width = drawn.shape
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    moved = corners + random.uniform(-0.08, 0.08, (4, 2)).astype(np.float32) * width
    drawn = np.asarray(cv2.warpPerspective(drawn, cv2.getPerspectiveTransform(corners, moved), (width, height)))
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), random.uniform(-degrees, degrees), 1)
    return np.asarray(cv2.warpAffine(drawn, turn, (width, height)), np.uint8)


def _photographed(random: Random, drawn: Array) -> Array:
    """Ink on paper with uneven light, blur and noise."""
    cover = np.pad(drawn, 20).astype(np.float32) / 255
    side = cover.shape[0]
    paper, ink = random.uniform(150, 250), random.uniform(10, 90)
    light = 1 + random.uniform(-0.12, 0.12) * np.linspace(-1, 1, side, dtype=np.float32)[:, np.newaxis]
    photo = (paper + (ink - paper) * cover) * light
    photo = cv2.GaussianBlur(photo, (0, 0), random.uniform(0.3, 1.5)) + random.normal(
        0, random.uniform(0, 6), cover.shape
    )
    return np.clip(photo, 0, 255).astype(np.uint8)


def _corrected(drawn: Array, otherwise: Array | None = None) -> Array:
    """As a user's picture reaches the network; one that the correction refuses is only resized."""
    try:
        return to_mnist(np.ascontiguousarray(drawn)[:, :, np.newaxis])[0]
    except BadInput:
        small = cv2.resize(drawn, (28, 28), interpolation=cv2.INTER_AREA) if otherwise is None else otherwise
        return small[:, :, np.newaxis]


def _finished(random: Random, drawn: Array) -> Array:
    """A drawing in the form of MNIST; a part of them without correction, as arrays from elsewhere."""
    if random.random() < 0.75:
        return _corrected(_photographed(random, drawn) if random.random() < 0.2 else drawn)
    margin = int(random.integers(0, SIDE // 5))
    small = cv2.resize(drawn[margin : SIDE - margin, margin : SIDE - margin], (28, 28), interpolation=cv2.INTER_AREA)
    return (255 - small if random.random() < 0.3 else small)[:, :, np.newaxis]


def _letter(random: Random) -> Array:
    text = LETTERS[int(random.integers(len(LETTERS)))]
    if random.random() < 0.15:
        text += LETTERS[int(random.integers(len(LETTERS)))]
    return _rendered(random, text)


def _rendered(random: Random, text: str) -> Array:
    """Text in any of the fonts, in the middle of the large square."""
    from PIL import Image, ImageDraw, ImageFont

    files, size = fonts(), int(random.integers(40, 90))
    font: Any = ImageFont.truetype(files[int(random.integers(len(files)))], size) if files else None
    page = Image.new("L", (SIDE, SIDE), 0)
    font = font or ImageFont.load_default(size)
    place, width = (SIDE / 2, SIDE / 2), int(random.integers(0, 3))
    ImageDraw.Draw(page).text(place, text, fill=255, font=font, anchor="mm", stroke_width=width)
    return np.asarray(page, np.uint8)


def _strokes(random: Random) -> Array:
    page, width = np.zeros((SIDE, SIDE), np.uint8), int(random.integers(3, 17))
    count = int(random.integers(1, 5))
    for _ in range(count):
        points = random.uniform(25, SIDE - 25, (int(random.integers(2 if count > 1 else 4, 7)), 2))  # a line is a one
        line = _curve(points) if random.random() < 0.6 else points
        cv2.polylines(page, [line.astype(np.int32)], bool(random.random() < 0.15), 255, width, cv2.LINE_AA)
    return page


def _curve(points: npt.NDArray[np.float64], steps: int = 12) -> npt.NDArray[np.float64]:
    """A smooth line through points (Catmull-Rom)."""
    padded = np.concatenate([points[:1], points, points[-1:]])
    t = np.linspace(0, 1, steps)[:, np.newaxis]
    parts = []
    for a, b, c, d in zip(padded, padded[1:], padded[2:], padded[3:], strict=False):
        parts.append(b + 0.5 * t * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a))))
    return np.concatenate(parts)


def _shape(random: Random) -> Array:
    page, middle = np.zeros((SIDE, SIDE), np.uint8), SIDE // 2
    filled, width, size = random.random() < 0.45, int(random.integers(3, 15)), int(random.integers(25, 62))

    def outline(points: npt.NDArray[np.float64]) -> None:
        line = points.astype(np.int32)
        if filled:
            cv2.fillPoly(page, [line], 255)
        else:
            cv2.polylines(page, [line], True, 255, width, cv2.LINE_AA)

    match int(random.integers(7)):
        case 0:
            half = int(size * random.uniform(0.4, 1))
            corner = (middle - size, middle - half), (middle + size, middle + half)
            cv2.rectangle(page, *corner, 255, -1 if filled else width)
        case 1:
            sides = int(random.integers(3, 9 if filled else 6))  # the outline of more sides is a zero
            angles = np.linspace(0, 2 * np.pi, sides, endpoint=False) + random.uniform(0, 6)
            outline(np.c_[middle + size * np.cos(angles), middle + size * np.sin(angles)])
        case 2:
            angles = np.linspace(0, 2 * np.pi, 10, endpoint=False)
            radius = np.where(np.arange(10) % 2, size * 0.4, size)
            outline(np.c_[middle + radius * np.sin(angles), middle - radius * np.cos(angles)])
        case 3:  # filled, because an outline is a zero
            cv2.ellipse(page, (middle, middle), (size, int(size * random.uniform(0.3, 1))), 0, 0, 360, 255, -1)
        case 4:
            for _ in range(int(random.integers(3, 15))):
                x, y = (int(value) for value in random.integers(20, SIDE - 20, 2))
                cv2.circle(page, (x, y), int(random.integers(3, 18)), 255, -1 if random.random() < 0.7 else 3)
        case 5:
            for number in range(int(random.integers(2, 6))):
                at = int(25 + number * random.uniform(15, 30))
                cv2.line(
                    page, (18, at), (SIDE - 18, int(at + random.uniform(-25, 25))), 255, int(random.integers(3, 10))
                )
            for number in range(int(random.integers(0, 5))):
                at = int(25 + number * random.uniform(15, 30))
                cv2.line(
                    page, (at, 18), (int(at + random.uniform(-25, 25)), SIDE - 18), 255, int(random.integers(3, 10))
                )
        case _:
            left, right = middle - size, middle + size
            if random.random() < 0.5:  # a cross
                cv2.line(page, (left, middle), (right, middle), 255, width)
                cv2.line(page, (middle, left), (middle, right), 255, width)
            else:  # a house
                cv2.rectangle(page, (left, middle), (right, right), 255, width)
                roof = np.array([[left, middle], [middle, left], [right, middle]], np.int32)
                cv2.polylines(page, [roof], False, 255, width)
    return page


def _line_of_grid(random: Random, number: int) -> tuple[int, int]:
    at = int(25 + number * random.uniform(15, 30))
    return at, int(at + random.uniform(-25, 25))


def _pair(random: Random, digits: Array, gap: tuple[float, float] = (-9, 3)) -> tuple[Array, Array]:
    """Two digits side by side, enlarged; and float32 `(2, H, W)`, the ink of each."""
    inks = []
    for index in random.integers(len(digits), size=2):
        digit = digits[int(index), :, :, 0]
        columns = np.flatnonzero(digit.max(0) > 60)
        inks.append(digit[:, columns[0] : columns[-1] + 1] if len(columns) else digit)
    start = max(2, inks[0].shape[1] + round(random.uniform(*gap)))
    page = np.zeros((2, 40, 8 + start + max(inks[0].shape[1], inks[1].shape[1] + start)), np.uint8)
    for number, (ink, x) in enumerate(zip(inks, (4, 4 + start), strict=True)):
        y = 6 + int(random.integers(-2, 3))
        page[number, y : y + 28, x : x + ink.shape[1]] = ink
    large = np.stack([cv2.resize(ink, None, fx=4, fy=4, interpolation=cv2.INTER_CUBIC) for ink in page])
    return large.max(0), large


def _pair_as_one(random: Random, digits: Array) -> Array:
    drawn, _ = _pair(random, digits)
    if random.random() < 0.5:
        return _corrected(drawn, cv2.resize(drawn, (28, 28), interpolation=cv2.INTER_AREA))
    side = max(drawn.shape)
    before = [(side - size) // 2 for size in drawn.shape]
    square = np.pad(drawn, [(b, side - size - b) for b, size in zip(before, drawn.shape, strict=True)])
    return _placed(square)


def _placed(drawn: Array) -> Array:
    """The ink, scaled to MNIST's 20 pixels and centred, without other corrections: also what these refuse."""
    x, y, width, height = cv2.boundingRect((drawn > 60).astype(np.uint8))
    if not width:
        return np.zeros((28, 28, 1), np.uint8)
    factor = 20 / max(width, height)
    size = max(1, round(width * factor)), max(1, round(height * factor))
    ink = cv2.resize(drawn[y : y + height, x : x + width], size, interpolation=cv2.INTER_AREA)
    page = np.zeros((28, 28), np.uint8)
    top, left = (28 - size[1]) // 2, (28 - size[0]) // 2
    page[top : top + size[1], left : left + size[0]] = ink
    return np.asarray(cv2.convertScaleAbs(page, alpha=255 / max(1, int(page.max()))), np.uint8)[:, :, np.newaxis]


def _part(random: Random, digits: Array) -> Array:
    """A vertical piece of two touching digits that is not one whole digit."""
    for _ in range(20):
        drawn, inks = _pair(random, digits)
        width = drawn.shape[1]
        cuts = np.sort(random.uniform(0, width, 2)) if random.random() < 0.5 else _one_cut(random, width)
        lean = random.uniform(-0.35, 0.35)
        columns = np.arange(width)[np.newaxis] + lean * (np.arange(drawn.shape[0])[:, np.newaxis] - drawn.shape[0] / 2)
        inside = (columns >= cuts[0]) & (columns < cuts[1])
        total = (inks > 100).sum((1, 2)).astype(float)
        kept = ((inks > 100) & inside).sum((1, 2)).astype(float)
        if kept.sum() < 0.15 * total.min():
            continue
        main = int(kept.argmax())
        purity, whole = kept[main] / kept.sum(), kept[main] / max(total[main], 1)
        if purity < 0.8 or whole < 0.75:
            return _placed(np.where(inside, drawn, 0).astype(np.uint8))
    return _pair_as_one(random, digits)


def _one_cut(random: Random, width: int) -> npt.NDArray[np.float64]:
    at = random.uniform(0.1, 0.9) * width
    return np.array([-1e4, at] if random.random() < 0.5 else [at, 1e4])


def _texture(random: Random, side: int = 28) -> npt.NDArray[np.float32]:
    """float32 `(side, side)`, 0 to 1."""
    kind = random.random()
    if kind < 0.15:  # pixels of their own
        noise = random.normal(0.5, random.uniform(0.05, 0.6), (side, side))
        return np.clip(noise if random.random() < 0.5 else random.random((side, side)), 0, 1).astype(np.float32)
    if kind < 0.25:  # a gradient, or nothing
        slope = np.add.outer(np.linspace(0, random.uniform(-1, 1), side), np.linspace(0, random.uniform(-1, 1), side))
        return np.clip(random.uniform(0, 1) + slope, 0, 1).astype(np.float32)
    values = np.zeros((side, side), np.float32)
    for size in (2, 3, 5, 8, 14, side):
        grain = random.normal(0, 1, (size, size)).astype(np.float32)
        values += random.uniform(0, 1) * cv2.resize(grain, (side, side), interpolation=cv2.INTER_CUBIC)
    values = (values - values.min()) / (np.ptp(values) + 1e-6)
    if random.random() < 0.3:
        values = (values > random.uniform(0.3, 0.7)).astype(np.float32)
    return np.asarray(values * random.uniform(0.4, 1), np.float32)


def _grey_texture(random: Random, _: Array) -> Array:
    return (255 * _texture(random)).astype(np.uint8)[:, :, np.newaxis]


Maker = Callable[[Random, Array], Array]
DIGIT_KINDS: dict[str, tuple[float, Maker]] = {  # name → share, function
    "letters": (0.31, lambda random, _: _finished(random, _tilted(random, _letter(random), 12))),
    "strokes": (0.13, lambda random, _: _finished(random, _strokes(random))),
    "shapes": (0.14, lambda random, _: _finished(random, _tilted(random, _shape(random), 180))),
    "pairs": (0.1, _pair_as_one),
    "parts": (0.2, _part),
    "textures": (0.12, _grey_texture),
}

# Photographs


def _photo_variant(random: Random, photo: Array) -> Array:
    """Mirrored, moved by up to an eighth, and with other light and contrast."""
    height, width = photo.shape[:2]
    varied = photo[:, ::-1] if random.random() < 0.5 else photo
    scale, limit = random.uniform(0.9, 1.15), 0.09
    move = np.array(
        [
            [scale, 0, width * ((1 - scale) / 2 + random.uniform(-limit, limit))],
            [0, scale, height * ((1 - scale) / 2 + random.uniform(-limit, limit))],
        ]
    )
    warped = cv2.warpAffine(np.ascontiguousarray(varied), move, (width, height), borderMode=cv2.BORDER_REFLECT_101)
    values = warped.reshape(photo.shape).astype(np.float32)
    if random.random() < 0.5:
        values = (values - values.mean()) * random.uniform(0.8, 1.2) + values.mean() + random.uniform(-20, 20)
    return np.clip(values, 0, 255).astype(np.uint8)


def _fitted(grey_or_colour: npt.NDArray[Any], like: Array) -> Array:
    """Float values 0 to 1, `(h, w)` or `(h, w, 3)`, as an image of the shape of `like`."""
    height, width, channels = like.shape
    values = cv2.resize(grey_or_colour.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
    values = values if values.ndim == 3 else np.repeat(values[:, :, np.newaxis], 3, axis=2)
    values = values[:, :, :channels] if channels >= 3 else values.mean(2, keepdims=True)
    image = np.clip(255 * values, 0, 255).astype(np.uint8)
    full = np.full((height, width, channels), 255, np.uint8)  # a fourth channel is opaque
    full[:, :, : image.shape[2]] = image
    return full


def _colour_noise(random: Random, images: Array) -> Array:
    shape = images.shape[1:3]
    if random.random() < 0.5:
        return _fitted(random.random((*shape, 3)), images[0])
    return _fitted(random.random(3) + random.normal(0, random.uniform(0, 0.5), (*shape, 3)), images[0])


def _colour_texture(random: Random, images: Array) -> Array:
    side = max(images.shape[1:3])
    if random.random() < 0.4:
        return _fitted(_texture(random, side), images[0])
    mixed = np.stack([_texture(random, side) for _ in range(3)], 2) @ random.dirichlet(np.ones(3), 3)
    return _fitted(mixed, images[0])


def _drawing(random: Random, images: Array) -> Array:
    """A letter, a shape or strokes in one colour on another, or white on black."""
    make = (_letter, _letter, _letter, _shape, _strokes)[int(random.integers(5))]
    drawn = make(random)
    margin = int(random.integers(0, SIDE // 4))
    cover = _tilted(random, drawn, 20)[margin : SIDE - margin, margin : SIDE - margin] / np.float32(255)
    if random.random() < 0.5:
        return _fitted(cover if random.random() < 0.7 else 1 - cover, images[0])
    paper, ink = random.random((2, 3))
    return _fitted(paper + (ink - paper) * cover[:, :, np.newaxis], images[0])


def _scrambled(random: Random, images: Array) -> Array:
    """The sixteenths of a training image in another order, some upside down."""
    image, parts = images[int(random.integers(len(images)))], 4
    height, width = image.shape[0] // parts, image.shape[1] // parts
    places = [(row * height, column * width) for row in range(parts) for column in range(parts)]
    result: Array = image.copy()
    for (y, x), source in zip(places, random.permutation(len(places)), strict=True):
        from_y, from_x = places[int(source)]
        patch = image[from_y : from_y + height, from_x : from_x + width]
        result[y : y + height, x : x + width] = patch[::-1] if random.random() < 0.5 else patch
    return np.asarray(result)


def _enlarged_patch(random: Random, images: Array) -> Array:
    """A small piece of a training image, enlarged or repeated: blurred colours without an object."""
    image = images[int(random.integers(len(images)))]
    side = int(random.integers(3, max(4, min(image.shape[:2]) // 4)))
    y, x = (int(random.integers(0, size - side + 1)) for size in image.shape[:2])
    patch = np.ascontiguousarray(image[y : y + side, x : x + side])
    if random.random() < 0.4:
        repeats = [-(-size // side) for size in image.shape[:2]]
        repeated: Array = np.tile(patch, (*repeats, 1))
        return repeated[: image.shape[0], : image.shape[1]]
    large = cv2.resize(patch, image.shape[1::-1], interpolation=cv2.INTER_CUBIC)
    return np.asarray(large, np.uint8).reshape(image.shape)


PHOTO_KINDS: dict[str, tuple[float, Maker]] = {
    "drawings": (0.4, _drawing),
    "textures": (0.22, _colour_texture),
    "noise": (0.1, _colour_noise),
    "scrambled": (0.14, _scrambled),
    "patches": (0.14, _enlarged_patch),
}
