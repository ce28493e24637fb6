"""ASGI parts that the API and the page share: types, errors, the framework adapter, a concurrency limit, forms."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import unquote_to_bytes

from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData
from starlette.formparsers import MultiPartException, MultiPartParser

from zoo.errors import ZooError

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]

# Concurrent requests to the page. A process accepts thousands of connections (serve/cli/serve.py), so there is always
# one for API clients.
MAX_PAGE_REQUESTS = 512

# Character sets (as `codecs.lookup` calls them) that a client may choose for the names and fields of a form. Others
# take time that grows with the square of the length (punycode, idna), or decode to text that no response can hold.
ALLOWED_CHARSETS = frozenset({"utf-8", "iso8859-1", "ascii"})
EXTENDED_FILENAME = re.compile(
    rb""";\s*filename\*\s*=\s*(?P<charset>[\w-]*)'[\w-]*'(?P<name>[^\s;"]*)""", re.IGNORECASE
)


class HTTPError(ZooError):
    """An error response: its status, its message and additional headers. The body is `{"error": message}`."""

    def __init__(self, status: int, message: str, **headers: str) -> None:
        super().__init__(message)
        self.status = status
        self.headers = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]


class ClientDisconnected(Exception):
    """The client closed the connection before its request was complete, so nobody reads a response."""


def status_of(error: Exception) -> int:
    """The HTTP status of an error: its own, its class's, or 500 for an unexpected error."""
    if isinstance(error, HTTPError):
        return error.status
    return error.http_status if isinstance(error, ZooError) else 500


class FrameworkAdapter:
    """Adapts a FastAPI or Gradio application to two properties of Granian.

    - ASGI extensions are hidden: Granian can send files by itself, and Gradio's compression would lose them.
    - `receive` may be cancelled, as Starlette does to see whether the client is still connected. Granian's own
      awaitable does not survive a cancellation, so a task awaits it.
    """

    def __init__(self, app: Application) -> None:
        self._app = app

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        pending: asyncio.Future[Message] | None = None

        async def receive_shielded() -> Message:
            nonlocal pending
            pending = pending or asyncio.ensure_future(receive())
            message = await asyncio.shield(pending)
            pending = None
            return message

        try:
            await self._app({**scope, "extensions": {}}, receive_shielded, send)
        finally:
            if pending is not None:
                pending.cancel()


class ConcurrencyLimit:
    """ASGI application that passes at most `limit` requests at a time to another one.

    An open page waits for events for hours, and each wait is a request.
    """

    def __init__(self, app: Application, limit: int = MAX_PAGE_REQUESTS) -> None:
        self._app, self._limit, self._active = app, limit, 0

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Raises HTTPError 503 where the limit is reached."""
        if self._active >= self._limit:
            raise HTTPError(
                503,
                f"The page is busy ({self._limit} open requests). Try again in a moment, or close unused pages.",
                retry_after="5",
            )
        self._active += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._active -= 1


class FormParser(MultiPartParser):
    """Starlette's parser of multipart/form-data, with three gaps closed.

    - A character set that is not in `ALLOWED_CHARSETS` is read as UTF-8.
    - A file name may be given in the extended form alone: `filename*=UTF-8''a%20b.png` (RFC 8187, section 3.2).
    - `parse_complete` rejects a form that ends before its final boundary (RFC 2046, section 5.1.1).

    Raises MultiPartException, and KeyError for a Content-Type without a boundary.
    """

    ended = False
    _codec = "utf-8"

    @property
    def _charset(self) -> str:  # Starlette sets it from the Content-Type header
        return self._codec

    @_charset.setter
    def _charset(self, name: str) -> None:
        self._codec = name if name in ALLOWED_CHARSETS else "utf-8"

    async def parse_complete(self) -> FormData:
        form = await self.parse()
        if not self.ended:
            self.close_files()
            raise MultiPartException("it ends before the final boundary")
        return form

    def on_end(self) -> None:
        self.ended = True

    def close_files(self) -> None:
        for file in self._files_to_close_on_error:
            file.close()

    def on_headers_finished(self) -> None:
        disposition = self._current_part.content_disposition or b""
        match = EXTENDED_FILENAME.search(disposition)
        if match and b"filename" not in parse_options_header(disposition)[1]:
            charset = "latin-1" if match["charset"].lower() == b"iso-8859-1" else "utf-8"
            name = unquote_to_bytes(match["name"]).decode(charset, "replace").encode()
            self._current_part.content_disposition = disposition + b'; filename="' + name.replace(b'"', b"'") + b'"'
        super().on_headers_finished()
