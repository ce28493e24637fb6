"""A model's ONNX graph as ncnn reads it: the text of a .param file, and the content of a .bin file.

https://github.com/Tencent/ncnn/wiki/param-and-model-file-structure and /operators define both. pnnx, ncnn's own
converter, writes the same layers, but it needs PyTorch and fails on names of layers that begin with a digit.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

Floats = npt.NDArray[np.float32]
MAGIC = "7767517"
RAW_FLOAT32 = bytes(4)  # the tag before a layer's weights, but not before its bias
OUTPUT = "logits"


class Graph:
    """Layers of the network between the normalised image, blob `image`, and `logits`; one image at a time.

    Attributes:
        mean, scale: of the normalisation `(pixel - mean) * scale`, for each channel; the caller does it.
    """

    def __init__(self, content: bytes) -> None:
        graph = onnx.load_from_string(content).graph
        self._constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        self._lines, self._weights, self._names = ["Input image 0 1 image"], [b""], {"image": "image"}
        nodes = list(graph.node)
        while nodes[0].op_type in ("Transpose", "Cast", "Sub", "Mul"):
            node = nodes.pop(0)
            self._names[node.output[0]] = "image"
            if node.op_type in ("Sub", "Mul"):
                setattr(self, {"Sub": "mean", "Mul": "scale"}[node.op_type], self._constants[node.input[1]].ravel())
        nodes = nodes[: [node.output[0] for node in nodes].index(OUTPUT) + 1]
        self._uses = Counter(name for node in nodes for name in node.input)
        self._copies: dict[str, list[str]] = {}
        for node, following in zip(nodes, [*nodes[1:], None], strict=True):
            self._add(node, following)

    mean: Floats
    scale: Floats

    @property
    def param(self) -> str:
        blobs = sum(int(line.split()[3]) for line in self._lines)
        return "\n".join([MAGIC, f"{len(self._lines)} {blobs}", *self._lines, ""])

    @property
    def bin(self) -> bytes:
        return b"".join(self._weights)

    def _add(self, node: Any, following: Any) -> None:
        options = {option.name: onnx.helper.get_attribute_value(option) for option in node.attribute}
        output = node.output[0]
        if output in self._names:  # a Relu that is part of the convolution before it
            return
        inputs = [self._blob(name) for name in node.input if name not in self._constants]
        constants = [self._constants[name] for name in node.input if name in self._constants]
        if node.op_type == "Conv":
            kind, settings = self._convolution(options, *constants)
            is_before_relu = following is not None and (following.op_type, *following.input) == ("Relu", output)
            if is_before_relu and self._uses[output] == 1:
                settings |= {9: 1}
                self._names[following.output[0]] = output
        elif node.op_type == "Gemm":
            matrix = constants[0] if options.get("transB") else constants[0].T
            kind, settings = "InnerProduct", {0: len(matrix), 1: int(len(constants) > 1), 2: matrix.size}
            self._write(matrix, *constants[1:])
        elif node.op_type == "MaxPool":
            (height, width), (down, across) = options["kernel_shape"], options["strides"]
            assert not any(options["pads"])
            kind, settings = "Pooling", {0: 0, 1: width, 11: height, 2: across, 12: down, 5: 1}
        elif node.op_type == "ReduceMean":
            kind, settings = "Pooling", {0: 1, 4: 1}  # of all pixels; the result has no more sides
        else:
            kind, settings = {"Reshape": ("Flatten", {}), "Relu": ("ReLU", {}), "Add": ("BinaryOp", {0: 0})}[
                node.op_type
            ]
        self._layer(kind, inputs, [output], settings)

    def _convolution(self, options: dict[str, Any], weight: Floats, *bias: Floats) -> tuple[str, dict[int, int]]:
        (height, width), (down, across), group = options["kernel_shape"], options["strides"], options["group"]
        top, left, bottom, right = options["pads"]
        self._write(weight, *bias)
        settings = {0: len(weight), 1: width, 11: height, 3: across, 13: down, 4: left, 14: top, 15: right, 16: bottom}
        settings |= {5: len(bias), 6: weight.size} | ({7: group} if group > 1 else {})
        return "ConvolutionDepthWise" if group > 1 else "Convolution", settings

    def _write(self, weight: Floats, *bias: Floats) -> None:
        arrays = [np.ascontiguousarray(array, np.float32).tobytes() for array in (weight, *bias)]
        self._weights += [RAW_FLOAT32, *arrays]

    def _layer(self, kind: str, inputs: list[str], outputs: list[str], settings: dict[int, int]) -> None:
        numbers = " ".join(f"{key}={value}" for key, value in settings.items())
        counts = f"{len(inputs)} {len(outputs)}"
        self._lines.append(f"{kind} {len(self._lines)} {counts} {' '.join(inputs + outputs)} {numbers}".rstrip())

    def _blob(self, name: str) -> str:
        """The blob that an ONNX value is; each use of a value that is used several times needs a blob of its own."""
        blob = self._names.get(name, name)
        uses = sum(count for value, count in self._uses.items() if self._names.get(value, value) == blob)
        if blob != name:
            uses -= self._uses[blob]  # by the Relu inside the layer
        if uses == 1:
            return blob
        if blob not in self._copies:
            self._copies[blob] = [f"{blob}/{number}" for number in range(uses)]
            self._layer("Split", [blob], list(self._copies[blob]), {})
        return self._copies[blob].pop()
