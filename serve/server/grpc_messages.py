"""Messages of the Open Inference Protocol over gRPC: checks before they are parsed, and conversion to tensors.

A small message can become a thousand times its size as objects: an empty submessage is two bytes, and its object a
hundred. So `check_fields` walks over the fields first, and a message has at most `MAX_FIELDS` of them. The tensors
themselves are read by `serve/server/inference_tensors.py`, so both transports accept the same and give the same errors.
"""

from __future__ import annotations

import struct
from typing import Any

from tritonclient.grpc import service_pb2

from serve.server.inference_protocol import check_version
from serve.server.inference_tensors import InputTensor, RequestedOutput, read_inputs, read_outputs, write_outputs
from serve.server.request import MAX_FILES
from serve.service.asgi import HTTPError
from zoo.card import Card
from zoo.model_files import Malformed, read_field
from zoo.scores import Scores

MAX_FIELDS = MAX_FILES + 200
MAX_NUMBERS = 4_000_000  # bytes of numbers that are not in raw_input_contents; they take up to 8 times that in memory

# Fields of ModelInferRequest that have fields of their own, by number:
# https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/open_inference_grpc.proto
Table = dict[int, "Table"]
_CONTENTS: Table = {}
_INPUT: Table = {5: _CONTENTS}
_INFER_REQUEST: Table = {5: _INPUT, 6: {}}  # inputs and outputs
SHAPE, BYTES_CONTENTS = 3, 8
MAX_SHAPE = 200  # bytes
_TYPED_FIELDS = ("bool", "int", "int64", "uint", "uint64", "fp32", "fp64", "bytes")


def check_fields(message: bytes) -> None:
    """Raises HTTPError for a ModelInferRequest that is malformed, or has too many fields or numbers."""
    unread: list[tuple[int, int, Table]] = [(0, len(message), _INFER_REQUEST)]
    count = 0
    try:
        while unread:
            position, end, table = unread.pop()
            while position < end:
                count += 1
                if count > MAX_FIELDS:
                    raise HTTPError(413, f"The message has more than {MAX_FIELDS} fields. Use raw_input_contents.")
                number, wire, _, start, position = read_field(message, position, end)
                inner = table.get(number)
                if inner is not None and wire == 2:  # a message
                    unread.append((start, position, inner))
                elif table is _CONTENTS and number != BYTES_CONTENTS and position - start > MAX_NUMBERS:
                    limit = f"{MAX_NUMBERS / 1e6:g} MB"
                    raise HTTPError(413, f"A tensor has more than {limit} of numbers. Use raw_input_contents.")
                elif table is _INPUT and number == SHAPE and position - start > MAX_SHAPE:
                    raise HTTPError(422, "The shape of the input has too many dimensions.")
    except (IndexError, Malformed):
        raise _malformed() from None


def _malformed() -> HTTPError:
    return HTTPError(400, "The message is not a valid protobuf message of this method.")


def parse(message_type: Any, message: bytes) -> Any:
    """A message of that type. Raises HTTPError 400."""
    from google.protobuf.message import DecodeError

    try:
        return message_type.FromString(message)
    except DecodeError:
        raise _malformed() from None


def parse_infer_request(message: bytes) -> Any:
    """A ModelInferRequest whose size in memory is bounded. Raises HTTPError."""
    check_fields(message)
    return parse(service_pb2.ModelInferRequest, message)


def read_infer_request(request: Any, card: Card) -> tuple[InputTensor, list[RequestedOutput]]:
    """The one input of a request for that model, and the outputs that it requests. Raises HTTPError."""
    check_version(card, request.model_version or None)
    binary = _binary_input(request)
    tensors = [
        {
            "name": tensor.name,
            "datatype": tensor.datatype,
            "shape": list(tensor.shape),
            "parameters": {"binary_data_size": len(binary)},
        }
        for tensor in request.inputs
    ]
    outputs = [{"name": output.name, "parameters": dict.fromkeys(output.parameters)} for output in request.outputs]
    tensor = read_inputs({"inputs": tensors}, memoryview(binary), card)
    return tensor, [RequestedOutput(output.name, binary=True) for output in read_outputs({"outputs": outputs}, card)]


def _binary_input(request: Any) -> bytes:
    """The content of the one input as in raw_input_contents; typed contents are converted."""
    typed = [tensor.contents for tensor in request.inputs if tensor.HasField("contents")]
    if request.raw_input_contents:
        if len(request.raw_input_contents) != 1 or typed:
            raise HTTPError(422, "Give one tensor, either in raw_input_contents or in the contents of the input.")
        return bytes(request.raw_input_contents[0])
    if not typed:
        raise HTTPError(422, "The input has no data. Give it in raw_input_contents or in the contents of the input.")
    datatype, contents = request.inputs[0].datatype, typed[0]
    expected = "bytes" if datatype == "BYTES" else "uint"
    filled = [name for name in _TYPED_FIELDS if getattr(contents, f"{name}_contents")]
    if filled != [expected]:
        raise HTTPError(422, f"A tensor of {datatype[:20]!r} must be in {expected}_contents, and in no other field.")
    if expected == "bytes":
        return b"".join(struct.pack("<I", len(item)) + item for item in contents.bytes_contents)
    try:
        return bytes(contents.uint_contents)
    except ValueError:
        raise HTTPError(422, "The data of 'image' must be integers from 0 to 255.") from None


def infer_response(scores: Scores, card: Card, requested: list[RequestedOutput], request_id: str) -> bytes:
    """A ModelInferResponse with the outputs in raw_output_contents."""
    labels = [card.labels[index].encode() for index in scores.probabilities.argmax(axis=1)]
    entries, binary = write_outputs(requested, {**scores._asdict(), "label": labels})
    response = service_pb2.ModelInferResponse(model_name=card.name, model_version=card.version, id=request_id)
    start = 0
    for entry in entries:
        response.outputs.add(name=entry["name"], datatype=entry["datatype"], shape=entry["shape"])
        end = start + entry["parameters"]["binary_data_size"]
        response.raw_output_contents.append(binary[start:end])
        start = end
    return bytes(response.SerializeToString())
