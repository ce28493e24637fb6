"""Download images from http and https URLs; each one gives its bytes or an error message, in bounded time and memory.

`urllib3` restarts its timeouts with every byte it receives. Therefore each URL is downloaded by a thread, and its
connection is closed when the total time is up. HTTP libraries are imported where they are used, because most runs
download nothing.
"""

from __future__ import annotations

import io
import random
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from functools import cache
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

import zoo
from serve.batch.archives import Bounds, Unreadable
from serve.batch.inputs import StoredObject, Url
from serve.batch.remote import PIECES_AHEAD, RemoteFile
from zoo.errors import BadInput, reason
from zoo.images.read import Named

if TYPE_CHECKING:
    import ssl

    from urllib3 import BaseHTTPResponse, PoolManager
    from urllib3.connection import HTTPConnection

CONNECT_TIMEOUT_S = 10.0
READ_TIMEOUT_S = 10.0  # between two pieces
TOTAL_TIMEOUT_S = 30.0
MAX_REDIRECTS = 5
PARALLEL_DOWNLOADS = 4  # per process
MAX_BYTES = Bounds().member_bytes
PIECE_BYTES = 64 * 2**10
PIECE_ATTEMPTS = 5  # for a piece of an archive, with growing pauses between them
FIRST_PAUSE_S = 0.5
MAX_REASON_CHARACTERS = 200  # quoted from a server or a library


def download(urls: list[Url]) -> list[Named | Unreadable]:
    """Download URLs and read objects of stores; the bytes of each, or an error, in order."""
    stored = [url for url in urls if isinstance(url, StoredObject)]
    objects: Iterator[Named | Unreadable] = iter(())
    if stored:
        from serve.batch.stores import fetch_objects

        objects = iter(fetch_objects(stored))
    others = iter(fetch_all([url.name for url in urls if not isinstance(url, StoredObject)]))
    return [next(objects) if isinstance(url, StoredObject) else next(others) for url in urls]


def path_of(url: str) -> str:
    """The path of a URL; "" if it has none or is invalid."""
    try:
        return urlsplit(url).path
    except ValueError:
        return ""


def remote_file(url: str) -> RemoteFile:
    """A file that is read in pieces. Raises BadInput if the server does not send pieces, or not at all."""
    size = _read_piece(url, 0, 1)[1]
    executor = ThreadPoolExecutor(PIECES_AHEAD, thread_name_prefix="pieces")
    return RemoteFile(url, size, lambda start, end: executor.submit(lambda: _read_piece(url, start, end)[0]))


def _read_piece(url: str, start: int, end: int) -> tuple[bytes, int]:
    """Bytes from `start` up to `end`, and the size of the file. Raises BadInput after `PIECE_ATTEMPTS` attempts."""
    cause = ""
    for attempt in range(PIECE_ATTEMPTS):
        if attempt:
            time.sleep(FIRST_PAUSE_S * 2 ** (attempt - 1) * random.uniform(0.5, 1))
        piece = _Piece(url, start, end)
        result = piece.result()
        if isinstance(result, Named):
            return result.data, piece.size
        cause = result.error
        if not piece.is_temporary:
            break
    raise BadInput(cause)


def fetch_all(urls: list[str]) -> list[Named | Unreadable]:
    """Download URLs; the bytes of each, or an error, in order."""
    images: list[Named | Unreadable] = []
    for start in range(0, len(urls), PARALLEL_DOWNLOADS):
        downloads = [_Download(url) for url in urls[start : start + PARALLEL_DOWNLOADS]]
        images += [download.result() for download in downloads]
    return images


class _Download:
    """Downloads one URL in a thread."""

    def __init__(self, url: str, headers: dict[str, str] | None = None) -> None:
        self._url, self._headers = url, headers or {}
        self._deadline = time.monotonic() + TOTAL_TIMEOUT_S
        self._result: Named | Unreadable | None = None
        self._connections: list[HTTPConnection] = []
        self._thread = threading.Thread(target=self._run, name=f"download {url}", daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:  # too many threads
            self._result = self._failure(reason(error))

    def result(self) -> Named | Unreadable:
        """Wait until the download is complete or the time is up."""
        while self._result is None and (remaining := self._deadline - time.monotonic()) > 0:
            self._thread.join(remaining)
        result = self._result or self._failure(f"not complete after {TOTAL_TIMEOUT_S:g} s")
        for connection in self._connections:
            if connection.sock is not None:
                with suppress(OSError):  # a shutdown ends the thread's read
                    socket.socket.shutdown(connection.sock, socket.SHUT_RDWR)
        return result

    def _failure(self, cause: str) -> Unreadable:
        cause = " ".join(cause.split())[:MAX_REASON_CHARACTERS]
        return Unreadable(self._url, f"{self._url} cannot be downloaded ({cause}).")

    def _run(self) -> None:
        try:
            self._result = self._download()
        except Exception as error:  # a server can make a library raise anything
            self._result = self._failure(_describe(error))

    def _download(self) -> Named | Unreadable:
        url = self._url
        for _ in range(MAX_REDIRECTS + 1):
            with closing(self._request(url)) as response:
                location = response.headers.get("Location")
                if response.status in (301, 302, 303, 307, 308) and location:  # the body is not read: it may be large
                    url = urljoin(url, location.encode("latin-1", "replace").decode(errors="replace"))
                    if not url.startswith(("http://", "https://")):
                        return self._failure(f"redirect to {url}; only http and https are supported")
                elif not 200 <= response.status < 300:
                    return self._status_failure(response)
                else:
                    return self._read(response)
        return self._failure(f"more than {MAX_REDIRECTS} redirects")

    def _status_failure(self, response: BaseHTTPResponse) -> Unreadable:
        return self._failure(f"HTTP status {response.status} {response.reason}")

    def _request(self, url: str) -> BaseHTTPResponse:
        import urllib3

        return _manager(url, self._connections).request(
            "GET",
            url,
            headers={"User-Agent": f"pocketzoo/{zoo.__version__}"} | self._headers,
            preload_content=False,
            redirect=False,
            retries=False,
            timeout=urllib3.Timeout(connect=CONNECT_TIMEOUT_S, read=READ_TIMEOUT_S),
        )

    def _read(self, response: BaseHTTPResponse) -> Named | Unreadable:
        content = io.BytesIO()
        while piece := response.read(PIECE_BYTES, decode_content=True):  # stream() would read lines of any length
            content.write(piece)
            if content.tell() > MAX_BYTES:
                return self._failure(f"more than {MAX_BYTES:,} bytes")
        return Named(self._url, content.getvalue())


class _Piece(_Download):
    """Downloads a piece of a file."""

    def __init__(self, url: str, start: int, end: int) -> None:
        self.size = 0  # of the whole file
        self.is_temporary = True  # whether another attempt may succeed
        self._length = end - start
        super().__init__(url, {"Range": f"bytes={start}-{end - 1}", "Accept-Encoding": "identity"})

    def _read(self, response: BaseHTTPResponse) -> Named | Unreadable:
        if response.status != 206:
            self.is_temporary = False
            return self._failure("the server does not send parts of a file; download it first")
        size = response.headers.get("Content-Range", "").rpartition("/")[2]
        self.size = int(size) if size.isdecimal() else 0
        content = io.BytesIO()
        while content.tell() <= self._length and (piece := response.read(PIECE_BYTES, decode_content=False)):
            content.write(piece)
        if content.tell() != self._length:
            return self._failure(f"{content.tell():,} bytes instead of {self._length:,}")
        return Named(self._url, content.getvalue())

    def _status_failure(self, response: BaseHTTPResponse) -> Unreadable:
        self.is_temporary = response.status >= 500 or response.status in (408, 429)
        return super()._status_failure(response)


def _manager(url: str, connections: list[HTTPConnection]) -> PoolManager:
    """A connection pool that honours http_proxy and no_proxy and appends the connections it opens to `connections`."""
    from urllib.request import getproxies, proxy_bypass

    import urllib3
    from urllib3.connection import HTTPConnection, HTTPSConnection

    class Plain(HTTPConnection):
        def connect(self) -> None:
            connections.append(self)
            super().connect()

    class Secure(HTTPSConnection):
        def connect(self) -> None:
            connections.append(self)
            super().connect()

    class PlainPool(urllib3.HTTPConnectionPool):
        ConnectionCls = Plain

    class SecurePool(urllib3.HTTPSConnectionPool):
        ConnectionCls = Secure

    parsed = urllib3.util.parse_url(url)
    proxy = getproxies().get(parsed.scheme or "")
    if proxy and not proxy_bypass(parsed.host or ""):
        auth = urllib3.util.parse_url(proxy).auth
        headers = urllib3.make_headers(proxy_basic_auth=auth) if auth else None
        manager: PoolManager = urllib3.ProxyManager(proxy, proxy_headers=headers, ssl_context=_tls_context())
    else:
        manager = urllib3.PoolManager(ssl_context=_tls_context())
    manager.pool_classes_by_scheme = {"http": PlainPool, "https": SecurePool}
    return manager


@cache
def _tls_context() -> ssl.SSLContext:
    """Cached, because reading the system's certificates takes 10 ms or more."""
    import ssl

    return ssl.create_default_context()


def _describe(error: Exception) -> str:
    """The cause of a failed download, without the representations of objects in urllib3's own messages."""
    from http.client import IncompleteRead

    from urllib3 import exceptions

    inner = next((part for part in reversed(error.args) if isinstance(part, Exception)), error)
    if isinstance(error, exceptions.NameResolutionError):
        return "unknown host"
    if isinstance(error, exceptions.NewConnectionError):
        return reason(error.__cause__ or error)
    if isinstance(error, exceptions.ConnectTimeoutError):
        return f"no connection within {CONNECT_TIMEOUT_S:g} s"
    if isinstance(error, exceptions.ReadTimeoutError):
        return f"no data for {READ_TIMEOUT_S:g} s"
    if isinstance(inner, IncompleteRead):
        return "incomplete response"
    if isinstance(error, ValueError):  # for example a URL that cannot be parsed
        return "invalid URL"
    if isinstance(error, exceptions.DecodeError):
        return "damaged compression of the response"
    if isinstance(error, exceptions.ProtocolError):
        return f"invalid HTTP response: {type(inner).__name__} {reason(inner)}"
    return reason(inner)
