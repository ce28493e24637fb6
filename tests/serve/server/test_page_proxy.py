"""What one process passes on to the one that has the page: as long as somebody listens, as many as there are."""

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
    """Stands for the process that has the page: answers every request with a stream that does not end.

    heard: what came on each connection. gone: connections that were closed.
    """

    def __init__(self):
        self.heard, self.gone = [], asyncio.Semaphore(0)

    async def answer(self, reader, writer):
        self.heard.append(await reader.readuntil(b"\r\n\r\n"))
        place = len(self.heard) - 1
        writer.write(STREAM)
        with suppress(ConnectionError):
            while part := await reader.read(1000):
                self.heard[place] += part
        self.gone.release()
        writer.close()


@asynccontextmanager
async def relayed():
    with tempfile.TemporaryDirectory() as folder:  # a socket's path is short
        page = Page()
        async with await asyncio.start_unix_server(page.answer, Path(folder, "page")):
            yield page, PageProxy(Path(folder, "page"))


class Client:
    def __init__(self, *messages):
        self.messages = list(messages)
        self.leaves, self.heard = asyncio.Event(), asyncio.Event()

    async def receive(self):
        if self.messages:
            return self.messages.pop(0)
        await self.leaves.wait()
        return {"type": "http.disconnect"}

    async def send(self, message):
        if message.get("body"):
            self.heard.set()


async def soon(waited):
    return await asyncio.wait_for(waited, 60)


def test_when_the_client_leaves_its_stream_is_closed():
    async def leave():
        async with relayed() as (page, relay):
            client = Client({"type": "http.request", "body": b"", "more_body": False})
            asking = asyncio.create_task(relay(SCOPE | {"method": "GET"}, client.receive, client.send))
            await soon(client.heard.wait())
            client.leaves.set()
            await soon(asking)
            await soon(page.gone.acquire())

    asyncio.run(leave())


def test_half_a_body_is_not_passed_on_as_the_whole():
    async def leave():
        async with relayed() as (page, relay):
            client = Client({"type": "http.request", "body": b"half", "more_body": True})
            client.leaves.set()
            await soon(relay(SCOPE | {"method": "POST"}, client.receive, client.send))
            await soon(page.gone.acquire())
            return page.heard

    (heard,) = asyncio.run(leave())
    assert b"4\r\nhalf\r\n" in heard
    assert b"0\r\n\r\n" not in heard


def test_hundreds_of_streams_wait_for_nobody():
    async def many():
        async with relayed() as (_, relay):
            clients = [Client({"type": "http.request"}) for _ in range(260)]
            asking = [asyncio.create_task(relay(SCOPE | {"method": "GET"}, one.receive, one.send)) for one in clients]
            await soon(asyncio.gather(*(client.heard.wait() for client in clients)))
            for client in clients:
                client.leaves.set()
            await soon(asyncio.gather(*asking))

    asyncio.run(many())


def test_where_nobody_listens_it_is_a_sentence(tmp_path):
    client = Client({"type": "http.request"})
    with pytest.raises(HTTPError, match="The page is starting again") as refused:
        asyncio.run(PageProxy(tmp_path / "none")(SCOPE | {"method": "GET"}, client.receive, client.send))
    assert (refused.value.status, refused.value.headers) == (503, [(b"retry-after", b"2")])


def test_a_full_room_is_a_sentence():
    async def fill():
        leaves = asyncio.Event()

        async def app(scope, receive, send):
            await leaves.wait()

        room = ConcurrencyLimit(app, limit=2)
        inside = [asyncio.create_task(room({}, None, None)) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(HTTPError, match="The page answers 2 requests already") as refused:
            await room({}, None, None)
        leaves.set()
        await asyncio.gather(*inside)
        await room({}, None, None)
        return refused.value

    refused = asyncio.run(fill())
    assert (refused.status, refused.headers) == (503, [(b"retry-after", b"5")])


def test_open_pages_leave_room_for_the_next_and_are_ended_with_the_server(tmp_path):
    """300 heartbeats, as so many open pages have them."""
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
                assert rest.read().endswith(b"0\r\n\r\n"), "it was cut off"
        assert "Traceback" not in server.log


@pytest.mark.parametrize("size", [0, 5, 200_000])
def test_get_with_a_body_is_passed_on(tmp_path, size):
    async def get():
        async with relayed() as (page, relay):
            headers = [*SCOPE["headers"], (b"content-length", str(size).encode())]
            client = Client({"type": "http.request", "body": b"x" * size, "more_body": False})
            asking = asyncio.create_task(
                relay(SCOPE | {"method": "GET", "headers": headers}, client.receive, client.send)
            )
            await soon(client.heard.wait())
            client.leaves.set()
            await soon(asking)
            return page.heard

    (heard,) = asyncio.run(get())
    assert heard.startswith(b"GET /events HTTP/1.1\r\n")
