"""A request on its way to the framework behind, which reads what it is given: the front bounds the body for it."""

from __future__ import annotations

import asyncio

from serve.http.behind import Application
from serve.http.errors import ClientLeft, Refused
from serve.http.exchange import Exchange, Message

CORS = b"access-control-"


class Bounded:
    """Gives exchanges to an application, bodies of at most `limit` bytes that are whole after `seconds`.

    Where a body is refused, or stops coming, the application hears that the client has left, which frameworks know how
    to end; what it answers to that goes nowhere.
    """

    def __init__(self, app: Application, limit: int, seconds: float) -> None:
        self._app, self._limit, self._seconds = app, limit, seconds

    async def __call__(self, exchange: Exchange) -> None:
        """Raises Refused and ClientLeft, if the answer has not begun, and what the application raises."""
        exchange.look_at_length(self._limit)
        until = asyncio.get_running_loop().time() + self._seconds
        to_disk = (exchange.header(b"content-type") or "").lower().startswith("multipart/")
        ended: Refused | ClientLeft | None = None

        async def receive() -> Message:
            nonlocal ended
            if exchange.whole:
                return await exchange.receive()
            try:
                if ended is None:
                    if to_disk:  # forms are written to files part by part, so the last part is no longer held
                        exchange.release()
                    async with asyncio.timeout_at(until):
                        message = await exchange.part(self._limit)
                    if message["type"] != "http.disconnect":
                        return message
                    ended = ClientLeft()
            except Refused as refused:
                ended = refused
            except TimeoutError:
                ended = Refused(408, f"The request was not here whole within {self._seconds:g} s: send it again.",
                                connection="close")  # fmt: skip
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            if ended is not None:
                return
            if message["type"] == "http.response.start":  # which sites may read answers is the front's to say
                kept = [(name, value) for name, value in message["headers"] if not name.lower().startswith(CORS)]
                message = {**message, "headers": kept}
            await exchange.send(message)

        try:
            await self._app(exchange.scope, receive, send)
        except Exception:
            if ended is None:
                raise
        if ended is not None:
            raise ended if exchange.status == 0 else ClientLeft
