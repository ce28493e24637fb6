"""The proxy of the page, which forwards requests from one process to the process that has the page."""

import asyncio
import socket
import tempfile
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import httpx
import pytest

from serve.server.page_proxy import PageProxy
from serve.service.asgi import ConcurrencyLimit, HTTPError
from tests.support.server import serving

STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n3\r\na\n\n\r\n"
SCOPE = {"type": "http", "path": "/events", "query_string": b"", "headers": [(b"host", b"here")]}


class Page:
    """A stand-in for the process with the page: it answers every request with an endless stream."""

    def __init__(self):
        self.received = []  # bytes of each connection
        self.closed = asyncio.Semaphore(0)  # released per closed connection

    async def answer(self, reader, writer):
        self.received.append(await reader.readuntil(b"\r\n\r\n"))
        index = len(self.received) - 1
        writer.write(STREAM)
        with suppress(ConnectionError):
            while chunk := await reader.read(1000):
                self.received[index] += chunk
        self.closed.release()
        writer.close()


@asynccontextmanager
async def proxied():
    with tempfile.TemporaryDirectory() as folder:  # the path of a socket must be short
        page = Page()
        async with await asyncio.start_unix_server(page.answer, Path(folder, "page")):
            yield page, PageProxy(Path(folder, "page"))


class Client:
    def __init__(self, *messages):
        self.messages = list(messages)
        self.leave, self.got_data = asyncio.Event(), asyncio.Event()

    async def receive(self):
        if self.messages:
            return self.messages.pop(0)
        await self.leave.wait()
        return {"type": "http.disconnect"}

    async def send(self, message):
        if message.get("body"):
            self.got_data.set()


async def in_time(awaitable):
    return await asyncio.wait_for(awaitable, 60)


def test_disconnect_closes_stream():
    async def disconnect():
        async with proxied() as (page, proxy):
            client = Client({"type": "http.request", "body": b"", "more_body": False})
            requests = asyncio.create_task(proxy(SCOPE | {"method": "GET"}, client.receive, client.send))
            await in_time(client.got_data.wait())
            client.leave.set()
            await in_time(requests)
            await in_time(page.closed.acquire())

    asyncio.run(disconnect())


def test_incomplete_body_is_not_forwarded_as_complete():
    async def disconnect():
        async with proxied() as (page, proxy):
            client = Client({"type": "http.request", "body": b"half", "more_body": True})
            client.leave.set()
            await in_time(proxy(SCOPE | {"method": "POST"}, client.receive, client.send))
            await in_time(page.closed.acquire())
            return page.received

    (received,) = asyncio.run(disconnect())
    assert b"4\r\nhalf\r\n" in received
    assert b"0\r\n\r\n" not in received


def test_hundreds_of_streams_run_at_once():
    async def many():
        async with proxied() as (_, proxy):
            clients = [Client({"type": "http.request"}) for _ in range(260)]
            requests = [asyncio.create_task(proxy(SCOPE | {"method": "GET"}, one.receive, one.send)) for one in clients]
            await in_time(asyncio.gather(*(client.got_data.wait() for client in clients)))
            for client in clients:
                client.leave.set()
            await in_time(asyncio.gather(*requests))

    asyncio.run(many())


def test_missing_page_returns_503(tmp_path):
    client = Client({"type": "http.request"})
    with pytest.raises(HTTPError, match="restarting") as error:
        asyncio.run(PageProxy(tmp_path / "none")(SCOPE | {"method": "GET"}, client.receive, client.send))
    assert (error.value.status, error.value.headers) == (503, [(b"retry-after", b"2")])


def test_concurrency_limit_returns_503():
    async def exceed_limit():
        finish = asyncio.Event()

        async def app(scope, receive, send):
            await finish.wait()

        limited = ConcurrencyLimit(app, limit=2)
        active = [asyncio.create_task(limited({}, None, None)) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(HTTPError, match="2 open requests") as error:
            await limited({}, None, None)
        finish.set()
        await asyncio.gather(*active)
        await limited({}, None, None)
        return error.value

    error = asyncio.run(exceed_limit())
    assert (error.status, error.headers) == (503, [(b"retry-after", b"5")])


@pytest.mark.slow
def test_open_pages_end_with_the_server(tmp_path):
    """300 heartbeat streams, as of 300 open pages. More requests are possible, and SIGTERM ends the streams."""
    with serving(tmp_path, "--workers", "2", "--models", "mnist14k*") as server:
        host, port = server.url.removeprefix("http://").split(":")
        pages = []
        for number in range(300):
            page = socket.create_connection((host, int(port)), timeout=60)
            page.sendall(f"GET /gradio_api/heartbeat/{number} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
            assert page.recv(1000).startswith(b"HTTP/1.1 200")
            pages.append(page)
        for _ in range(8):  # both processes
            assert httpx.get(server.url + "/config", timeout=60).status_code == 200
        assert server.stop() == 0
        for page in pages:
            with page, page.makefile("rb") as rest:
                assert rest.read().endswith(b"0\r\n\r\n"), "the stream was cut off"
        assert "Traceback" not in server.log


@pytest.mark.parametrize("size", [0, 5, 200_000])
def test_get_with_body_is_forwarded(tmp_path, size):
    async def get():
        async with proxied() as (page, proxy):
            headers = [*SCOPE["headers"], (b"content-length", str(size).encode())]
            client = Client({"type": "http.request", "body": b"x" * size, "more_body": False})
            requests = asyncio.create_task(
                proxy(SCOPE | {"method": "GET", "headers": headers}, client.receive, client.send)
            )
            await in_time(client.got_data.wait())
            client.leave.set()
            await in_time(requests)
            return page.received

    (received,) = asyncio.run(get())
    assert received.startswith(b"GET /events HTTP/1.1\r\n")


def test_no_header_is_added():
    """A client that accepts no compression must not get a compressed page."""

    async def get():
        async with proxied() as (page, proxy):
            client = Client({"type": "http.request", "body": b"", "more_body": False})
            headers = [(b"host", b"here"), (b"accept", b"text/html"), (b"cookie", b"a=1"), (b"cookie", b"b=2")]
            requests = asyncio.create_task(
                proxy(SCOPE | {"method": "GET", "headers": headers}, client.receive, client.send)
            )
            await in_time(client.got_data.wait())
            client.leave.set()
            await in_time(requests)
            return page.received

    (received,) = asyncio.run(get())
    lines = received.lower().split(b"\r\n\r\n")[0].split(b"\r\n")[1:]
    assert sorted(lines) == [b"accept: text/html", b"cookie: a=1", b"cookie: b=2", b"host: here"]
