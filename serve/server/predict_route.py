"""POST /models/{name}/predict: takes image files, returns the rows of `zoo predict --format jsonl`."""

from __future__ import annotations

from reprlib import repr as short_repr
from typing import Any

from python_multipart.multipart import parse_options_header
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException
from starlette.requests import Request as StarletteRequest

from serve.server.request import MAX_FILES, NUMBER, Request
from serve.service.asgi import FormParser, HTTPError
from serve.service.models import Service
from serve.service.pool import WorkItem
from serve.service.settings import Settings
from zoo.images.photos import FITS, Fit
from zoo.images.read import Named

RESPONSE_TYPES = ("object", "list")


async def predict(request: Request, service: Service, settings: Settings, path_parameters: dict[str, str]) -> None:
    """Classify an image that is the body, or the files of a form.

    An image as the body gives one row, with status 400 if it cannot be classified. A form gives a list of rows.
    Query parameters: `top_k`, at least 1; `fit`, "crop" or "whole", for photographs; `as`, "object" or "list", to
    choose the type of the response; `single`, "true" or "false": whether an image of several digits is an error.
    """
    runner = service.runner(path_parameters["name"])
    top_k, fit, response_type, single = _options(request.query())
    content_type = (request.header(b"content-type") or "application/octet-stream").split(";")[0].strip().lower()
    is_form = content_type == "multipart/form-data"
    if not is_form and not content_type.startswith("image/") and content_type != "application/octet-stream":
        raise HTTPError(
            415,
            f"Unsupported Content-Type {content_type}. Send an image as the body (with curl: -H 'Content-Type: "
            "image/png' --data-binary @FILE), or files as multipart/form-data (-F file=@FILE).",
        )
    reject_encoding(request)
    body = await request.body(settings.max_body_bytes)
    sources = await _form_files(request, body) if is_form else [Named("-", body)]
    del body  # the files of a form are copies
    if response_type == "object" and len(sources) > 1:
        raise HTTPError(422, f"as=object takes one image, but the form has {len(sources)}. Use as=list.")
    item = request.item = WorkItem(runner, sources, top_k=top_k, fit=fit, single=single)
    await service.pool.process(item)
    if (response_type or ("list" if is_form else "object")) == "list":
        await request.reply_json(200, [row.to_dict() for row in item.rows])
    else:
        await request.reply_json(400 if item.rows[0].error else 200, item.rows[0].to_dict())


def reject_encoding(request: Request) -> None:
    """Raises HTTPError 415 for a compressed body."""
    encoding = request.header(b"content-encoding")
    if encoding and encoding.strip().lower() != "identity":
        raise HTTPError(415, f"Content-Encoding {short_repr(encoding)} is not supported. Send the body uncompressed.")


def _options(query: dict[str, str]) -> tuple[int, Fit, str | None, bool]:
    for name in query.keys() - {"top_k", "fit", "as", "single"}:
        raise HTTPError(422, f"There is no parameter {short_repr(name)}. Parameters: top_k, fit, as, single.")
    top_k, fit, response_type = query.get("top_k", "3"), query.get("fit", "crop"), query.get("as")
    if not (NUMBER.fullmatch(top_k) and int(top_k) >= 1):
        raise HTTPError(422, f"top_k must be an integer of at least 1, not {short_repr(top_k)}.")
    if fit not in FITS:
        raise HTTPError(422, f"fit must be one of {', '.join(FITS)}, not {short_repr(fit)}.")
    if response_type not in (None, *RESPONSE_TYPES):
        raise HTTPError(422, f"as must be one of {', '.join(RESPONSE_TYPES)}, not {short_repr(response_type)}.")
    single = query.get("single", "false")
    if single not in ("true", "false"):
        raise HTTPError(422, f"single must be true or false, not {short_repr(single)}.")
    return int(top_k), fit, response_type, single == "true"


async def _form_files(request: Request, body: bytes) -> list[Any]:
    """The files of a form with their names, in the order of the form."""

    async def replay() -> dict[str, Any]:
        return {"type": "http.request", "body": _from_first_boundary(request, body), "more_body": False}

    form_request = StarletteRequest(request.scope, replay)
    parser = FormParser(form_request.headers, form_request.stream(), max_files=MAX_FILES)
    try:
        form = await parser.parse_complete()
        files = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
        sources = [Named(_utf8(file.filename or "-"), await file.read()) for file in files]
    except (MultiPartException, KeyError, ValueError) as error:  # ValueError: the name of a character set
        message = getattr(error, "message", "Content-Type has no boundary").rstrip(".")
        raise HTTPError(422, f"Cannot read the form ({message}). Send files as multipart/form-data.") from None
    finally:
        parser.close_files()
    if not sources:
        raise HTTPError(422, "The form has no files. With curl: -F file=@FILE.")
    return sources


def _from_first_boundary(request: Request, body: bytes) -> bytes:
    """The form without any text before its first boundary (https://www.rfc-editor.org/rfc/rfc2046#section-5.1.1)."""
    boundary = parse_options_header(request.headers[b"content-type"])[1].get(b"boundary", b"")
    delimiter = b"--" + boundary + b"\r\n"
    start = 0 if body.startswith(delimiter) else body.find(b"\n" + delimiter) + 1
    return body[start:] if start else body


def _utf8(name: str) -> str:
    """A file name without surrogates, which some character sets decode to and no JSON can hold."""
    return name.encode("utf-8", "replace").decode()
