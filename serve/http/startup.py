"""The line that says what is served, told when it can be asked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

from serve.http.access_log import LOG
from serve.service import Service
from serve.settings import Settings
from zoo.runtime import PROVIDERS

EVERY_S = 0.05


async def tell(settings: Settings, service: Service, ready: Callable[[], bool]) -> None:
    """Print the line as soon as all processes are ready and a connection is taken.

    An application is started before its server listens, so whoever then read the line could be turned away.
    """
    while not (ready() and await _listens(settings)):
        await asyncio.sleep(EVERY_S)
    LOG.message(line(settings, service))


async def _listens(settings: Settings) -> bool:
    try:
        _, writer = await asyncio.open_connection(settings.host, settings.port)
    except OSError:
        return False
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()
    return True


def line(settings: Settings, service: Service) -> str:
    """Where, which models, on which device with which provider."""
    names, threads = list(service.runners), len(service.pool.threads)
    shown = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
    processes = f"{settings.workers} processes of " if settings.workers > 1 else ""
    on = f"{service.device} ({PROVIDERS[service.device]}, {processes}{threads} thread{'s' if threads > 1 else ''})"
    return f"zoo: {settings.url} serves {shown} on {on}; API: {settings.url}/docs"
