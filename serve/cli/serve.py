"""`zoo serve`: start the server processes and stop them on SIGTERM or SIGINT.

Granian accepts connections and parses requests in its own threads, which leaves more of the core to Python: on the
prediction route it handled 1.3 times as many requests per second as uvicorn (docs/decisions/0008-server.md). Only
HTTP/1.1 is enabled, because Granian has no time limit for idle HTTP/2 connections; nothing here uses websockets.
"""

from __future__ import annotations

import gc
import logging
import os
import re
import signal
import socket
import sys
import threading
from contextlib import suppress
from dataclasses import replace
from functools import partial
from ipaddress import ip_address
from math import ceil
from multiprocessing import parent_process
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from serve.cli.folder import server_folder
from serve.cli.options import FiniteRange, device_option
from serve.messages import say
from serve.service.settings import Settings
from zoo import errors
from zoo.errors import WrongUsage, ZooError, not_importable, reason

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from fastapi import FastAPI

    from serve.service.metrics import Metrics
    from serve.service.models import Service
    from zoo.runtime import Device

START_ERROR_FILE = "failed"  # where a server process writes why it cannot start
MAX_CONNECTIONS = 8192  # per process, if it may open that many files; further connections wait
OTHER_FILES = 256  # that a process opens besides its connections
HEAD_MS = 5000  # time limit for a request's head; also closes idle connections
MAX_HEAD_BYTES = 32_768  # of a request's head; times the connections, this is the memory that heads can take
UNREAD_MS = 15_000  # time after which a connection is closed if the client does not read the response
KEEPALIVE_S = 60  # idle time after which TCP checks whether the client still exists
BACKLOG = 2048  # connections that wait to be accepted
PR_SET_PDEATHSIG = 1  # see prctl(2)
ROOT_PATH = re.compile(r"(/[A-Za-z0-9._~-]+)+")
# The first parts of the server's own paths
OWN_PATHS = (
    "models", "v2", "metrics", "docs", "redoc", "openapi.json", "gradio_api", "assets", "static", "config", "theme.css",
)  # fmt: skip
KILL_S = 5  # time to end after all requests are answered, before a process is killed

# Errors that a server process can report to the first process. A subclass is reported as its nearest base class here.
_START_ERRORS = {
    kind.__name__: kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, ZooError)
}


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT, complete the requests in flight, and return.

    Raises:
        ZooError: The server cannot start.
        SystemExit: A server process crashed.
    """
    try:
        from granian import Granian
        from granian.constants import HTTPModes, Interfaces, SSLProtocols
        from granian.http import HTTP1Settings
    except ImportError as error:
        raise _missing_extra(error) from None
    _check_root_path(settings.root_path)
    _check_tls(settings.tls_cert, settings.tls_key)
    address, port = _find_free_port(settings.host, settings.port)
    if settings.health_port is not None:
        _find_free_port(settings.host, settings.health_port, "--health-port")
    if not ip_address(address).is_loopback and settings.key is None:
        say(
            f"zoo: WARNING: Everyone who reaches {settings.host} can use this server. Set ZOO_API_KEY to require a key."
        )
    published = settings.allowed_hosts or settings.cors_origins or settings.root_path  # by a proxy, or to pages
    if settings.model_control == "explicit" and settings.key is None:
        if published or not ip_address(address).is_loopback:
            raise WrongUsage(
                "--model-control explicit requires a key where others reach the server (by --host, --allowed-host, "
                "--cors-origin or --root-path). Set ZOO_API_KEY."
            )
    if settings.grpc_port is not None:
        settings = replace(settings, grpc_port=_find_free_port(settings.host, settings.grpc_port, "--grpc-port")[1])
    settings = replace(settings, address=address, port=port)
    with server_folder() as folder:
        server = Granian(
            "pocketzoo",
            address=address,
            port=port,
            interface=Interfaces.ASGI,
            http=HTTPModes.http1,
            websockets=False,
            http1_settings=HTTP1Settings(header_read_timeout=HEAD_MS, max_buffer_size=MAX_HEAD_BYTES),
            workers=settings.workers,
            backlog=BACKLOG,
            backpressure=_raise_connection_limit(),
            ssl_cert=settings.tls_cert,
            ssl_key=settings.tls_key,
            ssl_protocol_min=SSLProtocols.tls12,
            respawn_failed_workers=True,
            # HTTP requests are answered first, then gRPC's
            workers_kill_timeout=ceil(settings.deadline_s * (1 if settings.grpc_port is None else 2)) + KILL_S,
            log_level="critical",  # type: ignore[arg-type]
        )
        error_file = Path(folder, START_ERROR_FILE)
        try:
            server.serve(
                partial(_run_process, os.getpid()), partial(_build_app, replace(settings, folder=folder)), False
            )
        except SystemExit:  # the server processes ended during their start
            if not error_file.exists():
                raise
        if error_file.exists():
            kind, message = error_file.read_text(encoding="utf-8").split("\n", 1)
            raise _START_ERRORS[kind](message)


def _check_root_path(root_path: str) -> None:
    """Raises WrongUsage for a --root-path that is no path, or that begins like one of the server's own."""
    if root_path and (not ROOT_PATH.fullmatch(root_path) or root_path.split("/")[1] in OWN_PATHS):
        raise WrongUsage(
            f"--root-path must be a path such as /zoo, without a slash at its end, and not begin with a path of this "
            f"server ({', '.join(OWN_PATHS)}), not {root_path!r}."
        )


def _check_tls(cert: Path | None, key: Path | None) -> None:
    """Raises WrongUsage or ZooError for a certificate and a key that cannot be used: later nobody would report it."""
    if cert is None and key is None:
        return
    if cert is None or key is None:
        raise WrongUsage("--tls-cert and --tls-key belong together. Give both, or none of them.")
    import ssl

    for option, file in (("--tls-cert", cert), ("--tls-key", key)):
        try:
            content = file.read_bytes()
        except OSError as error:
            raise ZooError(f"Cannot read {option} {file} ({error.strerror}).") from None
        if b"-----BEGIN " not in content:
            raise ZooError(f"{option} {file} is not a PEM file. Convert it with `openssl`.")
        if b"ENCRYPTED" in content:
            raise ZooError(f"{option} {file} is encrypted. Decrypt it: openssl pkey -in {file} -out NEW.")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key)
    except (ssl.SSLError, ValueError) as error:
        # OpenSSL's reasons: KEY_VALUES_MISMATCH and NO_CERTIFICATE_ASSIGNED for another key of the same or another type
        cause = getattr(error, "reason", None) or error
        raise ZooError(
            f"Cannot use --tls-cert {cert} with --tls-key {key} ({cause}). Check that the key belongs to the "
            "certificate and that each option has the right file."
        ) from None


def _raise_connection_limit() -> int:
    """Raise the limit of open files as far as possible; returns the number of connections per process."""
    try:
        import resource
    except ImportError:  # Windows
        return MAX_CONNECTIONS
    wanted = MAX_CONNECTIONS + OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MAX_CONNECTIONS if soft == resource.RLIM_INFINITY else max(64, min(MAX_CONNECTIONS, soft - OTHER_FILES))


def _run_process(parent: int, number: int, name: str | None, load: Any, sockets: Any, *others: Any) -> None:
    """A server process: Granian's own, but it ends with its parent, and its connections have time limits."""
    from granian import Granian

    _end_with_parent(parent)
    (spec, shared), owned = sockets
    if spec is not None:  # on Linux each process has its own listener
        shared = spec.build()
        with socket.socket(fileno=shared.get_fd()) as listener:  # connections inherit its options
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a restart can use the port at once
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNREAD_MS)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_S)
            listener.detach()
    Granian._spawn_asgi_lifespan_worker(number, name, load, ((None, shared), owned), *others)


def _end_with_parent(parent: int) -> None:
    """Make this process end whenever its parent ends, even if killed; otherwise it would keep the port."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # the parent ended before the call
            os._exit(1)
    elif (process := parent_process()) is not None:
        threading.Thread(target=lambda: (process.join(), os._exit(1)), daemon=True).start()


def _find_free_port(host: str, port: int, option: str = "--port") -> tuple[str, int]:
    """The first address of a host that can be listened on, and the port, a free one for 0. Raises ZooError."""
    cause = ""
    for family, address in _resolve(host):
        try:
            with socket.socket(family) as trial:
                trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                trial.bind((address, port))
                return address, int(trial.getsockname()[1])
        except OSError as error:
            cause = error.strerror or reason(error)
    raise ZooError(
        f"Cannot listen on {host}:{port} ({cause}). Choose another port with {option}, or another host with --host."
    )


def _resolve(host: str) -> list[tuple[socket.AddressFamily, str]]:
    """Addresses of a host, IPv4 first, because people expect localhost to be 127.0.0.1. Raises WrongUsage."""
    try:
        results = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        cause = reason(error) if isinstance(error, OSError) else "invalid host name"
        raise WrongUsage(
            f"Unknown --host {host!r} ({cause}). Use 127.0.0.1 for this machine only, 0.0.0.0 for all its addresses."
        ) from None
    return sorted({(family, str(address[0])) for family, _, _, _, address in results})


def _build_app(settings: Settings) -> Any:
    """In a server process: build the ASGI application."""
    # The handlers inherited from the first process would swallow signals during the start.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal signals all processes; the first one ends this one
    try:
        from serve.server.app import build
        from serve.server.log import LOG

        app = build(settings, _mount_page, leave=partial(os._exit, 1))
        LOG.take_stderr()
        logging.getLogger("python_multipart").setLevel(logging.ERROR)  # it warns about every invalid form
        gc.collect()
        gc.freeze()  # permanent objects need not be scanned by every collection
        return app
    except (ZooError, ImportError) as caught:
        error = caught if isinstance(caught, ZooError) else _missing_extra(caught)
        kind = next(kind.__name__ for kind in type(error).__mro__ if _START_ERRORS.get(kind.__name__) is kind)
        Path(settings.folder, START_ERROR_FILE).write_text(f"{kind}\n{error}", encoding="utf-8")
        if sys.platform != "win32":
            os.kill(os.getppid(), signal.SIGTERM)  # otherwise it would restart this process again and again
        os._exit(1)  # without a traceback: the first process prints the error


def _mount_page(
    app: FastAPI, service: Service, metrics: Metrics, settings: Settings, follow_folder: Callable[[], Awaitable[None]]
) -> None:
    """Add the web page to the API's application. Only this function knows both."""
    from serve.demo.files import set_folder

    files = set_folder(Path(settings.folder, "files"))  # before Gradio is imported, which reads the setting
    from serve.demo.page import mount

    mount(app, service, metrics, settings, files, follow_folder)


def _missing_extra(error: ImportError) -> ZooError:
    return ZooError(not_importable("`zoo serve`", error, "serve"))


class PortOption(click.Option):
    """The --port option; ignores the ZOO_PORT that Kubernetes sets for a service named "zoo" (tcp://ADDRESS:PORT)."""

    def resolve_envvar_value(self, ctx: click.Context) -> str | None:
        value = super().resolve_envvar_value(ctx)
        if value is not None and value.startswith(("tcp://", "udp://", "sctp://")):
            say(f"zoo: Ignoring ZOO_PORT={value!r}: Kubernetes sets it for a service named zoo.")
            return None
        return value


class WorkersType(click.IntRange):
    """The --workers option: a number of processes, or "auto" (0)."""

    name = "workers"

    def __init__(self) -> None:
        super().__init__(min=1)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return 0 if value == "auto" else super().convert(value, param, ctx)


def processes_for(device: Device) -> int:
    """How many processes `--workers auto` starts: one per core that may be used (affinity, cgroup quota); one on a GPU,
    because each process would hold all models in its memory.
    """
    from serve.devices import cores

    return 1 if device == "cuda" else cores()


@click.command("serve", context_settings={"auto_envvar_prefix": "ZOO"})
@click.option("--host", default="127.0.0.1", show_default=True, metavar="HOST", help="Address to listen on.")
@click.option(
    "--port",
    cls=PortOption,
    type=click.IntRange(0, 65535),
    default=8000,
    show_default=True,
    metavar="N",
    help="Port to listen on; 0 picks a free port.",
)
@click.option("--models", default="*", show_default=True, metavar="PATTERN", help="Models to serve.")
@click.option(
    "--workers",
    type=WorkersType(),
    default=1,
    show_default=True,
    metavar="N|auto",
    help="Server processes; auto: one per usable core.",
)
@click.option(
    "--max-queue",
    type=click.IntRange(min=1),
    default=256,
    show_default=True,
    metavar="N",
    help="Queued requests per process; further requests get 503.",
)
@click.option(
    "--max-body-mb",
    type=FiniteRange(min=0.001),
    default=16,
    show_default=True,
    metavar="MB",
    help="Largest request body in megabytes.",
)
@click.option(
    "--deadline-ms",
    type=click.IntRange(min=1),
    default=10_000,
    show_default=True,
    metavar="MS",
    help="Time limit per request in milliseconds.",
)
@click.option(
    "--model-control",
    type=click.Choice(["none", "explicit"]),
    default="none",
    show_default=True,
    help="Whether clients may load and unload models.",
)
@click.option(
    "--grpc-port",
    type=click.IntRange(0, 65535),
    metavar="N",
    help="Also serve the Open Inference Protocol over gRPC on this port; 0 picks a free port.  [default: none]",
)
@click.option("--demo/--no-demo", default=True, show_default=True, help="Serve the web page at /.")
@click.option(
    "--access-log/--no-access-log", default=True, show_default=True, help="Log one JSON line per request to stderr."
)
@click.option(
    "--allowed-host",
    "allowed_hosts",
    multiple=True,
    envvar="ZOO_ALLOWED_HOST",
    metavar="NAME",
    help="Accept requests for this host name, '*' for any; repeatable.  [default: IP addresses, localhost, HOST]",
)
@click.option(
    "--cors-origin",
    "cors_origins",
    multiple=True,
    envvar="ZOO_CORS_ORIGIN",
    metavar="ORIGIN",
    help="Allow pages of this site (https://example.org, or '*') to call the API; repeatable.  [default: none]",
)
@click.option(
    "--frame-ancestor",
    "frame_ancestors",
    multiple=True,
    envvar="ZOO_FRAME_ANCESTOR",
    metavar="ORIGIN",
    help="Allow pages of this site (https://example.org) to show the web page in a frame; repeatable.  [default: none]",
)
@click.option(
    "--root-path",
    default="",
    metavar="PATH",
    help="Path under which a proxy publishes this server, such as /zoo.  [default: none]",
)
@click.option(
    "--tls-cert",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Serve HTTPS with this certificate chain, a PEM file.  [default: HTTP]",
)
@click.option("--tls-key", type=click.Path(path_type=Path), metavar="FILE", help="Private key of --tls-cert, PEM.")
@click.option(
    "--otel/--no-otel",
    default=None,
    help="Send a span per request with OpenTelemetry.  [default: if OTEL_EXPORTER_OTLP_ENDPOINT is set]",
)
@click.option(
    "--health-port",
    type=click.IntRange(1, 65535),
    metavar="N",
    help="Also serve /v2/health/ on this port, which answers even under load.  [default: none]",
)
@device_option
def command(**options: Any) -> None:
    """Start the web page and the HTTP API.

    Runs until SIGINT (Ctrl-C) or SIGTERM. Every option can also be set as ZOO_<OPTION>, for example ZOO_MAX_BODY_MB.
    If ZOO_API_KEY is set, clients must send that key.
    """
    options["workers"] = options["workers"] or processes_for(options["device"])
    serve(Settings(**options, key=_api_key()))


def _api_key() -> str | None:
    """ZOO_API_KEY without surrounding whitespace: files and secrets often end in a newline. Raises WrongUsage."""
    value = os.environ.get("ZOO_API_KEY")
    if value is None:
        return None
    key = value.strip()
    if not key or not key.isprintable():
        raise WrongUsage("ZOO_API_KEY is empty or contains control characters. Set a key or unset the variable.")
    if key != value:
        say("zoo: Ignoring whitespace around the key in ZOO_API_KEY.")
    return key
