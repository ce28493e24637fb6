"""Limits of requests that go to the framework: body size, time, and the total of all bodies."""

import asyncio
import json
import socket
import time

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse

from serve.server.gateway import MAX_LARGE_BODIES, Gateway
from serve.server.log import LOG
from serve.server.request import Deadlines
from serve.service.metrics import Metrics
from serve.service.models import Service
from serve.service.settings import Settings
from tests.support.server import serving

MEGABYTE = 1_000_000
FORM = (b"content-type", b"multipart/form-data; boundary=x")
HEAD = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.bin"\r\n\r\n'
UPLOAD = "/gradio_api/upload"


async def framework(scope, receive, send):
    """Reads the whole body."""
    body = await Request(scope, receive).body()
    await JSONResponse({"error": f"{len(body)} bytes were read"})(scope, receive, send)


def build_gateway(folder, **options):
    settings = Settings(models="mnist14k*", max_body_mb=1, access_log=False, **options)
    service = Service(settings)
    return Gateway(framework, service, settings, Metrics(folder / "metrics", 0, 1, list(service.runners)))


@pytest.fixture(scope="module")
def gateway(tmp_path_factory):
    return build_gateway(tmp_path_factory.mktemp("serve"), deadline_ms=60_000)


class Client:
    """One request on plain ASGI. It sends `chunks`, then nothing until the event `leave` is set.

    Args:
        more: whether the last chunk declares that more follow.
        delay_s: seconds before each chunk.
    """

    def __init__(self, path, chunks, *headers, more=False, address="127.0.0.1", delay_s=0):
        self.scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "path": path,
            "raw_path": path.encode(), "query_string": b"", "root_path": "", "scheme": "http", "state": {},
            "headers": [(b"host", b"localhost"), *headers], "client": (address, 1), "server": ("127.0.0.1", 2),
        }  # fmt: skip
        self.chunks, self.more, self.sent_bytes, self.messages = list(chunks), more, 0, []
        self.delay_s = delay_s
        self.leave, self.silent = asyncio.Event(), asyncio.Event()

    async def receive(self):
        await asyncio.sleep(self.delay_s)
        if not self.chunks:
            self.silent.set()
            await self.leave.wait()
            return {"type": "http.disconnect"}
        chunk = self.chunks.pop(0)
        self.sent_bytes += len(chunk)
        return {"type": "http.request", "body": chunk, "more_body": self.more or bool(self.chunks)}

    async def send(self, message):
        self.messages.append(message)

    async def request(self, app):
        """Status, headers and error message of the response."""
        await asyncio.wait_for(app(self.scope, self.receive, self.send), 60)
        start, *rest = self.messages
        body = b"".join(message.get("body", b"") for message in rest)
        return start["status"], dict(start["headers"]), json.loads(body)["error"]


def length(size):
    return b"content-length", str(size).encode()


def test_body_at_limit_is_accepted(gateway):
    client = Client(UPLOAD, [bytes(500_000)] * 2, FORM, length(MEGABYTE))
    status, _, message = asyncio.run(client.request(gateway))
    assert (status, message) == (200, "1000000 bytes were read")


def test_declared_large_body_is_rejected_unread(gateway):
    client = Client(UPLOAD, [b"x"], FORM, length(200 * MEGABYTE))
    status, headers, message = asyncio.run(client.request(gateway))
    assert (status, headers[b"connection"], "larger than 1 MB" in message) == (413, b"close", True)
    assert client.sent_bytes == 0


def test_large_body_is_rejected_while_it_arrives(gateway):
    client = Client(UPLOAD, [bytes(100_000)] * 2000, FORM)
    status, headers, message = asyncio.run(client.request(gateway))
    assert (status, headers[b"connection"], "larger than 1 MB" in message) == (413, b"close", True)
    assert client.sent_bytes < 1.2 * MEGABYTE


RAW = (b"content-type", b"application/octet-stream")


def test_total_of_all_bodies_is_limited(gateway):
    async def send_all():
        clients = [Client(UPLOAD, [bytes(MEGABYTE - 1000)], RAW, more=True) for _ in range(MAX_LARGE_BODIES)]
        requests = [asyncio.create_task(client.request(gateway)) for client in clients]
        await asyncio.gather(*(asyncio.wait_for(client.silent.wait(), 60) for client in clients))
        rejected = await Client(UPLOAD, [bytes(500_000)], RAW).request(gateway)
        small = await Client(UPLOAD, [bytes(50_000)], RAW).request(gateway)
        for client in clients:
            client.leave.set()
        left = await asyncio.gather(*requests)
        return rejected, small, left, await Client(UPLOAD, [bytes(500_000)], RAW).request(gateway)

    (status, headers, message), small, left, last = asyncio.run(send_all())
    assert (status, headers[b"retry-after"]) == (503, b"1")
    assert "Too many large requests" in message
    assert small[0] == 200, "a small body is always accepted"
    assert {response[0] for response in left} == {400}
    assert last[0] == 200


def test_one_client_may_hold_a_quarter_of_the_budget(gateway):
    """An IPv6 client may have 2^64 addresses. On this machine, a proxy stands for many clients."""

    async def send_all(addresses):
        clients = [
            Client(UPLOAD, [bytes(MEGABYTE - 1000)], RAW, more=True, address=address)
            for _, address in zip(range(MAX_LARGE_BODIES // 4), addresses, strict=False)
        ]
        requests = [asyncio.create_task(client.request(gateway)) for client in clients]
        await asyncio.gather(*(asyncio.wait_for(client.silent.wait(), 60) for client in clients))
        same = (await Client(UPLOAD, [bytes(500_000)], RAW, address=addresses[-1]).request(gateway))[0]
        other = (await Client(UPLOAD, [bytes(500_000)], RAW, address="192.0.2.9").request(gateway))[0]
        for client in clients:
            client.leave.set()
        await asyncio.gather(*requests)
        return same, other, (await Client(UPLOAD, [bytes(500_000)], RAW, address=addresses[-1]).request(gateway))[0]

    assert asyncio.run(send_all(["192.0.2.1"] * 5)) == (429, 200, 200)
    assert asyncio.run(send_all(["::ffff:192.0.2.1", "192.0.2.1"] * 3)) == (429, 200, 200)
    assert asyncio.run(send_all([f"2001:db8::{number}" for number in range(5)])) == (429, 200, 200)
    assert asyncio.run(send_all([f"fe80::{number}%eth0" for number in range(5)])) == (429, 200, 200)
    for own in ("127.0.0.1", "::1", "::ffff:127.0.0.1"):
        assert asyncio.run(send_all([own] * 5)) == (200, 200, 200)


def test_forms_on_disk_do_not_use_the_budget(gateway):
    async def send_all():
        clients = [Client(UPLOAD, [bytes(500_000)] * 2, FORM, more=True) for _ in range(2 * MAX_LARGE_BODIES)]
        requests = [asyncio.create_task(client.request(gateway)) for client in clients]
        await asyncio.gather(*(asyncio.wait_for(client.silent.wait(), 60) for client in clients))
        response = await Client(UPLOAD, [bytes(500_000)], FORM).request(gateway)
        for client in clients:
            client.leave.set()
        await asyncio.gather(*requests)
        return response[0]

    assert asyncio.run(send_all()) == 200


@pytest.mark.parametrize("path", [UPLOAD, "/models/mnist14k/predict", "/v2/models/mnist14k/infer"])
def test_stalled_body_returns_408(gateway, monkeypatch, path):
    monkeypatch.setattr(gateway._stalls, "seconds", 0.1)
    client = Client(path, [bytes(1000)], (b"content-type", b"image/png"), more=True)
    status, headers, message = asyncio.run(client.request(gateway))
    assert (status, headers[b"connection"]) == (408, b"close")
    assert "no data for 0.1 s" in message


@pytest.mark.parametrize("path", [UPLOAD, "/models/mnist14k/predict", "/v2/models/mnist14k/infer"])
def test_slow_body_returns_408(gateway, monkeypatch, path):
    monkeypatch.setattr("serve.server.request.GRACE_S", 0.1)
    client = Client(path, [b"x"] * 1000, (b"content-type", b"image/png"), delay_s=0.02)
    status, headers, message = asyncio.run(client.request(gateway))
    assert (status, headers[b"connection"]) == (408, b"close")
    assert "less than 16 KB/s" in message
    assert client.sent_bytes < 20


def test_disconnect_during_body_is_not_logged_as_failure(gateway, capsys):
    """The client gets a response all the same: a malformed body looks like a client that disconnects."""
    client = Client(UPLOAD, [bytes(1000)], FORM, more=True)
    client.leave.set()
    status, headers, message = asyncio.run(client.request(gateway))
    assert (status, headers[b"connection"]) == (400, b"close")
    assert "incomplete or malformed" in message
    LOG.flush()
    assert capsys.readouterr().err == ""


def test_incomplete_body_returns_408_at_deadline(tmp_path):
    client = Client(UPLOAD, [bytes(1000)], FORM, more=True)
    status, headers, message = asyncio.run(client.request(build_gateway(tmp_path, deadline_ms=30)))
    assert (status, headers[b"connection"]) == (408, b"close")
    assert "0.3 s waiting for the request body" in message


@pytest.mark.slow
def test_page_limits_apply_in_both_processes(tmp_path):
    """One of the two processes forwards its connections to the other."""

    def endless():
        yield HEAD
        for _ in range(30):
            yield bytes(100_000)

    headers = {"Content-Type": FORM[1].decode()}
    with serving(tmp_path, "--workers", "2", "--models", "mnist14k*", ZOO_MAX_BODY_MB="1") as server:
        for _ in range(9):
            response = httpx.post(server.url + UPLOAD, content=endless(), headers=headers, timeout=60)
            assert (response.status_code, "larger than 1 MB" in response.json()["error"]) == (413, True)
            assert response.headers["connection"] == "close"
        for site in ("https://evil.example", "http://localhost:3000"):  # Gradio would allow some of them to read
            for host in ("192.0.2.1", "127.0.0.1"):
                response = httpx.get(server.url + "/config", headers={"Origin": site, "Host": host}, timeout=60)
                assert response.status_code == 200
                assert not [name for name in response.headers if name.startswith("access-control-")]
                response = httpx.post(
                    server.url + "/gradio_api/queue/join", headers={"Origin": site, "Host": host}, json={}
                )
                assert response.status_code == 403
        form = {"files": ("seven.bin", bytes(900_000))}
        for _ in range(6):
            assert httpx.post(server.url + UPLOAD, files=form, timeout=60).status_code == 200
        host, port = server.url.removeprefix("http://").split(":")
        for _ in range(6):  # an incomplete upload
            with socket.create_connection((host, int(port)), timeout=60) as connection:
                head = f"POST {UPLOAD} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9999\r\nContent-Type: ".encode()
                connection.sendall(head + FORM[1] + b"\r\n\r\n" + HEAD)
        assert server.stop() == 0
        assert "Traceback" not in server.log


def test_finished_deadlines_do_not_pile_up():
    """At 3,500 requests/s they would be 35,000 objects, which the timer would free at once, in 10 ms or more."""

    async def run():
        deadlines = Deadlines(0.3)
        for _ in range(1000):
            with deadlines.start():
                assert len(deadlines._running) <= 2

        async def hang():
            with deadlines.start():
                await asyncio.sleep(60)

        first = asyncio.create_task(hang())
        await asyncio.sleep(0)
        for _ in range(10):  # they finish before an older one
            with deadlines.start():
                pass
        second = asyncio.create_task(hang())
        began = time.monotonic()
        results = await asyncio.gather(first, second, return_exceptions=True)
        assert [type(result) for result in results] == [TimeoutError] * 2
        assert 0.2 < time.monotonic() - began < 10
        with deadlines.start():
            assert len(deadlines._running) == 1

    asyncio.run(run())
