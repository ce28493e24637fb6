"""`zoo serve`: starts the server's processes, and ends when it is told to.

Granian accepts and parses in its own threads, so that Python has more of the core for itself: on the hot route it
answered 1.3 times as many requests a second as uvicorn (docs/decisions/0008-server.md). It speaks HTTP/1.1 alone here:
it has no time limit for idle connections of HTTP/2, and no websockets, which nothing here uses.
"""

from __future__ import annotations

import gc
import logging
import os
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
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from serve.service.settings import Settings
from zoo import errors
from zoo.errors import WrongUsage, ZooError, reason

if TYPE_CHECKING:
    from fastapi import FastAPI

    from serve.service.metrics import Metrics
    from serve.service.models import Service

FAILED = "failed"  # the file in which a process that cannot begin says why
CONNECTIONS = 8192  # that a process takes at a time, where it may open so many files; the next ones wait
OTHER_FILES = 256  # that a process has open beside its connections
HEAD_MS = 5000  # for the head of a request, from the connection or the last answer on: idle connections are closed
HEAD_BYTES = 32_768  # of a request's head: connections times this is what heads alone may take
UNREAD_MS = 15_000  # after which a connection ends whose client does not take what is sent
PROBE_S = 60  # after which a connection on which nothing happens is probed: a client may be gone without a word
BACKLOG = 2048  # connections that wait to be taken
PR_SET_PDEATHSIG = 1  # of prctl(2)
KILL_S = 5  # after the deadline, in which a process ends by itself

# The errors by which a process says why it cannot begin; one of another class arrives as its nearest base among these.
_KINDS = {
    kind.__name__: kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, ZooError)
}


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT, then answer what has come, and return. Raises ZooError; SystemExit on a crash."""
    try:
        from granian import Granian
        from granian.constants import HTTPModes, Interfaces
        from granian.http import HTTP1Settings
    except ImportError as error:
        raise _missing(error) from None
    address, port = _free(settings.host, settings.port)
    if settings.health_port is not None:
        _free(settings.host, settings.health_port, "--health-port")
    if not ip_address(address).is_loopback and settings.key is None:
        print(f"zoo: WARNING: whoever reaches {settings.host} can use this server: set ZOO_API_KEY.", file=sys.stderr)
    settings = replace(settings, port=port)
    with TemporaryDirectory(prefix="zoo-serve-") as folder:
        server = Granian(
            "pocketzoo",
            address=address,
            port=port,
            interface=Interfaces.ASGI,
            http=HTTPModes.http1,
            websockets=False,
            http1_settings=HTTP1Settings(header_read_timeout=HEAD_MS, max_buffer_size=HEAD_BYTES),
            workers=settings.workers,
            backlog=BACKLOG,
            backpressure=_connections(),
            respawn_failed_workers=True,
            workers_kill_timeout=ceil(settings.deadline_s) + KILL_S,
            log_level="critical",  # type: ignore[arg-type]
        )
        reason_file = Path(folder, FAILED)
        try:
            server.serve(partial(_process, os.getpid()), partial(_app, replace(settings, folder=folder)), False)
        except SystemExit:  # processes that ended as soon as they began
            if not reason_file.exists():
                raise
        if reason_file.exists():
            kind, sentence = reason_file.read_text(encoding="utf-8").split("\n", 1)
            raise _KINDS[kind](sentence)


def _connections() -> int:
    """How many connections a process takes, after raising the limit of its open files as far as it may."""
    try:
        import resource
    except ImportError:  # Windows
        return CONNECTIONS
    wanted = CONNECTIONS + OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return CONNECTIONS if soft == resource.RLIM_INFINITY else max(64, min(CONNECTIONS, soft - OTHER_FILES))


def _process(parent: int, number: int, name: str | None, load: Any, sockets: Any, *others: Any) -> None:
    """A server process: granian's own, which ends with its parent and has a listener with time limits."""
    from granian import Granian

    _end_with(parent)
    (spec, shared), owned = sockets
    if spec is not None:  # Linux, where each process has its own listener
        shared = spec.build()
        with socket.socket(fileno=shared.get_fd()) as listener:  # connections inherit its options
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # the port can be had again at once
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNREAD_MS)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, PROBE_S)
            listener.detach()
    Granian._spawn_asgi_lifespan_worker(number, name, load, ((None, shared), owned), *others)


def _end_with(parent: int) -> None:
    """Make this process end when its parent does, however that ends: otherwise it would go on holding the port."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it ended before
            os._exit(1)
    elif (process := parent_process()) is not None:
        threading.Thread(target=lambda: (process.join(), os._exit(1)), daemon=True).start()


def _free(host: str, port: int, option: str = "--port") -> tuple[str, int]:
    """The first address of a host that can be had, and the port on it, any free one for 0. Raises ZooError."""
    reasons = {}
    for family, address in _addresses(host):
        try:
            with socket.socket(family) as trial:
                trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                trial.bind((address, port))
                return address, int(trial.getsockname()[1])
        except OSError as error:
            reasons[address] = reason(error)
    why = reasons.popitem()[1]
    raise ZooError(f"Port {port} of {host} cannot be had ({why}): choose another with {option}, or a host of this "
                   "machine with --host.")  # fmt: skip


def _addresses(host: str) -> list[tuple[socket.AddressFamily, str]]:
    """Of a name or an address, IPv4 first, as people who type 127.0.0.1 for localhost expect. Raises WrongUsage."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        why = reason(error) if isinstance(error, OSError) else "no name of a host"
        raise WrongUsage(f"There is no address for --host {host!r} ({why}): 127.0.0.1 is this machine alone, 0.0.0.0 "
                         "all of its addresses.") from None  # fmt: skip
    return sorted({(family, str(address[0])) for family, _, _, _, address in found})


def _app(settings: Settings) -> Any:
    """In a server process. It has inherited the first one's handlers, which would let signals pass while it starts."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal tells all, and the first then tells this one
    try:
        from serve.server.app import build
        from serve.server.log import LOG

        front = build(settings, _mount_page, leave=partial(os._exit, 1))
        LOG.take_stderr()
        logging.getLogger("python_multipart").setLevel(logging.ERROR)  # a line for each bad form, which is answered
        gc.collect()
        gc.freeze()  # what stays for good need not be looked at again and again
        return front
    except (ZooError, ImportError) as caught:
        error = caught if isinstance(caught, ZooError) else _missing(caught)
        kind = next(kind.__name__ for kind in type(error).__mro__ if _KINDS.get(kind.__name__) is kind)
        Path(settings.folder, FAILED).write_text(f"{kind}\n{error}", encoding="utf-8")
        if sys.platform != "win32":
            os.kill(os.getppid(), signal.SIGTERM)  # which would start this again and again
        os._exit(1)  # without a traceback: the first process says why


def _mount_page(app: FastAPI, service: Service, metrics: Metrics, settings: Settings) -> None:
    """Add the web page to the API's application: the only place that knows both."""
    from serve.demo.files import set_folder

    files = set_folder(Path(settings.folder, "files"))  # which Gradio looks at when it is imported
    from serve.demo.page import mount

    mount(app, service, metrics, settings, files)


def _missing(error: ImportError) -> ZooError:
    return ZooError(f"Serving needs {error.name}: pip install 'pocketzoo[serve]'.")
