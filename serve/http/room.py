"""Room for so many requests at a time: an open page waits for events for hours, and each of its waits is a request."""

from __future__ import annotations

from serve.http.behind import Application
from serve.http.errors import Refused
from serve.http.exchange import Message, Receive, Send

PLACES = 512  # of the thousands of connections that a process takes (serve/serving.py): programs always find one


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
