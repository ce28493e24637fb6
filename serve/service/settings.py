"""The options of `zoo serve`. Each can also be set in the environment."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from zoo.runtime import Device

DEFAULT_MODEL = "mnist14k"


@dataclass(frozen=True)
class Settings:
    host: str = "127.0.0.1"
    address: str = ""  # of that host, where all ports are opened; "" for the host itself
    port: int = 8000
    models: str = "*"  # shell pattern of model names
    device: Device = "auto"
    workers: int = 1  # server processes
    max_queue: int = 256  # requests that may wait for a worker thread
    max_body_mb: float = 16.0  # of one request, in megabytes of 10^6 bytes
    deadline_ms: int = 10_000  # from the first byte of a request to its response
    demo: bool = True
    access_log: bool = True
    allowed_hosts: tuple[str, ...] = ()  # host names that the server accepts (serve/server/origins.py)
    cors_origins: tuple[str, ...] = ()  # sites whose pages may use the server (serve/server/origins.py)
    frame_ancestors: tuple[str, ...] = ()  # sites that may show the page in a frame
    health_port: int | None = None  # of a second listener for the health routes; None for no listener
    root_path: str = ""  # under which a proxy publishes this server, for example "/zoo"
    tls_cert: Path | None = None  # PEM files; both or none
    tls_key: Path | None = None
    otel: bool | None = None  # send spans with OpenTelemetry; None: if OTEL_EXPORTER_OTLP_ENDPOINT is set
    model_control: Literal["none", "explicit"] = "none"  # whether clients may load and unload models
    grpc_port: int | None = None  # of the Open Inference Protocol over gRPC; None for no listener
    key: str | None = field(default=None, repr=False)  # API key that clients must send; None for no key
    folder: str = ""  # files that the processes of one server share

    @property
    def max_body_bytes(self) -> int:
        return int(self.max_body_mb * 1e6)

    @property
    def deadline_s(self) -> float:
        return self.deadline_ms / 1e3

    @property
    def url(self) -> str:
        return f"{'https' if self.tls_cert else 'http'}://{_bracketed(self.host)}:{self.port}"

    @property
    def grpc_address(self) -> str:
        return f"{_bracketed(self.address or self.host)}:{self.grpc_port}"


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
