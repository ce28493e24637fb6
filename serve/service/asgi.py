"""From what can go wrong to the status of an HTTP response, whose body is always `{"error": "sentence"}`."""

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


class Refused(ZooError):
    """A request that cannot be answered as it is, with its status and what the answer's head adds."""

    def __init__(self, status: int, sentence: str, **headers: str) -> None:
        super().__init__(sentence)
        self.status = status
        self.headers = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]


class ClientLeft(Exception):
    """The client closed the connection before its request was whole: nobody reads an answer."""


def status_of(error: Exception) -> int:
    """The status for an error: its own, its class's, or 500 where nobody expected it."""
    if isinstance(error, Refused):
        return error.status
    return error.http_status if isinstance(error, ZooError) else 500


# What the framework behind needs of a server that differs from what this one gives.

Application = Callable[[Message, Receive, Send], Awaitable[None]]


class Behind:
    """A framework's application, as this server can call it.

    It is not told that the server can send files by itself: Gradio's compression would lose them. And it may give up
    waiting for a message, as Starlette does to see whether the client is still there; the server's own awaitable does
    not bear that, a task does.
    """

    def __init__(self, app: Application) -> None:
        self._app = app

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        waiting: asyncio.Future[Message] | None = None

        async def patient() -> Message:
            nonlocal waiting
            waiting = waiting or asyncio.ensure_future(receive())
            message = await asyncio.shield(waiting)
            waiting = None
            return message

        try:
            await self._app({**scope, "extensions": {}}, patient, send)
        finally:
            if waiting is not None:
                waiting.cancel()


# Room for so many requests at a time: an open page waits for events for hours, and each of its waits is a request.

PLACES = 512  # of the thousands of connections that a process takes (serve/cli/serve.py): programs always find one


class Room:
    """ASGI application around another one, which never has more than `places` requests."""

    def __init__(self, app: Application, places: int = PLACES) -> None:
        self._app, self._places, self._inside = app, places, 0

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Raises Refused where there is no room."""
        if self._inside >= self._places:
            raise Refused(503, f"The page answers {self._places} requests already: come again in a moment, or close "
                          "pages that nobody looks at.", retry_after="5")  # fmt: skip
        self._inside += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._inside -= 1


# Forms of files (multipart/form-data) as clients send them, read by Starlette's parser with three gaps closed.

# The codecs by which a client may have names and fields decoded, as `codecs.lookup` calls them. Others take time that
# grows with the square of the length (punycode, idna), or give text that no answer can hold.
CODECS = frozenset({"utf-8", "iso8859-1", "ascii"})
EXTENDED = re.compile(rb""";\s*filename\*\s*=\s*(?P<charset>[\w-]*)'[\w-]*'(?P<name>[^\s;"]*)""", re.IGNORECASE)


class FormParser(MultiPartParser):
    """Reads a form; `parse_whole` refuses one that ends early. Raises MultiPartException, KeyError (no boundary).

    - A character set that is not in `CODECS` counts as UTF-8.
    - A file's name may come in the extended form alone, `filename*=UTF-8''a%20b.png` (RFC 8187, section 3.2).
    - A form that ends before its last boundary, in the middle of a file, is noticed (RFC 2046, section 5.1.1).
    """

    ended = False
    _codec = "utf-8"

    @property
    def _charset(self) -> str:  # what Starlette sets from the Content-Type header
        return self._codec

    @_charset.setter
    def _charset(self, name: str) -> None:
        self._codec = name if name in CODECS else "utf-8"

    async def parse_whole(self) -> FormData:
        form = await self.parse()
        if not self.ended:
            self.close_files()
            raise MultiPartException("it ends before its last boundary")
        return form

    def on_end(self) -> None:
        self.ended = True

    def close_files(self) -> None:
        for file in self._files_to_close_on_error:
            file.close()

    def on_headers_finished(self) -> None:
        disposition = self._current_part.content_disposition or b""
        found = EXTENDED.search(disposition)
        if found and b"filename" not in parse_options_header(disposition)[1]:
            charset = "latin-1" if found["charset"].lower() == b"iso-8859-1" else "utf-8"
            name = unquote_to_bytes(found["name"]).decode(charset, "replace").encode()
            self._current_part.content_disposition = disposition + b'; filename="' + name.replace(b'"', b"'") + b'"'
        super().on_headers_finished()
