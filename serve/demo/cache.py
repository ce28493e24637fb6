"""What is the same for every visitor, made once and kept: the page itself, and the files of Gradio's frontend.

Gradio makes the page anew for each request, which takes 12 ms, and compresses the files of its frontend each time, the
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

MOST = 16  # pages: each exists once for every name under which the server is asked
LEAST_BYTES = 1000  # of what is compressed
COMPRESSED = frozenset({".js", ".css", ".svg", ".json", ".html", ".txt"})
ASSET_HEADERS = {"X-Content-Type-Options": "nosniff", "Vary": "Accept-Encoding"}
# What is under assets/ has a digest of its content in its name
ASSET_CACHE = "public, max-age=31536000, immutable"


@dataclass(frozen=True)
class Page:
    """headers: but for those about length and encoding. compressed: by gzip."""

    status: int
    headers: dict[str, str]
    body: bytes
    compressed: bytes

    @classmethod
    def of(cls, status: int, headers: dict[str, str], body: bytes) -> Page:
        return cls(status, headers, body, gzip.compress(body, 6, mtime=0) if len(body) >= LEAST_BYTES else b"")

    def response(self, request: Request) -> Response:
        if self.compressed and _takes_gzip(request):
            return Response(self.compressed, self.status, {**self.headers, "Content-Encoding": "gzip"})
        return Response(self.body, self.status, self.headers)


class Pages:
    """Pages by a key, the least recently used of too many forgotten."""

    def __init__(self) -> None:
        self._pages: OrderedDict[Hashable, Page] = OrderedDict()

    async def get(self, key: Hashable, make: Callable[[], Awaitable[Page]]) -> Page:
        """The page of that key; one that is not well (its status is not 200) is not kept."""
        page = self._pages.get(key)
        if page is None:
            page = await make()
            if page.status == 200:
                self._pages[key] = page
                if len(self._pages) > MOST:
                    self._pages.popitem(last=False)
        else:
            self._pages.move_to_end(key)
        return page


class Assets:
    """The files in a folder, those that compress well kept compressed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder.resolve()
        self._compressed: dict[str, bytes] = {}  # by path; 6 MB for all of Gradio 6.31's

    async def response(self, request: Request, path: str) -> Response | None:
        """A file of the folder, None where there is none. `path`: without `..`."""
        file = self._folder / path
        try:
            if not file.is_file() or not file.resolve().is_relative_to(self._folder):
                return None
        except OSError:  # a name that is longer than the system allows
            return None
        headers = ASSET_HEADERS | ({"Cache-Control": ASSET_CACHE} if path.startswith("assets/") else {})
        if file.suffix not in COMPRESSED or not _takes_gzip(request):
            return FileResponse(file, headers=headers)
        if path not in self._compressed:
            self._compressed[path] = await asyncio.to_thread(lambda: gzip.compress(file.read_bytes(), 6, mtime=0))
        kind = guess_type(path)[0] or "application/octet-stream"
        return Response(self._compressed[path], headers={**headers, "Content-Encoding": "gzip"}, media_type=kind)


def _takes_gzip(request: Request) -> bool:
    return "gzip" in request.headers.get("accept-encoding", "")
