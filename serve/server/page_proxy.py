"""The page in a server of several processes: it keeps what people do in memory, so one process has it, the first.

That process listens on a Unix socket as well; the others pass on to it whatever is not for programs.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from serve.service.asgi import Application, Behind, ClientLeft, Message, Receive, Refused, Send

if TYPE_CHECKING:
    import httpx

# https://www.rfc-editor.org/rfc/rfc9110#section-7.6.1: what concerns a connection and not the message
OF_THE_CONNECTION = {b"connection", b"keep-alive", b"proxy-connection", b"te", b"transfer-encoding", b"upgrade"}
CONNECTIONS = 1 << 16  # more than the processes have clients: who has no place on the page is told so by the page


@asynccontextmanager
async def listening(app: Application, socket: Path) -> AsyncIterator[None]:
    """Serve an application on a Unix socket too, in this event loop."""
    from granian.constants import Interfaces
    from granian.server.embed import Server

    socket.unlink(missing_ok=True)  # of a process that died
    server = Server(
        Behind(app), uds=socket, interface=Interfaces.ASGINL, log_enabled=False, backlog=1024, backpressure=CONNECTIONS
    )
    task = asyncio.create_task(server.serve())
    try:
        yield
    finally:
        server.stop()  # type: ignore[no-untyped-call]
        await task


class Relay:
    """ASGI application that passes requests on to the one that listens on a Unix socket, body by body part."""

    def __init__(self, socket: Path) -> None:
        import httpx

        limits = httpx.Limits(max_connections=None, max_keepalive_connections=20)
        transport = httpx.AsyncHTTPTransport(uds=str(socket), retries=2, limits=limits)
        self._client = httpx.AsyncClient(
            transport=transport, timeout=None
        )  # pages wait for events as long as they like

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Ends when the answer has been passed on or the client has left. Raises Refused where nobody listens."""
        if scope["type"] != "http":
            return
        sent = asyncio.Event()
        passing = asyncio.create_task(self._pass_on(self._request(scope, receive, sent), send))
        leaving = asyncio.create_task(_left(receive, sent))
        try:
            await asyncio.wait({passing, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            passing.cancel()
            leaving.cancel()
            await asyncio.wait({passing, leaving})  # the connection to the page is closed
        if not passing.cancelled() and (error := passing.exception()) and not isinstance(error, ClientLeft):
            raise error

    def _request(self, scope: Message, receive: Receive, sent: asyncio.Event) -> httpx.Request:
        """The same request for the other process; `sent` is set when its body has been read to the end."""
        import httpx

        async def body() -> AsyncIterator[bytes]:
            while not sent.is_set():
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientLeft  # the page shall not take a half for the whole
                if not message.get("more_body"):
                    sent.set()
                yield message.get("body", b"")

        declared = dict(scope["headers"])
        length = declared.get(b"content-length", b"0")
        has_body = scope["method"] not in ("GET", "HEAD") or length != b"0" or b"transfer-encoding" in declared
        if not has_body:
            sent.set()
        query = b"?" + scope["query_string"] if scope["query_string"] else b""
        path = scope.get("raw_path") or scope["path"].encode()
        headers = [(name, value) for name, value in scope["headers"] if name not in OF_THE_CONNECTION]
        url = httpx.URL(scheme="http", host="page", raw_path=path + query)
        return self._client.build_request(scope["method"], url, headers=headers, content=body() if has_body else None)

    async def _pass_on(self, request: httpx.Request, send: Send) -> None:
        import httpx

        try:
            answer = await self._client.send(request, stream=True)
        except httpx.TransportError:
            raise Refused(503, "The page is starting again: load it again in a moment.", retry_after="2") from None
        try:
            kept = [
                (name.lower(), value) for name, value in answer.headers.raw if name.lower() not in OF_THE_CONNECTION
            ]
            await send({"type": "http.response.start", "status": answer.status_code, "headers": kept})
            async for part in answer.aiter_raw():
                await send({"type": "http.response.body", "body": part, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        finally:
            await answer.aclose()


async def _left(receive: Receive, sent: asyncio.Event) -> None:
    """Ends when the client has left; until the body is sent, who sends it will notice."""
    await sent.wait()
    while (await receive())["type"] != "http.disconnect":
        pass
