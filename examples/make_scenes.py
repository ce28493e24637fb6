"""Draw the example pictures for the models of photographs: ship.jpg, airplane.jpg and truck.jpg.

    python examples/make_scenes.py

The drawings are the project's own. cat.jpg is a part of a photograph by Stéfan van der Walt in the public domain
(CC0), `skimage.data.chelsea()`, made smaller.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

FOLDER = Path(__file__).resolve().parent
SIDE, DRAWN = 256, 1024  # pixels of the picture, and of the drawing that is made smaller

Colour = tuple[int, int, int]


class Scene:
    """A drawing in coordinates from 0 to 1, on a background that fades from one colour to another."""

    def __init__(self, top: Colour, bottom: Colour) -> None:
        share = np.linspace(0, 1, DRAWN)[:, None, None]
        rows = np.array(top) * (1 - share) + np.array(bottom) * share
        self.image = Image.fromarray(rows.repeat(DRAWN, axis=1).astype(np.uint8))
        self.pen = ImageDraw.Draw(self.image)

    def polygon(self, points: Sequence[tuple[float, float]], colour: Colour) -> None:
        self.pen.polygon([(x * DRAWN, y * DRAWN) for x, y in points], fill=colour)

    def box(self, x0: float, y0: float, x1: float, y1: float, colour: Colour) -> None:
        self.pen.rectangle([x0 * DRAWN, y0 * DRAWN, x1 * DRAWN, y1 * DRAWN], fill=colour)

    def ellipse(self, x: float, y: float, rx: float, ry: float, colour: Colour) -> None:
        self.pen.ellipse([(x - rx) * DRAWN, (y - ry) * DRAWN, (x + rx) * DRAWN, (y + ry) * DRAWN], fill=colour)

    def photographed(self, random: np.random.Generator) -> Image.Image:
        small = self.image.resize((SIDE, SIDE), Image.Resampling.LANCZOS).filter(ImageFilter.GaussianBlur(1.2))
        noisy = np.asarray(small, np.float32) + random.normal(0, 5, (SIDE, SIDE, 1))
        return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))


def ship(random: np.random.Generator) -> Scene:
    scene = Scene((120, 170, 215), (205, 222, 235))
    scene.image.paste(Scene((40, 85, 130), (20, 55, 95)).image, (0, int(DRAWN * 0.62)))
    scene.polygon([(0.08, 0.56), (0.92, 0.53), (0.84, 0.69), (0.17, 0.69)], (60, 20, 25))
    scene.polygon([(0.08, 0.56), (0.92, 0.53), (0.91, 0.57), (0.09, 0.595)], (235, 235, 235))
    scene.polygon([(0.25, 0.57), (0.25, 0.46), (0.62, 0.46), (0.62, 0.56)], (240, 240, 238))
    scene.box(0.32, 0.39, 0.55, 0.46, (225, 225, 225))
    scene.box(0.42, 0.27, 0.49, 0.39, (190, 60, 40))
    scene.box(0.696, 0.3, 0.704, 0.55, (90, 90, 90))
    for window in range(8):
        scene.ellipse(0.288 + 0.04 * window, 0.508, 0.008, 0.008, (60, 80, 110))
    for x, y in zip(random.uniform(0, 1, 300), random.uniform(0.7, 1, 300), strict=True):
        scene.box(x, y, x + 0.05, y + 0.002, (70, 115, 155))
    return scene


def airplane(random: np.random.Generator) -> Scene:
    scene = Scene((70, 130, 205), (190, 215, 240))
    for x, y, radius in zip(
        random.random(12), random.uniform(0.55, 1, 12), random.uniform(0.04, 0.12, 12), strict=True
    ):
        scene.ellipse(x, y, radius * 1.6, radius / 2, (225, 234, 244))
    scene.polygon([(0.42, 0.47), (0.60, 0.47), (0.40, 0.82), (0.31, 0.82)], (150, 155, 165))
    body = [(0.08, 0.47), (0.15, 0.43), (0.80, 0.41), (0.92, 0.46), (0.82, 0.52), (0.2, 0.535)]
    scene.polygon(body, (238, 240, 243))
    scene.polygon([(0.2, 0.535), (0.82, 0.52), (0.7, 0.55), (0.3, 0.56)], (180, 184, 192))
    scene.polygon([(0.08, 0.46), (0.05, 0.28), (0.13, 0.28), (0.24, 0.44)], (205, 60, 50))
    scene.polygon([(0.44, 0.43), (0.52, 0.43), (0.40, 0.22), (0.35, 0.22)], (200, 205, 212))
    for window in range(14):
        scene.box(0.3 + 0.033 * window, 0.452, 0.313 + 0.033 * window, 0.466, (60, 80, 110))
    return scene


def truck(_: np.random.Generator) -> Scene:
    scene = Scene((175, 200, 220), (220, 228, 232))
    scene.box(0, 0.72, 1, 1, (95, 95, 98))
    scene.box(0, 0.62, 1, 0.72, (95, 125, 70))
    scene.box(0.08, 0.26, 0.66, 0.7, (236, 236, 232))
    scene.polygon([(0.68, 0.4), (0.84, 0.4), (0.93, 0.55), (0.93, 0.72), (0.68, 0.72)], (200, 40, 35))
    scene.polygon([(0.72, 0.44), (0.82, 0.44), (0.89, 0.56), (0.72, 0.56)], (120, 160, 190))
    scene.box(0.08, 0.69, 0.93, 0.745, (50, 50, 52))
    for x in (0.2, 0.34, 0.78):
        scene.ellipse(x, 0.76, 0.075, 0.075, (25, 25, 25))
        scene.ellipse(x, 0.76, 0.038, 0.038, (160, 160, 160))
    return scene


SCENES: dict[str, Callable[[np.random.Generator], Scene]] = {"ship": ship, "airplane": airplane, "truck": truck}

if __name__ == "__main__":
    for name, draw in SCENES.items():
        random = np.random.default_rng(3)
        draw(random).photographed(random).save(FOLDER / f"{name}.jpg", quality=85)
