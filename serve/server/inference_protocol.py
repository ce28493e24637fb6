"""POST /v2/models/{name}/infer: the Open Inference Protocol, version 2, with its binary tensor extension.

Protocol: https://github.com/kserve/open-inference-protocol; binary tensors: the extension of that name in
https://github.com/triton-inference-server/server/tree/main/docs/protocol. A model takes one of two inputs, `image`,
UINT8 [N,H,W,C], or `encoded`, BYTES [N] (image files; in JSON as base64). The outputs are `logits` and `probabilities`,
FP32 [N,K], `known`, FP32 [N], where the model has it, and `label`, BYTES [N].
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from reprlib import repr as short_repr
from typing import Any

import orjson

from serve.server.inference_tensors import (
    InputTensor,
    RequestedOutput,
    outputs_of,
    read_inputs,
    read_outputs,
    write_outputs,
)
from serve.server.predict_route import reject_encoding
from serve.server.request import NUMBER, Request
from serve.service.asgi import HTTPError
from serve.service.models import Service
from serve.service.pool import WorkItem
from serve.service.settings import Settings
from zoo.card import Card
from zoo.images.read import Named
from zoo.scores import Scores

LENGTH_HEADER = b"inference-header-content-length"
MAX_JSON = 4_000_000  # bytes. JSON takes up to 30 times its size as objects; a photograph in base64 fits
LARGE_REQUEST = 1 << 16  # bytes; larger requests are parsed in a thread, not in the event loop
LARGE_RESPONSE = 10_000  # scores; larger responses are encoded in a thread
JSON_THREAD = ThreadPoolExecutor(1, "zoo-json")  # one at a time, to bound the memory


def metadata(card: Card) -> dict[str, Any]:
    """The response to GET /v2/models/{name}."""
    return {
        "name": card.name,
        "versions": [card.version],
        "platform": "onnx_onnxv1",
        "inputs": [
            {"name": "image", "datatype": "UINT8", "shape": [-1, *card.input.shape]},
            {"name": "encoded", "datatype": "BYTES", "shape": [-1]},
        ],
        "outputs": [
            {
                "name": name,
                "datatype": datatype,
                "shape": [-1, len(card.labels)] if name in ("logits", "probabilities") else [-1],
            }
            for name, datatype in outputs_of(card).items()
        ],
    }


async def infer(request: Request, service: Service, settings: Settings, path_parameters: dict[str, str]) -> None:
    runner = service.runner(path_parameters["name"])
    card = runner.model.card
    check_version(card, path_parameters.get("version"))
    reject_encoding(request)
    declared = request.header(LENGTH_HEADER)
    if declared is None and MAX_JSON < settings.max_body_bytes:
        try:
            body = await request.body(MAX_JSON)
        except HTTPError as error:
            raise _too_much_json() if error.status == 413 else error from None
    else:
        body = await request.body(settings.max_body_bytes)
    json_size = _json_size(declared, len(body))
    large = len(body) > LARGE_REQUEST
    request_id, tensor, outputs = await _run(large, _parse_large if large else _parse, body, json_size, card)
    del body
    sources = [Named(f"Image {number} of {len(tensor.items)}", data) for number, data in enumerate(tensor.items, 1)]
    item = request.item = WorkItem(runner, sources, tensor.array, output="scores")
    del tensor
    await service.pool.process(item)
    assert item.scores is not None
    large = item.scores.logits.size > LARGE_RESPONSE
    json, binary = await _run(large, _encode, item.scores, card, outputs, request_id)
    if binary:
        length = [(LENGTH_HEADER, str(len(json)).encode())]
        await request.reply(200, json + binary, b"application/octet-stream", length)
    else:
        await request.reply(200, json)


async def _run(large: bool, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function; for large data in a thread, one at a time, so that the event loop is not blocked."""
    if not large:
        return function(*arguments)
    return await asyncio.get_running_loop().run_in_executor(JSON_THREAD, function, *arguments)


def _encode(
    scores: Scores, card: Card, requested: list[RequestedOutput], request_id: str | None
) -> tuple[bytes, bytes]:
    """The JSON of a response, and the bytes that follow it."""
    labels = [card.labels[index].encode() for index in scores.probabilities.argmax(axis=1)]
    outputs, binary = write_outputs(requested, {**scores._asdict(), "label": labels})
    response = {"model_name": card.name, "model_version": card.version, "outputs": outputs}
    return orjson.dumps(response if request_id is None else response | {"id": request_id}), binary


def check_version(card: Card, version: str | None) -> None:
    if version and version != card.version:
        raise HTTPError(404, f"{card.name} has no version {short_repr(version)}. Available: {card.version!r}.")


def _json_size(declared: str | None, size: int) -> int:
    """How many bytes of a body are JSON: the header Inference-Header-Content-Length, or all."""
    if declared is None:
        return size
    if not NUMBER.fullmatch(declared) or int(declared) > size:
        raise HTTPError(
            422, f"Inference-Header-Content-Length is {short_repr(declared)}, but the body has {size} bytes."
        )
    if int(declared) > MAX_JSON:
        raise _too_much_json()
    return int(declared)


def _too_much_json() -> HTTPError:
    return HTTPError(
        413,
        f"The request has more than {MAX_JSON / 1e6:g} MB of JSON. Send tensors as binary data (binary_data_size), or "
        "fewer of them.",
        connection="close",
    )


Parsed = tuple[str | None, InputTensor, list[RequestedOutput]]


def _parse_large(body: bytes, json_size: int, card: Card) -> Parsed:
    """`_parse` for JSON that may become a million objects, all of which are freed when this returns or raises.

    Parsing holds the interpreter's lock, four times as long if garbage is collected meanwhile.
    """
    gc.disable()
    try:
        return _parse(body, json_size, card)
    except HTTPError as raised:
        error = raised.with_traceback(None)  # its frames would keep the objects alive
        error.__context__ = None
    finally:
        gc.enable()
    raise error


def _parse(body: bytes, json_size: int, card: Card) -> Parsed:
    """The id of the request, its one input, and the outputs that it requests."""
    try:
        inference = orjson.loads(memoryview(body)[:json_size])
    except ValueError as error:
        raise HTTPError(400, f"The request is not JSON ({error}). See the Open Inference Protocol.") from None
    if not isinstance(inference, dict):
        raise HTTPError(422, "The request is not a JSON object. See the Open Inference Protocol.")
    request_id = inference.get("id")
    if request_id is not None and not isinstance(request_id, str):
        raise HTTPError(422, f"'id' must be a string, not {short_repr(request_id)}.")
    return request_id, read_inputs(inference, memoryview(body)[json_size:], card), read_outputs(inference, card)
