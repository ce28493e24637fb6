"""Downloads: every response of a server gives a row, in bounded time and memory, and no other row is lost."""

import gzip
import json
import os
import re
import resource
import socket
import subprocess
import sys
import threading
import time
from functools import cache

import cv2
import numpy as np
import pytest

from serve.batch import urls
from serve.batch.archives import Unreadable
from serve.batch.inputs import Options, expand
from serve.batch.urls import fetch_all
from zoo.images.read import Named

PNG = cv2.imencode(".png", np.eye(28, dtype=np.uint8) * 250)[1].tobytes()


def http(*lines, body=b"", status="200 OK"):
    head = [f"HTTP/1.1 {status}", *lines]
    return "\r\n".join(head).encode("latin-1") + b"\r\n\r\n" + body


def sized(body, *lines, status="200 OK"):
    return http(f"Content-Length: {len(body)}", *lines, body=body, status=status)


def drip(connection, data, pause=0.05):
    for n in range(len(data)):
        connection.sendall(data[n : n + 1])
        time.sleep(pause)


def pour(connection, start, piece, pieces):
    connection.sendall(start)
    for _ in range(pieces):
        connection.sendall(piece)


@cache
def gzip_bomb():
    """64 KB that unpack to 64 MB; several in a row are one file."""
    return gzip.compress(bytes(2**26))


GOOD = ["good.png", "a b.png", "gzip.png", "chunked.png", "redirect", "redirect_space", "no_length.png", "q?x=1&y=ä",
        "redirect_utf8"]  # fmt: skip
BAD = {  # path: regular expression of the error
    "chunk": "incomplete response",
    "ssh": "invalid HTTP response: BadStatusLine SSH-2.0-OpenSSH_9.6",
    "longline": "invalid HTTP response: LineTooLong",
    "manyheaders": "invalid HTTP response: HTTPException got more than 100 headers",
    "short": "incomplete response",
    "nothing": "invalid HTTP response: RemoteDisconnected",
    "badlength": "invalid HTTP response|Content-Length",
    "badgzip": "damaged compression",
    "redirect_file": "redirect to file:///etc/hostname; only http and https are supported",
    "redirect_loop": "more than 5 redirects",
    "redirect_nowhere": "invalid URL",
    "missing": "HTTP status 404 Not Here",
    "escape": r"HTTP status 500 \x1b\[31mred",
    "large": "more than [0-9,]+ bytes",
    "gzipbomb": "more than [0-9,]+ bytes",
    "drip_body": "not complete after 1.2 s",
    "drip_head": "not complete after 1.2 s",
    "drip_status": "not complete after 1.2 s",
    "continue": "not complete after 1.2 s",
    "stalled": "no data for 0.6 s",
    "endless_line": "invalid HTTP response|not complete|more than [0-9,]+ bytes|incomplete",
    "endless_redirect": "more than 5 redirects",
}


def respond(connection, path):
    chunked = "Transfer-Encoding: chunked"
    simple = {
        "/good.png": sized(PNG),
        "/a%20b.png": sized(PNG),
        "/q?x=1&y=%C3%A4": sized(PNG),
        "/%C3%A4.png": sized(PNG),
        "/gzip.png": sized(gzip.compress(PNG), "Content-Encoding: gzip"),
        "/badgzip": sized(b"\x1f\x8bnonsense", "Content-Encoding: gzip"),
        "/chunked.png": http(chunked, body=b"%x\r\n%s\r\n0\r\n\r\n" % (len(PNG), PNG)),
        "/chunk": http(chunked, body=b"40\r\n" + PNG[:20]),
        "/no_length.png": http(body=PNG),
        "/ssh": b"SSH-2.0-OpenSSH_9.6\r\n",
        "/longline": http("X-A: " + "a" * 70_000),
        "/manyheaders": http(*(f"X-{n}: a" for n in range(300))),
        "/short": http("Content-Length: 5000", body=PNG),
        "/nothing": b"",
        "/badlength": http("Content-Length: 7, 8", body=PNG),
        "/redirect": sized(b"", "Location: good.png", status="302 Found"),
        "/redirect_space": sized(b"", "Location: /a b.png", status="301 Moved"),
        "/redirect_utf8": sized(b"", "Location: /ä.png".encode().decode("latin-1"), status="307 There"),
        "/redirect_file": sized(b"", "Location: file:///etc/hostname", status="302 Found"),
        "/redirect_loop": sized(b"", "Location: /redirect_loop", status="302 Found"),
        "/redirect_nowhere": sized(b"", "Location: http://[::1/x", status="302 Found"),
        "/missing": sized(b"no", status="404 Not Here"),
        "/escape": sized(b"no", status="500 \x1b[31mred"),
    }
    if path in simple:
        connection.sendall(simple[path])
    elif path == "/large":
        pour(connection, http(), bytes(2**20), 200)
    elif path == "/gzipbomb":
        pour(connection, http("Content-Encoding: gzip"), gzip_bomb(), 30)
    elif path == "/drip_body":
        connection.sendall(http("Content-Length: 500"))
        drip(connection, bytes(500))
    elif path == "/drip_head":
        drip(connection, http("X-A: " + "a" * 500))
    elif path == "/drip_status":
        drip(connection, b"HTTP/1.1 200 " + b"O" * 500)
    elif path == "/continue":
        for _ in range(500):
            connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            time.sleep(0.05)
    elif path == "/stalled":
        time.sleep(6)
    elif path == "/endless_line":
        pour(connection, http(chunked), b"0" * 2**20, 600)
    elif path == "/endless_redirect":
        pour(connection, http("Location: /endless_redirect", status="302 Found"), bytes(2**20), 200)


@pytest.fixture(scope="module")
def website():
    """http://127.0.0.1:PORT of a server that handles one request per connection."""
    gzip_bomb()  # made before a download waits for it
    listener = socket.create_server(("127.0.0.1", 0), backlog=64)

    def serve(connection):
        with connection:
            connection.settimeout(10)
            head = b""
            try:
                while b"\r\n\r\n" not in head:
                    head += (part := connection.recv(65536))
                    if not part:
                        return
                respond(connection, head.split(b" ")[1].decode("latin-1"))
            except OSError:  # the client has disconnected
                pass

    def accept():
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


@pytest.fixture
def short_timeouts(monkeypatch):
    monkeypatch.setattr(urls, "TOTAL_TIMEOUT_S", 1.2)
    monkeypatch.setattr(urls, "READ_TIMEOUT_S", 0.6)
    monkeypatch.setattr(urls, "MAX_BYTES", 20 * 10**6)


@pytest.mark.parametrize("path", GOOD)
def test_successful_downloads(website, path):
    address = f"{website}/{path}"
    assert fetch_all([address]) == [Named(address, PNG)]


SLOW = ("drip_head", "drip_status", "continue")  # fail by the same timeout as drip_body


@pytest.mark.parametrize("path", [pytest.param(path, marks=pytest.mark.slow if path in SLOW else ()) for path in BAD])
def test_failed_downloads_are_bounded_errors(website, short_timeouts, monkeypatch, path):
    if not re.search(r"\d s$", BAD[path]):  # fails by something else, on a busy machine too
        monkeypatch.setattr(urls, "TOTAL_TIMEOUT_S", 8)
        monkeypatch.setattr(urls, "READ_TIMEOUT_S", 5)
    address = f"{website}/{path}"
    started, cpu_before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_utime
    (image,) = fetch_all([address])
    assert time.monotonic() - started < 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_utime - cpu_before < 6
    assert isinstance(image, Unreadable)
    assert image.error.startswith(f"{address} cannot be downloaded (")
    assert image.error.endswith(").")
    assert len(image.error) < len(address) + 250
    cause = image.error.removeprefix(f"{address} cannot be downloaded (").removesuffix(").")
    assert re.search(BAD[path], cause), cause


@pytest.mark.parametrize(
    "address",
    ["http://", "http:///x.png", "http://[::1/x", "http://a b/x.png", "http://127.0.0.1:99999/x",
     "https://x\r\nHost: y/", "http://\udce9/", "http://127.0.0.1:9/\udce9.png", "http://" + "a" * 300 + "/", "http://user:word@127.0.0.1:9/"],
)  # fmt: skip
def test_invalid_urls_are_error_rows(address):
    (image,) = fetch_all([address])
    assert "cannot be downloaded (" in image.error
    assert "object at 0x" not in image.error


def test_failed_tls_connection(website, short_timeouts):
    address = website.replace("http:", "https:") + "/good.png"
    (image,) = fetch_all([address])
    assert "cannot be downloaded (" in image.error


def test_unknown_host_is_an_error_row(monkeypatch):
    def unknown(*_, **__):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    (image,) = fetch_all(["http://nowhere.example/x.png"])
    assert image.error == "http://nowhere.example/x.png cannot be downloaded (unknown host)."


@pytest.mark.slow
def test_stalled_downloads_run_in_parallel(website, short_timeouts):
    """Several URLs are downloaded at a time; results are in order."""
    addresses = [f"{website}/{path}" for path in ["drip_body", "good.png", "stalled", "drip_head"] * 2]
    started = time.monotonic()
    images = fetch_all(addresses)
    assert time.monotonic() - started < 8
    assert [one.name for one in images] == addresses
    assert [isinstance(one, Named) for one in images] == [False, True, False, False] * 2


@pytest.mark.slow
def test_download_threads_end(website, short_timeouts):
    fetch_all([f"{website}/{path}" for path in ("drip_head", "drip_body", "continue")])
    deadline = time.monotonic() + 10
    while any(thread.name.startswith("download ") for thread in threading.enumerate()):
        assert time.monotonic() < deadline, "a download thread is still running"
        time.sleep(0.05)


def test_proxy_from_environment_is_used(website, monkeypatch):
    monkeypatch.setenv("http_proxy", website)
    monkeypatch.setenv("no_proxy", "")
    (image,) = fetch_all(["http://nowhere.example/good.png"])
    assert isinstance(image, Unreadable)  # the test server does not implement proxying and closes the connection
    assert "Remote end closed connection" in image.error
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert isinstance(fetch_all([f"{website}/good.png"])[0], Named)


@pytest.mark.slow
def test_predict_urls_keeps_all_rows_and_resumes(website, tmp_path):
    paths = [*GOOD, *(path for path in BAD if "drip" not in path and path not in ("continue", "stalled", "gzipbomb"))]
    lines = [f"{website}/{path}" for path in paths]
    lines[3:3] = ["x.png", f"{website}/good.png"]
    (tmp_path / "list.txt").write_text("\n".join(lines))
    command = [sys.executable, "-m", "serve.cli", "predict", f"@{tmp_path}/list.txt",
               "--allow-url", "-o", f"{tmp_path}/rows.jsonl"]  # fmt: skip
    done = subprocess.run([*command, "--on-error", "fail"], capture_output=True, text=True, timeout=100)
    assert (done.returncode, "Traceback" in done.stderr) == (1, False), done.stderr
    done = subprocess.run([*command, "--resume"], capture_output=True, text=True, timeout=100, env=os.environ)
    assert (done.returncode, "Traceback" in done.stderr) == (1, False), done.stderr
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [row["input"] for row in rows] == lines
    assert [row["error"] is None for row in rows] == [
        line != "x.png" and line.rpartition("/")[2] not in BAD for line in lines
    ]


def test_urls_in_list_need_allow_url(website, tmp_path):
    (tmp_path / "list.txt").write_text(f"{website}/good.png\n")
    (image,) = expand(f"@{tmp_path}/list.txt").images()
    assert "add --allow-url" in image.error
    (image,) = expand(f"@{tmp_path}/list.txt", Options(allow_url=True)).images()
    assert image.name == f"{website}/good.png"
