"""The yardstick of this machine: one product of two float32 matrices of `SIDE`², through the library that is measured.

What a GEMM reaches is what the library can get out of the processor at its best; a network's share of it says how far
its layers are from that. Timed beside every row, it is also what figures of different days are compared by.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

SIDE = 384  # of 128 to 2048, what reaches most here: three matrices fit a core's cache, and calling does not count
GFLOP = 2 * SIDE**3 / 1e9  # a multiplication and an addition for each term


def matrices() -> tuple[np.ndarray, np.ndarray]:
    """Two float32 `(SIDE, SIDE)`."""
    random = np.random.default_rng(0)
    return random.random((SIDE, SIDE), np.float32), random.random((SIDE, SIDE), np.float32)


def onnx_model() -> bytes:
    """An ONNX file that multiplies its input `a` by a constant, as a network does by its weights."""
    from onnx import TensorProto, helper, numpy_helper

    a, b = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [SIDE, SIDE]) for name in ("a", "product"))
    node = helper.make_node("MatMul", ["a", "b"], ["product"])
    graph = helper.make_graph([node], "gemm", [a], [b], [numpy_helper.from_array(matrices()[1], "b")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    return model.SerializeToString()


def with_torch() -> Callable[[], Any]:
    """The product in torch, on as many threads as torch is set to."""
    import torch

    a, b = (torch.from_numpy(matrix) for matrix in matrices())
    return lambda: torch.mm(a, b)
