"""What a request may be that goes to the framework behind: its size, its time, and all bodies together."""

import asyncio
import json
import socket

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse

from serve.http.front import LARGE_REQUESTS, Front
from serve.http.metrics import Metrics
from serve.service import Service
from serve.settings import Settings
from tests.served import serving

MEGABYTE = 1_000_000
FORM = (b"content-type", b"multipart/form-data; boundary=x")
HEAD = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.bin"\r\n\r\n'
UPLOAD = "/gradio_api/upload"
TOO_LARGE = "The request is larger than 1 MB: send less, or a smaller image."


async def framework(scope, receive, send):
    """Reads what it is given."""
    body = await Request(scope, receive).body()
    await JSONResponse({"error": f"{len(body)} bytes were read"})(scope, receive, send)


def built(folder, **options):
    settings = Settings(models="mnist14k*", max_body_mb=1, access_log=False, **options)
    service = Service(settings)
    return Front(framework, service, settings, Metrics(folder / "metrics", 0, 1, list(service.runners)))


@pytest.fixture(scope="module")
def front(tmp_path_factory):
    return built(tmp_path_factory.mktemp("serve"), deadline_ms=60_000)


class Client:
    """One request on plain ASGI: `parts` are sent as they are asked for, then the line is silent until it `leaves`.

    more: whether more were to come.
    """

    def __init__(self, path, parts, *headers, more=False):
        self.scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "path": path,
            "raw_path": path.encode(), "query_string": b"", "root_path": "", "scheme": "http", "state": {},
            "headers": [(b"host", b"here"), *headers], "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2),
        }  # fmt: skip
        self.parts, self.more, self.taken, self.answer = list(parts), more, 0, []
        self.leaves, self.silent = asyncio.Event(), asyncio.Event()

    async def receive(self):
        await asyncio.sleep(0)
        if not self.parts:
            self.silent.set()
            await self.leaves.wait()
            return {"type": "http.disconnect"}
        part = self.parts.pop(0)
        self.taken += len(part)
        return {"type": "http.request", "body": part, "more_body": self.more or bool(self.parts)}

    async def send(self, message):
        self.answer.append(message)

    async def ask(self, app):
        """Status, headers and the sentence of the answer, or None for no answer."""
        await asyncio.wait_for(app(self.scope, self.receive, self.send), 60)
        if not self.answer:
            return None
        start, *rest = self.answer
        body = b"".join(message.get("body", b"") for message in rest)
        return start["status"], dict(start["headers"]), json.loads(body)["error"]


def length(size):
    return b"content-length", str(size).encode()


def test_what_is_small_enough_passes(front):
    client = Client(UPLOAD, [bytes(500_000)] * 2, FORM, length(MEGABYTE))
    status, _, sentence = asyncio.run(client.ask(front))
    assert (status, sentence) == (200, "1000000 bytes were read")


def test_who_declares_too_much_is_refused_before_it_is_read(front):
    client = Client(UPLOAD, [b"x"], FORM, length(200 * MEGABYTE))
    status, headers, sentence = asyncio.run(client.ask(front))
    assert (status, headers[b"connection"], sentence) == (413, b"close", TOO_LARGE)
    assert client.taken == 0


def test_a_body_is_refused_while_it_comes(front):
    client = Client(UPLOAD, [bytes(100_000)] * 2000, FORM)
    status, headers, sentence = asyncio.run(client.ask(front))
    assert (status, headers[b"connection"], sentence) == (413, b"close", TOO_LARGE)
    assert client.taken < 1.2 * MEGABYTE


def test_all_bodies_together_are_bounded_and_given_back(front):
    async def several():
        clients = [Client(UPLOAD, [bytes(MEGABYTE - 1000)], FORM, more=True) for _ in range(LARGE_REQUESTS)]
        asking = [asyncio.create_task(client.ask(front)) for client in clients]
        await asyncio.gather(*(asyncio.wait_for(client.silent.wait(), 60) for client in clients))
        refused = await Client(UPLOAD, [bytes(500_000)], FORM).ask(front)
        for client in clients:
            client.leaves.set()
        left = await asyncio.gather(*asking)
        return refused, left, await Client(UPLOAD, [bytes(500_000)], FORM).ask(front)

    (status, headers, sentence), left, last = asyncio.run(several())
    assert (status, headers[b"retry-after"]) == (503, b"1")
    assert sentence == "Too many large requests at once: ask again in a moment."
    assert left == [None] * LARGE_REQUESTS
    assert last[0] == 200


def test_who_leaves_in_the_middle_is_no_failure(front, capsys):
    client = Client(UPLOAD, [bytes(1000)], FORM, more=True)
    client.leaves.set()
    assert asyncio.run(client.ask(front)) is None
    assert capsys.readouterr().err == ""


def test_half_a_body_is_ended_at_its_deadline(tmp_path):
    client = Client(UPLOAD, [bytes(1000)], FORM, more=True)
    status, headers, sentence = asyncio.run(client.ask(built(tmp_path, deadline_ms=30)))
    assert (status, headers[b"connection"]) == (408, b"close")
    assert sentence == "The request was not here whole within 0.3 s: send it again."


def test_the_page_is_bounded_whichever_process_is_asked(tmp_path):
    """Each of the two passes some of the connections on, or not."""

    def endless():
        yield HEAD
        for _ in range(30):
            yield bytes(100_000)

    headers = {"Content-Type": FORM[1].decode()}
    with serving(tmp_path, "--workers", "2", "--models", "mnist14k*", ZOO_MAX_BODY_MB="1") as server:
        for path in [UPLOAD] * 9:
            answer = httpx.post(server.url + path, content=endless(), headers=headers, timeout=60)
            assert (answer.status_code, answer.json()) == (413, {"error": TOO_LARGE}), path
            assert answer.headers["connection"] == "close"
        form = {"files": ("seven.bin", bytes(900_000))}
        for _ in range(6):
            assert httpx.post(server.url + UPLOAD, files=form, timeout=60).status_code == 200
        host, port = server.url.removeprefix("http://").split(":")
        for _ in range(6):  # half an upload
            with socket.create_connection((host, int(port)), timeout=60) as connection:
                head = f"POST {UPLOAD} HTTP/1.1\r\nHost: x\r\nContent-Type: {FORM[1].decode()}\r\nContent-Length: 9999"
                connection.sendall(head.encode() + b"\r\n\r\n" + HEAD)
        assert server.stop() == 0
        assert "Traceback" not in server.log
