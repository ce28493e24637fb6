"""`zoo serve`: starts the server's processes, and ends when it is told to.

Granian accepts and parses in its own threads, so that Python has more of the core for itself: on the hot route it
answered 1.3 times as many requests a second as uvicorn (docs/decisions/0008-server.md).
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from dataclasses import replace
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from serve.settings import Settings
from zoo import errors
from zoo.errors import WrongUsage, ZooError, reason

FAILED = "failed"  # the file in which a process that cannot begin says why
CONNECTIONS = 1024  # that a process takes at a time; the next ones wait


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT, then answer what has come, and return. Raises ZooError; SystemExit on a crash."""
    try:
        from granian import Granian
        from granian.constants import Interfaces
    except ImportError as error:
        raise _missing(error) from None
    address, port = _free(settings.host, settings.port)
    if not ip_address(address).is_loopback and settings.key is None:
        print(f"zoo: WARNING: whoever reaches {settings.host} can use this server: set ZOO_API_KEY.", file=sys.stderr)
    settings = replace(settings, port=port)
    with TemporaryDirectory(prefix="zoo-serve-") as folder:
        server = Granian(
            "pocketzoo",
            address=address,
            port=port,
            interface=Interfaces.ASGI,
            workers=settings.workers,
            backpressure=CONNECTIONS,
            respawn_failed_workers=True,
            workers_kill_timeout=30,
            log_level="critical",  # type: ignore[arg-type]
        )
        try:
            server.serve(target_loader=partial(_app, replace(settings, folder=folder)), wrap_loader=False)
        except SystemExit:  # processes that ended as soon as they began
            reason_file = Path(folder, FAILED)
            if not reason_file.exists():
                raise
            kind, sentence = reason_file.read_text(encoding="utf-8").split("\n", 1)
            raise getattr(errors, kind)(sentence) from None


def _free(host: str, port: int) -> tuple[str, int]:
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
    told = reasons.popitem()[1]
    raise ZooError(f"Port {port} of {host} cannot be had ({told}): choose another with --port, or a host of this "
                   "machine with --host.")  # fmt: skip


def _addresses(host: str) -> list[tuple[socket.AddressFamily, str]]:
    """Of a name or an address, IPv4 first, as people who type 127.0.0.1 for localhost expect. Raises WrongUsage."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        told = reason(error) if isinstance(error, OSError) else "no name of a host"
        raise WrongUsage(f"There is no address for --host {host!r} ({told}): 127.0.0.1 is this machine alone, 0.0.0.0 "
                         "all of its addresses.") from None  # fmt: skip
    return sorted({(family, str(address[0])) for family, _, _, _, address in found})


def _app(settings: Settings) -> Any:
    """In a server process. It has inherited the first one's handlers, which would let signals pass while it starts."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal tells all, and the first then tells this one
    try:
        from serve.http.app import build

        return build(settings)
    except (ZooError, ImportError) as error:
        told = error if isinstance(error, ZooError) else _missing(error)
        Path(settings.folder, FAILED).write_text(f"{type(told).__name__}\n{told}", encoding="utf-8")
        os._exit(1)  # without a traceback: the first process tells why


def _missing(error: ImportError) -> ZooError:
    return ZooError(f"Serving needs {error.name}: pip install 'pocketzoo[serve]'.")
