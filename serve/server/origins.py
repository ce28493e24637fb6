"""Checks of the Host and Origin headers, and CORS.

Host: a site can make its own name point to 127.0.0.1 (DNS rebinding) and then read the server's responses. That needs a
name, so IP addresses and names of this machine are accepted, and any other name must be allowed.
Origin: a page of another site can send a form or text to this server without a preflight request. Requests that change
or cost something are therefore accepted only from pages of this server, from pages of allowed sites, or from clients
that are not a page.
CORS: pages of the sites in `cors_origins` may read responses (https://fetch.spec.whatwg.org/#http-cors-protocol).
"""

from __future__ import annotations

import re
from ipaddress import ip_address
from reprlib import repr as short_repr

from serve.server.request import Headers
from serve.service.asgi import HTTPError
from serve.service.settings import Settings
from zoo.errors import WrongUsage

NETLOC = re.compile(r"(?P<host>\[[0-9a-f:.]+\]|[^\s/:?#@*\[\]\\]+)(:(?P<port>[0-9]{1,5})?)?")
ORIGIN = re.compile(rf"(?P<scheme>[a-z][a-z0-9+.-]*)://{NETLOC.pattern}")
NAME = re.compile(r"\*|(\*\.)?[^\s/:?#@*\[\]\\]+")
PORTS = {"http": "80", "https": "443"}
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
CACHE_SIZE = 1000  # header values that are remembered as allowed
ALLOWED_METHODS = b"GET, HEAD, POST, PUT, DELETE, OPTIONS"
EXPOSED_HEADERS = b"X-Request-ID, Server-Timing, Retry-After, Inference-Header-Content-Length"
PREFLIGHT_S = b"600"  # how long a browser may cache the response to a preflight request


class OriginPolicy:
    """The hosts and origins that a server allows."""

    def __init__(self, settings: Settings) -> None:
        """Raises WrongUsage for an invalid allowed host, CORS origin or frame ancestor."""
        for name in settings.allowed_hosts:
            if not NAME.fullmatch(name):
                raise WrongUsage(
                    f"--allowed-host must be a name such as zoo.example.org, '*.example.org' or '*', not {name!r}."
                )
        for origin in settings.cors_origins:
            if origin not in ("*", "null") and not ORIGIN.fullmatch(origin.lower()):
                raise WrongUsage(f"--cors-origin must be an origin such as https://example.org or '*', not {origin!r}.")
        for origin in settings.frame_ancestors:
            if not ORIGIN.fullmatch(origin.lower()):
                raise WrongUsage(f"--frame-ancestor must be an origin such as https://example.org, not {origin!r}.")
        names = {name.lower().rstrip(".") for name in settings.allowed_hosts}
        self._any_host = "*" in names
        self._allowed = names - {"*"}
        self._own = {"localhost", settings.host.lower().rstrip(".")}
        self._origins = {origin.lower() for origin in settings.cors_origins}
        self._accepted_hosts: set[bytes] = set()
        self._accepted_origins: set[tuple[bytes, bytes]] = set()

    def check_host(self, host: bytes) -> None:
        """Raises HTTPError 421 for a Host header that is not allowed."""
        if host in self._accepted_hosts:
            return
        match = NETLOC.fullmatch(host.decode("latin-1").lower())
        name = match["host"].rstrip(".") if match else ""
        if not match or not (self._any_host or name in self._own or self._is_allowed(name) or _is_address(name)):
            raise HTTPError(
                421,
                f"Host {short_repr(host.decode('latin-1'))} is not allowed. Use the server's IP address, or start it "
                "with --allowed-host NAME.",
            )
        if len(self._accepted_hosts) < CACHE_SIZE:
            self._accepted_hosts.add(host)

    def check_origin(self, origin: bytes, host: bytes) -> None:
        """Raises HTTPError 403 for a request from a page of a site that is not allowed."""
        if (origin, host) in self._accepted_origins:
            return
        if not (self._may_read(origin) or self._same_site(origin, host)):
            raise HTTPError(
                403,
                f"Requests from pages of {short_repr(origin.decode('latin-1'))} are not allowed. Start the server with "
                "--cors-origin ORIGIN to allow them.",
            )
        if len(self._accepted_origins) < CACHE_SIZE:
            self._accepted_origins.add((origin, host))

    def _same_site(self, origin: bytes, host: bytes) -> bool:
        """Whether a page is of this server or an allowed host. A proxy may change the Host header, but not Origin."""
        page = ORIGIN.fullmatch(origin.decode("latin-1").lower())
        target = NETLOC.fullmatch(host.decode("latin-1").lower())
        if not page:
            return False
        default = PORTS.get(page["scheme"])
        if target and page["host"] == target["host"] and (page["port"] or default) == (target["port"] or default):
            return True
        return self._is_allowed(page["host"].rstrip("."))

    def _is_allowed(self, name: str) -> bool:
        return name in self._allowed or any(rule.startswith("*.") and name.endswith(rule[1:]) for rule in self._allowed)

    def _may_read(self, origin: bytes) -> bool:
        return "*" in self._origins or origin.decode("latin-1").lower() in self._origins

    def cors_headers(self, origin: bytes | None) -> Headers:
        """CORS headers of every response to a page of that origin; None for a client that is not a page."""
        if not self._origins:
            return []
        if "*" in self._origins:
            return [(b"access-control-allow-origin", b"*"), (b"access-control-expose-headers", EXPOSED_HEADERS)]
        vary = (b"vary", b"Origin")
        if origin is None or not self._may_read(origin):
            return [vary]
        allow = (b"access-control-allow-origin", origin)
        return [vary, allow, (b"access-control-expose-headers", EXPOSED_HEADERS)]

    def preflight_headers(self, origin: bytes, requested: bytes) -> Headers:
        """Headers of the response to a preflight request; `requested`: the headers that it names.

        Raises HTTPError 403 if that site is not allowed.
        """
        self.check_origin(origin, b"")
        return [
            (b"access-control-allow-methods", ALLOWED_METHODS),
            (b"access-control-allow-headers", requested or b"*"),
            (b"access-control-max-age", PREFLIGHT_S),
        ]


def _is_address(name: str) -> bool:
    try:
        ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True
