"""The options of `zoo serve`, each also from the environment."""

from __future__ import annotations

from dataclasses import dataclass, field

from zoo.runtime import Device

DEFAULT_MODEL = "mnist14k"


@dataclass(frozen=True)
class Settings:
    """models: a shell pattern of names. workers: server processes. max_queue: requests that may wait for a worker.

    max_body_mb: of one request, in megabytes of 10^6 bytes. deadline_ms: from a request's first byte to its answer.
    allowed_hosts, cors_origins: names that the server answers to, and sites whose pages may use it
    (serve/server/origins.py). health_port: of a second listener for the health routes, None for none. key: what clients
    must show, None for nothing. folder: where the processes of one server meet.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    models: str = "*"
    device: Device = "auto"
    workers: int = 1
    max_queue: int = 256
    max_body_mb: float = 16.0
    deadline_ms: int = 10_000
    demo: bool = True
    access_log: bool = True
    allowed_hosts: tuple[str, ...] = ()
    cors_origins: tuple[str, ...] = ()
    health_port: int | None = None
    key: str | None = field(default=None, repr=False)
    folder: str = ""

    @property
    def max_body_bytes(self) -> int:
        return int(self.max_body_mb * 1e6)

    @property
    def deadline_s(self) -> float:
        return self.deadline_ms / 1e3

    @property
    def url(self) -> str:
        return f"http://{'[' + self.host + ']' if ':' in self.host else self.host}:{self.port}"
