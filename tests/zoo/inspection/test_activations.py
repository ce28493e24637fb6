"""look_inside: values equal PyTorch's, units depend on their receptive fields only, and the figures are drawn."""

import time
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from PIL import Image, ImageDraw
from safetensors.torch import load_file

from tests.support import hostile
from train import networks, recipe
from train.evaluate import network_input
from zoo import registry
from zoo.errors import BadModel, WrongUsage, ZooError
from zoo.inspection import activations, plots
from zoo.inspection.activations import look_inside, parse_unit, percent, pixels_seen, unit_of
from zoo.inspection.plots import draw_figures, write_figures
from zoo.loading import load, model_file
from zoo.rows import Guess


@pytest.fixture(scope="module")
def inside():
    from tests.support.paths import REPOSITORY

    return look_inside("mnist14k", REPOSITORY / "examples" / "five.jpg")


def test_feature_maps_equal_pytorch(inside):
    found = recipe.find("mnist14k")
    network = networks.build(found).eval()
    network.load_state_dict(load_file(registry.find("mnist14k").folder / "model.safetensors"))
    values, expected = network_input(torch.from_numpy(inside.seen[None]), found), []
    with torch.inference_mode():
        for layer in network:
            values = layer(values)
            if isinstance(layer, (torch.nn.ReLU, torch.nn.MaxPool2d)):
                expected.append(values[0].clone().numpy())
    assert len(inside.stages) == 9
    for stage, maps in zip(inside.stages[:-1], expected, strict=True):
        assert stage.values.shape == stage.layer.output
        np.testing.assert_allclose(stage.values, maps, atol=1e-3)
    assert inside.card.labels[inside.probabilities.argmax()] == "5"
    assert inside.stages[0].kernels.shape == (16, 1, 3, 3)
    assert inside.stages[2].kernels is None


@pytest.mark.parametrize("index", range(9))
def test_unit_depends_only_on_its_receptive_field(inside, index):
    """Noise outside of the field changes nothing; noise inside changes the unit's values."""
    stage = inside.stages[index]
    row, column = unit_of(stage)
    top, left, bottom, right = pixels_seen(inside, stage, row, column)
    noise = np.random.default_rng(index).integers(0, 256, inside.seen.shape, dtype=np.uint8)
    outside, within = noise.copy(), inside.seen.copy()
    outside[top:bottom, left:right] = inside.seen[top:bottom, left:right]
    within[top:bottom, left:right] = noise[top:bottom, left:right]
    assert (bottom - top, right - left) == (stage.layer.receptive_field,) * 2

    def unit(picture):
        return run_stages(picture)[index][:, row, column]

    before = run_stages(inside.seen)[index][:, row, column]
    np.testing.assert_allclose(unit(outside), before, atol=1e-4)
    assert np.abs(unit(within) - before).max() > 1e-3


def run_stages(picture):
    """The stages' values of a picture that is already in the network's form, however little it looks like a digit."""
    content, source_name, _ = model_file("mnist14k")
    return [stage.values for stage in activations._stages(content, picture, source_name)[0]]


def test_figures_are_written(inside, tmp_path):
    from PIL import Image

    paths = write_figures(inside, tmp_path / "new" / "folder")
    assert [path.name for path in paths] == sorted(path.name for path in paths)
    assert len(paths) == 13
    for path in paths:
        with Image.open(path) as picture:
            assert min(picture.size) > 150
            assert np.asarray(picture).std() > 10


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({}, "5, 98.2%"),
        ({"unsure": True}, "unsure: 5, 98.2%"),
        ({"known": False, "unsure": True}, "none of the classes (nearest: 5, 98.2%)"),
        ({"known": None}, "5, 98.2%"),
    ],
)
def test_titles_have_the_verdict(inside, changes, verdict, tmp_path, monkeypatch):
    titles, sheet = [], plots._sheet

    def recorded(width, height, title, sentence):
        assert plots._shortened(title, plots._font(plots.TITLE, bold=True), width - 2 * plots.MARGIN) == title
        titles.append(title)
        return sheet(width, height, title, sentence)

    monkeypatch.setattr(plots, "_sheet", recorded)
    top_k = (Guess("5", 0.982), *inside.row.top_k[1:])
    changed = replace(inside, row=replace(inside.row, top_k=top_k, **{"known": True, "unsure": False} | changes))
    assert changed.verdict == verdict
    figures = draw_figures(changed, tmp_path)
    next(figures), next(figures)
    assert titles == [
        f"{inside.card.name}: {verdict}. Input and output",
        f"{inside.card.name}: {verdict}. Why?",
    ]


@pytest.mark.parametrize(
    ("share", "text"),
    [(1.0, ">99.9%"), (0.9995, ">99.9%"), (0.9994, "99.9%"), (0.5, "50.0%"), (0.0004, "<0.1%"), (0.0, "<0.1%"),
     (float("nan"), "nan%")],
)  # fmt: skip
def test_percent_is_never_0_or_100(share, text):
    assert percent(share) == text


def test_verdict_of_a_letter_is_that_of_predict(tmp_path):
    image = Image.new("L", (260, 220), 255)
    pen = ImageDraw.Draw(image)
    pen.line([(170, 40), (80, 40), (80, 180), (170, 180)], 0, 16)  # an E
    pen.line([(80, 110), (160, 110)], 0, 16)
    row = load("mnist14k").predict(image)
    inside = look_inside("mnist14k", image)
    assert row.known is False
    assert (inside.row.known, inside.row.label, inside.row.unsure) == (False, row.label, row.unsure)
    assert inside.verdict == f"none of the classes (nearest: {row.label}, {percent(row.probability)})"


def test_unit_is_parsed_and_checked(inside, tmp_path):
    assert parse_unit("conv4:3,5") == ("conv4", 3, 5)
    for text in ("conv4", "conv4:3", "conv4:3,x", "conv4:-1,2"):
        with pytest.raises(WrongUsage, match=r"Invalid --unit.*such as conv4:3,5"):
            parse_unit(text)
    with pytest.raises(WrongUsage, match="conv4 has no unit 3,10: use ROW 0 to 9 and COLUMN 0 to 9"):
        write_figures(inside, tmp_path, ("conv4", 3, 10))
    with pytest.raises(WrongUsage, match=r"no layer 'conv99': use one of conv1, conv2, pool1"):
        write_figures(inside, tmp_path, ("conv99", 0, 0))
    assert len(write_figures(inside, tmp_path, ("conv4", 0, 0))) == 13


def test_figures_are_yielded_one_by_one(inside, tmp_path):
    drawn = draw_figures(inside, tmp_path)
    first = next(drawn)
    assert [path.name for path in tmp_path.iterdir()] == [first.name] == ["1-answer.png"]
    assert len(list(drawn)) == 12


@pytest.mark.slow
@pytest.mark.parametrize(("name", "limit"), [("mnist14k", 3), ("cifar90k", 8)])
def test_drawing_takes_bounded_time(name, limit, tmp_path):
    """CPU seconds."""
    from tests.support.paths import REPOSITORY

    started = time.process_time()
    drawn = draw_figures(look_inside(name, REPOSITORY / "examples" / "five.jpg"), tmp_path)
    next(drawn)
    assert time.process_time() - started < 2
    list(drawn)
    assert time.process_time() - started < limit


def test_font_without_matplotlib(monkeypatch, tmp_path, inside):
    with_it = write_figures(inside, tmp_path / "with")
    monkeypatch.setattr(plots, "find_spec", lambda name: None)
    plots._font.cache_clear()
    without = write_figures(inside, tmp_path / "without")
    plots._font.cache_clear()
    assert [path.name for path in without] == [path.name for path in with_it]
    assert without[0].read_bytes() != with_it[0].read_bytes()


def test_source_is_read_once(tmp_path):
    """An open file and a pipe can only be read once. They give the same result as the path."""
    from tests.support.paths import REPOSITORY

    path = REPOSITORY / "examples" / "five.jpg"
    expected = look_inside("mnist14k", path)

    class Once:
        def __init__(self):
            self.content = path.read_bytes()

        def read(self, size=-1):
            content, self.content = self.content, b""
            return content

    with path.open("rb") as file:
        for source in (file, Once()):
            inside = look_inside("mnist14k", source)
            np.testing.assert_array_equal(inside.image, expected.image)
            np.testing.assert_array_equal(inside.seen, expected.seen)
            assert inside.corrections == expected.corrections


def test_look_inside_folder_and_onnx_file(tmp_path):
    from tests.support.paths import REPOSITORY

    picture = REPOSITORY / "examples" / "five.jpg"
    folder = registry.find("mnist4k").folder
    expected = look_inside("mnist4k", picture)
    for name in (folder, folder / "model.onnx"):
        np.testing.assert_array_equal(look_inside(name, picture).probabilities, expected.probabilities)


def foreign():
    """Networks that other tools might write: layers whose values are no maps, values that are no numbers."""
    kinds = {
        "one dimension": [
            helper.make_node("Unsqueeze", ["flat", "one"], ["line"]),
            helper.make_node("MaxPool", ["line"], ["pooled"], kernel_shape=[3]),
            helper.make_node("ReduceMax", ["pooled"], ["extra"], keepdims=0),
        ],
        "three dimensions": [
            helper.make_node("Reshape", ["floats", "cube"], ["volume"]),
            helper.make_node("MaxPool", ["volume"], ["pooled"], kernel_shape=[2, 2, 2]),
            helper.make_node("ReduceMax", ["pooled"], ["extra"], keepdims=0),
        ],
        "not a number": [
            helper.make_node("Div", ["floats", "zero"], ["divided"]),
            helper.make_node("MaxPool", ["divided"], ["pooled"], kernel_shape=[2, 2]),
            helper.make_node("ReduceMax", ["pooled"], ["extra"], keepdims=0),
        ],
        "a constant": [helper.make_node("Constant", [], ["extra"], value_float=0.0)],
        "unused outputs": [
            helper.make_node("MaxPool", ["floats"], ["pooled", "places"], kernel_shape=[2, 2]),
            helper.make_node("ReduceMax", ["pooled"], ["extra"], keepdims=0),
        ],
    }
    weights = [
        hostile.scalar("one", [1], np.int64), hostile.scalar("zero", 0),
        hostile.scalar("cube", [-1, 1, 7, 7, 16], np.int64),
    ]  # fmt: skip
    return {kind: hostile.network(nodes, weights).SerializeToString() for kind, nodes in kinds.items()}


@pytest.mark.parametrize("kind", sorted(foreign()))
def test_foreign_networks_are_drawn(kind, tmp_path):
    (tmp_path / "x.onnx").write_bytes(foreign()[kind])
    picture = np.zeros((28, 28), np.uint8)
    picture[5:23, 12:16] = 255
    inside = look_inside(tmp_path / "x.onnx", picture)
    assert len(write_figures(inside, tmp_path / "out")) >= 2


def test_graph_that_onnx_cannot_read_is_bad_model(tmp_path, monkeypatch):
    """The runtime may open files that the package onnx cannot read."""
    monkeypatch.setattr(onnx, "load_model_from_string", lambda content: 1 / 0)
    picture = np.zeros((28, 28), np.uint8)
    picture[5:23, 12:16] = 255
    with pytest.raises(BadModel, match=r"layers of mnist14k cannot be read \(division by zero\)"):
        look_inside("mnist14k", picture)


def test_many_and_long_labels_fit(inside, tmp_path):
    labels = tuple(f"a long label that does not fit beside its bar {number}" for number in range(1000))
    card = replace(inside.card, labels=labels, name="x" * 100)
    odd = replace(
        inside, card=card, probabilities=np.linspace(0, 1e-3, 1000, dtype=np.float32),
        corrections=("said at length",) * 100, image=np.zeros((2, 3000, 4), np.uint8),
    )  # fmt: skip
    assert len(write_figures(odd, tmp_path)) == 13


def test_look_inside_without_onnx_raises(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    with pytest.raises(ZooError, match=r"pip install 'pocketzoo\[inspect\]'"):
        look_inside("mnist14k", b"")
