"""From what can go wrong to the status of an HTTP response, whose body is always `{"error": "sentence"}`."""

from zoo.errors import ZooError


class Refused(ZooError):
    """A request that cannot be answered as it is, with its status and what the answer's head adds."""

    def __init__(self, status: int, sentence: str, **headers: str) -> None:
        super().__init__(sentence)
        self.status = status
        self.headers = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]


class ClientLeft(Exception):
    """The client closed the connection before its request was whole: nobody reads an answer."""


def status_of(error: Exception) -> int:
    """The status for an error: its own, its class's, or 500 where nobody expected it."""
    if isinstance(error, Refused):
        return error.status
    return error.http_status if isinstance(error, ZooError) else 500
