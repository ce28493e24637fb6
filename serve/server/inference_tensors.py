"""Converts tensors of the Open Inference Protocol to arrays and back, as JSON or as binary data behind the JSON."""

from __future__ import annotations

import struct
from base64 import b64decode
from dataclasses import dataclass, field
from itertools import chain
from math import prod
from reprlib import repr as short_repr
from typing import Any

import numpy as np
import numpy.typing as npt

from serve.server.request import MAX_FILES
from serve.service.asgi import HTTPError
from zoo.card import Card

DATATYPES = {"image": "UINT8", "encoded": "BYTES"}
OUTPUTS = {"logits": "FP32", "probabilities": "FP32", "known": "FP32", "label": "BYTES"}


@dataclass(frozen=True)
class InputTensor:
    name: str  # "image" or "encoded"
    array: npt.NDArray[np.uint8] | None = None  # of "image": uint8 `(N, H, W, C)`
    items: list[bytes] = field(default_factory=list)  # of "encoded": image files


@dataclass(frozen=True)
class RequestedOutput:
    name: str
    binary: bool


def read_inputs(request: dict[str, Any], binary: memoryview, card: Card) -> InputTensor:
    """The one input of a request; `binary`: the bytes behind its JSON. Raises HTTPError 422."""
    inputs = request.get("inputs")
    if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], dict):
        raise HTTPError(
            422, f"{card.name} takes one input, 'image' or 'encoded'. 'inputs' must be a list of one tensor."
        )
    tensor = inputs[0]
    name, datatype, shape = tensor.get("name"), tensor.get("datatype"), tensor.get("shape")
    if not isinstance(name, str) or name not in DATATYPES:
        raise HTTPError(422, f"There is no input {short_repr(name)}. Inputs: 'image' (UINT8), 'encoded' (BYTES).")
    if datatype != DATATYPES[name]:
        raise HTTPError(422, f"Input {name!r} must be {DATATYPES[name]}, not {short_repr(datatype)}.")
    if not isinstance(shape, list) or not all(type(size) is int and size >= 1 for size in shape):
        raise HTTPError(422, f"The shape of {name!r} must be a list of positive integers, not {short_repr(shape)}.")
    expected = card.input.shape if name == "image" else ()
    if len(shape) != 1 + len(expected) or tuple(shape[1:]) != tuple(expected):
        sizes = ", ".join(["N", *map(str, expected)])
        raise HTTPError(422, f"{name!r} of {card.name} must have shape [{sizes}], not {short_repr(shape)}.")
    if name == "encoded" and shape[0] > MAX_FILES:
        raise HTTPError(422, f"At most {MAX_FILES} image files per request, not {shape[0]}. Send several requests.")
    binary_size = _parameters(tensor).get("binary_data_size")
    if binary_size is not None:
        if type(binary_size) is not int or binary_size != len(binary):
            raise HTTPError(
                422,
                f"binary_data_size of {name!r} is {short_repr(binary_size)}, but {len(binary)} bytes follow the JSON.",
            )
        if name == "image":
            return InputTensor(name, array=_image_from_binary(binary, shape))
        return InputTensor(name, items=_encoded_from_binary(binary, shape))
    if len(binary):
        raise HTTPError(422, f"{len(binary)} bytes follow the JSON, but {name!r} has no binary_data_size.")
    data = tensor.get("data")
    if not isinstance(data, list):
        raise HTTPError(422, f"Input {name!r} has neither 'data' nor 'binary_data_size'.")
    return _image_from_json(data, shape) if name == "image" else _encoded_from_json(data, shape)


def _parameters(holder: dict[str, Any]) -> dict[str, Any]:
    parameters = holder.get("parameters")
    if parameters is None:
        return {}
    if not isinstance(parameters, dict):
        raise HTTPError(422, f"'parameters' must be an object, not {short_repr(parameters)}.")
    return parameters


def _image_from_binary(binary: memoryview, shape: list[int]) -> npt.NDArray[np.uint8]:
    if len(binary) != prod(shape):
        raise HTTPError(422, f"A UINT8 tensor of shape {shape} has {prod(shape)} bytes, not {len(binary)}.")
    return np.frombuffer(binary, np.uint8).reshape(shape)


def _encoded_from_binary(binary: memoryview, shape: list[int]) -> list[bytes]:
    """Items of the type BYTES: a length of 4 bytes, little-endian, then the item."""
    items: list[bytes] = []
    start = 0
    while start < len(binary) and len(items) <= shape[0]:
        end = start + 4 + (struct.unpack_from("<I", binary, start)[0] if start + 4 <= len(binary) else len(binary))
        if end > len(binary):
            raise HTTPError(422, f"Item {len(items) + 1} of 'encoded' extends past the end of its {len(binary)} bytes.")
        items.append(bytes(binary[start + 4 : end]))
        start = end
    return _check_count(items, shape)


def _check_count(items: list[Any], shape: list[int]) -> list[Any]:
    if len(items) != shape[0]:
        count = f"{len(items)} or more" if len(items) > shape[0] else str(len(items))
        raise HTTPError(422, f"'encoded' has shape {shape}, but {count} items.")
    return items


def _image_from_json(data: list[Any], shape: list[int]) -> InputTensor:
    """From nested or flat lists, as the protocol allows. All values are checked before an array is allocated."""
    values = _flatten(data, shape)
    if len(values) != prod(shape):
        raise HTTPError(422, f"A tensor of shape {shape} has {prod(shape)} values, but 'image' has {len(values)}.")
    try:
        if set(map(type, values)) != {int}:
            raise ValueError
        return InputTensor("image", array=np.frombuffer(bytes(values), np.uint8).reshape(shape))
    except ValueError:
        raise HTTPError(422, "The data of 'image' must be integers from 0 to 255.") from None


def _flatten(data: list[Any], shape: list[int]) -> list[Any]:
    """The values of lists that are flat, or nested according to the shape."""
    if not any(isinstance(value, list) for value in data):
        return data
    lists: list[Any] = [data]
    for size in shape:
        if not all(isinstance(values, list) and len(values) == size for values in lists):
            raise HTTPError(422, f"The data of 'image' must be flat, or nested according to its shape {shape}.")
        lists = list(chain.from_iterable(lists))
    return lists


def _encoded_from_json(data: list[Any], shape: list[int]) -> InputTensor:
    try:
        return InputTensor("encoded", items=[_from_base64(item) for item in _check_count(data, shape)])
    except (ValueError, TypeError, AttributeError):
        raise HTTPError(422, "In JSON, the items of 'encoded' must be image files in base64.") from None


def _from_base64(text: str) -> bytes:
    """Decode base64 with line breaks and spaces, which encoders insert (RFC 2045, section 6.8)."""
    return b64decode("".join(text.split()), validate=True)


def outputs_of(card: Card) -> dict[str, str]:
    """The names of a model's outputs with their datatypes; `known` only where the model has it."""
    return {name: kind for name, kind in OUTPUTS.items() if name != "known" or card.calibration.known_from is not None}


def read_outputs(request: dict[str, Any], card: Card) -> list[RequestedOutput]:
    """The outputs that a request names, or all of the model, and whether each is binary. Raises HTTPError 422."""
    available = outputs_of(card)
    binary = _parameters(request).get("binary_data_output", False) is True
    outputs = request.get("outputs")
    if outputs is None or outputs == []:
        return [RequestedOutput(name, binary) for name in available]
    if not isinstance(outputs, list) or not all(isinstance(output, dict) for output in outputs):
        raise HTTPError(422, "'outputs' must be a list of objects with a 'name'.")
    requested: list[RequestedOutput] = []
    for output in outputs:
        parameters, name = _parameters(output), output.get("name")
        if not isinstance(name, str) or name not in available:
            raise HTTPError(422, f"There is no output {short_repr(name)}. Outputs: {', '.join(available)}.")
        if any(name == earlier.name for earlier in requested):
            raise HTTPError(422, f"Output {name!r} is listed twice. List each output once.")
        if "classification" in parameters or "shared_memory_region" in parameters:
            raise HTTPError(422, "The classification and shared memory extensions are not supported.")
        requested.append(RequestedOutput(name, parameters.get("binary_data", binary) is True))
    return requested


def write_outputs(requested: list[RequestedOutput], values: dict[str, Any]) -> tuple[list[dict[str, Any]], bytes]:
    """float32 `(N, K)` or `(N,)`, or lists of bytes → the outputs for the JSON, and the binary data behind it."""
    entries, binary = [], []
    for output in requested:
        value, is_text = values[output.name], OUTPUTS[output.name] == "BYTES"
        entry: dict[str, Any] = {"name": output.name, "datatype": OUTPUTS[output.name]}
        entry["shape"] = [len(value)] if is_text else list(value.shape)
        if output.binary:
            data = b"".join(struct.pack("<I", len(item)) + item for item in value) if is_text else value.tobytes()
            entry["parameters"] = {"binary_data_size": len(data)}
            binary.append(data)
        else:
            entry["data"] = [item.decode() for item in value] if is_text else value.ravel().tolist()
        entries.append(entry)
    return entries, b"".join(binary)
