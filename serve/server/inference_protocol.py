"""POST /v2/models/{name}/infer: the Open Inference Protocol, version 2, with its binary tensor extension.

Protocol: https://github.com/kserve/open-inference-protocol; binary tensors: the extension of that name in
https://github.com/triton-inference-server/server/tree/main/docs/protocol. A model takes one of two inputs, `image`,
UINT8 [N,H,W,C], or `encoded`, BYTES [N], image files (in JSON as base64), and gives `logits` and `probabilities`,
FP32 [N,K], and `label`, BYTES [N].
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from reprlib import repr as shown  # what came is shown shortened
from typing import Any

import orjson

from serve.server.inference_tensors import Tensor, Wanted, read_inputs, wanted_outputs, write_outputs
from serve.server.predict_route import refuse_encoding
from serve.server.request import NUMBER, Exchange
from serve.service.asgi import Refused
from serve.service.models import Service
from serve.service.pool import Ticket
from serve.service.settings import Settings
from zoo.card import Card
from zoo.images.read import Named
from zoo.model import Scores

LENGTH = b"inference-header-content-length"
MAX_JSON = 4_000_000  # bytes: as objects, JSON takes up to 30 times its size; a photograph in base64 fits
LARGE = 1 << 16  # bytes that are read beside the event loop, not in it
LARGE_ANSWER = 10_000  # scores that are written beside it
READER = ThreadPoolExecutor(1, "zoo-reader")  # one at a time, for the memory's sake


def metadata(card: Card) -> dict[str, Any]:
    """What GET /v2/models/{name} answers."""
    scores = [{"name": name, "datatype": "FP32", "shape": [-1, len(card.labels)]} for name in Scores._fields]
    return {
        "name": card.name,
        "versions": [card.version],
        "platform": "onnx_onnxv1",
        "inputs": [
            {"name": "image", "datatype": "UINT8", "shape": [-1, *card.input.shape]},
            {"name": "encoded", "datatype": "BYTES", "shape": [-1]},
        ],
        "outputs": [*scores, {"name": "label", "datatype": "BYTES", "shape": [-1]}],
    }


async def infer(exchange: Exchange, service: Service, settings: Settings, found: dict[str, str]) -> None:
    runner = service.runner(found["name"])
    card = runner.model.card
    check_version(card, found.get("version"))
    refuse_encoding(exchange)
    declared = exchange.header(LENGTH)
    if declared is None and MAX_JSON < settings.max_body_bytes:
        try:
            body = await exchange.body(MAX_JSON)
        except Refused as refused:
            raise _too_much_json() if refused.status == 413 else refused from None
    else:
        body = await exchange.body(settings.max_body_bytes)
    head = _head_length(declared, len(body))
    large = len(body) > LARGE
    request_id, tensor, wanted = await _in_reader(large, _read_large if large else _read, body, head, card)
    del body
    sources = [Named(f"Image {number} of {len(tensor.items)}", data) for number, data in enumerate(tensor.items, 1)]
    ticket = exchange.ticket = Ticket(runner, sources, tensor.array, wants="scores")
    del tensor
    await service.pool.answer(ticket)
    assert ticket.scores is not None
    large = ticket.scores.logits.size > LARGE_ANSWER
    head_bytes, binary = await _in_reader(large, _written, ticket.scores, card, wanted, request_id)
    if binary:
        length = [(LENGTH, str(len(head_bytes)).encode())]
        await exchange.reply(200, head_bytes + binary, b"application/octet-stream", length)
    else:
        await exchange.reply(200, head_bytes)


async def _in_reader(large: bool, work: Callable[..., Any], *arguments: Any) -> Any:
    """What takes long is done in a thread, one at a time, so that the event loop goes on."""
    if not large:
        return work(*arguments)
    return await asyncio.get_running_loop().run_in_executor(READER, work, *arguments)


def _written(scores: Scores, card: Card, wanted: list[Wanted], request_id: str | None) -> tuple[bytes, bytes]:
    """The JSON of an answer, and the bytes that follow it."""
    labels = [card.labels[index].encode() for index in scores.probabilities.argmax(axis=1)]
    outputs, binary = write_outputs(wanted, {**scores._asdict(), "label": labels})
    answer = {"model_name": card.name, "model_version": card.version, "outputs": outputs}
    return orjson.dumps(answer if request_id is None else answer | {"id": request_id}), binary


def check_version(card: Card, version: str | None) -> None:
    if version and version != card.version:
        raise Refused(404, f"There is no version {shown(version)} of {card.name}: there is {card.version!r}.")


def _head_length(declared: str | None, size: int) -> int:
    """How many bytes of a body are JSON."""
    if declared is None:
        return size
    if not NUMBER.fullmatch(declared) or int(declared) > size:
        raise Refused(422, f"Inference-Header-Content-Length is {shown(declared)} and the body has {size} bytes.")
    if int(declared) > MAX_JSON:
        raise _too_much_json()
    return int(declared)


def _too_much_json() -> Refused:
    return Refused(413, f"The request has more than {MAX_JSON / 1e6:g} MB of JSON: send tensors as bytes behind the "
                   "JSON (binary_data_size), or fewer.", connection="close")  # fmt: skip


def _read_large(body: bytes, head: int, card: Card) -> tuple[str | None, Tensor, list[Wanted]]:
    """As `_read`, for JSON that may become a million objects, which are gone when this returns or raises.

    It holds the interpreter while it parses, four times as long where garbage is collected meanwhile.
    """
    gc.disable()
    try:
        return _read(body, head, card)
    except Refused as refused:
        error = refused.with_traceback(None)  # whose frames would keep the objects
        error.__context__ = None
    finally:
        gc.enable()
    raise error


def _read(body: bytes, head: int, card: Card) -> tuple[str | None, Tensor, list[Wanted]]:
    """The request's id, its one input, and which outputs are asked for."""
    try:
        request = orjson.loads(memoryview(body)[:head])
    except ValueError as error:
        raise Refused(400, f"The request is not JSON ({error}): see the Open Inference Protocol.") from None
    if not isinstance(request, dict):
        raise Refused(422, "The request is not a JSON object: see the Open Inference Protocol.")
    request_id = request.get("id")
    if request_id is not None and not isinstance(request_id, str):
        raise Refused(422, f"The request's id is a string, not {shown(request_id)}.")
    return request_id, read_inputs(request, memoryview(body)[head:], card), wanted_outputs(request)
