"""What can be read off an ONNX file: its layers with output size, receptive field, parameters and MACs."""

from math import prod
from typing import TYPE_CHECKING

from zoo.card import Layer

if TYPE_CHECKING:
    import onnx

# Operators that a person would call a layer; the others (ReLU, reshape, scaling) change no size and hold no weights.
_LAYERS = frozenset({"Conv", "MaxPool", "AveragePool", "GlobalAveragePool", "ReduceMean", "Gemm", "MatMul"})


def layers(model: "onnx.ModelProto") -> tuple[Layer, ...]:
    """The layers in graph order.

    output: channels first, without N. receptive_field: `r + (k - 1)·d·j` layer by layer, where j is the product of the
    strides so far (Araujo et al., Distill 2019, doi:10.23915/distill.00021); a dense layer sees what its input sees,
    and flattening joins all positions. macs: one multiply-accumulate for each weight and output position.
    """
    from onnx import numpy_helper, shape_inference

    graph = shape_inference.infer_shapes(model).graph
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    values = [*graph.input, *graph.value_info, *graph.output]
    shapes = {value.name: tuple(d.dim_value for d in value.type.tensor_type.shape.dim)[1:] for value in values}
    fields: dict[str, tuple[int, int]] = {value.name: (1, 1) for value in graph.input}  # receptive field, jump
    counters: dict[str, int] = {}
    found = []
    for node in graph.node:
        seen = [fields[name] for name in node.input if name in fields]
        field, jump = max(seen, default=(1, 1))
        attributes = {attribute.name: list(attribute.ints) for attribute in node.attribute}
        input_shape = shapes.get(node.input[0], ()) if node.input else ()
        output_shape = shapes.get(node.output[0], ())
        kernel, stride, dilation = _window(node.op_type, attributes, input_shape, output_shape)
        field, jump = field + (kernel - 1) * dilation * jump, jump * stride
        fields.update(dict.fromkeys(node.output, (field, jump)))
        if node.op_type not in _LAYERS:
            continue
        own = [weights[name] for name in node.input if name in weights]
        grouped = any(attribute.name == "group" and attribute.i > 1 for attribute in node.attribute)
        kind, name = _kind(node.op_type, kernel, grouped)
        counters[name] = counters.get(name, 0) + 1
        macs = own[0].size * prod(output_shape[1:]) if own else 0
        parameters = sum(array.size for array in own)
        found.append(Layer(f"{name}{counters[name]}", kind, output_shape, field, parameters, macs))
    return tuple(found)


def _window(
    operator: str, attributes: dict[str, list[int]], input_shape: tuple[int, ...], output_shape: tuple[int, ...]
) -> tuple[int, int, int]:
    """Kernel, stride and dilation along the height; (1, 1, 1) for whatever works position by position."""
    joins_all_positions = len(input_shape) == 3 and prod(output_shape[1:]) == 1
    if operator in ("GlobalAveragePool", "ReduceMean", "Flatten", "Reshape") and joins_all_positions:
        return input_shape[1], 1, 1
    first = {key: attributes.get(key, [1])[0] for key in ("kernel_shape", "strides", "dilations")}
    return first["kernel_shape"], first["strides"], first["dilations"]


def _kind(operator: str, kernel: int, grouped: bool) -> tuple[str, str]:
    """A layer's kind in words, and the stem of its name."""
    if operator == "Conv":
        return f"{'depthwise ' if grouped else ''}convolution {kernel}x{kernel}", "conv"
    if operator in ("MaxPool", "AveragePool"):
        return f"{'max' if operator == 'MaxPool' else 'average'} pool {kernel}x{kernel}", "pool"
    if operator in ("GlobalAveragePool", "ReduceMean"):
        return "global average pool", "pool"
    return "dense", "dense"
