"""Composes a classifier of another program with preprocessing and softmax (docs/decisions/0001-one-file.md).

image uint8 (N, H, W, C) → order of colours, layout, scale, mean, std → the model → logits → softmax → probabilities
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from zoo.adding.foreign import INPUT_TYPES, ForeignModel, ImageInput, import_onnx
from zoo.adding.preprocessing import Preprocessing
from zoo.errors import BadModel, reason

if TYPE_CHECKING:
    import onnx

Kind = Literal["logits", "probabilities"]

IR_VERSION = 8  # of the file format, at least; older ones list weights as inputs
TINY = 1.2e-38  # added to probabilities before the logarithm: the smallest normal float32


def compose(
    model: ForeignModel,
    expected: ImageInput,
    output: str,
    kind: Kind,
    classes: int,
    rules: Preprocessing,
) -> onnx.ModelProto:
    """The model in pocketzoo's form, without a card.

    Args:
        expected, output: of `zoo.adding.foreign.image_input` and `class_output`.
        kind: what the output holds. If a softmax over the classes gives its probabilities, the logits are the input of
            that softmax; other probabilities get their logarithms as logits.
        classes: the number of classes K.
    Raises:
        BadModel: the graphs cannot be joined.
    """
    package = import_onnx()
    core = package.ModelProto()
    core.CopyFrom(model.proto)
    _tidy(core)
    if expected.batch is not None:
        _make_batch_dynamic(core, expected)
    _declare_batch(core, expected)
    if kind == "probabilities" and (node := _softmax(core.graph, output)) is not None:
        output, kind = _expose(core, node.input[0], output), "logits"
    core.ir_version = max(core.ir_version, IR_VERSION)
    parts = {"opset_imports": list(core.opset_import), "ir_version": core.ir_version}
    before = package.helper.make_model(_before(package, expected, rules), **parts)
    after = package.helper.make_model(_after(package, kind, classes, _dtype_of(core, output)), **parts)
    try:
        core = package.compose.add_prefix(core, "model/")
        joined = package.compose.merge_models(before, core, [("pixels", f"model/{expected.name}")])
        joined = package.compose.merge_models(
            joined, after, [(f"model/{output}", "scores")], outputs=["logits", "probabilities"]
        )
    except Exception as error:  # of onnx.checker, whose classes are not public
        raise BadModel(f"{model.name} cannot be joined with its preprocessing ({reason(error)}).") from None
    joined.graph.name = "classifier"
    del joined.graph.value_info[:]
    joined.producer_name, joined.producer_version = "pocketzoo", ""
    result: onnx.ModelProto = joined
    return result


def last_operator(model: ForeignModel, output: str) -> str:
    """The type of the operator that computes an output."""
    node = _producer(model.proto.graph, output)
    return node.op_type if node is not None else ""


def _producer(graph: onnx.GraphProto, name: str) -> onnx.NodeProto | None:
    """The operator that computes a value, behind copies of it."""
    producers = {value: node for node in graph.node for value in node.output}
    node = producers.get(name)
    for _ in range(10):
        if node is None or node.op_type != "Identity":
            break
        node = producers.get(node.input[0])
    return node


def _softmax(graph: onnx.GraphProto, output: str) -> onnx.NodeProto | None:
    """The softmax over the classes that computes an output, if one does."""
    node = _producer(graph, output)
    return node if node is not None and node.op_type == "Softmax" and _axis(node) in (1, -1) else None


def _axis(node: onnx.NodeProto) -> int:
    return next((attribute.i for attribute in node.attribute if attribute.name == "axis"), -1)


def _tidy(model: onnx.ModelProto) -> None:
    """Remove what only debuggers read, known shapes (those of another batch size), and weights in the inputs."""
    for node in model.graph.node:
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    del model.graph.value_info[:]
    del model.metadata_props[:]
    model.graph.ClearField("metadata_props")
    for value in (*model.graph.input, *model.graph.output, *model.graph.initializer):
        value.ClearField("metadata_props")
        value.ClearField("doc_string")


def _make_batch_dynamic(model: onnx.ModelProto, expected: ImageInput) -> None:
    """Let `Reshape` operators keep whatever batch size comes in, where the exporter wrote a fixed one.

    A shape (1, 1024) becomes (-1, 1024), and (1, -1) becomes (0, -1), where 0 copies the size of the operator's input.
    """
    from onnx import numpy_helper

    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].HasField("t"):
            tensors[node.output[0]] = node.attribute[0].t
    reshapes = [node for node in model.graph.node if node.op_type == "Reshape" and node.input[1] in tensors]
    for number, node in enumerate(reshapes):
        shape = numpy_helper.to_array(tensors[node.input[1]]).copy()
        if shape.ndim != 1 or len(shape) == 0 or shape[0] != expected.batch:
            continue
        shape[0] = 0 if -1 in shape[1:] else -1
        name = f"reshape/{number}"  # a tensor of its own, because operators of other kinds may share the old one
        model.graph.initializer.append(numpy_helper.from_array(shape, name))
        node.input[1] = name


def _declare_batch(model: onnx.ModelProto, expected: ImageInput) -> None:
    """Give the input the size that was chosen and a dynamic batch; the sizes of outputs are inferred."""
    shape = model.graph.input[0].type.tensor_type.shape
    sizes = [expected.channels, expected.height, expected.width]
    if expected.layout == "nhwc":
        sizes = [*sizes[1:], sizes[0]]
    for dim, size in zip(shape.dim, ["N", *sizes], strict=True):
        dim.Clear()
        if isinstance(size, int):
            dim.dim_value = size
        else:
            dim.dim_param = size
    for value in model.graph.output:
        if value.type.tensor_type.HasField("shape") and value.type.tensor_type.shape.dim:
            value.type.tensor_type.shape.dim[0].Clear()
            value.type.tensor_type.shape.dim[0].dim_param = "N"


def _expose(model: onnx.ModelProto, name: str, like: str) -> str:
    """Make a value an output of the same type as another output; returns its name."""
    if all(value.name != name for value in model.graph.output):
        value = model.graph.output.add()
        value.CopyFrom(next(value for value in model.graph.output if value.name == like))
        value.name = name
    return name


def _dtype_of(model: onnx.ModelProto, output: str) -> int:
    return int(next(value.type.tensor_type.elem_type for value in model.graph.output if value.name == output))


def _before(package: Any, expected: ImageInput, rules: Preprocessing) -> onnx.GraphProto:
    """uint8 `image` → `pixels` as the model takes them: `pixel * scale / std - mean / std`."""
    tensor, node = package.TensorProto, package.helper.make_node
    steps: list[tuple[str, list[str], dict[str, Any]]] = []
    weights = []
    if rules.bgr:
        weights.append(package.numpy_helper.from_array(np.array([2, 1, 0], np.int64), "order"))
        steps.append(("Gather", ["order"], {"axis": 3}))
    if expected.layout == "nchw":
        steps.append(("Transpose", [], {"perm": [0, 3, 1, 2]}))
    elem_type = {name: number for number, name in INPUT_TYPES.items()}[expected.dtype]
    if expected.dtype != "uint8":
        factor = rules.scale / np.array(rules.std)
        offset = np.array(rules.mean) / np.array(rules.std)
        shape = (1, -1, 1, 1) if expected.layout == "nchw" else (1, 1, 1, -1)
        steps.append(("Cast", [], {"to": tensor.FLOAT}))
        for operator, name, values in (("Mul", "factor", factor), ("Sub", "offset", offset)):
            if (values != (operator == "Mul")).any():
                weights.append(package.numpy_helper.from_array(values.astype(np.float32).reshape(shape), name))
                steps.append((operator, [name], {}))
        if expected.dtype != "float32":
            steps.append(("Cast", [], {"to": elem_type}))
    names = ["image", *(f"pixels{number}" for number in range(1, len(steps))), "pixels"]
    nodes = [
        node(operator, [source, *others], [target], **attributes)
        for (operator, others, attributes), source, target in zip(steps, names, names[1:], strict=False)
    ] or [node("Identity", ["image"], ["pixels"])]
    sizes = [expected.height, expected.width, expected.channels]
    value = package.helper.make_tensor_value_info
    taken = ["N", *(sizes if expected.layout == "nhwc" else [sizes[2], *sizes[:2]])]
    result: onnx.GraphProto = package.helper.make_graph(
        nodes, "before", [value("image", tensor.UINT8, ["N", *sizes])], [value("pixels", elem_type, taken)], weights
    )
    return result


def _after(package: Any, kind: Kind, classes: int, elem_type: int) -> onnx.GraphProto:
    """`scores` → float32 `logits` and `probabilities` (N, K)."""
    tensor, node = package.TensorProto, package.helper.make_node
    nodes = [
        node("Cast", ["scores"], ["float_scores"], to=tensor.FLOAT),
        node("Flatten", ["float_scores"], ["flat_scores"], axis=1),
    ]
    weights = []
    if kind == "logits":
        nodes += [
            node("Identity", ["flat_scores"], ["logits"]),
            node("Softmax", ["flat_scores"], ["probabilities"], axis=1),
        ]
    else:
        weights.append(package.numpy_helper.from_array(np.array([TINY], np.float32), "tiny"))
        nodes += [
            node("Identity", ["flat_scores"], ["probabilities"]),
            node("Add", ["flat_scores", "tiny"], ["positive"]),
            node("Log", ["positive"], ["logits"]),
        ]
    value = package.helper.make_tensor_value_info
    scores = package.helper.make_empty_tensor_value_info("scores")
    scores.type.tensor_type.elem_type = elem_type
    outputs = [value(name, tensor.FLOAT, ["N", classes]) for name in ("logits", "probabilities")]
    result: onnx.GraphProto = package.helper.make_graph(nodes, "after", [scores], outputs, weights)
    return result
