"""One table from what can go wrong to the status of an HTTP answer; the body is always `{"error": "sentence"}`."""

from serve.pool import Overloaded, Stopped
from zoo.errors import BadInput, ModelNotFound, ZooError


class Refused(ZooError):
    """A request that cannot be answered as it is, with its status and what the answer's head adds."""

    def __init__(self, status: int, sentence: str, **headers: str) -> None:
        super().__init__(sentence)
        self.status = status
        self.headers = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]


class ClientLeft(Exception):
    """The client closed the connection before its request was whole: nobody reads an answer."""


STATUS: dict[type[Exception], int] = {BadInput: 400, ModelNotFound: 404, Overloaded: 503, Stopped: 503}


def status_of(error: Exception) -> int:
    """The status for an error, or for the nearest of its base classes in the table; 500 for any other."""
    if isinstance(error, Refused):
        return error.status
    return next((status for kind, status in STATUS.items() if isinstance(error, kind)), 500)
