"""Digits that something disturbs are read, or the answer is unsure; and other digits are left as they are."""

import zlib
from typing import Any

import cv2
import numpy as np
import pytest

from tests.pictures import digit_crops as crops
from tests.pictures import digit_obstacles as obstacles
from tests.pictures import digit_pictures as pictures
from tests.pictures import digit_shapes as shapes
from zoo.images.digits import to_mnist

LEAST = {"dry": 0.75, "celled": 0.8, "lined": 0.8, "outlined": 0.8}  # right; 0.9 of the other kinds


def _random(name: str, number: int) -> np.random.Generator:
    return np.random.default_rng([zlib.crc32(name.encode()), number])


def _shape(random: np.random.Generator, digit: int, printed: bool) -> np.ndarray:
    if printed:
        return crops.printed(digit, str(random.choice(crops.fonts())), 200)
    return shapes.draw(digit, random, 200, float(random.choice([0.04, 0.07, 0.11])))


def _page(shape: np.ndarray) -> np.ndarray:
    return pictures.painted(shape, (255, 255, 255), (0, 0, 0))


@pytest.mark.slow
@pytest.mark.parametrize("kind", obstacles.OBSTACLES)
def test_disturbed_digit_is_classified(model: Any, kind: str) -> None:
    count, right, wrong_and_sure = 30, 0, 0
    for number in range(count):
        random = _random(f"obstacle {kind}", number)
        digit = (number // 2) % 10
        shape = _shape(random, digit, number % 2 == 1)
        row = model.predict([obstacles.OBSTACLES[kind](random, shape)])[0]
        right += row.label == str(digit)
        wrong_and_sure += row.error is None and row.label != str(digit) and not row.unsure
    assert right >= LEAST.get(kind, 0.9) * count
    assert wrong_and_sure <= 0.15 * count


@pytest.mark.parametrize("digit", range(10))
def test_ring_and_underline_change_nothing_else(digit: int) -> None:
    shape = pictures.placed(crops.cut(shapes.draw(digit, _random("ring", digit), 150, 0.08), (0.0,) * 4), 400, 400)
    plain = to_mnist(_page(shape))[0]
    x, y, width, height = cv2.boundingRect((shape > 0.5).astype(np.uint8))
    ring, box, line = (_page(shape) for _ in range(3))
    cv2.ellipse(ring, (200, 200), (150, 170), 0, 0, 345, (0,) * 3, 6)
    cv2.rectangle(box, (60, 50), (340, 350), (0,) * 3, 3)
    cv2.line(line, (x - 20, y + height + 30), (x + width + 20, y + height + 33), (0,) * 3, 7)
    around = "removed a ring or box around the digit"
    for note, page in ((around, ring), ("removed bars around", box), ("removed an underline", line)):
        result, notes = to_mnist(page)
        assert any(each.startswith(note) for each in notes)
        assert np.abs(result.astype(int) - plain).mean() < 1


def test_digits_without_marks_are_not_changed() -> None:
    """No part of a digit counts as a ring, underline, outline, or line of the paper."""
    for number in range(60):
        random = _random("unmarked", number)
        shape = shapes.draw(number % 10, random, 200, float(random.choice([0.03, 0.06, 0.1, 0.15])))
        for page in (_page(shape), _page(crops.cut(shape, (0.0,) * 4))):
            notes = to_mnist(page)[1]
            assert not [
                note for note in notes if note.startswith(("removed a", "removed lines", "removed bars", "filled"))
            ]


@pytest.mark.parametrize("colour", [0, 114, 255])
def test_bars_are_removed(colour: int) -> None:
    random = _random("bars", colour)
    for digit in range(10):
        shape = crops.cut(shapes.draw(digit, random, 150, 0.08), (0.12,) * 4)
        page = pictures.painted(shape, (225, 220, 200), (40, 40, 90))
        plain = to_mnist(page)[0]
        padded = cv2.copyMakeBorder(page, 0, 0, 60, 60, cv2.BORDER_CONSTANT, value=(colour,) * 3)
        result, notes = to_mnist(padded)
        assert notes[0].startswith("removed bars around")
        assert np.abs(result.astype(int) - plain).mean() < 6


def test_outline_is_filled() -> None:
    for digit in (2, 3, 5, 7):
        shape = shapes.draw(digit, _random("outline", digit), 240, 0.16)
        depth = cv2.distanceTransform((shape > 0.5).astype(np.uint8), cv2.DIST_L2, 5)
        outline = ((depth > 0) & (depth < 5)).astype(np.float32)
        result, notes = to_mnist(_page(outline))
        assert "filled an outline" in notes
        assert np.abs(result.astype(int) - to_mnist(_page(shape))[0]).mean() < 12


@pytest.mark.parametrize("count", [1, 2, 4])
def test_lines_of_the_paper_are_removed(model: Any, count: int) -> None:
    results = []
    for digit in range(10):
        page = _page(pictures.placed(shapes.draw(digit, _random("lines", digit), 200, 0.1), 400, 400))
        for row in np.linspace(0, 400, count + 2)[1:-1].astype(int) + 13:
            cv2.line(page, (0, int(row)), (399, int(row) + 6), (0,) * 3, 3)
        result, notes = to_mnist(page)
        assert "removed lines of the paper" in notes
        results.append(result)
    assert (model.run(np.stack(results)).probabilities.argmax(1) == np.arange(10)).sum() >= 9
