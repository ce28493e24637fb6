"""Shadows, creases and lines of forms are no writing; and digits that are thin, faint, blurred or cut tightly are."""

from pathlib import Path

import cv2
import numpy as np
import pytest

import zoo
from tests.pictures import digit_pictures as pictures
from tests.pictures import digit_shapes as shapes
from zoo.classification import prepare_all
from zoo.columns import make_columns
from zoo.errors import BadInput
from zoo.images.digits import DOUBT, NO_WRITING, found_ink, to_mnist
from zoo.rows import make_rows

Array = np.ndarray
EXAMPLES = Path(__file__).parents[3] / "examples"


def _doubts(image: Array) -> list[str]:
    """Why the answer is unsure, or why there is none."""
    try:
        corrections = to_mnist(image)[1]
    except BadInput as error:
        return [str(error)]
    return [correction for correction in corrections if correction.startswith(DOUBT)]


def _sheet(random: np.random.Generator, height: int = 400, width: int = 500) -> Array:
    return np.asarray(pictures.paper(random, height, width), np.float32)


def _turns(image: Array) -> list[Array]:
    turned = [np.ascontiguousarray(np.rot90(image, turn)) for turn in range(4)]
    return turned + [np.ascontiguousarray(one[:, ::-1]) for one in turned]


@pytest.mark.parametrize("softness", [1, 4, 15, 40])
def test_edge_of_a_shadow_is_no_writing(softness: int) -> None:
    random = np.random.default_rng(softness)
    for number in range(8):
        angle, place = random.uniform(0, 2 * np.pi), random.uniform(-0.3, 0.3)
        y, x = np.mgrid[0:400, 0:500].astype(np.float32)
        along = (x / 500 - 0.5) * np.cos(angle) + (y / 400 - 0.5) * np.sin(angle) - place
        shade = 1 - random.uniform(0.2, 0.6) / (1 + np.exp(np.clip(-along * 400 / softness, -30, 30)))
        scene = _sheet(random) * shade[:, :, None]
        image = pictures.photographed(random, np.asarray(scene, np.float32), 3.0, 0.8)
        assert _doubts(image), number


@pytest.mark.parametrize("paper", ["light", "dark"])
@pytest.mark.parametrize("beyond", [0, 40])
def test_corner_of_a_cell_is_no_seven(paper: str, beyond: int) -> None:
    """Nor another digit, whichever way it is turned; `beyond` is how far its edges go on beyond the corner."""
    page = np.full((300, 420, 3), 255, np.uint8)
    cv2.line(page, (0, 60), (330 + beyond, 70), (60, 60, 60), 4, cv2.LINE_AA)
    cv2.line(page, (330, 70 - beyond), (325, 299), (60, 60, 60), 4, cv2.LINE_AA)
    for image in _turns(page if paper == "light" else 255 - page):
        with pytest.raises(BadInput, match="lines of the paper"):
            to_mnist(image)


@pytest.mark.parametrize("thick", [2, 5, 12])
def test_straight_strokes_that_end_in_the_image_are_writing(thick: int) -> None:
    for points in (
        [(120, 60), (260, 60), (260, 330)],  # 7, with an upright stem
        [(200, 60), (200, 340)],  # 1
        [(120, 60), (120, 200), (270, 200), (270, 60), (270, 340)],  # 4
    ):
        page = np.full((400, 400, 3), 255, np.uint8)
        cv2.polylines(page, [np.array(points, np.int32)], False, (20, 20, 20), thick, cv2.LINE_AA)
        assert not _doubts(page)


@pytest.mark.parametrize("digit", range(10))
def test_tight_crop_of_a_thin_digit_is_writing(digit: int) -> None:
    random = np.random.default_rng(digit)
    shape = shapes.draw(digit, random, 300, 0.03)
    x, y, width, height = cv2.boundingRect((shape > 0.5).astype(np.uint8))
    page = pictures.painted(shape[y : y + height, x : x + width], (255, 255, 255), (0, 0, 0))
    assert not _doubts(page)


@pytest.mark.parametrize("margin", [0, 2, 12])
def test_tight_crop_of_a_thin_one_is_writing(margin: int) -> None:
    page = np.full((240, 40, 3), 255, np.uint8)
    cv2.line(page, (22, margin), (18, 239 - margin), (20, 20, 20), 6, cv2.LINE_AA)
    assert not _doubts(page[:, 14 - margin : 26 + margin])


@pytest.mark.parametrize("count", [1, 3])
def test_ones_on_ruled_paper_are_no_lines(count: int) -> None:
    page = np.full((400, 500, 3), 245, np.uint8)
    for place in range(40, 400, 80):
        cv2.line(page, (0, place), (499, place + 5), (170, 180, 200), 2, cv2.LINE_AA)
    for index in range(count):
        cv2.line(page, (200 + 60 * index, 110), (195 + 60 * index, 215), (20, 20, 60), 5, cv2.LINE_AA)
    assert not any("lines" in doubt for doubt in _doubts(page))


@pytest.mark.parametrize("digit", range(10))
@pytest.mark.parametrize("blur", [2, 6, 10])
def test_blurred_digit_is_writing(digit: int, blur: int) -> None:
    """The edges of a digit out of focus are as wide as its strokes, but beside them is paper."""
    random = np.random.default_rng(100 * blur + digit)
    shape = pictures.placed(shapes.draw(digit, random, 250, 0.1), 400, 500)
    scene = pictures.painted(shape, _sheet(random), (40, 45, 60)) * pictures.light(random, 400, 500)
    image = pictures.photographed(random, np.asarray(scene, np.float32), 3.0, blur)
    assert to_mnist(image)[0].any()


@pytest.mark.parametrize("digit", range(10))
def test_strokes_that_a_dry_pen_broke_are_joined(digit: int) -> None:
    """Whole strokes and broken ones have the same box; specks at a distance stay out."""
    random = np.random.default_rng(digit)
    shape = pictures.placed(shapes.draw(digit, random, 250, 0.08), 400, 400)
    _, _, whole = _box(shape)
    for place in range(-80, 480, 25):
        cv2.line(shape, (place - 90, 0), (place + 90, 399), 0, 5)
    broken, pieces, size = _box(shape)
    assert pieces > 3
    assert size >= 0.9 * whole
    page = pictures.painted(shape, (255, 255, 255), (0, 0, 0))
    cv2.circle(page, (15, 15), 4, (0, 0, 0), -1)
    ink = found_ink(page)
    assert ink is not None
    assert (ink[broken > 0] == 255).mean() > 0.9
    assert (ink[:30, :30] != 255).all()


def _box(shape: Array) -> tuple[Array, int, int]:
    """The mask of a shape, how many pieces it has, and the longer side of its box."""
    mask = (shape > 0.5).astype(np.uint8)
    return mask, cv2.connectedComponents(mask)[0] - 1, max(cv2.boundingRect(mask)[2:])


def test_digit_that_the_border_cuts_off_is_doubtful() -> None:
    random = np.random.default_rng(5)
    shape = shapes.draw(8, random, 200, 0.08)
    page = pictures.painted(pictures.placed(shape, 400, 500, (0.5, 0.85)), (255, 255, 255), (0, 0, 0))
    assert _doubts(page)


@pytest.mark.parametrize(("degrees", "is_one"), [(90, True), (60, True), (120, True), (40, False), (10, False)])
def test_level_stroke_is_no_one(degrees: int, is_one: bool) -> None:
    page = np.full((400, 500, 3), 240, np.uint8)
    reach = 100 * np.array([np.cos(np.radians(degrees)), -np.sin(np.radians(degrees))])
    ends = [tuple(np.rint(np.array([250, 200]) + side * reach).astype(int).tolist()) for side in (-1, 1)]
    cv2.line(page, ends[0], ends[1], (30, 30, 30), 8, cv2.LINE_AA)
    doubts = _doubts(page)
    assert not doubts if is_one else any("more level" in doubt or "times as wide" in doubt for doubt in doubts)


def test_photograph_is_none_of_the_classes_and_no_error() -> None:
    """In rows and in columns alike, whatever the network says."""
    model = zoo.load("mnist14k", "cpu")
    row = model.predict([EXAMPLES / "cat.jpg"])[0]
    assert any(correction.startswith(NO_WRITING) for correction in row.corrections)
    assert (row.known, row.unsure, row.error) == (False, True, None)
    table = zoo.Classifier(model)({"path": [str(EXAMPLES / "cat.jpg"), str(EXAMPLES / "seven.png")]})
    assert table["known"].to_pylist() == [False, True]
    sure = np.ones(1, np.float32)
    prepared = list(prepare_all([EXAMPLES / "cat.jpg"], model.card.input))
    probabilities = np.eye(10, dtype=np.float32)[:1]
    assert make_rows(model.card, prepared, probabilities, 3, sure)[0].known is False
    assert make_columns(model.card, prepared, probabilities, 3, sure).known.tolist() == [False]
