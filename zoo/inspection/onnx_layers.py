"""The layers of an ONNX graph and their receptive fields, without running the graph."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from zoo.card import Layer

if TYPE_CHECKING:
    import onnx

_FOLLOWING = frozenset({"Relu", "QuantizeLinear", "DequantizeLinear"})  # operators that belong to the layer before them
# Operators that are listed as layers. The others (ReLU, reshape, scaling) have no weights and change no size.
_LAYERS = frozenset({"Conv", "MaxPool", "AveragePool", "GlobalAveragePool", "ReduceMean", "Gemm", "MatMul"})


@dataclass(frozen=True)
class Field:
    """The receptive field of a layer's values, in pixels of the input along one side.

    Value i depends on `size` pixels from `start + i · jump` on; a negative start is padding (Araujo et al., Distill
    2019, doi:10.23915/distill.00021).
    """

    size: int
    jump: int
    start: int

    def after(self, kernel: int, stride: int, dilation: int, pad: int) -> "Field":
        """The field of the next layer: size `r + (k - 1)·d·j`, where j is the product of the strides so far."""
        return Field(self.size + (kernel - 1) * dilation * self.jump, self.jump * stride, self.start - pad * self.jump)

    def pixels(self, index: int, side: int) -> tuple[int, int]:
        """First pixel and last pixel + 1 that value `index` depends on, in an input of `side` pixels."""
        first = self.start + index * self.jump
        return max(0, first), min(side, first + self.size)


@dataclass(frozen=True)
class Step:
    """A layer in its graph."""

    layer: Layer
    field: Field
    output: str  # name of its values, after a ReLU that follows
    weights: npt.NDArray[np.float32] | None
    node_output: str  # name of its own values, before a ReLU


def layers(model: "onnx.ModelProto") -> tuple[Layer, ...]:
    """The layers in graph order, as the card lists them."""
    return tuple(step.layer for step in steps(model))


def steps(model: "onnx.ModelProto") -> Iterator[Step]:
    """The layers in graph order, with their receptive fields and the names of their values.

    Where branches join, the widest field counts. A dense layer has the field of its input; flattening and averaging
    over all positions join their fields. `macs` is one multiply-accumulate per weight and output position.
    """
    from onnx import numpy_helper, shape_inference

    graph = shape_inference.infer_shapes(model).graph
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    weights |= {
        node.output[0]: _dequantized(*(weights[name] for name in node.input))
        for node in graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in weights
    }
    shapes, nodes, fields = _shapes(graph), _operators(graph), receptive_fields(graph)
    followers = {node.input[0]: node for node in nodes if node.op_type in _FOLLOWING}
    counters: dict[str, int] = {}
    for node in nodes:
        if node.op_type not in _LAYERS:
            continue
        output_shape, field = shapes.get(node.output[0], ()), fields[node.output[0]]
        node_weights = [name for name in node.input if name in weights]
        grouped = any(attribute.name == "group" and attribute.i > 1 for attribute in node.attribute)
        kind, stem = _kind(node.op_type, _kernel(node, shapes), grouped)
        counters[stem] = counters.get(stem, 0) + 1
        layer = Layer(
            name=f"{stem}{counters[stem]}",
            kind=kind,
            output=output_shape,
            receptive_field=field.size,
            parameters=sum(weights[name].size for name in node_weights),
            macs=weights[node_weights[0]].size * prod(output_shape[1:]) if node_weights else 0,
        )
        last, visited = node, {""}
        while last.output[0] in followers and last.output[0] not in visited:  # a damaged graph may be a circle
            visited.add(last.output[0])
            last = followers[last.output[0]]
        yield Step(layer, field, last.output[0], weights[node_weights[0]] if node_weights else None, node.output[0])


def receptive_fields(graph: "onnx.GraphProto") -> dict[str, Field]:
    """The field of every value of a graph whose shapes are inferred. Where branches join, the widest counts."""
    shapes = _shapes(graph)
    fields = {value.name: Field(1, 1, 0) for value in graph.input}
    for node in _operators(graph):
        input_fields = [fields[name] for name in node.input if name in fields]
        input_shape, output_shape = shapes.get(node.input[0], ()), shapes.get(node.output[0], ())
        widest = max(input_fields, key=lambda field: field.size, default=Field(1, 1, 0))
        field = widest.after(*_window(node, _kernel(node, shapes), input_shape, output_shape))
        fields.update(dict.fromkeys(node.output, field))
    return fields


def _operators(graph: "onnx.GraphProto") -> list["onnx.NodeProto"]:
    """Nodes without inputs are constants, and the head of the output `known` is no layer of the network."""
    return [node for node in graph.node if node.input and node.output and not _is_head(node.output[0])]


def _shapes(graph: "onnx.GraphProto") -> dict[str, tuple[int, ...]]:
    """The inferred shape of every value, without N; 0 where a size is unknown. Weights lack their first size too."""
    values = [*graph.input, *graph.value_info, *graph.output]
    shapes = {tensor.name: tuple(tensor.dims)[1:] for tensor in graph.initializer}
    return shapes | {value.name: tuple(d.dim_value for d in value.type.tensor_type.shape.dim)[1:] for value in values}


def _integers(node: "onnx.NodeProto") -> dict[str, list[int]]:
    """Attributes that are lists of integers."""
    return {attribute.name: list(attribute.ints) for attribute in node.attribute}


def _is_head(output: str) -> bool:
    """Whether a value belongs to the head of the output `known` (`train/known.py`)."""
    return output == "known" or output.startswith("known.")


def _dequantized(
    values: npt.NDArray[Any], scale: npt.NDArray[Any], zero: npt.NDArray[Any] | None = None
) -> npt.NDArray[np.float32]:
    """int8 weights as float32; `scale` and `zero` have one value for all weights, or one per output."""
    shape = (-1, *[1] * (values.ndim - 1)) if scale.size > 1 else ()
    shifted = values.astype(np.float32) - (0 if zero is None else zero.astype(np.float32).reshape(shape))
    return np.asarray(shifted * scale.reshape(shape), np.float32)


def _kernel(node: "onnx.NodeProto", shapes: dict[str, tuple[int, ...]]) -> int:
    """The height of the window of a convolution, which may leave it to its weights, or of a pool; otherwise 1."""
    weights = shapes.get(node.input[1], ()) if node.op_type == "Conv" else ()
    return _integers(node).get("kernel_shape", weights[1:] or [1])[0]


def _window(
    node: "onnx.NodeProto", kernel: int, input_shape: tuple[int, ...], output_shape: tuple[int, ...]
) -> tuple[int, int, int, int]:
    """Kernel, stride, dilation and padding along the height; (1, 1, 1, 0) for position-wise operators."""
    joins_all_positions = len(input_shape) == 3 and prod(output_shape[1:]) == 1
    if node.op_type in ("GlobalAveragePool", "ReduceMean", "Flatten", "Reshape") and joins_all_positions:
        return input_shape[1], 1, 1, 0
    attributes = _integers(node)
    stride, dilation = (attributes.get(key, [1])[0] for key in ("strides", "dilations"))
    pad = attributes.get("pads", [0])[0]
    automatic = next((attribute.s for attribute in node.attribute if attribute.name == "auto_pad"), b"")
    if automatic.startswith(b"SAME") and len(input_shape) == len(output_shape) == 3:
        missing = max(0, (output_shape[1] - 1) * stride + (kernel - 1) * dilation + 1 - input_shape[1])
        pad = (missing + (automatic == b"SAME_LOWER")) // 2
    return kernel, stride, dilation, pad


def _kind(operator: str, kernel: int, grouped: bool) -> tuple[str, str]:
    """A layer's kind in words, and the stem of its name."""
    if operator == "Conv":
        return f"{'depthwise ' if grouped else ''}convolution {kernel}x{kernel}", "conv"
    if operator in ("MaxPool", "AveragePool"):
        return f"{'max' if operator == 'MaxPool' else 'average'} pool {kernel}x{kernel}", "pool"
    if operator in ("GlobalAveragePool", "ReduceMean"):
        return "global average pool", "pool"
    return "dense", "dense"
