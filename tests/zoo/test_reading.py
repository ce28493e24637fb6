"""Numbers: images of several digits are read, in Python, batches and all formats; single digits stay single digits."""

import json
import time
from itertools import pairwise
from math import prod
from zlib import crc32

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

import zoo
from serve.batch.formats import encode
from serve.cli.predict import command
from tests.pictures import digit_pictures, digit_shapes, number_pictures
from tests.pictures.empty_pictures import EMPTY
from zoo.classification import prepare_all
from zoo.columns import Columns, classify_columns
from zoo.errors import BadInput
from zoo.images.ink import find_ink
from zoo.images.numbers import find_lines
from zoo.model import Model
from zoo.reading import best_path, joined, log_sums, most_probable
from zoo.rows import Row


@pytest.fixture(scope="module")
def model() -> Model:
    return zoo.load("mnist14k", "cpu")


def cover(text: str, gap: int = 20, seed: int = 0) -> np.ndarray:
    """Drawn digits side by side, float32 coverage; "-" and "." are marks."""
    random = np.random.default_rng(seed)
    parts = []
    for sign in text:
        if sign in "-.":
            mark = np.zeros((156, 50), np.float32)
            if sign == "-":
                mark[74:84, 5:45] = 1
            else:
                mark[122:136, 18:32] = 1
            parts.append(mark)
            continue
        shape = digit_shapes.draw(int(sign), random, 120, 0.09, variant=0)
        columns = np.flatnonzero((shape > 0.5).any(axis=0))
        parts.append(np.pad(shape[:, columns[0] : columns[-1] + 1], ((0, 0), (gap // 2, gap // 2))))
    return np.pad(np.concatenate(parts, axis=1), 60)


def picture(text: str, gap: int = 20, seed: int = 0) -> np.ndarray:
    return digit_pictures.painted(cover(text, gap, seed), (250, 250, 245), (30, 30, 60))


def test_a_number_is_read_with_a_box_for_each_digit(model: Model) -> None:
    row = model.predict(picture("1984"))
    assert row.label == "1984"
    assert [digit.label for digit in row.digits] == list("1984")
    assert row.probability == pytest.approx(prod(digit.probability for digit in row.digits))
    assert row.top_k[0] == zoo.Guess("1984", row.probability)
    assert len(row.top_k) == 3
    height, width = picture("1984").shape[:2]
    for left, right in pairwise(digit.box for digit in row.digits):
        assert left[2] <= right[0] + 5
        assert 0 <= left[0] < left[2] <= width
        assert 0 <= left[1] < left[3] <= height
    ink = np.flatnonzero((cover("1984") > 0.5).any(axis=0))
    assert abs(row.digits[0].box[0] - ink[0]) <= 4
    assert abs(row.digits[-1].box[2] - ink[-1]) <= 4
    assert "found 4 digits" in row.corrections


@pytest.mark.parametrize("text", ["70", "2026", "60637", "305271"])
def test_read_finds_the_digits(model: Model, text: str) -> None:
    (reading,) = model.read(picture(text))
    assert reading.text == text
    assert reading.alternatives[0] == (reading.text, reading.probability)


@pytest.mark.parametrize(("text", "expected"), [("20-26", "20 26"), ("37.5", "37 5")])
def test_marks_are_gaps_and_never_digits(model: Model, text: str, expected: str) -> None:
    assert model.predict(picture(text)).label == expected


def test_lines_are_read_from_top_to_bottom(model: Model) -> None:
    first, second = picture("472"), picture("605")
    width = max(first.shape[1], second.shape[1])
    page = np.concatenate([np.pad(p, ((0, 0), (0, width - p.shape[1]), (0, 0)), mode="edge") for p in (first, second)])
    assert [reading.text for reading in model.read(page)] == ["472", "605"]
    row = model.predict(page)
    assert row.label == "472 605"
    assert len(row.digits) == 6
    assert "found 6 digits in 2 lines" in row.corrections


def test_single_refuses_several_digits(model: Model, tmp_path: object) -> None:
    with pytest.raises(BadInput, match="seems to contain 4 digits"):
        model.predict(picture("1984"), single=True)
    (row,) = model.predict([picture("1984")], single=True)
    assert row.error
    assert row.label is None
    assert row.digits == ()


def test_a_single_digit_has_no_digits_and_the_same_row_as_with_single(model: Model) -> None:
    images = [digit_pictures.canvas(np.random.default_rng(i), digit_shapes.draw(i % 10, np.random.default_rng(i)))
              for i in range(20)]  # fmt: skip
    rows = model.predict(images)
    assert rows == model.predict(images, single=True)
    assert all(row.digits == () for row in rows)


def test_a_model_of_other_labels_reads_no_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    photos = zoo.load("cifar90k", "cpu")
    with pytest.raises(BadInput, match="cannot read numbers"):
        photos.read(picture("12"))


def test_all_formats_have_the_digits(model: Model) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    images = [picture("42"), np.zeros((9, 9), np.uint8), digit_pictures.canvas(
        np.random.default_rng(0), digit_shapes.draw(3, np.random.default_rng(0)))]  # fmt: skip
    rows = model.predict(images)
    columns = classify_columns(model, prepare_all(images, model.card.input))
    assert columns.rows() == rows == Columns.from_rows(rows).rows()
    lines = [json.loads(line) for line in encode(columns, "jsonl").decode().splitlines()]
    assert lines == [row.to_dict() for row in rows]
    assert [len(line["digits"]) for line in lines] == [2, 0, 0]
    table = pyarrow.ipc.open_stream(encode(columns, "parquet")).read_all()
    assert table["label"].to_pylist()[0] == "42"
    assert [digit["box"] for digit in table["digits"].to_pylist()[0]] == [list(d.box) for d in rows[0].digits]
    assert "42" in encode(columns, "table").decode()
    cells = encode(columns, "csv").decode().splitlines()[0]
    assert '""box""' in cells


def test_the_command_reads_and_refuses(tmp_path: object) -> None:
    path = f"{tmp_path}/number.png"
    cv2.imwrite(path, picture("1984")[:, :, ::-1])
    read = CliRunner().invoke(command, [path, "--format", "jsonl"])
    assert json.loads(read.stdout)["label"] == "1984"
    refused = CliRunner().invoke(command, [path, "--format", "jsonl", "--single"])
    assert refused.exit_code == 1
    assert "4 digits" in json.loads(refused.stdout)["error"]


def test_most_probable_is_the_exact_order() -> None:
    slots = [[("a", 0.6), ("b", 0.4)], [("c", 0.9), ("d", 0.1)], [("e", 0.5), ("f", 0.5)]]
    texts = most_probable(slots, 3)
    every = sorted((p * q * r for _, p in slots[0] for _, q in slots[1] for _, r in slots[2]), reverse=True)
    assert [p for _, p in texts] == pytest.approx(every[:3])
    assert texts[0][0] == "ace"


def test_the_best_path_and_the_sum_of_all_paths() -> None:
    first, last = np.array([0, 0, 1, 1, 2]), np.array([1, 2, 2, 3, 3])
    scores = np.array([1.0, 2.5, 1.0, 0.5, 1.0])
    assert best_path(4, first, last, scores) == [1, 4]
    ways = [1.0 + 1.0 + 1.0, 2.5 + 1.0, 1.0 + 0.5]
    assert log_sums(4, first, last, scores)[0] == pytest.approx(np.log(np.exp(ways).sum()))
    assert best_path(4, first[:2], last[:2], scores[:2]) == []  # no way reaches the end


def test_candidates_lie_between_their_cuts() -> None:
    (line,) = find_lines(find_ink(picture("58")))
    assert (line.first < line.last).all()
    assert line.last.max() == line.cuts - 1
    assert line.pixels.shape == (len(line.first), 28, 28, 1)
    assert line.features.shape[0] == len(line.first)
    assert ((line.first == 0) & (line.last < line.cuts - 1)).any()


def test_noise_and_text_like_marks_are_no_sure_number(model: Model) -> None:
    random = np.random.default_rng(0)
    page = np.full((400, 400, 3), 255, np.uint8)
    for _ in range(70):
        x, y = random.integers(10, 370, 2)
        page[y : y + 20, x : x + 20] = 0
    row: Row = model.predict([page])[0]
    assert row.error is not None or row.unsure or row.known is False


@pytest.mark.slow
def test_most_random_numbers_are_read(model: Model) -> None:
    right = {"apart": 0, "touching": 0}
    for kind in right:
        for seed in range(40):
            random = np.random.default_rng([77, seed])
            values = random.integers(10, size=int(random.integers(2, 6)))
            digits = [np.asarray(255 * _small(value, random), np.uint8) for value in values]
            gaps = [getattr(number_pictures, kind)(random) for _ in values[1:]]
            image = number_pictures.number(random, digits, gaps, "photo")
            right[kind] += model.predict([image])[0].label == "".join(map(str, values))
    assert right["apart"] >= 30, right
    assert right["touching"] >= 22, right


def _small(value: int, random: np.random.Generator) -> np.ndarray:
    return cv2.resize(digit_shapes.draw(int(value), random, 240, 0.1), (28, 28), interpolation=cv2.INTER_AREA)


def test_texts_of_lines_are_joined_by_gaps(model: Model) -> None:
    readings = model.read(picture("42"))
    assert joined(readings * 2, 1)[0][0] == "42 42"


def test_page_of_touching_digits_is_refused_soon(model: Model) -> None:
    """Every line has as many candidates as a number may have."""
    page = np.full((1500, 3000), 255, np.uint8)
    for y in range(100, 1400, 120):
        cv2.putText(page, "8" * 34, (20, y), cv2.FONT_HERSHEY_SIMPLEX, 4, 0, 12)
    started = time.process_time()
    (row,) = model.predict([page])
    assert time.process_time() - started < 1
    assert "digits" in row.error or "marks" in row.error or "wide" in row.error, row


@pytest.mark.parametrize(
    ("text", "is_known"),
    [("hello", False), ("test", False), ("xyz", False), ("2026", True), ("583", True), ("07700", True)],
)
def test_words_are_none_of_the_classes_and_numbers_are_known(model: Model, text: str, is_known: bool) -> None:
    """A font of OpenCV, which no head was trained with."""
    page = np.full((200, 130 + 75 * len(text)), 255, np.uint8)
    cv2.putText(page, text, (40, 130), cv2.FONT_HERSHEY_SIMPLEX, 3, 0, 8, cv2.LINE_AA)
    assert model.predict([page])[0].known is is_known


@pytest.mark.parametrize("pitch", [12, 30])
def test_hatching_is_no_number(model: Model, pitch: int) -> None:
    """Each stroke alone could be a 1."""
    page = np.full((200, 1800), 255, np.uint8)
    for x in range(20, 1700, pitch):
        cv2.line(page, (x, 40), (x + 40, 160), 0, 3)
    assert model.predict([page])[0].error


def test_edge_of_a_table_is_no_line(model: Model) -> None:
    page = cv2.copyMakeBorder(picture("472"), 40, 40, 40, 40, cv2.BORDER_REPLICATE)
    page[20:160, :12] = 40
    assert [reading.text for reading in model.read(page)] == ["472"]


@pytest.mark.parametrize("side", [560, 1120])
def test_number_on_a_sheet_that_is_taken_for_ink_is_read(model: Model, side: int) -> None:
    """The table covers the whole border, so that it counts as paper."""
    shape = cv2.resize(cover("472"), None, fx=side / 1120, fy=side / 1120, interpolation=cv2.INTER_AREA)
    sheet = np.full((side, side, 3), (60, 60, 70), np.uint8)
    rows, columns = slice(side // 4, 3 * side // 4), slice(side // 8, 7 * side // 8)
    room = (rows.stop - rows.start, columns.stop - columns.start)
    sheet[rows, columns] = digit_pictures.painted(digit_pictures.placed(shape, *room), (235, 235, 230), (30, 30, 90))
    turn = cv2.getRotationMatrix2D((side / 2, side / 2), 4, 1)
    page = cv2.warpAffine(sheet, turn, (side, side), borderMode=cv2.BORDER_REPLICATE)
    noise = np.random.default_rng(0).normal(0, 3, page.shape)
    row = model.predict([np.clip(page + noise, 0, 255).astype(np.uint8)])[0]
    assert row.label == "472", row
    left, top, _, _ = row.digits[0].box
    ink = np.argwhere(shape > 0.5)
    x = ink[:, 1].min() + (side - shape.shape[1]) // 2
    y = ink[:, 0].min() + (side - shape.shape[0]) // 2
    expected = turn @ (x, y + np.ptp(ink[:, 0]) / 2, 1)
    assert abs(left - expected[0]) < side / 30
    assert top < expected[1]


def test_empty_sheet_on_a_table_is_no_number(model: Model) -> None:
    page = np.full((560, 560, 3), (60, 60, 70), np.uint8)
    page[140:420, 70:490] = (235, 235, 230)
    (row,) = model.predict([page])
    assert not row.digits


def test_bar_of_a_five_that_stands_apart_belongs_to_it(model: Model) -> None:
    """The bar begins to the right of the belly, without touching it."""
    coverage = np.zeros((260, 420), np.float32)
    for origin in (60, 240):
        strokes = [(origin + 30, 70), (origin + 24, 115), (origin + 60, 120), (origin + 72, 160), (origin + 10, 180)]
        cv2.polylines(coverage, [np.array(strokes, np.int32)], False, 1.0, 10, cv2.LINE_AA)
        cv2.line(coverage, (origin + 86, 74), (origin + 124, 70), 1.0, 10, cv2.LINE_AA)
    page = digit_pictures.painted(coverage, (250, 250, 245), (30, 30, 60))
    assert [reading.text for reading in model.read(page)] == ["55"]


def strokes_of(*lines: list[tuple[int, int]], width: int = 360) -> np.ndarray:
    """A page with two copies of a digit, whose strokes do not touch each other, and a zero between them."""
    coverage = np.zeros((260, width), np.float32)
    for origin in (60, width - 120):
        for line in lines:
            points = np.array([(x + origin, y) for x, y in line], np.int32)
            cv2.polylines(coverage, [points], False, 1.0, 10, cv2.LINE_AA)
    cv2.ellipse(coverage, (width // 2, 130), (28, 50), 0, 0, 360, 1.0, 10, cv2.LINE_AA)
    return digit_pictures.painted(coverage, (250, 250, 245), (30, 30, 60))


def test_bar_of_a_seven_that_stands_apart_belongs_to_it(model: Model) -> None:
    page = strokes_of([(0, 82), (34, 80)], [(54, 78), (46, 120), (34, 180)])
    assert [reading.text for reading in model.read(page)] == ["707"]


def test_left_stroke_of_a_four_that_stands_apart_belongs_to_it(model: Model) -> None:
    page = strokes_of([(8, 110), (2, 127), (30, 130)], [(52, 78), (48, 182)])
    assert [reading.text for reading in model.read(page)] == ["404"]


def test_halves_of_a_broken_digit_are_in_one_line(model: Model) -> None:
    """The lower half does not overlap the upper one vertically, and is wider."""
    page = strokes_of([(6, 84), (40, 78), (52, 92), (20, 116)], [(30, 130), (56, 150), (40, 176), (-4, 182)], width=400)
    assert [reading.text for reading in model.read(page)] == ["303"]


def test_specks_close_to_each_other_are_no_line(model: Model) -> None:
    page = picture("108")
    for x, y, radius in ((30, 20, 10), (36, 62, 9)):
        cv2.circle(page, (x, y), radius, (30, 30, 60), -1)
    assert [reading.text for reading in model.read(page)] == ["108"]


def test_specks_above_and_below_a_digit_are_no_part_of_it(model: Model) -> None:
    page = picture("108")
    plain = model.read(page)[0]
    x0, top, x1, bottom = plain.digits[1].box
    middle = (x0 + x1) // 2
    for y in (top - 22, bottom + 22):
        cv2.circle(page, (middle, y), 10, (30, 30, 60), -1)
    (reading,) = model.read(page)
    assert reading.text.replace(" ", "") == "108"
    assert abs(reading.digits[1].box[1] - top) <= 2


def test_digit_of_less_than_half_the_height_is_read_where_it_is_wide(model: Model) -> None:
    coverage = cover("270")
    x0, x1 = 60, 60 + 20 + np.flatnonzero((cover("2") > 0.5).any(axis=0))[-1] - 60
    first = coverage[60:216, x0:x1]
    low = cv2.resize(first, (first.shape[1], round(0.38 * first.shape[0])), interpolation=cv2.INTER_AREA)
    coverage[60:216, x0:x1] = 0
    coverage[110 : 110 + low.shape[0], x0:x1] = low
    page = digit_pictures.painted(coverage, (250, 250, 245), (30, 30, 60))
    assert [reading.text for reading in model.read(page)] == ["270"]


@pytest.mark.parametrize(("kind", "seed"), [("cell", 600277), ("form", 500123)])
def test_traces_that_vanish_at_the_size_of_digits_are_no_line(model: Model, kind: str, seed: int) -> None:
    image = EMPTY[kind](np.random.default_rng([crc32(f"empty {kind}".encode()), seed]))
    assert not model.predict([image])[0].known


@pytest.mark.parametrize("kind", number_pictures.FRAMES)
def test_numbers_in_boxes_and_frames_are_read(model: Model, kind: str) -> None:
    """Regression: the digit in the first box of a form was the answer, and it was sure."""
    right, wrong = 0, []
    for index in range(16):
        random = np.random.default_rng([29, index])
        text = "".join(map(str, random.integers(10, size=2 + index % 4)))
        row = model.predict([number_pictures.framed(random, text, kind)])[0]
        right += row.label == text
        if row.label not in (text, None) and row.known and not row.unsure and row.label.replace(" ", "") != text:
            wrong.append((text, row.label))
    assert right >= 13
    assert len(wrong) <= 1, wrong


@pytest.mark.parametrize("gap", [1.5, 2.5, 4.0])
def test_wide_gap_is_one_space_and_no_digit(model: Model, gap: float) -> None:
    """Regression: a one was read in gaps of more than 1.2 heights, and wider ones were refused."""
    for index in range(6):
        random = np.random.default_rng([30, index])
        text = "".join(map(str, random.integers(10, size=5)))
        (row,) = model.predict([number_pictures.drawn(random, text, [0.2, gap, 0.2, 0.2])])
        assert row.label == f"{text[:2]} {text[2:]}"
