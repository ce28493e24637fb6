"""What a request may be that goes to the framework behind: its size, its time, and all bodies together."""

import asyncio
import json
import socket

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse

from serve.server.gateway import MAX_LARGE_BODIES, Gateway
from serve.server.log import LOG
from serve.service.metrics import Metrics
from serve.service.models import Service
from serve.service.settings import Settings
from tests.support.server import serving

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
    return Gateway(framework, service, settings, Metrics(folder / "metrics", 0, 1, list(service.runners)))


@pytest.fixture(scope="module")
def front(tmp_path_factory):
    return built(tmp_path_factory.mktemp("serve"), deadline_ms=60_000)


class Client:
    """One request on plain ASGI: `parts` are sent as they are asked for, then the line is silent until it `leaves`.

    more: whether more were to come. every_s: seconds between parts.
    """

    def __init__(self, path, parts, *headers, more=False, address="127.0.0.1", every_s=0):
        self.scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "path": path,
            "raw_path": path.encode(), "query_string": b"", "root_path": "", "scheme": "http", "state": {},
            "headers": [(b"host", b"localhost"), *headers], "client": (address, 1), "server": ("127.0.0.1", 2),
        }  # fmt: skip
        self.parts, self.more, self.taken, self.answer = list(parts), more, 0, []
        self.every_s = every_s
        self.leaves, self.silent = asyncio.Event(), asyncio.Event()

    async def receive(self):
        await asyncio.sleep(self.every_s)
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
        """Status, headers and the sentence of the answer."""
        await asyncio.wait_for(app(self.scope, self.receive, self.send), 60)
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


RAW = (b"content-type", b"application/octet-stream")


def test_all_bodies_together_are_bounded_and_given_back(front):
    async def several():
        clients = [Client(UPLOAD, [bytes(MEGABYTE - 1000)], RAW, more=True) for _ in range(MAX_LARGE_BODIES)]
        asking = [asyncio.create_task(client.ask(front)) for client in clients]
        await asyncio.gather(*(asyncio.wait_for(client.silent.wait(), 60) for client in clients))
        refused = await Client(UPLOAD, [bytes(500_000)], RAW).ask(front)
        small = await Client(UPLOAD, [bytes(50_000)], RAW).ask(front)
        for client in clients:
            client.leaves.set()
        left = await asyncio.gather(*asking)
        return refused, small, left, await Client(UPLOAD, [bytes(500_000)], RAW).ask(front)

    (status, headers, sentence), small, left, last = asyncio.run(several())
    assert (status, headers[b"retry-after"]) == (503, b"1")
    assert sentence == "Too many large requests at once: ask again in a moment."
    assert small[0] == 200, "a small body passes however much others hold"
    assert {answer[0] for answer in left} == {400}
    assert last[0] == 200


def test_one_client_holds_at_most_a_quarter_of_all_bodies(front):
    """An IPv6 client has a network of 64 bits of addresses; on this machine, a proxy stands for many clients."""

    async def several(addresses):
        clients = [
            Client(UPLOAD, [bytes(MEGABYTE - 1000)], RAW, more=True, address=address)
            for _, address in zip(range(MAX_LARGE_BODIES // 4), addresses, strict=False)
        ]
        asking = [asyncio.create_task(client.ask(front)) for client in clients]
        await asyncio.gather(*(asyncio.wait_for(client.silent.wait(), 60) for client in clients))
        same = (await Client(UPLOAD, [bytes(500_000)], RAW, address=addresses[-1]).ask(front))[0]
        other = (await Client(UPLOAD, [bytes(500_000)], RAW, address="192.0.2.9").ask(front))[0]
        for client in clients:
            client.leaves.set()
        await asyncio.gather(*asking)
        return same, other, (await Client(UPLOAD, [bytes(500_000)], RAW, address=addresses[-1]).ask(front))[0]

    assert asyncio.run(several(["192.0.2.1"] * 5)) == (429, 200, 200)
    assert asyncio.run(several(["::ffff:192.0.2.1", "192.0.2.1"] * 3)) == (429, 200, 200)
    assert asyncio.run(several([f"2001:db8::{number}" for number in range(5)])) == (429, 200, 200)
    assert asyncio.run(several([f"fe80::{number}%eth0" for number in range(5)])) == (429, 200, 200)
    for own in ("127.0.0.1", "::1", "::ffff:127.0.0.1"):
        assert asyncio.run(several([own] * 5)) == (200, 200, 200)


def test_forms_that_are_written_to_files_do_not_count_as_held(front):
    async def several():
        clients = [Client(UPLOAD, [bytes(500_000)] * 2, FORM, more=True) for _ in range(2 * MAX_LARGE_BODIES)]
        asking = [asyncio.create_task(client.ask(front)) for client in clients]
        await asyncio.gather(*(asyncio.wait_for(client.silent.wait(), 60) for client in clients))
        passed = await Client(UPLOAD, [bytes(500_000)], FORM).ask(front)
        for client in clients:
            client.leaves.set()
        await asyncio.gather(*asking)
        return passed[0]

    assert asyncio.run(several()) == 200


@pytest.mark.parametrize("path", [UPLOAD, "/models/mnist14k/predict", "/v2/models/mnist14k/infer"])
def test_a_body_that_stops_coming_is_ended_before_its_deadline(front, monkeypatch, path):
    monkeypatch.setattr(front._stalls, "seconds", 0.1)
    client = Client(path, [bytes(1000)], (b"content-type", b"image/png"), more=True)
    status, headers, sentence = asyncio.run(client.ask(front))
    assert (status, headers[b"connection"]) == (408, b"close")
    assert sentence == "The request came too slowly (no byte of it came in 0.1 s): send it again."


@pytest.mark.parametrize("path", [UPLOAD, "/models/mnist14k/predict", "/v2/models/mnist14k/infer"])
def test_a_body_that_drips_is_ended_before_its_deadline(front, monkeypatch, path):
    monkeypatch.setattr("serve.server.request.GRACE_S", 0.1)
    client = Client(path, [b"x"] * 1000, (b"content-type", b"image/png"), every_s=0.02)
    status, headers, sentence = asyncio.run(client.ask(front))
    assert (status, headers[b"connection"]) == (408, b"close")
    assert sentence == "The request came too slowly (less than 16 KB of it came in a second): send it again."
    assert client.taken < 20


def test_who_leaves_in_the_middle_is_no_failure(front, capsys):
    """He is answered all the same: a server cannot tell a client that leaves from a body that is broken."""
    client = Client(UPLOAD, [bytes(1000)], FORM, more=True)
    client.leaves.set()
    status, headers, sentence = asyncio.run(client.ask(front))
    assert (status, headers[b"connection"]) == (400, b"close")
    assert sentence == "The request's body cannot be read to its end: send it again."
    LOG.flush()
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
        for site in ("https://evil.example", "http://localhost:3000"):  # Gradio would let some of them read
            for host in ("192.0.2.1", "127.0.0.1"):
                answer = httpx.get(server.url + "/config", headers={"Origin": site, "Host": host}, timeout=60)
                assert answer.status_code == 200
                assert not [name for name in answer.headers if name.startswith("access-control-")]
                answer = httpx.post(
                    server.url + "/gradio_api/queue/join", headers={"Origin": site, "Host": host}, json={}
                )
                assert answer.status_code == 403
        form = {"files": ("seven.bin", bytes(900_000))}
        for _ in range(6):
            assert httpx.post(server.url + UPLOAD, files=form, timeout=60).status_code == 200
        host, port = server.url.removeprefix("http://").split(":")
        for _ in range(6):  # half an upload
            with socket.create_connection((host, int(port)), timeout=60) as connection:
                head = f"POST {UPLOAD} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9999\r\nContent-Type: ".encode()
                connection.sendall(head + FORM[1] + b"\r\n\r\n" + HEAD)
        assert server.stop() == 0
        assert "Traceback" not in server.log
