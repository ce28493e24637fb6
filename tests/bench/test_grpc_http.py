"""The comparison of gRPC and HTTP: both transports carry the same request, and its answer is the expected label."""

import numpy as np
from tritonclient.grpc import service_pb2

from bench.grpc_http import _summary, grpc_request, http_request, tensors


def test_both_transports_carry_the_same_seven(model):
    for tensor in tensors().values():
        message = service_pb2.ModelInferRequest.FromString(grpc_request(tensor))
        assert message.raw_input_contents[0] == tensor.raw
        assert http_request(tensor, "x").endswith(tensor.raw)
    array, file = tensors()["array"], tensors()["file"]
    images = np.frombuffer(array.raw, np.uint8).reshape(array.shape)
    assert model.run(images).logits.argmax(1).tolist() == [7]
    assert model.predict(file.raw[4:]).label == "7"


def test_ratios_are_medians_of_rounds():
    measured = {"http": [(100.0, 1.0), (300.0, 1.0), (200.0, 2.0)], "grpc": [(50.0, 2.0), (60.0, 3.0), (100.0, 4.0)]}
    summary = _summary("array", measured)
    assert summary["requests_per_s"] == {"http": 200, "grpc": 60}
    assert summary["rate_to_http"] == {"grpc": 0.5}
    assert summary["server_ms_to_http"] == {"grpc": 2.0}
