"""Images behind http and https addresses; whatever a server sends, the answer is bytes or a sentence, in bounded time.

`urllib3` speaks HTTP. Its timeouts begin anew with every byte, so a thread of its own fetches each address, and its
connection is closed when the time of the whole is up.
"""

from __future__ import annotations  # what speaks HTTP is imported where it is used: most runs fetch nothing

import io
import socket
import threading
import time
from contextlib import closing, suppress
from functools import cache
from typing import TYPE_CHECKING
from urllib.parse import urljoin

import zoo
from serve.batch.archives import Bounds, Unreadable
from zoo.errors import reason
from zoo.images.read import Named

if TYPE_CHECKING:
    import ssl

    from urllib3 import BaseHTTPResponse, PoolManager
    from urllib3.connection import HTTPConnection

CONNECT_S, READ_S, TOTAL_S = 10.0, 10.0, 30.0  # to connect, between two pieces, and for all of it
REDIRECTS = 5
AT_ONCE = 4  # addresses that one process fetches at a time
LARGEST = Bounds().member_bytes
PIECE = 64 * 2**10
LONGEST_REASON = 200  # characters of what a server or a library says


def fetch_all(addresses: list[str]) -> list[Named | Unreadable]:
    """The bytes behind each address, or why there are none, in order."""
    answers: list[Named | Unreadable] = []
    for start in range(0, len(addresses), AT_ONCE):
        answers += [fetch.answer() for fetch in [_Fetch(address) for address in addresses[start : start + AT_ONCE]]]
    return answers


class _Fetch:
    """One address, fetched by a thread from now on."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._until = time.monotonic() + TOTAL_S
        self._found: Named | Unreadable | None = None
        self._connections: list[HTTPConnection] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:  # too many threads
            self._found = self._failed(reason(error))

    def answer(self) -> Named | Unreadable:
        """Wait for it, until the time is up."""
        while self._found is None and (left := self._until - time.monotonic()) > 0:
            self._thread.join(left)
        found = self._found or self._failed(f"it is not done after {TOTAL_S:g} s")
        for connection in self._connections:
            if connection.sock is not None:
                with suppress(OSError):  # a shutdown wakes the thread, if it still reads
                    socket.socket.shutdown(connection.sock, socket.SHUT_RDWR)
        return found

    def _failed(self, why: str) -> Unreadable:
        why = " ".join(why.split())[:LONGEST_REASON]
        return Unreadable(self._address, f"{self._address} cannot be fetched ({why}).")

    def _run(self) -> None:
        try:
            self._found = self._fetched()
        except Exception as error:  # whatever a server makes a library raise
            self._found = self._failed(_why(error))

    def _fetched(self) -> Named | Unreadable:
        address = self._address
        for _ in range(REDIRECTS + 1):
            with closing(self._response(address)) as response:
                location = response.headers.get("Location")
                if response.status in (301, 302, 303, 307, 308) and location:  # its body, of any size, is not read
                    address = urljoin(address, location.encode("latin-1", "replace").decode(errors="replace"))
                    if not address.startswith(("http://", "https://")):
                        return self._failed(f"it leads to {address}, and only http and https are fetched")
                elif not 200 <= response.status < 300:
                    return self._failed(f"the server says {response.status} {response.reason}")
                else:
                    return self._content(response)
        return self._failed(f"more than {REDIRECTS} redirects")

    def _response(self, address: str) -> BaseHTTPResponse:
        import urllib3

        return _manager(address, self._connections).request(
            "GET",
            address,
            headers={"User-Agent": f"pocketzoo/{zoo.__version__}"},
            preload_content=False,
            redirect=False,
            retries=False,
            timeout=urllib3.Timeout(connect=CONNECT_S, read=READ_S),
        )

    def _content(self, response: BaseHTTPResponse) -> Named | Unreadable:
        content = io.BytesIO()
        while piece := response.read(PIECE, decode_content=True):  # not stream(): it reads lines of any length
            content.write(piece)
            if content.tell() > LARGEST:
                return self._failed(f"it has more than {LARGEST:,} bytes")
        return Named(self._address, content.getvalue())


def _manager(address: str, connections: list[HTTPConnection]) -> PoolManager:
    """Connects as the environment says (http_proxy, no_proxy), and lists the connections that it opens."""
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

    url = urllib3.util.parse_url(address)
    proxy = getproxies().get(url.scheme or "")
    if proxy and not proxy_bypass(url.host or ""):
        auth = urllib3.util.parse_url(proxy).auth
        headers = urllib3.make_headers(proxy_basic_auth=auth) if auth else None
        manager: PoolManager = urllib3.ProxyManager(proxy, proxy_headers=headers, ssl_context=_tls())
    else:
        manager = urllib3.PoolManager(ssl_context=_tls())
    manager.pool_classes_by_scheme = {"http": PlainPool, "https": SecurePool}
    return manager


@cache
def _tls() -> ssl.SSLContext:
    """One for all, since it takes 10 ms and more to read the system's certificates."""
    import ssl

    return ssl.create_default_context()


def _why(error: Exception) -> str:
    """In words, without the objects that urllib3's own sentences show."""
    from http.client import IncompleteRead

    from urllib3 import exceptions

    inner = next((part for part in reversed(error.args) if isinstance(part, Exception)), error)
    if isinstance(error, exceptions.NameResolutionError):
        return "its host is unknown"
    if isinstance(error, exceptions.NewConnectionError):
        return reason(error.__cause__ or error)
    if isinstance(error, exceptions.ConnectTimeoutError):
        return f"no connection within {CONNECT_S:g} s"
    if isinstance(error, exceptions.ReadTimeoutError):
        return f"nothing came for {READ_S:g} s"
    if isinstance(inner, IncompleteRead):
        return "the answer ends too early"
    if isinstance(error, ValueError):  # as of an address that cannot be taken apart
        return "it is no address of the web"
    if isinstance(error, exceptions.DecodeError):
        return "the answer's compression is damaged"
    if isinstance(error, exceptions.ProtocolError):
        return f"no proper HTTP answer: {type(inner).__name__} {reason(inner)}"
    return reason(inner)
