"""Maps of evidence lie where they belong in the original: of a digit, a photograph, and each digit of a number."""

import cv2
import numpy as np
import pytest

from tests.pictures import digit_pictures, digit_shapes
from tests.support.paths import REPOSITORY
from zoo.card import Input, Resize
from zoo.classification import classify_prepared
from zoo.images.digits import to_mnist
from zoo.images.geometry import Geometry
from zoo.images.prepare import prepare, prepare_image
from zoo.inspection import plots
from zoo.inspection.activations import look_inside
from zoo.inspection.evidence import Placed, evidence, geometry_of, inputs_of
from zoo.inspection.overlay import Canvas, overlay, warped
from zoo.inspection.plots import write_figures
from zoo.loading import load
from zoo.rows import Prepared

PER_KIND = 8  # scenes
HALF_SQUARE = 3.5 / 20  # of a digit's size: occlusion covers squares of 7 pixels of the input


@pytest.fixture(scope="module")
def mnist14k():
    return load("mnist14k")


def scene(kind, random):
    """An image with a digit at a random place, size and angle; and its ink, float32 `(H, W)`, 0 to 1."""
    height, width = {
        "drawing": random.integers(120, 500, 2),
        "photo": random.integers(400, 900, 2),
        "large": random.integers(1050, 1300, 2),
        "bars": (300, 300),
        "blocks": (40, 40),
    }[kind]
    size = {"large": random.integers(80, 300), "blocks": 26}.get(kind, min(height, width) * random.uniform(0.25, 0.6))
    ink = digit_shapes.draw(int(random.integers(10)), random, round(size), width=random.uniform(0.08, 0.13))
    side = len(ink)
    turn = cv2.getRotationMatrix2D((side / 2, side / 2), random.uniform(-20, 20), 1)
    ink = cv2.warpAffine(ink, turn, (side, side))
    centre = [random.uniform(*sorted((side / 2 / length, 1 - side / 2 / length))) for length in (width, height)]
    ink = digit_pictures.placed(ink, height, width, centre)
    if kind in ("photo", "large"):
        ground = digit_pictures.paper(random, height, width) * digit_pictures.light(random, height, width)
        image = digit_pictures.painted(ink, ground, digit_pictures.pen_colour(random))
        image = np.clip(image + random.normal(0, 3, image.shape), 0, 255).astype(np.uint8)
    else:
        image = digit_pictures.painted(ink, (250, 250, 250), (20, 20, 120))
    if kind == "bars":
        left, right = random.integers(40, 90, 2)
        image = cv2.copyMakeBorder(image, 0, 0, left, right, cv2.BORDER_CONSTANT, value=(30, 30, 30))
        ink = np.pad(ink, ((0, 0), (left, right)))
    if kind == "blocks":
        times = int(random.integers(3, 9))
        image, ink = (array.repeat(times, 0).repeat(times, 1) for array in (image, ink))
    return image, np.asarray(ink, np.float32)


def centre_of(amount):
    y, x = np.mgrid[: amount.shape[0], : amount.shape[1]] + 0.5
    return np.array([(amount * x).sum(), (amount * y).sum()]) / amount.sum()


@pytest.mark.parametrize(
    ("kind", "correction"),
    [
        ("drawing", "centred"),
        pytest.param("photo", "flattened the uneven background", marks=pytest.mark.slow),
        pytest.param("large", "cropped to", marks=pytest.mark.slow),
        ("bars", "removed bars"),
        ("blocks", "blocks to one pixel each"),
    ],
)
def test_input_and_map_of_a_digit_lie_on_its_ink(kind, correction, mnist14k):
    """Whatever the place, size and angle, and whichever corrections moved the digit."""
    random = np.random.default_rng(11)
    corrected = 0
    shares = []  # of the positive contributions, in the digit's box and half a square around it
    for _ in range(PER_KIND):
        image, ink = scene(kind, random)
        geometry = Geometry()
        pixels, corrections = to_mnist(image, geometry)
        plain, same = to_mnist(image)
        assert np.array_equal(pixels, plain)
        assert corrections == same
        corrected += any(correction in each for each in corrections)

        back, _ = warped(Placed((pixels[..., 0] / 255).astype(np.float32), geometry), *ink.shape)
        off = np.abs(centre_of(back) - centre_of(ink)) / (geometry.across, geometry.down)
        assert off.max() < 1, f"{off} pixels of the input"
        on_ink = back[cv2.dilate(ink, np.ones((2 * round(geometry.down) + 1,) * 2)) > 0.3].sum() / back.sum()
        assert on_ink > 0.97

        prepared = Prepared("scene", pixels, corrections)
        row = classify_prepared(mnist14k, [prepared])[0]
        found = evidence(mnist14k, inputs_of(mnist14k, image, prepared, row), [guess.label for guess in row.top_k[:2]])
        x, y, width, height = cv2.boundingRect((ink > 0.5).astype(np.uint8))
        beyond = round(HALF_SQUARE * max(width, height))
        for each in found:
            heat, _ = warped(each.maps[0], *ink.shape)
            box = heat[max(0, y - beyond) : y + height + beyond, max(0, x - beyond) : x + width + beyond]
            shares.append(box.sum() / heat.sum())
    assert min(shares[::2]) > 0.8, "the first guess"
    assert np.mean(shares[1::2]) > 0.9, "the second guess, for which empty paper may speak too"
    assert corrected >= PER_KIND // 2, "the scenes do not have what they are made for"


@pytest.mark.parametrize("kind", ["drawing", "large", "bars"])
def test_landmark_of_a_digit_maps_back(kind):
    """The ends of a cross, whose places are known, within a pixel of the input."""
    random = np.random.default_rng(7)
    for _ in range(5):
        height, width = (1500, 1100) if kind == "large" else (300, 260)
        arm = int(random.integers(60, 90))
        x, y = int(random.integers(arm + 5, width - arm - 5)), int(random.integers(arm + 5, height - arm - 5))
        image = np.full((height, width, 3), 255, np.uint8)
        cv2.line(image, (x, y - arm), (x, y + arm), (0, 0, 0), 13)
        cv2.line(image, (x - arm // 2, y), (x + arm // 2, y), (0, 0, 0), 13)
        if kind == "bars":
            image = cv2.copyMakeBorder(image, 0, 0, 60, 60, cv2.BORDER_CONSTANT, value=(0, 200, 0))
            x += 60
        geometry = Geometry()
        pixels, _ = to_mnist(image, geometry)
        rows, columns = np.flatnonzero((pixels[..., 0] > 127).any(1)), np.flatnonzero((pixels[..., 0] > 127).any(0))
        crossing = pixels[..., 0].astype(int).sum(axis=0).argmax(), pixels[..., 0].astype(int).sum(axis=1).argmax()
        to_image = geometry.matrix
        near = geometry.across + 7  # a pixel, and half the line's width
        for (column, row), (left, top) in (
            ((crossing[0], rows[0]), (x, y - arm)),
            ((crossing[0], rows[-1]), (x, y + arm)),
            ((columns[0], crossing[1]), (x - arm // 2, y)),
            ((columns[-1], crossing[1]), (x + arm // 2, y)),
        ):
            np.testing.assert_allclose(to_image @ (column, row, 1), (left, top), atol=near)
        np.testing.assert_allclose(to_image @ (*crossing, 1), (x, y), atol=geometry.across)


def test_image_in_mnist_form_is_its_own_input():
    pixels, _ = prepare(str(REPOSITORY / "examples" / "eight.png"), Input(28, 28, 1, "digit"))
    assert geometry_of(pixels, Input(28, 28, 1, "digit")) == Geometry()
    assert geometry_of(255 - pixels, Input(28, 28, 1, "digit")) == Geometry()


@pytest.mark.parametrize("size", [(64, 48), (48, 64), (100, 100), (32, 32), (200, 90)])
@pytest.mark.parametrize(
    ("resize", "fit"),
    [
        (None, "crop"),
        (None, "whole"),
        (Resize("exact", None, "bilinear", True), "crop"),
        (Resize("shortest", 40, "bilinear", True), "crop"),
    ],
)
def test_geometry_of_photographs_is_what_preparing_shows(size, resize, fit):
    """A ramp along each side: the pixels of the input have the values of their places in the image."""
    height, width = size
    expected = Input(32, 32, 3, "photo", resize)
    ramp = np.zeros((height, width, 3), np.uint8)
    ramp[:, :, 0], ramp[:, :, 1] = np.arange(height)[:, np.newaxis], np.arange(width)
    seen, _ = prepare(ramp, expected, fit)
    to_image = geometry_of(ramp, expected, fit).matrix
    for index in range(2, 30):
        for column, row, channel in ((16, index, 0), (index, 16, 1)):
            place = to_image @ (column, row, 1)
            if 2 <= place[0] < width - 2 and 2 <= place[1] < height - 2:
                assert abs(int(seen[row, column, channel]) - place[1 - channel]) <= 1.5


def number_page(digits=("seven.png", "three.png", "four.png"), scale=1):
    """A page with a number, uint8 `(H, W, 1)`."""
    page = np.full((200, 420, 1), 255, np.uint8)
    for place, name in enumerate(digits):
        pixels = prepare(str(REPOSITORY / "examples" / name), Input(28, 28, 1, "digit"))[0][..., 0]
        page[50:150, 20 + 130 * place : 120 + 130 * place, 0] = 255 - cv2.resize(pixels, (100, 100))
    return page.repeat(scale, 0).repeat(scale, 1)


@pytest.mark.parametrize("scale", [1, 5])
def test_each_digit_of_a_number_has_its_own_map(scale, mnist14k):
    page = number_page(scale=scale)
    prepared = Prepared("page", *prepare_image(page, mnist14k.card.input))
    row = classify_prepared(mnist14k, [prepared])[0]
    assert row.label == "734"
    inputs = inputs_of(mnist14k, page, prepared, row)
    ink = 255 - page[..., 0]
    for seen, digit in zip(inputs, row.digits, strict=True):
        assert mnist14k.card.labels[mnist14k.run(seen.pixels[np.newaxis]).logits.argmax()] == digit.label
        back, _ = warped(Placed((seen.pixels[..., 0] / 255).astype(np.float32), seen.geometry), *ink.shape)
        x0, y0, x1, y1 = digit.box
        own = np.zeros_like(ink)
        own[y0:y1, x0:x1] = ink[y0:y1, x0:x1]
        off = np.abs(centre_of(back) - centre_of(own)) / (seen.geometry.across, seen.geometry.down)
        assert off.max() < 1
    first, second = evidence(mnist14k, inputs, [guess.label for guess in row.top_k[:2]])
    assert first.label == "734"
    assert len(first.maps) == len(second.maps) == 3
    changed = [a != b for a, b in zip(first.label, second.label, strict=True)]
    for one, other, is_changed, digit in zip(first.maps, second.maps, changed, row.digits, strict=True):
        assert one.heat.max() == pytest.approx(1)
        assert np.array_equal(one.heat, other.heat) != is_changed
        x0, y0, x1, y1 = one.box
        room = 4 * one.geometry.across
        assert x0 > digit.box[0] - room
        assert x1 < digit.box[2] + room
        assert y0 > digit.box[1] - room
        assert y1 < digit.box[3] + room


def test_number_is_inspected_with_its_least_certain_digit(tmp_path, monkeypatch):
    cv2.imwrite(str(tmp_path / "number.png"), number_page())
    inside = look_inside("mnist14k", str(tmp_path / "number.png"))
    assert inside.guesses[0].label == "734"
    assert [len(each.maps) for each in inside.evidence] == [3, 3]
    assert inside.of_number == f" for digit {inside.digit + 1} of 3, the least certain"
    assert inside.card.labels[inside.probabilities.argmax()] == "734"[inside.digit]
    sentences, sheet = [], plots._sheet
    monkeypatch.setattr(plots, "_sheet", lambda *args: (sentences.append(args[3]), sheet(*args))[1])
    written = {path.name for path in write_figures(inside, tmp_path / "figures")}
    assert sentences[0].startswith(f"drawn{inside.of_number}; ")
    assert {"1-answer.png", "1-why.png", "4-maps-01-conv1.png"} <= written


def test_overlay_colours_the_place_and_darkens_the_rest():
    heat = np.zeros((32, 32), np.float32)
    heat[16:, :] = 1
    place = geometry_of(np.zeros((40, 100, 3), np.uint8), Input(32, 32, 3, "photo"))
    drawn = overlay(np.full((40, 100, 3), 200, np.uint8), [Placed(heat, place)])
    assert drawn.shape == (40, 100, 3)
    assert (drawn[:, :30] == 60).all()
    assert (drawn[:, 70:] == 60).all()
    assert (drawn[:15, 30:70] == 110).all()
    assert (drawn[30:, 30:70, 0] > drawn[30:, 30:70, 2] + 30).all()  # warm
    assert overlay(np.zeros((28, 28, 1), np.uint8), np.zeros((28, 28), np.float32)).shape == (28, 28, 3)


@pytest.mark.parametrize(
    ("place", "is_part"),
    [
        ((0.0, 0.0, 1.0), False),
        ((700.0, 300.0, 3.0), True),
        ((-60.0, 1450.0, 3.0), True),
        ((100.0, -300.0, 40.0), False),
    ],
)
def test_figure_of_a_small_digit_shows_its_surroundings(place, is_part):
    """A digit of 60 pixels in a photograph would be a dot; the drawn part has all of its map that is in the image."""
    image = np.zeros((1500, 1000, 3), np.uint8)
    left, top, scale = place
    size = 1000 if scale == 1 else 28
    maps = [Placed(np.ones((size, size), np.float32), Geometry(left, top, scale, scale))]
    canvas = Canvas(image, maps, 300)
    assert canvas.is_part == is_part
    assert max(canvas.picture.shape) == 300
    rows, columns = np.nonzero(canvas.draw(maps).any(axis=2))
    if is_part:
        x0, y0, x1, y1 = maps[0].box
        wide, high = (min(1000, x1) - max(0, x0)), (min(1500, y1) - max(0, y0))
        assert np.ptp(columns) + 1 == pytest.approx(wide / (1.7 * 84) * 300, abs=3)
        assert np.ptp(rows) + 1 == pytest.approx(high / (1.7 * 84) * 300, abs=3)
