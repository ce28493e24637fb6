"""POST /models/{name}/predict: image files in, the rows of `zoo predict --format jsonl` out."""

from __future__ import annotations

from reprlib import repr as shown  # what came is told shortened
from typing import Any

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from serve.http.errors import Refused
from serve.http.exchange import MOST_FILES, NUMBER, Exchange
from serve.pool import Ticket
from serve.service import Service
from serve.settings import Settings
from zoo.image import Named
from zoo.photos import FITS, Fit


async def predict(exchange: Exchange, service: Service, settings: Settings, found: dict[str, str]) -> None:
    """An image as the body gives its row, 400 where it cannot be classified; a form of files gives a list of rows.

    Query: top_k, at least 1; fit, "crop" or "whole", of photographs.
    """
    runner = service.runner(found["name"])
    top_k, fit = _options(exchange.query())
    kind = (exchange.header(b"content-type") or "application/octet-stream").split(";")[0].strip().lower()
    several = kind == "multipart/form-data"
    if not several and not kind.startswith("image/") and kind != "application/octet-stream":
        raise Refused(
            415, f"Send an image as the body (Content-Type: image/png, or any image/*) or files as a form (multipart/"
            f"form-data), not {kind}; with curl: -H 'Content-Type: image/png' --data-binary @FILE, or -F file=@FILE."
        )  # fmt: skip
    if exchange.header(b"content-encoding"):
        raise Refused(415, "Send the request without Content-Encoding: images are compressed already.")
    body = await exchange.body(settings.max_body_bytes)
    sources = await _files(exchange, body) if several else [Named("-", body)]
    ticket = exchange.ticket = Ticket(runner, sources, top_k=top_k, fit=fit)
    await service.pool.answer(ticket)
    if several:
        await exchange.reply_json(200, [row.to_dict() for row in ticket.rows])
    else:
        await exchange.reply_json(400 if ticket.rows[0].error else 200, ticket.rows[0].to_dict())


def _options(query: dict[str, str]) -> tuple[int, Fit]:
    for name in query.keys() - {"top_k", "fit"}:
        raise Refused(422, f"There is no parameter {shown(name)}: top_k and fit are understood.")
    top_k, fit = query.get("top_k", "3"), query.get("fit", "crop")
    if not (NUMBER.fullmatch(top_k) and int(top_k) >= 1):
        raise Refused(422, f"top_k is a number of at least 1, not {shown(top_k)}.")
    if fit not in FITS:
        raise Refused(422, f"fit is one of {', '.join(FITS)}, not {shown(fit)}.")
    return int(top_k), fit


async def _files(exchange: Exchange, body: bytes) -> list[Any]:
    """The files of a form, under their names, in their order."""

    async def replay() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    request = Request(exchange.scope, replay)
    try:
        form = await MultiPartParser(request.headers, request.stream(), max_files=MOST_FILES).parse()
    except (MultiPartException, KeyError, UnicodeError) as error:
        told = getattr(error, "message", "it has no boundary").rstrip(".")
        raise Refused(422, f"The form cannot be read ({told}): send files as multipart/form-data.") from None
    sources = []
    for _, value in form.multi_items():
        if isinstance(value, UploadFile):
            sources.append(Named(_utf8(value.filename or "-"), await value.read()))
    await form.close()
    if not sources:
        raise Refused(422, "The form holds no files: with curl, -F file=@FILE.")
    return sources


def _utf8(name: str) -> str:
    """A file's name without what no answer can hold: some character sets that a form may name decode to surrogates."""
    return name.encode("utf-8", "replace").decode()
