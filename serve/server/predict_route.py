"""POST /models/{name}/predict: image files in, the rows of `zoo predict --format jsonl` out."""

from __future__ import annotations

from reprlib import repr as shown  # what came is shown shortened
from typing import Any

from python_multipart.multipart import parse_options_header
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException
from starlette.requests import Request

from serve.server.request import MOST_FILES, NUMBER, Exchange
from serve.service.asgi import FormParser, Refused
from serve.service.models import Service
from serve.service.pool import Ticket
from serve.service.settings import Settings
from zoo.images.photos import FITS, Fit
from zoo.images.read import Named

SHAPES = ("object", "list")


async def predict(exchange: Exchange, service: Service, settings: Settings, found: dict[str, str]) -> None:
    """An image as the body gives its row, 400 where it cannot be classified; a form of files gives a list of rows.

    Query: top_k, at least 1; fit, "crop" or "whole", of photographs; as, "object" or "list", where a client wants one
    of these whichever way it sends an image.
    """
    runner = service.runner(found["name"])
    top_k, fit, shape = _options(exchange.query())
    kind = (exchange.header(b"content-type") or "application/octet-stream").split(";")[0].strip().lower()
    several = kind == "multipart/form-data"
    if not several and not kind.startswith("image/") and kind != "application/octet-stream":
        raise Refused(
            415, f"Send an image as the body (Content-Type: image/png, or any image/*) or files as a form (multipart/"
            f"form-data), not {kind}; with curl: -H 'Content-Type: image/png' --data-binary @FILE, or -F file=@FILE."
        )  # fmt: skip
    refuse_encoding(exchange)
    body = await exchange.body(settings.max_body_bytes)
    sources = await _files(exchange, body) if several else [Named("-", body)]
    del body  # a form's files are copies
    if shape == "object" and len(sources) > 1:
        raise Refused(422, f"as=object is for one image, and the form holds {len(sources)}: leave it out.")
    ticket = exchange.ticket = Ticket(runner, sources, top_k=top_k, fit=fit)
    await service.pool.answer(ticket)
    if (shape or ("list" if several else "object")) == "list":
        await exchange.reply_json(200, [row.to_dict() for row in ticket.rows])
    else:
        await exchange.reply_json(400 if ticket.rows[0].error else 200, ticket.rows[0].to_dict())


def refuse_encoding(exchange: Exchange) -> None:
    """Raises Refused, 415, for a compressed body."""
    encoding = exchange.header(b"content-encoding")
    if encoding and encoding.strip().lower() != "identity":
        raise Refused(415, f"Send the request without Content-Encoding: {shown(encoding)} is not understood here.")


def _options(query: dict[str, str]) -> tuple[int, Fit, str | None]:
    for name in query.keys() - {"top_k", "fit", "as"}:
        raise Refused(422, f"There is no parameter {shown(name)}: top_k, fit and as are understood.")
    top_k, fit, shape = query.get("top_k", "3"), query.get("fit", "crop"), query.get("as")
    if not (NUMBER.fullmatch(top_k) and int(top_k) >= 1):
        raise Refused(422, f"top_k is a number of at least 1, not {shown(top_k)}.")
    if fit not in FITS:
        raise Refused(422, f"fit is one of {', '.join(FITS)}, not {shown(fit)}.")
    if shape not in (None, *SHAPES):
        raise Refused(422, f"as is one of {', '.join(SHAPES)}, not {shown(shape)}.")
    return int(top_k), fit, shape


async def _files(exchange: Exchange, body: bytes) -> list[Any]:
    """The files of a form, under their names, in their order."""

    async def replay() -> dict[str, Any]:
        return {"type": "http.request", "body": _from_first_boundary(exchange, body), "more_body": False}

    request = Request(exchange.scope, replay)
    parser = FormParser(request.headers, request.stream(), max_files=MOST_FILES)
    try:
        form = await parser.parse_whole()
        files = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
        sources = [Named(_utf8(file.filename or "-"), await file.read()) for file in files]
    except (MultiPartException, KeyError, ValueError) as error:  # a ValueError: of a character set's name
        message = getattr(error, "message", "it has no boundary").rstrip(".")
        raise Refused(422, f"The form cannot be read ({message}): send files as multipart/form-data.") from None
    finally:
        parser.close_files()
    if not sources:
        raise Refused(422, "The form holds no files: with curl, -F file=@FILE.")
    return sources


def _from_first_boundary(exchange: Exchange, body: bytes) -> bytes:
    """A form without the text before its first boundary (https://www.rfc-editor.org/rfc/rfc2046#section-5.1.1)."""
    boundary = parse_options_header(exchange.headers[b"content-type"])[1].get(b"boundary", b"")
    delimiter = b"--" + boundary + b"\r\n"
    start = 0 if body.startswith(delimiter) else body.find(b"\n" + delimiter) + 1
    return body[start:] if start else body


def _utf8(name: str) -> str:
    """A file's name without what no answer can hold: some character sets that a form may name decode to surrogates."""
    return name.encode("utf-8", "replace").decode()
