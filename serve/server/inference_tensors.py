"""Tensors of the Open Inference Protocol ↔ arrays: as JSON, or as bytes behind the JSON."""

from __future__ import annotations

import struct
from base64 import b64decode
from dataclasses import dataclass, field
from itertools import chain
from math import prod
from reprlib import repr as shown  # what came is told shortened
from typing import Any

import numpy as np
import numpy.typing as npt

from serve.server.request import MOST_FILES
from serve.service.asgi import Refused
from zoo.card import Card

DATATYPES = {"image": "UINT8", "encoded": "BYTES"}
OUTPUTS = {"logits": "FP32", "probabilities": "FP32", "label": "BYTES"}


@dataclass(frozen=True)
class Tensor:
    """name: "image", with an array uint8 `(N, H, W, C)`, or "encoded", with items, image files."""

    name: str
    array: npt.NDArray[np.uint8] | None = None
    items: list[bytes] = field(default_factory=list)


@dataclass(frozen=True)
class Wanted:
    name: str
    binary: bool


def read_inputs(request: dict[str, Any], binary: memoryview, card: Card) -> Tensor:
    """The one input of a request, `binary` being what follows its JSON. Raises Refused, 422."""
    inputs = request.get("inputs")
    if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], dict):
        raise Refused(422, f"{card.name} takes one input, 'image' or 'encoded': send a list 'inputs' of one tensor.")
    tensor = inputs[0]
    name, datatype, shape = tensor.get("name"), tensor.get("datatype"), tensor.get("shape")
    if not isinstance(name, str) or name not in DATATYPES:
        raise Refused(422, f"{card.name} has no input {shown(name)}: it takes 'image', UINT8, or 'encoded', BYTES.")
    if datatype != DATATYPES[name]:
        raise Refused(422, f"Input {name!r} is {DATATYPES[name]}, not {shown(datatype)}.")
    if not isinstance(shape, list) or not all(type(side) is int and side >= 1 for side in shape):
        raise Refused(422, f"The shape of {name!r} is a list of numbers of at least 1, not {shown(shape)}.")
    expected = card.input.shape if name == "image" else ()
    if len(shape) != 1 + len(expected) or tuple(shape[1:]) != tuple(expected):
        sides = ", ".join(["N", *map(str, expected)])
        raise Refused(422, f"{card.name} takes {name!r} of shape [{sides}], not {shown(shape)}.")
    if name == "encoded" and shape[0] > MOST_FILES:
        raise Refused(422, f"A request holds at most {MOST_FILES} image files, not {shape[0]}: send several requests.")
    size = _parameters(tensor).get("binary_data_size")
    if size is not None:
        if type(size) is not int or size != len(binary):
            told = f"binary_data_size of {name!r} is {shown(size)}"
            raise Refused(422, f"{told}, and {len(binary)} bytes follow the JSON.")
        return (
            Tensor(name, array=_array(binary, shape)) if name == "image" else Tensor(name, items=_items(binary, shape))
        )
    if len(binary):
        raise Refused(422, f"{len(binary)} bytes follow the JSON, and {name!r} tells no binary_data_size.")
    data = tensor.get("data")
    if not isinstance(data, list):
        raise Refused(422, f"Input {name!r} has neither 'data' nor 'binary_data_size'.")
    return _image_from_json(data, shape) if name == "image" else _encoded_from_json(data, shape)


def _parameters(holder: dict[str, Any]) -> dict[str, Any]:
    parameters = holder.get("parameters")
    if parameters is None:
        return {}
    if not isinstance(parameters, dict):
        raise Refused(422, f"'parameters' is an object, not {shown(parameters)}.")
    return parameters


def _array(binary: memoryview, shape: list[int]) -> npt.NDArray[np.uint8]:
    if len(binary) != prod(shape):
        raise Refused(422, f"A UINT8 tensor of shape {shape} has {prod(shape)} bytes, not {len(binary)}.")
    return np.frombuffer(binary, np.uint8).reshape(shape)


def _items(binary: memoryview, shape: list[int]) -> list[bytes]:
    """BYTES: each item's length as 4 bytes, little-endian, then the item."""
    items: list[bytes] = []
    at = 0
    while at < len(binary) and len(items) <= shape[0]:
        end = at + 4 + (struct.unpack_from("<I", binary, at)[0] if at + 4 <= len(binary) else len(binary))
        if end > len(binary):
            raise Refused(422, f"Item {len(items) + 1} of 'encoded' goes past the end of its {len(binary)} bytes.")
        items.append(bytes(binary[at + 4 : end]))
        at = end
    return _counted(items, shape)


def _counted(items: list[Any], shape: list[int]) -> list[Any]:
    if len(items) != shape[0]:
        more = "or more " if len(items) > shape[0] else ""
        raise Refused(422, f"'encoded' has shape {shape} and {len(items)} {more}items.")
    return items


def _image_from_json(data: list[Any], shape: list[int]) -> Tensor:
    """Nested or flat, as the protocol allows. Everything is looked at before an array is made of it."""
    values = _flattened(data, shape)
    if len(values) != prod(shape):
        raise Refused(422, f"A tensor of shape {shape} has {prod(shape)} values; 'image' has {len(values)}.")
    try:
        if set(map(type, values)) != {int}:
            raise ValueError
        return Tensor("image", array=np.frombuffer(bytes(values), np.uint8).reshape(shape))
    except ValueError:
        raise Refused(422, "The data of 'image' are whole numbers from 0 to 255.") from None


def _flattened(data: list[Any], shape: list[int]) -> list[Any]:
    """The values of lists that are nested as the shape says; what holds no lists is flat."""
    if not any(isinstance(value, list) for value in data):
        return data
    lists: list[Any] = [data]
    for side in shape:
        if not all(isinstance(part, list) and len(part) == side for part in lists):
            raise Refused(422, f"The data of 'image' are lists that are not nested as the shape {shape} says.")
        lists = list(chain.from_iterable(lists))
    return lists


def _encoded_from_json(data: list[Any], shape: list[int]) -> Tensor:
    try:
        return Tensor("encoded", items=[_from_base64(item) for item in _counted(data, shape)])
    except (ValueError, TypeError, AttributeError):
        raise Refused(422, "In JSON, the items of 'encoded' are image files in base64.") from None


def _from_base64(text: str) -> bytes:
    """Line ends and spaces between its characters are skipped, as encoders break lines (RFC 2045, section 6.8)."""
    return b64decode("".join(text.split()), validate=True)


def wanted_outputs(request: dict[str, Any]) -> list[Wanted]:
    """The outputs that a request names, or all; as bytes where it says so. Raises Refused, 422."""
    binary = _parameters(request).get("binary_data_output", False) is True
    asked = request.get("outputs")
    if asked is None or asked == []:
        return [Wanted(name, binary) for name in OUTPUTS]
    if not isinstance(asked, list) or not all(isinstance(output, dict) for output in asked):
        raise Refused(422, "'outputs' is a list of objects with a name.")
    wanted: list[Wanted] = []
    for output in asked:
        parameters, name = _parameters(output), output.get("name")
        if not isinstance(name, str) or name not in OUTPUTS:
            raise Refused(422, f"There is no output {shown(name)}: there are {', '.join(OUTPUTS)}.")
        if any(name == earlier.name for earlier in wanted):
            raise Refused(422, f"Output {name!r} is asked for twice: name each once.")
        if "classification" in parameters or "shared_memory_region" in parameters:
            raise Refused(422, "The classification and shared memory extensions are not served here.")
        wanted.append(Wanted(name, parameters.get("binary_data", binary) is True))
    return wanted


def write_outputs(wanted: list[Wanted], values: dict[str, Any]) -> tuple[list[dict[str, Any]], bytes]:
    """values: arrays float32 `(N, K)` or lists of bytes → the JSON of the outputs, and the bytes behind it."""
    told, binary = [], []
    for output in wanted:
        value, text = values[output.name], OUTPUTS[output.name] == "BYTES"
        entry: dict[str, Any] = {"name": output.name, "datatype": OUTPUTS[output.name]}
        entry["shape"] = [len(value)] if text else list(value.shape)
        if output.binary:
            data = b"".join(struct.pack("<I", len(item)) + item for item in value) if text else value.tobytes()
            entry["parameters"] = {"binary_data_size": len(data)}
            binary.append(data)
        else:
            entry["data"] = [item.decode() for item in value] if text else value.ravel().tolist()
        told.append(entry)
    return told, b"".join(binary)
