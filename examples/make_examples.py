"""Draw the ten example pictures, each digit in a different style, and docs/examples.png, which shows all of them.

    python examples/make_examples.py

The digits are this project's own hand-written skeletons (tests/pictures/digit_shapes.py), so nobody else holds rights
to the pictures. The seeds are fixed, so the script always writes the same pictures.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER.parent))  # a script does not have the repository's root on its path

from tests.pictures import digit_pictures as pictures  # noqa: E402
from tests.pictures import digit_shapes as shapes  # noqa: E402
from zoo.images.digits import to_mnist  # noqa: E402

Array = npt.NDArray[Any]
WHITE, BLACK = (255, 255, 255), (0, 0, 0)


def pen_in_shadow(random: np.random.Generator) -> Array:
    """A ballpoint pen on paper, in the shadow of a hand."""
    shape = shapes.draw(0, random, 210, 0.035, variant=0)
    scene = pictures.painted(pictures.placed(shape, 360, 480), pictures.paper(random, 360, 480), (30, 45, 130))
    lit = scene * pictures.light(random, 360, 480, depth=0.3, shadow=0.45)
    return pictures.photographed(random, np.asarray(lit, np.float32), 2.5, 0.9)


def felt_pen(random: np.random.Generator) -> Array:
    shape = shapes.draw(1, random, 220, 0.06, variant=1)
    scene = pictures.painted(pictures.placed(shape, 360, 360), pictures.paper(random, 360, 360), (40, 40, 45))
    return _photographed(random, scene, 0.2)


def _photographed(random: np.random.Generator, scene: Array, depth: float) -> Array:
    lit = scene * pictures.light(random, scene.shape[0], scene.shape[1], depth)
    return pictures.photographed(random, np.asarray(lit, np.float32), 2.0, 0.8)


def chalk(random: np.random.Generator) -> Array:
    return cv2.resize(pictures.chalk(random, shapes.draw(2, random, 280, 0.07, variant=0)), (480, 384))


def white_on_transparent(random: np.random.Generator) -> Array:
    return _transparent(shapes.draw(3, random, 200, 0.08, variant=0), WHITE)


def black_on_transparent(random: np.random.Generator) -> Array:
    return _transparent(shapes.draw(4, random, 200, 0.07, variant=1), BLACK)


def _transparent(shape: Array, ink: tuple[int, int, int]) -> Array:
    return np.dstack([np.full((*shape.shape, 3), ink, np.uint8), np.rint(shape * 255).astype(np.uint8)])


def pen_on_squared_paper(random: np.random.Generator) -> Array:
    sheet = pictures.paper(random, 400, 400)
    for place in range(11, 400, 32):
        sheet[place : place + 1] = sheet[:, place : place + 1] = (160, 178, 200)
    scene = pictures.painted(
        pictures.placed(shapes.draw(5, random, 200, 0.05, variant=1), 400, 400), sheet, (35, 35, 45)
    )
    return _photographed(random, scene, 0.3)


def marker(random: np.random.Generator) -> Array:
    shape = shapes.draw(6, random, 280, 0.15, variant=0, pressure=0.05)
    scene = pictures.painted(pictures.placed(shape, 400, 360), pictures.paper(random, 400, 360), (175, 30, 45))
    return _photographed(random, scene, 0.25)


def thin_line(random: np.random.Generator) -> Array:
    """A thin line drawn with a mouse."""
    shape = shapes.draw(7, random, 180, 0.014, variant=1, pressure=0)
    return pictures.painted((pictures.placed(shape, 280, 280) > 0.4).astype(np.float32), WHITE, BLACK)


def coloured(random: np.random.Generator) -> Array:
    shape = shapes.draw(8, random, 200, 0.09, variant=0)
    return pictures.painted(pictures.placed(shape, 320, 320), (46, 74, 158), (250, 214, 70))


def small_in_corner(random: np.random.Generator) -> Array:
    shape = shapes.draw(9, random, 60, 0.08, variant=0)
    return pictures.painted(pictures.placed(shape, 480, 640, (0.82, 0.2)), WHITE, (50, 50, 60))


EXAMPLES: dict[str, Callable[[np.random.Generator], Array]] = {
    "zero.jpg": pen_in_shadow,
    "one.jpg": felt_pen,
    "two.jpg": chalk,
    "three.png": white_on_transparent,
    "four.png": black_on_transparent,
    "five.jpg": pen_on_squared_paper,
    "six.jpg": marker,
    "seven.png": thin_line,
    "eight.png": coloured,
    "nine.png": small_in_corner,
}


TILE = 200  # side of a tile of the overview, in pixels


def overview() -> Array:
    """All ten pictures, RGB, each above the network's input for it; transparency is shown as a chessboard."""
    columns = []
    for seed, make in enumerate(EXAMPLES.values()):
        pixels = make(np.random.default_rng(seed))
        columns.append(
            np.vstack([_tile(_on_chessboard(pixels), cv2.INTER_AREA), _tile(to_mnist(pixels)[0], cv2.INTER_NEAREST)])
        )
    return np.vstack([np.hstack(columns[:5]), np.hstack(columns[5:])])


def _on_chessboard(pixels: Array) -> Array:
    if pixels.shape[2] == 3:
        return pixels
    rows, columns = np.indices(pixels.shape[:2]) // 12
    chessboard = np.where((rows + columns) % 2, 205, 170)[:, :, None]
    alpha = pixels[:, :, 3:] / 255
    return np.asarray(pixels[:, :, :3] * alpha + chessboard * (1 - alpha), np.uint8)


def _tile(pixels: Array, interpolation: int) -> Array:
    scale = TILE / max(pixels.shape[:2])
    size = (round(pixels.shape[1] * scale), round(pixels.shape[0] * scale))
    small = cv2.resize(pixels, size, interpolation=interpolation)
    small = small if small.ndim == 3 else cv2.cvtColor(small, cv2.COLOR_GRAY2RGB)
    tile = np.full((TILE, TILE, 3), 255, np.uint8)
    top, left = (TILE - small.shape[0]) // 2, (TILE - small.shape[1]) // 2
    tile[top : top + small.shape[0], left : left + small.shape[1]] = small
    return tile


def main() -> None:
    overview_path = FOLDER.parent / "docs" / "examples.png"
    cv2.imwrite(str(overview_path), cv2.cvtColor(overview(), cv2.COLOR_RGB2BGR), [cv2.IMWRITE_PNG_COMPRESSION, 9])
    for seed, (name, make) in enumerate(EXAMPLES.items()):
        pixels = make(np.random.default_rng(seed))
        bgr = cv2.cvtColor(pixels, cv2.COLOR_RGBA2BGRA if pixels.shape[2] == 4 else cv2.COLOR_RGB2BGR)
        options = [cv2.IMWRITE_JPEG_QUALITY, 85] if name.endswith("jpg") else [cv2.IMWRITE_PNG_COMPRESSION, 9]
        cv2.imwrite(str(FOLDER / name), bgr, options)
        print(name, (FOLDER / name).stat().st_size, "bytes")


if __name__ == "__main__":
    main()
