"""zoo/images/levels.py: two levels are separated under smooth light, and their shape decides which is the ink."""

import cv2
import numpy as np
import pytest

from tests.pictures import digit_crops as crops
from tests.pictures import digit_pictures as pictures
from tests.pictures import digit_shapes as shapes
from zoo.images.digits import DOUBT, to_mnist
from zoo.images.levels import LOG_LIGHT, SMALL, Levels, main_axis, reduced, two_levels


def levels_of(pixels: np.ndarray) -> Levels | None:
    small = reduced(pixels, SMALL)
    return two_levels(pixels, small, main_axis(LOG_LIGHT[small]))


def tight(digit: int, seed: int = 0, width: float = 0.1) -> np.ndarray:
    """float32 `(H, W)` coverage of a digit that touches all four sides."""
    shape = shapes.draw(digit, np.random.default_rng([seed, digit]), 200, width)
    return crops.cut(shape, (0.0,) * 4)


@pytest.mark.parametrize("digit", range(10))
@pytest.mark.parametrize(
    ("paper", "ink"),
    [
        ((255, 255, 255), (0, 0, 0)),
        ((20, 22, 25), (220, 230, 225)),
        ((200, 40, 40), (40, 120, 60)),
        ((90,) * 3, (160,) * 3),
    ],
)
def test_amount_is_coverage_for_any_colours(digit, paper, ink):
    coverage = tight(digit)
    found = levels_of(pictures.painted(coverage, paper, ink))
    assert found is not None
    assert found.dark == (sum(ink) < sum(paper))
    assert np.abs(found.amount / found.contrast - coverage).mean() < 0.02


@pytest.mark.parametrize("digit", range(10))
def test_light_is_removed(digit):
    coverage = tight(digit)
    height, width = coverage.shape
    y, x = np.mgrid[-0.5 : 0.5 : height * 1j, -0.5 : 0.5 : width * 1j]
    light = (1 + 0.6 * x - 0.3 * y) * (1 - 0.5 * (x * x + y * y))
    scene = pictures.painted(coverage, (190, 190, 185), (40, 42, 60)) * light[:, :, None]
    found = levels_of(np.clip(scene, 0, 255).astype(np.uint8))
    assert found is not None
    assert found.dark
    amount = found.amount / found.contrast
    assert np.abs(amount[coverage < 0.1]).mean() < 0.1
    assert np.abs(amount[coverage > 0.9] - 1).mean() < 0.1


def test_dark_and_light_ink_give_the_same_levels():
    for digit in range(10):
        light = pictures.painted(tight(digit), (0, 0, 0), (255, 255, 255))
        first, second = levels_of(light), levels_of(255 - light)
        assert first is not None
        assert second is not None
        assert (first.dark, second.dark) == (False, True)
        np.testing.assert_allclose(first.amount, second.amount, atol=0.01)


def sheet(random: np.random.Generator) -> np.ndarray:
    """Paper with a digit on a dark table, which is visible on two sides."""
    page = np.full((400, 400, 3), 50, np.uint8)
    shape = pictures.placed(shapes.draw(2, random, 180, 0.08), 340, 340)
    page[:340, :340] = pictures.painted(shape, (225, 225, 220), (50, 50, 55))
    return page


def shadow(random: np.random.Generator) -> np.ndarray:
    shape = pictures.placed(shapes.draw(2, random, 180, 0.05), 400, 400)
    page = pictures.painted(shape, (225, 225, 220), (50, 50, 55)).astype(np.float32)
    page[np.add.outer(np.arange(400), np.arange(400)) > 420] *= 0.5
    return page.astype(np.uint8)


def margin(random: np.random.Generator) -> np.ndarray:
    shape = pictures.placed(shapes.draw(2, random, 180, 0.05), 400, 400)
    return pictures.painted(shape, (225, 225, 220), (50, 50, 55))


def lattice(random: np.random.Generator) -> np.ndarray:
    page = margin(random)
    page[::25] = 90
    page[:, ::25] = 90
    return page


@pytest.mark.parametrize("scene", [sheet, shadow, margin, lattice])
def test_other_images_have_no_two_levels(scene):
    for seed in range(5):
        assert levels_of(scene(np.random.default_rng(seed))) is None


def test_flat_and_noisy_images_have_no_levels():
    random = np.random.default_rng(0)
    assert levels_of(np.full((50, 60, 3), 128, np.uint8)) is None
    assert levels_of(random.integers(0, 256, (200, 200, 1), dtype=np.uint8)) is None
    assert levels_of(random.normal(128, 4, (200, 200, 3)).astype(np.uint8)) is None


@pytest.mark.parametrize(("width", "sure"), [(30, True), (68, False)])
def test_shape_like_paper_is_doubtful(width, sure):
    """A stripe from corner to corner; the wider one is as thick as the corners beside it."""
    page = cv2.line(np.zeros((100, 100, 1), np.uint8), (0, 100), (100, 0), (255,), width)
    found = levels_of(page)
    assert found is not None
    assert found.sure == sure
    assert any(note.startswith(DOUBT) for note in to_mnist(page)[1]) != sure
