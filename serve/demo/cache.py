"""Caches responses that are the same for every visitor: the page itself, and the files of Gradio's frontend.

Gradio renders the page for each request, which takes 12 ms. It also compresses the files of its frontend each time, the
largest in 0.2 s of the event loop.
"""

from __future__ import annotations

import asyncio
import gzip
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from mimetypes import guess_type
from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, Response

MAX_RESPONSES = 16  # there is one per page and host name of the server
MIN_GZIP_BYTES = 1000
GZIP_SUFFIXES = frozenset({".js", ".css", ".svg", ".json", ".html", ".txt"})
ASSET_HEADERS = {"X-Content-Type-Options": "nosniff", "Vary": "Accept-Encoding"}
# Names of files under assets/ have a digest of the content
ASSET_CACHE = "public, max-age=31536000, immutable"


@dataclass(frozen=True)
class CachedResponse:
    status: int
    headers: dict[str, str]  # without those of length and encoding
    body: bytes
    compressed: bytes  # by gzip; empty for a small body

    @classmethod
    def of(cls, status: int, headers: dict[str, str], body: bytes) -> CachedResponse:
        return cls(status, headers, body, gzip.compress(body, 6, mtime=0) if len(body) >= MIN_GZIP_BYTES else b"")

    def response(self, request: Request) -> Response:
        if self.compressed and _accepts_gzip(request):
            return Response(self.compressed, self.status, {**self.headers, "Content-Encoding": "gzip"})
        return Response(self.body, self.status, self.headers)


class ResponseCache:
    """Responses by a key. Drops the least recently used one if there are too many."""

    def __init__(self) -> None:
        self._responses: OrderedDict[Hashable, CachedResponse] = OrderedDict()

    async def get(self, key: Hashable, render: Callable[[], Awaitable[CachedResponse]]) -> CachedResponse:
        """The response of that key. Only responses with status 200 are kept."""
        response = self._responses.get(key)
        if response is None:
            response = await render()
            if response.status == 200:
                self._responses[key] = response
                if len(self._responses) > MAX_RESPONSES:
                    self._responses.popitem(last=False)
        else:
            self._responses.move_to_end(key)
        return response


class FrontendFiles:
    """The files of a folder. Those that compress well are cached in compressed form."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder.resolve()
        self._compressed: dict[str, bytes] = {}  # by path; 6 MB for all of Gradio 6.31's

    async def response(self, request: Request, path: str) -> Response | None:
        """A file of the folder; None if there is none. `path` must not contain `..`."""
        file = self._folder / path
        try:
            if not file.is_file() or not file.resolve().is_relative_to(self._folder):
                return None
        except OSError:  # the name is longer than the system allows
            return None
        headers = ASSET_HEADERS | ({"Cache-Control": ASSET_CACHE} if path.startswith("assets/") else {})
        if file.suffix not in GZIP_SUFFIXES or not _accepts_gzip(request):
            return FileResponse(file, headers=headers)
        if path not in self._compressed:
            self._compressed[path] = await asyncio.to_thread(lambda: gzip.compress(file.read_bytes(), 6, mtime=0))
        media_type = guess_type(path)[0] or "application/octet-stream"
        return Response(self._compressed[path], headers={**headers, "Content-Encoding": "gzip"}, media_type=media_type)


def _accepts_gzip(request: Request) -> bool:
    return "gzip" in request.headers.get("accept-encoding", "")
