"""Small ONNX classifiers as other programs export them, and what they answer."""

import numpy as np
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

KINDS = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "float64": TensorProto.DOUBLE}


def classifier(
    *, side=8, channels=3, classes=3, batch=None, layout="nchw", dtype="float32", opset=18, ir_version=8, end="gemm",
    softmax=False, reshape=(1, -1), seed=0,
):  # fmt: skip
    """A convolution, global average and a dense layer.

    Args:
        batch: a fixed N; None for a dynamic one.
        end: "gemm" flattens with Flatten, "reshape" with Reshape to `reshape`; "conv" gives (N, K, 1, 1).
        softmax: whether probabilities are the output.
    """
    generator = np.random.default_rng(seed)
    network = "float32" if dtype == "uint8" else dtype
    weights = {
        "kernel": generator.normal(0, 1, (6, channels, 3, 3)).astype(network),
        "bias": generator.normal(0, 1, 6).astype(network),
        "dense": generator.normal(0, 0.7, (6, classes)).astype(network),
        "offset": generator.normal(0, 1, classes).astype(network),
    }
    nodes, value = [], "x"
    if dtype == "uint8":
        nodes.append(helper.make_node("Cast", [value], ["floats"], to=TensorProto.FLOAT))
        weights["scale"] = np.array(1 / 255, np.float32)
        nodes.append(helper.make_node("Mul", ["floats", "scale"], ["scaled"]))
        value = "scaled"
    if layout == "nhwc":
        nodes.append(helper.make_node("Transpose", [value], ["turned"], perm=[0, 3, 1, 2]))
        value = "turned"
    nodes += [
        helper.make_node("Conv", [value, "kernel", "bias"], ["maps"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["maps"], ["positive"]),
        helper.make_node("GlobalAveragePool", ["positive"], ["means"]),
    ]
    if end == "conv":
        weights["dense"] = weights["dense"].T[:, :, np.newaxis, np.newaxis].copy()
        nodes.append(helper.make_node("Conv", ["means", "dense", "offset"], ["scores"]))
    else:
        if end == "reshape":
            weights["shape"] = np.array(reshape, np.int64)
            nodes.append(helper.make_node("Reshape", ["means", "shape"], ["flat"]))
        else:
            nodes.append(helper.make_node("Flatten", ["means"], ["flat"]))
        nodes.append(helper.make_node("Gemm", ["flat", "dense", "offset"], ["scores"]))
    if softmax:
        nodes.append(helper.make_node("Softmax", ["scores"], ["shares"], axis=1))
        nodes.append(helper.make_node("Identity", ["shares"], ["out"]))
    else:
        nodes.append(helper.make_node("Identity", ["scores"], ["out"]))
    count = batch or "batch"
    shape = [count, channels, side, side] if layout == "nchw" else [count, side, side, channels]
    elem_type = TensorProto.UINT8 if dtype == "uint8" else KINDS[dtype]
    out_shape = [count, classes, 1, 1] if end == "conv" else [count, classes]
    inputs = [helper.make_tensor_value_info("x", elem_type, shape)]
    tensors = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    if ir_version < 4:
        inputs += [helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)) for t in tensors]
    outputs = [helper.make_tensor_value_info("out", KINDS[network], out_shape)]
    graph = helper.make_graph(nodes, "net", inputs, outputs, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)
    model.producer_name = "test"
    return model


def save(model, path, **metadata):
    for key, value in metadata.items():
        model.metadata_props.add(key=key, value=value)
    path.write_bytes(model.SerializeToString())
    return path


def answers(model, values):
    """The scores of a model for its own inputs, by ONNX's reference implementation, one input at a time: `(N, K)`."""
    evaluator = ReferenceEvaluator(model)
    rows = [evaluator.run(None, {"x": np.ascontiguousarray(value[np.newaxis])})[0] for value in values]
    return np.concatenate(rows).reshape(len(values), -1).astype(np.float64)


def softmax(scores):
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)
