"""Receptive fields against brute force: change one pixel of the input, and see which units change.

All weights are positive and the image is black, so that a unit changes exactly if it depends on the pixel.
"""

import re

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from zoo import registry
from zoo.inspection.receptive_field import receptive_fields, windows


def units_that_change(model, names):
    """By name, bool `(h, w, H, W)`: whether any channel of a unit changes with a pixel of the input."""
    _, height, width, channels = (d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim)
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    present = {output.name for output in model.graph.output}
    changed.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in present)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(changed.SerializeToString(), options, providers=["CPUExecutionProvider"])
    images = np.zeros((height * width + 1, height, width, channels), np.uint8)
    images[np.arange(height * width), *np.divmod(np.arange(height * width), width)] = 255
    results = {}
    for name, value in zip(names, session.run(names, {model.graph.input[0].name: images}), strict=True):
        maps = value if value.ndim == 4 else value.reshape(*value.shape[:2], 1, 1)
        differs = (maps[:-1] != maps[-1:]).any(axis=1)  # (pixels, h, w)
        results[name] = np.moveaxis(differs.reshape(height, width, *differs.shape[1:]), (0, 1), (2, 3))
    return results


def masks(reach):
    height, width = reach.shape
    return np.array([[reach.mask(row, column) for column in range(width)] for row in range(height)])


def assert_exact(model, names):
    fields = receptive_fields(model.graph)
    for name, changes in units_that_change(model, names).items():
        assert fields[name].shape == changes.shape[:2], name
        assert (masks(fields[name]) == changes).all(), name


class Builder:
    """A graph of nodes with weights of 1, behind an image uint8 `(N, height, width, 2)`."""

    def __init__(self, height, width):
        self.size, self.nodes, self.weights = (height, width), [], []
        self.channels = {}
        self.last = self.add("Cast", [self.add("Transpose", ["image"], perm=[0, 3, 1, 2], channels=2)], to=1)

    def add(self, operator, inputs=None, channels=None, **attributes):
        inputs = inputs or [self.last]
        name = f"{operator}{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [name], **attributes))
        self.channels[name] = channels or self.channels.get(inputs[0], 2)
        self.last = name
        return name

    def constant(self, values):
        self.weights.append(numpy_helper.from_array(values, f"constant{len(self.weights)}"))
        return self.weights[-1].name

    def conv(self, kernel, inputs=None, depthwise=False, **attributes):
        source = (inputs or [self.last])[0]
        before = self.channels[source]
        after, group = (before, before) if depthwise else (3, 1)
        weight = self.constant(np.ones((after, before // group, *kernel), np.float32))
        return self.add("Conv", [source, weight], after, group=group, kernel_shape=kernel, **attributes)

    def model(self):
        image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", *self.size, 2])
        output = helper.make_tensor_value_info(self.last, TensorProto.FLOAT, None)
        graph = helper.make_graph(self.nodes, "test", [image], [output], self.weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def random_graph(random):
    """Convolutions, pools, residual connections, branches and padding of random geometry."""
    graph = Builder(*random.integers(9, 14, 2).tolist())
    for _ in range(random.integers(2, 6)):
        kernel, stride, dilation = (random.integers(1, high, 2).tolist() for high in (4, 3, 3))
        pads = random.integers(0, 3, 4).tolist()
        kind = random.integers(8)
        if kind == 0:
            graph.conv(kernel, strides=stride, dilations=dilation, pads=pads)
        elif kind == 1:
            graph.conv([3, 3], depthwise=True, dilations=dilation, auto_pad=random.choice(["SAME_UPPER", "SAME_LOWER"]))
        elif kind == 2:
            graph.add("MaxPool", kernel_shape=[2, 3], strides=stride, pads=[1, 0, 0, 1], ceil_mode=int(pads[0] > 0))
        elif kind == 3:
            graph.add("AveragePool", kernel_shape=[3, 2], strides=stride)
        elif kind == 4:  # a residual connection
            source = graph.last
            first = graph.conv([3, 3], [source], depthwise=True, pads=[1, 1, 1, 1])
            graph.add("Add", [graph.add("Relu", [first]), source])
        elif kind == 5:  # one with a projection on each side
            source = graph.last
            short = graph.conv([1, 1], [source], strides=[2, 2])
            long = graph.conv([3, 3], [source], strides=[2, 2], pads=[1, 1, 1, 1])
            graph.add("Add", [graph.conv([3, 3], [long], pads=[1, 1, 1, 1]), short])
        elif kind == 6:  # a cross: neither branch is inside the other
            source = graph.last
            wide = graph.conv([1, 5], [source], pads=[0, 2, 0, 2])
            high = graph.conv([5, 1], [source], pads=[2, 0, 2, 0])
            graph.add("Concat", [wide, high], 6, axis=1)
        else:
            where = graph.constant(np.array([0, 0, pads[0], 1, 0, 0, 0, pads[1]], np.int64))
            graph.add("Pad", [graph.last, where], mode=str(random.choice(["constant", "reflect", "edge"])))
    return graph


def opens(graph):
    """Whether the runtime takes the graph: maps may have become too small."""
    try:
        units_that_change(graph.model(), [graph.last])
    except Exception as error:
        if not re.search("INVALID_ARGUMENT|FAIL|RUNTIME_EXCEPTION|Shape|dimension", str(error)):
            raise
        return False
    return True


@pytest.mark.parametrize("seed", range(20))
def test_fields_of_random_graphs_are_exact(seed):
    random = np.random.default_rng(seed)
    graph = next(filter(opens, (random_graph(random) for _ in range(50))))
    assert_exact(graph.model(), [node.output[0] for node in graph.nodes[2:]])


def test_dilation_leaves_holes_and_a_cross_has_two_parts():
    graph = Builder(9, 9)
    graph.conv([3, 3], dilations=[3, 3])
    reach = receptive_fields(graph.model().graph)[graph.last]
    assert reach.mask(0, 0).sum() == 9
    assert reach.box(0, 0) == (0, 0, 7, 7)
    graph = Builder(9, 9)
    source = graph.last
    branches = [graph.conv([1, 5], [source], pads=[0, 2, 0, 2]), graph.conv([5, 1], [source], pads=[2, 0, 2, 0])]
    graph.add("Add", branches)
    assert receptive_fields(graph.model().graph)[graph.last].mask(4, 4).sum() == 9
    assert_exact(graph.model(), [graph.last])


def test_unit_that_sees_only_padding_has_no_pixels():
    graph = Builder(5, 5)
    graph.conv([1, 1], pads=[1, 1, 1, 1])
    reach = receptive_fields(graph.model().graph)[graph.last]
    assert reach.box(0, 0) == (0, 0, 0, 0)
    assert reach.box(1, 1) == (0, 0, 1, 1)


def test_squeeze_and_excitation_sees_everything():
    graph = Builder(6, 7)
    source = graph.last
    graph.add("Mul", [source, graph.add("GlobalAveragePool", [source])])
    assert receptive_fields(graph.model().graph)[graph.last].mask(2, 3).all()


def test_unknown_operator_has_no_field():
    graph = Builder(6, 6)
    graph.add("SpaceToDepth", blocksize=2, channels=8)
    graph.add("Relu")
    assert graph.last not in receptive_fields(graph.model().graph)


def with_positive_weights(model):
    """Every weight positive and no offset, so that no unit hides a change."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type in ("Conv", "Gemm", "MatMul", "Sub"):
            for place, name in enumerate(node.input[1:]):
                values = numpy_helper.to_array(constants[name])
                ones = np.full_like(values, 1 / max(1, values[0].size)) if values.ndim > 1 else np.zeros_like(values)
                is_offset = node.op_type == "Sub" or place > 0
                constants[name].CopyFrom(numpy_helper.from_array(np.zeros_like(values) if is_offset else ones, name))
    return model


@pytest.mark.parametrize("name", ["mnist14k.plus", "mnist4k.plus"])
def test_fields_of_digit_models_are_exact(name):
    check_shipped(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mnist-base.notes", "resnet8.plus", "cifar90k.plus"])
def test_fields_of_larger_models_are_exact(name):
    check_shipped(name)


def check_shipped(name):
    model = with_positive_weights(onnx.load(registry.find(name).folder / "model.onnx"))
    layers = [
        node.output[0] for node in model.graph.node
        if node.op_type in ("Conv", "MaxPool", "Add", "ReduceMean", "GlobalAveragePool", "Gemm")
        and not node.output[0].startswith("known")
    ]  # fmt: skip
    assert_exact(model, layers)


@pytest.mark.parametrize("name", [entry.card.name for entry in registry.scan() if entry.card.layers])
def test_largest_field_agrees_with_the_card(name):
    """The largest field along a side is the stated one; a field of more than half of the image ends at its edges."""
    entry = registry.find(name)
    graph = onnx.load(entry.folder / "model.onnx").graph
    fields = receptive_fields(graph)
    sizes = sorted(max(fields[value].parts[0][0].sum(axis=1)) for value in windows(graph))
    layers = [layer for layer in entry.card.layers if "global" not in layer.kind and layer.kind != "dense"]
    stated = sorted(layer.receptive_field for layer in layers)
    assert len(sizes) == len(stated)
    half = entry.card.input.height / 2
    assert all(size == field or (half < size < field) for size, field in zip(sizes, stated, strict=True))
