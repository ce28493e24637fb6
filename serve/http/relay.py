"""The page in a server of several processes: it keeps what people do in memory, so one process has it, the first.

That process listens on a Unix socket as well; the others pass on to it whatever is not for programs.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from serve.http.behind import Application, Behind
from serve.http.exchange import Message, Receive, Send

# https://www.rfc-editor.org/rfc/rfc9110#section-7.6.1: what concerns a connection and not the message
OF_THE_CONNECTION = {b"connection", b"keep-alive", b"proxy-connection", b"te", b"transfer-encoding", b"upgrade"}


@asynccontextmanager
async def listening(app: Application, socket: Path) -> AsyncIterator[None]:
    """Serve an application on a Unix socket too, in this event loop."""
    from granian.constants import Interfaces
    from granian.server.embed import Server

    socket.unlink(missing_ok=True)  # of a process that died
    server = Server(Behind(app), uds=socket, interface=Interfaces.ASGINL, log_enabled=False)
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

        transport = httpx.AsyncHTTPTransport(uds=str(socket), retries=2)
        self._client = httpx.AsyncClient(
            transport=transport, timeout=None
        )  # pages wait for events as long as they like

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        import httpx

        if scope["type"] != "http":
            return

        async def body() -> AsyncIterator[bytes]:
            more = True
            while more:
                message = await receive()
                yield message.get("body", b"")
                more = message.get("more_body", False)

        query = b"?" + scope["query_string"] if scope["query_string"] else b""
        path = scope.get("raw_path") or scope["path"].encode()
        headers = [(name, value) for name, value in scope["headers"] if name not in OF_THE_CONNECTION]
        has_body = scope["method"] not in ("GET", "HEAD")
        request = self._client.build_request(
            scope["method"],
            httpx.URL(scheme="http", host="page", raw_path=path + query),
            headers=headers,
            content=body() if has_body else None,
        )
        try:
            answer = await self._client.send(request, stream=True)
        except httpx.TransportError:
            told = b'{"error": "The page is starting again: load it again in a moment."}'
            await send({"type": "http.response.start", "status": 503, "headers": [
                (b"content-type", b"application/json"), (b"retry-after", b"2"),
            ]})  # fmt: skip
            await send({"type": "http.response.body", "body": told})
            return
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
