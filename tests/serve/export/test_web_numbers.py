"""The page's reading of numbers (serve/web/src/numbers.ts, reading.ts) gives the texts and boxes of `Model.predict`."""

from base64 import b64decode, b64encode
from itertools import islice

import cv2
import numpy as np
import pytest

from tests.pictures import digit_pictures, digit_shapes, number_pictures
from tests.serve.export.test_web import WEB
from tests.support.browser import CHROMIUM, FLAGS
from zoo.classification import classify_prepared, prepare_all
from zoo.loading import load
from zoo.model import Model

pytestmark = [
    pytest.mark.slow,
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium"),
]

# The steps of the page: correct a single digit; where that is refused, or in doubt, read a number.
PREDICT = """async ([width, height, channels, pixels, card]) => {
    const source = {width, height, channels, data: Uint8Array.from(atob(pixels), (letter) => letter.charCodeAt(0))};
    let sizes = [];
    const run = async (images) => {
        sizes.push(images.length);
        const answers = await classify(images.map((image) => btoa(String.fromCharCode(...image.data))));
        return answers.map(([probabilities, known]) => ({probabilities: Float32Array.from(probabilities), known}));
    };
    let prepared;
    try {
        prepared = digits.toMnist(source);
    } catch (error) {
        if (!(error instanceof digits.SeveralDigits)) throw error;
        const number = await digits.readNumber(source, card, run);
        return number ? {...number, sizes, isDoubtful: false} : {error: error.message};
    }
    const [answer] = await run([prepared.image]);
    sizes = [];
    const isDoubtful = digits.mayBeRead(card, prepared, answer);
    const number = isDoubtful ? await digits.readNumber(source, card, run, answer) : null;
    if (number) return {...number, sizes, isDoubtful};
    const label = answer.probabilities.indexOf(Math.max(...answer.probabilities));
    return {text: String(label), digits: [], corrections: prepared.corrections, isDoubtful};
}"""


class Page:
    """The reading of numbers in a browser; the network runs in Python."""

    def __init__(self, page, model: Model) -> None:
        self._page, self._model = page, model
        self.has_known = True
        page.expose_function("classify", self._classify)
        page.add_script_tag(path=WEB / "static" / "digits.js")

    def _classify(self, images):
        pixels = [np.frombuffer(b64decode(image), np.uint8).reshape(28, 28, 1) for image in images]
        _, probabilities, known = self._model.run(np.stack(pixels))
        return [
            [row.tolist(), float(known[index]) if self.has_known else None] for index, row in enumerate(probabilities)
        ]

    def predict(self, picture, **changes):
        card = self._model.card
        calibration = {"unsure_below": card.calibration.unsure_below, "known_from": card.calibration.known_from}
        entry = {"labels": list(card.labels), "input": {"form": card.input.form}, **calibration, **changes}
        height, width, channels = picture.shape
        return self._page.evaluate(PREDICT, [width, height, channels, b64encode(picture.tobytes()).decode(), entry])


@pytest.fixture(scope="module")
def model():
    return load("mnist14k.plus", "cpu")


@pytest.fixture(scope="module")
def page(model):
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright, playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS) as browser:
        yield Page(browser.new_page(), model)


def _drawn(text, random, kind):
    shapes = [digit_shapes.draw(int(label), random, 240, random.uniform(0.07, 0.12)) for label in text]
    small = [cv2.resize(shape, (28, 28), interpolation=cv2.INTER_AREA) for shape in shapes]
    gaps = [kind(random) for _ in text[1:]]
    return number_pictures.written(random, [np.asarray(255 * shape, np.uint8) for shape in small], gaps)[0]


def _picture(text, random, kind, style):
    return digit_pictures.STYLES[style](random, _drawn(text, random, kind))


def _random_text(random, length):
    return "".join(map(str, random.integers(10, size=length)))


def _numbers():
    """Numbers of 2 to 6 digits, apart and touching."""
    for index in range(40):
        random = np.random.default_rng([23, index])
        kind = (number_pictures.apart, number_pictures.touching)[index % 2]
        style = number_pictures.STYLES[index // 2 % len(number_pictures.STYLES)]
        yield _picture(_random_text(random, 2 + index % 5), random, kind, style)


def _touching_pairs():
    """Pairs that are narrow enough for one digit; Python takes a few of them for one."""
    for index in range(10):
        random = np.random.default_rng([27, index])
        style = number_pictures.STYLES[index % len(number_pictures.STYLES)]
        yield _picture(_random_text(random, 2), random, number_pictures.touching, style)


def _with_marks():
    """Two groups of digits with a point, comma or minus between them, or far apart."""
    for index in range(8):
        random = np.random.default_rng([24, index])
        left, right = (_drawn(_random_text(random, 2), random, number_pictures.apart) for _ in range(2))
        height = max(left.shape[0], right.shape[0])
        left, right = (digit_pictures.placed(part, height, part.shape[1]) for part in (left, right))
        mark = np.zeros((height, 60), np.float32)
        if index % 4 == 0:
            mark[height // 2 + 18 : height // 2 + 30, 24:36] = 1
        elif index % 4 == 1:
            cv2.line(mark, (34, height // 2 + 16), (26, height // 2 + 34), 1.0, 7)
        elif index % 4 == 2:
            mark[height // 2 - 4 : height // 2 + 4, 12:48] = 1
        ink = np.concatenate([left, mark, right], axis=1)
        yield digit_pictures.painted(np.pad(ink, 30), (250, 248, 240), (40, 40, 70))


def _several_lines():
    for index in range(8):
        random = np.random.default_rng([25, index])
        lines = [_drawn(_random_text(random, 2 + line), random, number_pictures.apart) for line in range(2 + index % 2)]
        width = max(line.shape[1] for line in lines)
        ink = []
        for line in lines:
            rows = np.flatnonzero(line.max(axis=1) > 0.5)
            band = line[rows[0] : rows[-1] + 1]
            ink.append(np.pad(digit_pictures.placed(band, band.shape[0], width), ((20, 20), (0, 0))))
        yield digit_pictures.painted(np.pad(np.concatenate(ink), 20), (255, 255, 255), (20, 20, 20))


def _broken_and_flat():
    """Digits in several pieces, and a two that is much lower than its neighbours."""
    for gap in (6, 10):
        page = np.full((260, 420), 255, np.uint8)
        cv2.line(page, (70, 60), (62, 200), 0, 11)
        cv2.line(page, (160, 70), (152, 120), 0, 11)
        cv2.ellipse(page, (165, 158), (42, 40), 0, -110, 140, 0, 11)
        cv2.line(page, (166 + gap, 62), (222 + gap, 60), 0, 9)
        cv2.ellipse(page, (320, 140), (24, 18), 0, -180, 60, 0, 9)
        cv2.line(page, (330, 156), (290, 182), 0, 9)
        cv2.line(page, (290, 182), (360, 180), 0, 9)
        yield page[:, :, None]
    parts = {  # strokes that do not touch each other
        7: ([(0, 82), (34, 80)], [(54, 78), (46, 120), (34, 180)]),
        4: ([(8, 104), (2, 138), (30, 144)], [(52, 78), (48, 182)]),
        3: ([(6, 84), (40, 78), (52, 92), (20, 116)], [(30, 130), (56, 150), (40, 176), (-4, 182)]),
        5: ([(20, 108), (12, 124), (28, 140), (4, 148)], [(36, 104), (62, 102)]),
    }
    for first, last in ((7, 4), (3, 7), (4, 3), (5, 7)):
        page = np.full((260, 420), 255, np.uint8)
        cv2.ellipse(page, (210, 130), (28, 50), 0, 0, 360, 0, 10)
        cv2.circle(page, (210, 40), 8, 0, -1)  # a speck
        for digit, origin in ((first, 60), (last, 300)):
            for line in parts[digit]:
                cv2.polylines(page, [np.add(line, (origin, 0)).astype(np.int32)], False, 0, 10)
        yield page[:, :, None]


def _on_sheets():
    """Numbers on a light sheet on a dark table, which counts as paper; two are larger than the map of ink."""
    for index in range(6):
        random = np.random.default_rng([28, index])
        side = 1120 if index % 3 == 2 else 560
        ink = _drawn(_random_text(random, 3), random, number_pictures.apart)
        scale = 0.6 * side / ink.shape[1]
        ink = cv2.resize(ink, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        page = np.full((side, side, 3), (60, 60, 70), np.uint8)
        rows, columns = slice(side // 4, 3 * side // 4), slice(side // 8, 7 * side // 8)
        room = (rows.stop - rows.start, columns.stop - columns.start)
        page[rows, columns] = digit_pictures.painted(digit_pictures.placed(ink, *room), (235, 235, 230), (30, 30, 90))
        turn = cv2.getRotationMatrix2D((side / 2, side / 2), random.uniform(-4, 4), 1)
        page = cv2.warpAffine(page, turn, (side, side), borderMode=cv2.BORDER_REPLICATE)
        yield np.clip(page + random.normal(0, 3, page.shape), 0, 255).astype(np.uint8)


def _framed():
    """Numbers in boxes of a form, cells, frames and ellipses."""
    for index in range(10):
        random = np.random.default_rng([29, index])
        kind = number_pictures.FRAMES[index % len(number_pictures.FRAMES)]
        yield number_pictures.framed(random, _random_text(random, 2 + index % 4), kind)


def _far_apart():
    """Two groups of digits, one to four heights apart."""
    for index in range(6):
        random = np.random.default_rng([30, index])
        yield number_pictures.drawn(random, _random_text(random, 4), [0.2, 1 + index / 2, 0.2])


def _single_digits():
    for index in range(12):
        random = np.random.default_rng([26, index])
        style = number_pictures.STYLES[index % len(number_pictures.STYLES)]
        yield digit_pictures.STYLES[style](random, digit_shapes.draw(index % 10, random))


def test_texts_and_boxes_are_those_of_python(model, page):
    numbers = [
        *_numbers(),
        *_touching_pairs(),
        *_with_marks(),
        *_several_lines(),
        *_broken_and_flat(),
        *_on_sheets(),
        *_framed(),
        *_far_apart(),
    ]
    results = [(model.predict([picture])[0], page.predict(picture)) for picture in (*numbers, *_single_digits())]
    same = [(ours, theirs) for ours, theirs in results if ours.label == theirs.get("text")]
    different = [(ours, theirs) for ours, theirs in results if ours.label != theirs.get("text")]
    assert len(same) >= 0.97 * len(results), different
    singles = results[len(numbers) :]
    assert not any(ours.digits or theirs["digits"] for ours, theirs in singles)
    read = [(ours, theirs) for ours, theirs in same if ours.digits]
    assert len(read) >= 50
    assert sum(" " in ours.label for ours, _ in read) >= 12  # gaps and lines
    assert sum(theirs["isDoubtful"] for _, theirs in read) >= 12  # corrected as one digit first
    assert any(theirs["isDoubtful"] and not ours.digits for ours, theirs in same)  # read, but less sure than one digit
    for ours, theirs in read:
        assert [digit["label"] for digit in theirs["digits"]] == [digit.label for digit in ours.digits]
        boxes = [np.array([digit["box"] for digit in theirs["digits"]]), np.array([digit.box for digit in ours.digits])]
        assert np.abs(boxes[0] - boxes[1]).max() <= 2
        assert theirs["corrections"] == list(ours.corrections)
        assert theirs["alternatives"][0] == [theirs["text"], theirs["probability"]]
        assert all(size == 16 for size in theirs["sizes"][:-1])
    apart = [abs(theirs["probability"] - ours.probability) for ours, theirs in read]
    assert np.median(apart) <= 0.005
    decisions = [(ours.unsure, ours.known) == (theirs["unsure"], theirs["known"]) for ours, theirs in read]
    assert np.mean(decisions) >= 0.95


def test_network_without_known_has_weights_of_its_own(model, page, monkeypatch):
    monkeypatch.setattr(page, "has_known", False)
    pictures = [*islice(_touching_pairs(), 6), *islice(_with_marks(), 2)]
    prepared = prepare_all(pictures, model.card.input)
    rows = classify_prepared(model, prepared, run=lambda images: model.run(images)[:2])
    results = [page.predict(picture, known_from=None) for picture in pictures]
    assert sum(len(row.digits) > 1 for row in rows) >= 5
    assert sum(row.label == result["text"] for row, result in zip(rows, results, strict=True)) >= 7
    for row, result in zip(rows, results, strict=True):
        if row.label == result["text"] and row.digits:
            assert result["known"] is None
            assert result["probability"] == pytest.approx(row.probability, abs=0.05)


@pytest.mark.parametrize(
    ("text", "rows", "why"),
    [("8" * 34, 1, "wider than 20 heights"), ("", 0, "more pieces than a number"), ("68 03", 6, "all lines together")],
)
def test_pages_beyond_the_limits_keep_the_error_of_several_digits(model, page, text, rows, why):
    picture = np.full((700, 1400, 1), 255, np.uint8)
    for row in range(rows):
        cv2.putText(picture, text, (20, 80 + 100 * row), cv2.FONT_HERSHEY_SIMPLEX, 1.9, 0, 4)
    if not rows:
        picture[20:680:24, :] = 255
        for y in range(20, 660, 24):
            for x in range(20, 1380, 24):
                picture[y : y + 12, x : x + 8] = 0
    (row,) = model.predict([picture])
    result = page.predict(picture)
    assert result.get("error") == row.error, why
    assert result.get("text") == row.label


def test_only_models_of_the_ten_digits_read_numbers(page):
    picture = _picture("27", np.random.default_rng(1), number_pictures.apart, "photo")
    assert "2 digits" in page.predict(picture, labels=list("ABCDEFGHIJ"))["error"]
    assert page.predict(picture)["text"] == "27"
