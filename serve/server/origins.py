"""Which names a server answers to, and which sites' pages may use it.

Host: a page can make its own name point to 127.0.0.1 (DNS rebinding) and then read whatever the server answers. That
needs a name, so addresses and names of this machine pass, and any other name must be allowed.
Origin: a page of another site can send a form or text to this server without asking first. Requests that change
something or cost something therefore come from pages of this server, of allowed sites, or from no page at all.
CORS: pages of the sites in `cors_origins` may read answers (https://fetch.spec.whatwg.org/#http-cors-protocol).
"""

from __future__ import annotations

import re
from ipaddress import ip_address
from reprlib import repr as shown

from serve.server.request import Headers
from serve.service.asgi import Refused
from serve.service.settings import Settings
from zoo.errors import WrongUsage

NETLOC = re.compile(r"(?P<host>\[[0-9a-f:.]+\]|[^\s/:?#@*\[\]\\]+)(:(?P<port>[0-9]{1,5})?)?")
ORIGIN = re.compile(rf"(?P<scheme>[a-z][a-z0-9+.-]*)://{NETLOC.pattern}")
NAME = re.compile(r"\*|(\*\.)?[^\s/:?#@*\[\]\\]+")
PORTS = {"http": "80", "https": "443"}
READING = ("GET", "HEAD", "OPTIONS")
KNOWN = 1000  # values of headers that are remembered as allowed
METHODS = b"GET, HEAD, POST, PUT, DELETE, OPTIONS"
EXPOSED = b"X-Request-ID, Server-Timing, Retry-After, Inference-Header-Content-Length"
PREFLIGHT_S = b"600"  # how long a browser may remember the answer to its question


class Sites:
    """What one server allows, from its settings."""

    def __init__(self, settings: Settings) -> None:
        """Raises WrongUsage for an allowed host that is no name, or a CORS origin that is none."""
        for name in settings.allowed_hosts:
            if not NAME.fullmatch(name):
                raise WrongUsage(f"--allowed-host takes a name such as zoo.example.org, '*.example.org' or '*', "
                                 f"not {name!r}.")  # fmt: skip
        for origin in settings.cors_origins:
            if origin not in ("*", "null") and not ORIGIN.fullmatch(origin.lower()):
                raise WrongUsage(f"--cors-origin takes an origin such as https://example.org or '*', not {origin!r}.")
        names = {name.lower().rstrip(".") for name in settings.allowed_hosts}
        self._any_host = "*" in names
        self._allowed = names - {"*"}
        self._own = {"localhost", settings.host.lower().rstrip(".")}
        self._origins = {origin.lower() for origin in settings.cors_origins}
        self._hosts_known: set[bytes] = set()
        self._origins_known: set[tuple[bytes, bytes]] = set()

    def check_host(self, host: bytes) -> None:
        """Raises Refused, 421, where a Host header names another server."""
        if host in self._hosts_known:
            return
        found = NETLOC.fullmatch(host.decode("latin-1").lower())
        name = found["host"].rstrip(".") if found else ""
        if not found or not (self._any_host or name in self._own or self._is_allowed(name) or _is_address(name)):
            raise Refused(421, f"This server does not answer to the name {shown(host.decode('latin-1'))}: ask it by "
                          "its address, or start it with --allowed-host NAME.")  # fmt: skip
        if len(self._hosts_known) < KNOWN:
            self._hosts_known.add(host)

    def check_origin(self, origin: bytes, host: bytes) -> None:
        """Raises Refused, 403, where a page of another site that is not allowed sends a request."""
        if (origin, host) in self._origins_known:
            return
        if not (self._may_read(origin) or self._same_site(origin, host)):
            raise Refused(403, f"Pages of {shown(origin.decode('latin-1'))} may not use this server: start it with "
                          "--cors-origin ORIGIN to let them.")  # fmt: skip
        if len(self._origins_known) < KNOWN:
            self._origins_known.add((origin, host))

    def _same_site(self, origin: bytes, host: bytes) -> bool:
        """A page of this server, or of an allowed host: a proxy may have changed the Host header, but not Origin."""
        page = ORIGIN.fullmatch(origin.decode("latin-1").lower())
        asked = NETLOC.fullmatch(host.decode("latin-1").lower())
        if not page:
            return False
        default = PORTS.get(page["scheme"])
        if asked and page["host"] == asked["host"] and (page["port"] or default) == (asked["port"] or default):
            return True
        return self._is_allowed(page["host"].rstrip("."))

    def _is_allowed(self, name: str) -> bool:
        return name in self._allowed or any(rule.startswith("*.") and name.endswith(rule[1:]) for rule in self._allowed)

    def _may_read(self, origin: bytes) -> bool:
        return "*" in self._origins or origin.decode("latin-1").lower() in self._origins

    def cors(self, origin: bytes | None) -> Headers:
        """What every answer's head adds for a page of that origin, None for a client that is no page."""
        if not self._origins:
            return []
        if "*" in self._origins:
            return [(b"access-control-allow-origin", b"*"), (b"access-control-expose-headers", EXPOSED)]
        varies = (b"vary", b"Origin")
        if origin is None or not self._may_read(origin):
            return [varies]
        allow = (b"access-control-allow-origin", origin)
        return [varies, allow, (b"access-control-expose-headers", EXPOSED)]

    def preflight(self, origin: bytes, wanted: bytes) -> Headers:
        """The head of the answer to a browser's question before a request, `wanted` being the headers it names.

        Raises Refused, 403, where that page may not use the server.
        """
        self.check_origin(origin, b"")
        return [
            (b"access-control-allow-methods", METHODS),
            (b"access-control-allow-headers", wanted or b"*"),
            (b"access-control-max-age", PREFLIGHT_S),
        ]


def _is_address(name: str) -> bool:
    try:
        ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True
