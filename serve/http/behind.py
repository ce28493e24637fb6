"""What the framework behind needs of a server that differs from what this one gives."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from serve.http.exchange import Message, Receive, Send

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
