"""The page of a server with several processes. The page's state is in memory, so only the first process runs it.

The first process listens on a Unix socket too. The other processes forward requests for the page to it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from serve.service.asgi import (
    Application,
    ClientDisconnected,
    FrameworkAdapter,
    HTTPError,
    Message,
    Receive,
    Send,
)

if TYPE_CHECKING:
    import httpx

# https://www.rfc-editor.org/rfc/rfc9110#section-7.6.1
HOP_BY_HOP_HEADERS = {b"connection", b"keep-alive", b"proxy-connection", b"te", b"transfer-encoding", b"upgrade"}
MAX_CONNECTIONS = 1 << 16  # more than the clients of all processes: the page itself rejects requests above its limit


@asynccontextmanager
async def serve_on_socket(app: Application, socket: Path, root_path: str = "") -> AsyncIterator[None]:
    """Serve an application on a Unix socket, in this event loop."""
    from granian.constants import Interfaces
    from granian.server.embed import Server

    socket.unlink(missing_ok=True)  # left by a process that died
    server = Server(
        FrameworkAdapter(app),
        uds=socket,
        interface=Interfaces.ASGINL,
        log_enabled=False,
        backlog=1024,
        backpressure=MAX_CONNECTIONS,
        url_path_prefix=root_path,
    )
    task = asyncio.create_task(server.serve())
    try:
        yield
    finally:
        server.stop()  # type: ignore[no-untyped-call]
        await task


class PageProxy:
    """ASGI application that forwards requests to a Unix socket. Bodies are streamed."""

    def __init__(self, socket: Path) -> None:
        import httpx

        limits = httpx.Limits(max_connections=None, max_keepalive_connections=20)
        transport = httpx.AsyncHTTPTransport(uds=str(socket), retries=2, limits=limits)
        self._client = httpx.AsyncClient(transport=transport, timeout=None)  # pages wait for events without a limit

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Ends when the response has been sent or the client has left. Raises HTTPError 503 if nobody listens."""
        if scope["type"] != "http":
            return
        body_sent = asyncio.Event()
        forwarding = asyncio.create_task(self._forward(self._request(scope, receive, body_sent), send))
        leaving = asyncio.create_task(_wait_for_disconnect(receive, body_sent))
        try:
            await asyncio.wait({forwarding, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            forwarding.cancel()
            leaving.cancel()
            await asyncio.wait({forwarding, leaving})  # the connection to the page is closed
        if forwarding.cancelled():
            return
        error = forwarding.exception()
        if error and not isinstance(error, ClientDisconnected):
            raise error

    def _request(self, scope: Message, receive: Receive, body_sent: asyncio.Event) -> httpx.Request:
        """The same request for the other process; `body_sent` is set when its body has been read to the end."""
        import httpx

        async def body() -> AsyncIterator[bytes]:
            while not body_sent.is_set():
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientDisconnected  # so that the page does not take half a body for all of it
                if not message.get("more_body"):
                    body_sent.set()
                yield message.get("body", b"")

        received = dict(scope["headers"])
        length = received.get(b"content-length", b"0")
        has_body = scope["method"] not in ("GET", "HEAD") or length != b"0" or b"transfer-encoding" in received
        if not has_body:
            body_sent.set()
        query = b"?" + scope["query_string"] if scope["query_string"] else b""
        path = scope.get("raw_path") or scope["path"].encode()
        headers = [(name, value) for name, value in scope["headers"] if name not in HOP_BY_HOP_HEADERS]
        url = httpx.URL(scheme="http", host="page", raw_path=path + query)
        # not the client's build_request, which adds headers such as Accept-Encoding that the visitor did not send
        return httpx.Request(scope["method"], url, headers=headers, content=body() if has_body else None)

    async def _forward(self, request: httpx.Request, send: Send) -> None:
        import httpx

        try:
            response = await self._client.send(request, stream=True)
        except httpx.TransportError:
            raise HTTPError(503, "The page is restarting. Reload it in a moment.", retry_after="2") from None
        try:
            headers = [(name.lower(), value) for name, value in response.headers.raw]
            headers = [pair for pair in headers if pair[0] not in HOP_BY_HOP_HEADERS]
            await send({"type": "http.response.start", "status": response.status_code, "headers": headers})
            async for chunk in response.aiter_raw():
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        finally:
            await response.aclose()


async def _wait_for_disconnect(receive: Receive, body_sent: asyncio.Event) -> None:
    """Returns when the client has left. Until the body is sent, the task that sends it notices that."""
    await body_sent.wait()
    while (await receive())["type"] != "http.disconnect":
        pass
