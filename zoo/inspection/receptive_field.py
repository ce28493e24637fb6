"""Receptive fields: exactly which pixels of the input each unit of a layer depends on, from the ONNX graph.

The pixels are found by passing sets of pixels through the graph, not by arithmetic with sizes and strides as in
`onnx_layers.Field`. So holes of dilated kernels, edges, padding and branches of any geometry are right. Weights are not
looked at: a unit depends on a pixel if some weights make it so. Channels are not distinguished: where branches with
different fields are concatenated, every channel counts as having all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import onnx

Lines = npt.NDArray[np.bool_]  # `(units, pixels)` along one side: whether the units there depend on the pixels there
Part = tuple[Lines, Lines]  # of rows, and of columns: together a rectangle, perhaps with holes, for each unit

# Operators that compute each position from the same position of their inputs
_POSITION_WISE = frozenset(
    "Abs Add BatchNormalization Cast Clip DequantizeLinear Div Dropout Elu Erf Exp Gelu HardSigmoid HardSwish Identity "
    "LeakyRelu Log LRN Max Min Mish Mul Neg Pow PRelu QuantizeLinear Relu Selu Sigmoid Softplus Softsign Sqrt Sub Sum "
    "Tanh ThresholdedRelu".split()
)
_WINDOWS = frozenset({"Conv", "MaxPool", "AveragePool", "LpPool"})
_ALL_POSITIONS = frozenset({"GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool", "InstanceNormalization"})
_REDUCTIONS = frozenset({"ReduceMean", "ReduceMax", "ReduceMin", "ReduceSum", "ReduceL1", "ReduceL2"})
_FLAT = frozenset({"Flatten", "Reshape", "Gemm", "MatMul", "Softmax", "LogSoftmax", "Squeeze"})


@dataclass(frozen=True)
class Reach:
    """The receptive fields of all units of one value of a graph.

    Attributes:
        parts: a unit depends on the pixels of all parts; in each, on every row that the first element has for it
            crossed with every column that the second one has.
    """

    parts: tuple[Part, ...]

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of units."""
        rows, columns = self.parts[0]
        return len(rows), len(columns)

    def mask(self, row: int, column: int) -> npt.NDArray[np.bool_]:
        """bool `(H, W)`: the pixels that the unit at a position depends on."""
        masks = [np.logical_and.outer(rows[row], columns[column]) for rows, columns in self.parts]
        return np.asarray(np.logical_or.reduce(masks))

    def box(self, row: int, column: int) -> tuple[int, int, int, int]:
        """Top, left, bottom and right of these pixels, the last two exclusive; all 0 for a unit that sees none."""
        mask = self.mask(row, column)
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        if not rows.size:
            return 0, 0, 0, 0
        return int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1


@dataclass(frozen=True)
class Window:
    """What a convolution or a pool looks at: each pair is along rows, and along columns.

    Attributes:
        padding: zeros before the first and after the last row; the same for columns.
    """

    kernel: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    padding: tuple[tuple[int, int], tuple[int, int]]
    output: tuple[int, int]


@dataclass(frozen=True)
class _Value:
    """A value that depends on the image: its fields, and which of its axes are rows and columns, if any still are."""

    reach: Reach
    axes: tuple[int, int] | None

    def changed(self, rows: Callable[[Lines], Lines], columns: Callable[[Lines], Lines]) -> _Value:
        return replace(self, reach=_union([(rows(part[0]), columns(part[1])) for part in self.reach.parts]))


def receptive_fields(graph: onnx.GraphProto) -> dict[str, Reach]:
    """The receptive fields of every value that depends on the input image, as far as they are known.

    Values behind an operator that is not known here, or whose shapes are not fixed, are left out.

    Args:
        graph: its first input is uint8 `(N, H, W, C)`, as of all models of the zoo.
    """
    return {name: value.reach for name, value in _values(graph)[0].items() if value is not None}


def windows(graph: onnx.GraphProto) -> dict[str, Window]:
    """The window of every convolution and pool, by the name of its output."""
    return _values(graph)[1]


def _values(graph: onnx.GraphProto) -> tuple[dict[str, _Value | None], dict[str, Window]]:
    """Every value that depends on the image, None if its fields are unknown; and the windows on the way."""
    from onnx import numpy_helper

    constants = {tensor.name: tensor for tensor in graph.initializer}
    constants |= {
        node.output[0]: attribute.t
        for node in graph.node
        if node.op_type == "Constant"
        for attribute in node.attribute
        if attribute.name == "value"
    }
    image = graph.input[0]
    _, height, width, *_ = (*(d.dim_value for d in image.type.tensor_type.shape.dim), 0, 0, 0)
    whole = Reach(((np.eye(height, dtype=bool), np.eye(width, dtype=bool)),))
    values: dict[str, _Value | None] = {image.name: _Value(whole, (1, 2)) if height and width else None}
    found_windows: dict[str, Window] = {}

    def integers(name: str) -> list[int] | None:
        return numpy_helper.to_array(constants[name]).ravel().astype(int).tolist() if name in constants else None

    for node in graph.node:
        inputs = [values[name] for name in node.input if name in values]
        if not inputs:
            continue
        known = [value for value in inputs if value is not None]
        output = None
        if len(known) == len(inputs):
            attributes = _attributes(node)
            if node.op_type in _WINDOWS and known[0].axes == (2, 3):
                shape = tuple(constants[node.input[1]].dims) if node.op_type == "Conv" and len(node.input) > 1 and (
                    node.input[1] in constants) else ()  # fmt: skip
                window = _window(attributes, tuple(attributes.get("kernel_shape", shape[2:])), known[0].reach.shape)
                if window is not None:
                    found_windows[node.output[0]] = window
                    output = _through(window, known[0])
            else:
                output = _result(node.op_type, known, attributes, [integers(name) for name in node.input[1:]])
        values.update(dict.fromkeys(node.output, output))
    return values, found_windows


def _result(
    operator: str, inputs: list[_Value], attributes: dict[str, Any], constants: list[list[int] | None]
) -> _Value | None:
    """The output of an operator without a window; None if it is not known here."""
    value = inputs[0]
    if operator in _POSITION_WISE or (operator == "Concat" and _is_of_channels(attributes, inputs)):
        return _joined(inputs)
    if operator in _ALL_POSITIONS:
        size = value.reach.shape if operator == "InstanceNormalization" else (1, 1)
        return value.changed(lambda rows: _any(rows, size[0]), lambda columns: _any(columns, size[1]))
    if operator in _FLAT:
        return _Value(_joined([_flattened(each) for each in inputs]).reach, None)  # type: ignore[union-attr]
    if operator in _REDUCTIONS:
        return _reduced(value, attributes, constants)
    if value.axes is None:
        return None
    if operator == "Transpose":
        order = attributes.get("perm", [3, 2, 1, 0])
        return replace(value, axes=(order.index(value.axes[0]), order.index(value.axes[1])))
    if operator == "Pad":
        pads, axes = attributes.get("pads") or (constants and constants[0]), value.axes
        if not pads or min(pads) < 0 or len(pads) < 2 * (max(axes) + 1) or constants[2:]:
            return None
        mode, half = attributes.get("mode", b"constant").decode(), len(pads) // 2
        around = [(pads[axis], pads[half + axis]) for axis in axes]
        return value.changed(lambda rows: _padded(rows, around[0], mode), lambda lines: _padded(lines, around[1], mode))
    return None


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    from onnx import helper

    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def _is_of_channels(attributes: dict[str, Any], inputs: list[_Value]) -> bool:
    axes = inputs[0].axes
    return axes is not None and attributes["axis"] % 4 not in (0, *axes)


def _joined(inputs: list[_Value]) -> _Value | None:
    """Values of the same positions, or of one for all."""
    height, width = (max(value.reach.shape[side] for value in inputs) for side in (0, 1))
    if any(value.reach.shape[0] not in (1, height) or value.reach.shape[1] not in (1, width) for value in inputs):
        return None
    if len({value.axes for value in inputs}) > 1:
        return None
    parts = [
        (np.broadcast_to(rows, (height, rows.shape[1])), np.broadcast_to(columns, (width, columns.shape[1])))
        for value in inputs
        for rows, columns in value.reach.parts
    ]
    return _Value(_union(parts), inputs[0].axes)


def _union(parts: Iterable[Part]) -> Reach:
    """A part that is inside another one is left out, so a residual connection leaves one part."""
    kept: list[Part] = []
    for part in parts:
        if not any(_is_inside(part, other) for other in kept):
            kept = [other for other in kept if not _is_inside(other, part)] + [part]
    return Reach(tuple(kept))


def _is_inside(inner: Part, outer: Part) -> bool:
    return not ((inner[0] & ~outer[0]).any() or (inner[1] & ~outer[1]).any())


def _any(lines: Lines, count: int = 1) -> Lines:
    """What any unit of a side depends on, for `count` units."""
    return np.repeat(lines.any(axis=0, keepdims=True), count, axis=0)


def _flattened(value: _Value) -> _Value:
    return value.changed(_any, _any)


def _reduced(value: _Value, attributes: dict[str, Any], constants: list[list[int] | None]) -> _Value | None:
    """A mean, sum or maximum along some axes."""
    axes = attributes.get("axes") or (constants[0] if constants else None)
    if value.axes is None or (constants and axes is None):
        return None
    reduced = {axis % 4 for axis in axes} if axes else {0, 1, 2, 3}
    rows, columns = value.axes
    result = value.changed(
        _any if rows in reduced else lambda lines: lines, _any if columns in reduced else lambda lines: lines
    )
    if attributes.get("keepdims", 1):
        return result
    if reduced & {rows, columns}:
        return _Value(result.reach, None) if {rows, columns} <= reduced else None
    return replace(
        result, axes=(rows - sum(axis < rows for axis in reduced), columns - sum(a < columns for a in reduced))
    )


def _padded(lines: Lines, around: tuple[int, int], mode: str) -> Lines:
    if mode == "constant":
        return np.pad(lines, (around, (0, 0)))
    return lines[np.pad(np.arange(len(lines)), around, mode=mode)]  # type: ignore[call-overload]


def _window(attributes: dict[str, Any], kernel: tuple[int, ...], size: tuple[int, int]) -> Window | None:
    """The window of a node; None if it has not two sides.

    Args:
        size: rows and columns of the node's input.
    """
    if len(kernel) != 2:
        return None
    strides, dilations = attributes.get("strides", [1, 1]), attributes.get("dilations", [1, 1])
    pads, automatic = attributes.get("pads", [0, 0, 0, 0]), attributes.get("auto_pad", b"NOTSET")
    padding, output = [], []
    for side in (0, 1):
        reach = (kernel[side] - 1) * dilations[side] + 1
        if automatic.startswith(b"SAME"):
            missing = max(0, (-(-size[side] // strides[side]) - 1) * strides[side] + reach - size[side])
            smaller, larger = missing // 2, missing - missing // 2
            before, after = (larger, smaller) if automatic == b"SAME_LOWER" else (smaller, larger)
        else:
            before, after = (0, 0) if automatic == b"VALID" else (pads[side], pads[side + 2])
        room = size[side] + before + after - reach
        count = (-(-room // strides[side]) if attributes.get("ceil_mode") else room // strides[side]) + 1
        if attributes.get("ceil_mode") and (count - 1) * strides[side] >= size[side] + before:
            count -= 1  # a window must not begin in the padding at the end
        if count < 1:
            return None
        padding.append((before, after))
        output.append(count)
    return Window(
        (kernel[0], kernel[1]),
        (strides[0], strides[1]),
        (dilations[0], dilations[1]),
        (padding[0], padding[1]),
        (output[0], output[1]),
    )


def _through(window: Window, value: _Value) -> _Value:
    def side(number: int) -> Callable[[Lines], Lines]:
        def slide(lines: Lines) -> Lines:
            result = np.zeros((window.output[number], lines.shape[1]), bool)
            for tap in range(window.kernel[number]):
                first = tap * window.dilation[number] - window.padding[number][0]
                places = first + window.stride[number] * np.arange(window.output[number])
                inside = (places >= 0) & (places < len(lines))
                result[inside] |= lines[places[inside]]
            return result

        return slide

    return value.changed(side(0), side(1))
