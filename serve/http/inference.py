"""POST /v2/models/{name}/infer: the Open Inference Protocol, version 2, with its binary tensor extension.

Protocol: https://github.com/kserve/open-inference-protocol; binary tensors: the extension of that name in
https://github.com/triton-inference-server/server/tree/main/docs/protocol. A model takes one of two inputs, `image`,
UINT8 [N,H,W,C], or `encoded`, BYTES [N], image files (in JSON as base64), and gives `logits` and `probabilities`,
FP32 [N,K], and `label`, BYTES [N].
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from reprlib import repr as shown  # what came is told shortened
from typing import Any

import orjson

from serve.http.errors import Refused
from serve.http.exchange import NUMBER, Exchange
from serve.http.tensors import Tensor, Wanted, read_inputs, wanted_outputs, write_outputs
from serve.pool import Ticket
from serve.service import Service
from serve.settings import Settings
from zoo.card import Card
from zoo.image import Named
from zoo.predictor import Scores

LENGTH = b"inference-header-content-length"
LARGE = 1 << 16  # bytes that are read beside the event loop, not in it
READER = ThreadPoolExecutor(1, "zoo-reader")  # one at a time: JSON of 16 MB may take hundreds in memory


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
    if exchange.header(b"content-encoding"):
        raise Refused(415, "Send the request without Content-Encoding: tensors are not compressed here.")
    body = await exchange.body(settings.max_body_bytes)
    head = _head_length(exchange.header(LENGTH), len(body))
    if len(body) > LARGE:
        read = asyncio.get_running_loop().run_in_executor(READER, _read, body, head, card)
        request, given, wanted = await read
    else:
        request, given, wanted = _read(body, head, card)
    sources = [Named(f"Image {number} of {len(given.items)}", data) for number, data in enumerate(given.items, 1)]
    ticket = exchange.ticket = Ticket(runner, sources, given.array, wants="scores")
    await service.pool.answer(ticket)
    assert ticket.scores is not None
    labels = [card.labels[index].encode() for index in ticket.scores.probabilities.argmax(axis=1)]
    outputs, binary = write_outputs(wanted, {**ticket.scores._asdict(), "label": labels})
    answer = {"model_name": card.name, "model_version": card.version, "outputs": outputs}
    if "id" in request:
        answer["id"] = request["id"]
    told = orjson.dumps(answer)
    if binary:
        length = [(LENGTH, str(len(told)).encode())]
        await exchange.reply(200, told + binary, b"application/octet-stream", length)
    else:
        await exchange.reply(200, told)


def check_version(card: Card, version: str | None) -> None:
    if version and version != card.version:
        raise Refused(404, f"There is no version {shown(version)} of {card.name}: there is {card.version!r}.")


def _head_length(told: str | None, size: int) -> int:
    if told is None:
        return size
    if not NUMBER.fullmatch(told) or int(told) > size:
        raise Refused(422, f"Inference-Header-Content-Length is {shown(told)} and the body has {size} bytes.")
    return int(told)


def _read(body: bytes, head: int, card: Card) -> tuple[dict[str, Any], Tensor, list[Wanted]]:
    """The request's JSON, its one input, and which outputs are asked for."""
    try:
        request = orjson.loads(memoryview(body)[:head])
    except ValueError as error:
        raise Refused(400, f"The request is not JSON ({error}): see the Open Inference Protocol.") from None
    if not isinstance(request, dict):
        raise Refused(422, "The request is not a JSON object: see the Open Inference Protocol.")
    if not isinstance(request.get("id", ""), str):
        raise Refused(422, f"The request's id is a string, not {shown(request['id'])}.")
    inputs = read_inputs(request, memoryview(body)[head:], card)
    return request, inputs, wanted_outputs(request)
