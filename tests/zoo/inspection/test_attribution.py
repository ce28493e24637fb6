"""Class activation and occlusion point at the pixels that an answer depends on."""

import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import zoo
from tests.support import hostile, onnx_models
from tests.support.paths import REPOSITORY
from zoo.errors import BadModel, WrongUsage, ZooError
from zoo.images.prepare import prepare
from zoo.inspection import attribution, attributions, class_activation
from zoo.inspection.onnx_layers import Field
from zoo.loading import load
from zoo.model import onnx_bytes

FAST = ("cifar90k.plus", "mnist14k.notes", "mnist14k.plus-int8", "resnet8.plus")
NAMES = [pytest.param(card.name, marks=[] if card.name in FAST else [pytest.mark.slow]) for card in zoo.list_models()]
PHOTOS = (
    "astronaut",
    "chelsea",
    "coffee",
    "rocket",
    "motorcycle_left",
    "retina",
    "camera",
    "coins",
    "hubble_deep_field",
)
DIGITS = ("eight.png", "five.jpg", "four.png", "nine.png", "one.jpg", "seven.png", "six.jpg", "three.png", "two.jpg")


def two_colours(tail="pool", side=16):
    """A network whose logits are the mean red and the mean green of the image: the contributions are known.

    Args:
        tail: what follows the maps of 8x8 positions: "pool", "hidden" (a ReLU behind the pool), "convolution" of 8x8,
            "int8" (pool, with quantised values), "maximum" (a global max pool); or "matrix", a network without maps.
    """
    weights = {
        "kernel": np.zeros((2, 3, 2, 2), np.float32),
        "dense": np.array([[1, 0], [0, 1]], np.float32),
        "offset": np.array([3, -5], np.float32),
        "scale": np.array(1 / 64, np.float32),
        "zero": np.array(-128, np.int8),
        "matrix": np.zeros((16, 16, 3, 2), np.float32),
        "eight": np.full((2, 2, 8, 8), 0, np.float32),
    }
    weights["kernel"][0, 0] = weights["kernel"][1, 1] = 0.25 / 255
    weights["matrix"][:, :, 0, 0] = weights["matrix"][:, :, 1, 1] = 1 / 256 / 255
    weights["matrix"] = weights["matrix"].reshape(-1, 2)
    weights["eight"][0, 0] = weights["eight"][1, 1] = 1 / 64
    node = helper.make_node
    nodes = [
        node("Cast", ["image"], ["floats"], to=TensorProto.FLOAT),
        node("Transpose", ["floats"], ["turned"], perm=[0, 3, 1, 2]),
        node("Conv", ["turned", "kernel"], ["maps"], strides=[2, 2]),
        node("Relu", ["maps"], ["last"]),
    ]
    if tail == "int8":
        nodes += [
            node("QuantizeLinear", ["last", "scale", "zero"], ["whole"]),
            node("DequantizeLinear", ["whole", "scale", "zero"], ["rounded"]),
        ]
    if tail == "maximum":
        nodes += [node("GlobalMaxPool", ["last"], ["most"]), node("Flatten", ["most"], ["flat"])]
    elif tail == "matrix":
        nodes = [node("Cast", ["image"], ["floats"], to=TensorProto.FLOAT), node("Flatten", ["floats"], ["pixels"])]
        nodes += [node("MatMul", ["pixels", "matrix"], ["flat"])]
    elif tail == "convolution":
        nodes += [node("Conv", ["last", "eight"], ["sums"]), node("Flatten", ["sums"], ["flat"])]
    else:
        source = {"int8": "rounded"}.get(tail, "last")
        nodes += [node("GlobalAveragePool", [source], ["means"]), node("Flatten", ["means"], ["flat"])]
    if tail == "hidden":
        weights["inner"] = np.array([[1, -1], [-1, 1]], np.float32)
        nodes += [node("Gemm", ["flat", "inner"], ["differences"]), node("Relu", ["differences"], ["hidden"])]
    nodes += [
        node("Gemm", ["hidden" if tail == "hidden" else "flat", "dense", "offset"], ["logits"]),
        node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "two", [value("image", TensorProto.UINT8, ["N", side, side, 3])],
        [value(name, TensorProto.FLOAT, ["N", 2]) for name in ("logits", "probabilities")],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def red_and_green():
    """Red at the top left, green at the bottom right."""
    image = np.zeros((16, 16, 3), np.uint8)
    image[2:6, 2:6, 0] = 255
    image[10:14, 10:14, 1] = 200
    return image


@pytest.mark.parametrize("tail", ["pool", "convolution", "int8"])
def test_contributions_of_an_additive_tail_are_exact(tail):
    """They sum to the logit less its bias, and lie where the colour is."""
    red, green = attributions(two_colours(tail), red_and_green(), [0, 1])
    assert red.method == green.method == "class activation"
    maps = attribution._explainer(two_colours(tail))
    assert maps.tail.shape == (2, 8, 8)
    assert red.contributions.shape == (16, 16)
    step = 1 / 64 if tail == "int8" else 0
    np.testing.assert_allclose(red.contributions.sum() / 4, 16 / 256, rtol=0.01 + step)  # 4 pixels for a position
    np.testing.assert_allclose(green.contributions.sum() / 4, 200 / 255 * 16 / 256, rtol=0.01 + step)
    for found, corner in ((red, slice(1, 7)), (green, slice(9, 15))):
        outside = found.contributions.copy()
        outside[corner, corner] = 0
        assert np.abs(outside).max() < 1e-6
        assert found.heat[corner, corner].max() == 1
        assert found.heat.min() == 0


@pytest.mark.parametrize("tail", ["hidden", "maximum", "matrix"])
def test_other_graphs_are_explained_by_occlusion(tail):
    red, green = attributions(two_colours(tail), red_and_green(), [0, 1])
    assert red.method == "occlusion"
    assert np.unravel_index(red.heat.argmax(), (16, 16)) < (8, 8)
    assert red.heat[2:6, 2:6].mean() > 3 * red.heat[10:14, 10:14].mean()
    if tail != "hidden":  # which gives green nothing, for the image has more red
        assert green.heat[10:14, 10:14].mean() > 3 * green.heat[2:6, 2:6].mean()
    if tail == "matrix":
        with pytest.raises(WrongUsage, match="no feature maps"):
            attributions(two_colours(tail), red_and_green(), [0], method="class activation")


def pictures(form):
    if form == "digit":
        return [REPOSITORY / "examples" / name for name in DIGITS]
    folder = Path(pytest.importorskip("skimage").__file__).parent / "data"
    return [next(folder.glob(f"{name}.*")) for name in PHOTOS]


def test_no_evidence_is_all_zeros():
    heat = class_activation(two_colours(), np.zeros((16, 16, 3), np.uint8), 0)
    assert heat.shape == (16, 16)
    assert heat.dtype == np.float32
    assert not heat.any()


def test_maps_are_feature_maps_times_weights():
    """For a global average pool: sum over channels of weight times feature, divided by the number of positions."""
    model = load("resnet8.plus")
    image, _ = prepare(REPOSITORY / "examples" / "five.jpg", model.card.input)
    explainer = attribution.Explainer(onnx_bytes(model))
    weights = {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in onnx.load_model_from_string(onnx_bytes(model)).graph.initializer
    }
    dense = next(array for name, array in weights.items() if array.shape == (10, 64) and name.endswith("weight"))
    features = explainer._session.run([explainer.tail.value], {"image": image[np.newaxis]})[0][0]
    expected = np.einsum("kc,chw->hwk", dense, features) / 64
    spread = attribution._spread(expected, explainer.tail.field, (32, 32))
    found = explainer.explain(image, range(10))
    for label, each in enumerate(found):
        assert each.method == "class activation"
        np.testing.assert_allclose(each.contributions, spread[..., label], atol=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_covering_the_hottest_part_costs_more_than_the_coldest(name):
    """Over all examples and both guesses: of 18 comparisons at least 15, and the mean. Time is bounded."""
    model = load(name)
    content = onnx_bytes(model)
    class_activation(content, np.zeros(model.card.input.shape, np.uint8), 0)  # opens the sessions
    height, width, _ = model.card.input.shape
    side, wins, differences, seconds = height // 4, 0, [], 0.0
    for source in pictures(model.card.input.form):
        image, _ = prepare(source, model.card.input)
        before = model.run(image[np.newaxis]).logits[0]
        guesses = np.argsort(-before)[:2].tolist()
        started = time.process_time()
        found = attributions(content, image, guesses)
        seconds += time.process_time() - started
        for each in found:
            means = {
                (top, left): each.contributions[top : top + side, left : left + side].mean()
                for top in range(0, height - side + 1, 2)
                for left in range(0, width - side + 1, 2)
            }
            losses = []
            for top, left in (max(means, key=means.get), min(means, key=means.get)):
                covered = image.copy()
                covered[top : top + side, left : left + side] = attribution._background(image)
                after = model.run(covered[np.newaxis]).logits[0]
                losses.append(before[each.label_index] - after[each.label_index])
            wins += losses[0] > losses[1]
            differences.append(losses[0] - losses[1])
    assert wins >= 15, (wins, differences)
    assert np.mean(differences) > 0.5
    assert seconds / 9 < 1


def test_added_model_is_explained(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_HOME", str(tmp_path / "home"))
    file = onnx_models.save(onnx_models.classifier(side=16, softmax=True), tmp_path / "x.onnx")
    zoo.add(file, "mine", labels=["a", "b", "c"])
    model = load("mine")
    image = np.random.default_rng(1).integers(0, 256, model.card.input.shape, np.uint8)
    found = attributions(onnx_bytes(model), image, [0, 1, 2])
    assert [each.method for each in found] == ["class activation"] * 3
    logits = model.run(image[np.newaxis]).logits[0]
    explainer = attribution.Explainer(onnx_bytes(model))
    none = explainer.tail.run([np.zeros(explainer.tail.shape, np.float32)])[0]
    for each, logit, bias in zip(found, logits, none, strict=True):
        np.testing.assert_allclose(each.contributions.sum(), logit - bias, rtol=1e-3, atol=1e-3)


def test_wrong_arguments():
    content = two_colours()
    for image in (np.zeros((8, 8, 3), np.uint8), np.zeros((16, 16, 3), np.float32), None):
        with pytest.raises(WrongUsage, match=r"takes uint8 \(16, 16, 3\)"):
            class_activation(content, image, 0)
    for label in (-1, 2):
        with pytest.raises(WrongUsage, match="has 2 labels"):
            class_activation(content, red_and_green(), label)
    with pytest.raises(BadModel, match="export it again"):
        class_activation(b"no model", red_and_green(), 0)


def test_package_onnx_is_missing(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ZooError, match=r"pip install 'pocketzoo\[inspect\]'"):
        attribution.Explainer(two_colours())


def test_hostile_graph_gives_an_error_of_ours():
    """A circle, which shape inference and the runtime refuse."""
    content = hostile.network(
        [helper.make_node("Add", ["b", "flat"], ["a"]), helper.make_node("Relu", ["a"], ["b"])], []
    )
    with pytest.raises(ZooError):
        class_activation(content.SerializeToString(), np.zeros((28, 28, 1), np.uint8), 0)


def test_spread_places_values_at_the_centres_of_receptive_fields():
    values = np.array([[0.0, 1.0], [2.0, 3.0]], np.float32)[..., np.newaxis]
    spread = attribution._spread(values, Field(size=4, jump=4, start=0), (8, 8))[..., 0]
    assert spread[0, 0] == spread[1, 1] == 0
    assert spread[7, 7] == spread[6, 6] == 3
    np.testing.assert_allclose(spread[1, 1:7], [0, 0.125, 0.375, 0.625, 0.875, 1])
    np.testing.assert_allclose(np.diff(spread[2:6, 0]), 0.5)


def test_maps_are_stretched_where_a_branch_has_widened_their_fields():
    """A squeeze-and-excitation branch sees the whole image, which says nothing of a unit's place."""
    values = np.array([[0.0, 1.0], [0.0, 1.0]], np.float32)[..., np.newaxis]
    spread = attribution._spread(values, Field(size=99, jump=4, start=-5), (8, 8))[..., 0]
    assert (spread[:, :2] == 0).all()
    assert (spread[:, 6:] == 1).all()
