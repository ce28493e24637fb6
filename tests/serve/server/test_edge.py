"""What stands in front of a server: a proxy that publishes it under a prefix, TLS, and tracing."""

import gzip
import json
import re
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest
from click.testing import CliRunner
from starlette.testclient import TestClient

from serve.cli.main import cli
from serve.server.app import build
from serve.server.log import LOG
from serve.server.tracing import ENDPOINTS, Tracer, start_tracer, trace_context
from serve.service.settings import Settings
from tests.support.paths import REPOSITORY
from tests.support.server import serving
from zoo.errors import WrongUsage, ZooError

SEVEN = REPOSITORY / "examples" / "seven.png"
PNG = {"Content-Type": "image/png"}
OPTIONS = ("--no-demo", "--models", "mnist14k.plus")
TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
needs_openssl = pytest.mark.skipif(not shutil.which("openssl"), reason="openssl is not installed")


@pytest.mark.parametrize(
    ("value", "valid"),
    [
        (f"00-{TRACE}-{SPAN}-01", True),
        (f"00-{TRACE}-{SPAN}-00", True),
        (f"cc-{TRACE}-{SPAN}-01-what-the-future-adds", True),
        (f"cc-{TRACE}-{SPAN}-01", True),
        (f"ff-{TRACE}-{SPAN}-01", False),
        (f"00-{TRACE}-{SPAN}-01-more", False),
        (f"cc-{TRACE}-{SPAN}-01more", False),
        (f"00-{TRACE.upper()}-{SPAN}-01", False),
        (f"00-{'0' * 32}-{SPAN}-01", False),
        (f"00-{TRACE}-{'0' * 16}-01", False),
        (f"00-{TRACE[1:]}-{SPAN}-01", False),
        (f"00-{TRACE}-{SPAN}", False),
        (f" 00-{TRACE}-{SPAN}-01", False),
        ('","status":200,"x":"', False),
        ("", False),
    ],
)
def test_traceparent_is_validated(value, valid):
    headers = [(b"traceparent", value.encode())]
    assert trace_context(headers) == ({"trace_id": TRACE, "span_id": SPAN} if valid else {})
    assert trace_context(headers * 2) == {}, "repeated"


def test_trace_context_is_logged(tmp_path, monkeypatch):
    lines = []
    monkeypatch.setattr(LOG, "write", lines.append)
    app = build(Settings(demo=False, models="mnist14k*", folder=str(tmp_path), device="cpu"))
    with TestClient(app, "http://127.0.0.1") as client:
        client.get("/v2", headers={"traceparent": f"00-{TRACE}-{SPAN}-01"})
        client.get("/v2", headers={"traceparent": "00-1-2-01"})
    traced, plain = (json.loads(line) for line in lines if line.startswith(b"{"))
    assert (traced["trace_id"], traced["span_id"]) == (TRACE, SPAN)
    assert not {"trace_id", "span_id"} & plain.keys()


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    settings = Settings(
        demo=False, models="mnist14k*", root_path="/zoo", key="k", folder=str(tmp_path_factory.mktemp("published"))
    )
    with TestClient(build(settings), "http://127.0.0.1", headers={"X-API-Key": "k"}) as client:
        yield client


@pytest.mark.parametrize("prefix", ["/zoo", ""])  # a proxy that passes the path on as it is, and one that removes it
def test_routes_under_a_prefix(published, prefix):
    response = published.post(f"{prefix}/models/mnist14k/predict", content=SEVEN.read_bytes(), headers=PNG)
    assert response.json()["label"] == "7"
    assert published.get(f"{prefix}/models").status_code == 200
    assert published.get(f"{prefix}/v2/").status_code == 200
    assert published.get(f"{prefix}/", follow_redirects=False).headers["location"] == "/zoo/docs"
    assert "/zoo/openapi.json" in published.get(f"{prefix}/docs").text
    assert published.get(f"{prefix}/openapi.json").json()["servers"] == [{"url": "/zoo"}]


def test_access_is_checked_under_a_prefix(published):
    assert published.get("/zoo/v2/health/ready", headers={"X-API-Key": "wrong"}).status_code == 200
    for path in ("/zoo", "/zoo/models", "/zoo/v2/health/ready/x", "/zoo/zoo/v2/health/ready"):
        assert published.get(path, headers={"X-API-Key": "wrong"}).status_code == 401
    assert published.get("/zoo/models", headers={"Host": "evil.example"}).status_code == 421
    response = published.get("/zoo?a=1", follow_redirects=False)
    assert (response.status_code, response.headers["location"]) == (308, "/zoo/?a=1")
    assert published.get("/zoology/models").status_code == 404


@pytest.mark.parametrize(
    "path", ["zoo", "/", "/zoo/", "//zoo", "/v2", "/models/zoo", "/static", "/a b", "/a?b", "/../x y"]
)
def test_invalid_root_path(path):
    error = CliRunner().invoke(cli, ["serve", "--root-path", path]).exception
    assert isinstance(error, WrongUsage)
    assert repr(path) in str(error)


@contextmanager
def reverse_proxy(port, prefix, strip):
    """A proxy that publishes the server on `port` under a prefix, and nothing else. Yields its address."""

    class Forward(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def forward(self):
            if not self.path.startswith(prefix):
                self.send_error(404)
                return
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            upstream = HTTPConnection("127.0.0.1", port, timeout=30)
            path = self.path.removeprefix(prefix) or "/" if strip else self.path
            upstream.request(self.command, path, body or None, dict(self.headers))
            response = upstream.getresponse()
            self.send_response(response.status)
            for name, value in response.getheaders():
                if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                    self.send_header(name, value)
            self.send_header("Connection", "close")
            self.end_headers()
            while part := response.read1(65536):
                self.wfile.write(part)
                self.wfile.flush()
            upstream.close()
            self.close_connection = True

        do_GET = do_POST = do_HEAD = forward

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Forward) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{proxy.server_address[1]}{prefix}"
        proxy.shutdown()


@pytest.mark.slow
@pytest.mark.parametrize(("strip", "workers"), [(False, "1"), (True, "2")])
def test_page_behind_a_proxy(tmp_path, strip, workers):
    """Everything that the page loads has the prefix, and a client of the page gets a result through the proxy."""
    from gradio_client import Client, handle_file

    options = ("--models", "mnist14k*", "--root-path", "/apps/zoo", "--workers", workers)
    with serving(tmp_path, *options) as server, reverse_proxy(server.url.rpartition(":")[2], "/apps/zoo", strip) as url:
        for _ in range(4):  # all processes
            page = httpx.get(url, follow_redirects=True, timeout=60)
            assert (page.status_code, str(page.url).rstrip("/")) == (200, url)
            assert httpx.get(f"{url}/config").json()["root"] == url
        links = re.findall(r'(?:src|href)="([^"#]+)"', page.text)
        local = [link for link in links if not link.startswith(("http", "data:", "//"))]
        local.remove("/manifest.json")  # for installing a page as an app; Gradio's templates have this absolute path
        for link in local:
            assert httpx.get(httpx.URL(f"{url}/").join(link)).status_code == 200, link
        assert httpx.get(f"{url}/docs").status_code == 200
        client = Client(url, verbose=False)
        assert "7" in str(client.predict(handle_file(SEVEN), api_name="/predict"))


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """Self-signed certificates of two types of keys: name → (certificate, key)."""
    folder = tmp_path_factory.mktemp("tls")
    kinds = {"ec": ("ec", "-pkeyopt", "ec_paramgen_curve:P-256"), "rsa": ("rsa:2048",), "other": ("rsa:2048",)}
    files = {}
    for name, kind in kinds.items():
        cert, key = folder / f"{name}.pem", folder / f"{name}.key"
        command = ["openssl", "req", "-x509", "-newkey", *kind, "-nodes", "-days", "2", "-subj", "/CN=localhost"]
        names = "subjectAltName=DNS:localhost,IP:127.0.0.1"
        subprocess.run([*command, "-addext", names, "-keyout", key, "-out", cert], check=True, capture_output=True)
        files[name] = cert, key
    return files


@needs_openssl
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ec", "rsa"])
def test_tls(tmp_path, certificates, kind):
    cert, key = certificates[kind]
    trusted = ssl.create_default_context(cafile=cert)
    with serving(tmp_path, *OPTIONS, "--tls-cert", str(cert), "--tls-key", str(key), verify=trusted) as server:
        assert server.url.startswith("https://")
        with httpx.Client(verify=trusted, base_url=server.url) as client:
            response = client.post("/models/mnist14k/predict", content=SEVEN.read_bytes(), headers=PNG)
            assert (response.json()["label"], response.http_version) == ("7", "HTTP/1.1")
        with pytest.raises(httpx.ConnectError, match="certificate verify failed"):
            httpx.get(server.url)
        with pytest.raises(httpx.TransportError):
            httpx.get(server.url.replace("https", "http"))
        port = int(server.url.rpartition(":")[2])
        old = ssl.create_default_context(cafile=cert)
        old.set_alpn_protocols(["h2", "http/1.1"])
        with (
            socket.create_connection(("127.0.0.1", port)) as plain,
            old.wrap_socket(plain, server_hostname="localhost") as secure,
        ):
            assert secure.selected_alpn_protocol() in (None, "http/1.1")
        assert server.stop() == 0
    assert "panicked" not in server.log


@needs_openssl
@pytest.mark.slow
@pytest.mark.attack
def test_connections_without_a_tls_handshake_are_closed(tmp_path, certificates):
    cert, key = certificates["ec"]
    trusted = ssl.create_default_context(cafile=cert)

    def seconds_until_closed(data):
        began = time.monotonic()
        with socket.create_connection(("127.0.0.1", port), timeout=25) as connection:
            connection.sendall(data)
            connection.recv(10)
        return time.monotonic() - began

    with serving(tmp_path, *OPTIONS, "--tls-cert", str(cert), "--tls-key", str(key), verify=trusted) as server:
        port = int(server.url.rpartition(":")[2])
        hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"
        with ThreadPoolExecutor(4) as threads:
            assert max(threads.map(seconds_until_closed, (b"", hello[:3], hello))) < 20
        assert httpx.get(f"{server.url}/v2", verify=trusted).status_code == 200


@needs_openssl
@pytest.mark.parametrize(
    ("cert", "key", "code", "message"),
    [
        ("ec.pem", None, 2, "belong together"),
        (None, "ec.key", 2, "belong together"),
        ("none.pem", "ec.key", 1, "--tls-cert .*none.pem .No such file"),
        ("ec.pem", "none.key", 1, "--tls-key .*none.key .No such file"),
        ("ec.pem", ".", 1, "--tls-key .*Is a directory"),
        ("rsa.pem", "other.key", 1, "belongs to the certificate"),
        ("ec.pem", "rsa.key", 1, "belongs to the certificate"),
        ("ec.key", "ec.pem", 1, "belongs to the certificate"),
        ("empty.pem", "ec.key", 1, "not a PEM file"),
        ("rsa.pem", "encrypted.key", 1, "encrypted.*openssl pkey"),
    ],
)
def test_unusable_tls_files(certificates, cert, key, code, message):
    folder = certificates["rsa"][0].parent
    (folder / "empty.pem").touch()
    if key == "encrypted.key":
        command = ["openssl", "pkcs8", "-topk8", "-in", folder / "rsa.key", "-out", folder / key, "-passout", "pass:x"]
        subprocess.run(command, check=True, capture_output=True)
    options = [("--tls-cert", cert), ("--tls-key", key)]
    arguments = [argument for name, file in options if file for argument in (name, str(folder / file))]
    error = CliRunner().invoke(cli, ["serve", *arguments]).exception
    assert isinstance(error, ZooError)
    assert error.exit_code == code
    assert re.search(message, str(error))


def test_workers_auto_is_the_number_of_usable_cores(monkeypatch):
    started = []
    monkeypatch.setattr("serve.cli.serve.serve", started.append)
    monkeypatch.setattr("serve.devices.cores", lambda: 3)
    for options in (["--workers", "auto"], ["--workers", "auto", "--device", "cuda"], ["--workers", "2"], []):
        done = CliRunner().invoke(cli, ["serve", *options])
        assert done.exit_code == 0, done.output
    CliRunner().invoke(cli, ["serve"], env={"ZOO_WORKERS": "auto"})
    assert [settings.workers for settings in started] == [3, 1, 2, 1, 3]
    assert CliRunner().invoke(cli, ["serve", "--workers", "0"]).exit_code == 2
    assert CliRunner().invoke(cli, ["serve", "--workers", "many"]).exit_code == 2


@pytest.fixture
def traced(tmp_path, monkeypatch):
    """A client of a server whose spans stay in memory, the function that returns them, and its log lines."""
    memory = pytest.importorskip(
        "opentelemetry.sdk.trace.export.in_memory_span_exporter", reason="pip install opentelemetry-sdk"
    )
    lines, exporter = [], memory.InMemorySpanExporter()
    tracer = Tracer(exporter)
    monkeypatch.setattr("serve.server.gateway.start_tracer", lambda settings: tracer)
    monkeypatch.setattr(LOG, "write", lines.append)
    app = build(Settings(demo=False, models="mnist14k*", folder=str(tmp_path), device="cpu"))

    def spans():
        tracer._provider.force_flush()
        return exporter.get_finished_spans()

    with TestClient(app, "http://127.0.0.1") as client:
        yield client, spans, lines


def test_spans_of_a_prediction(traced):
    client, spans, lines = traced
    headers = PNG | {"traceparent": f"00-{TRACE}-{SPAN}-01"}
    assert client.post("/models/mnist14k/predict", content=SEVEN.read_bytes(), headers=headers).status_code == 200
    by_name = {span.name: span for span in spans()}
    root = by_name.pop("POST /models/{name}/predict")
    assert (f"{root.context.trace_id:032x}", f"{root.parent.span_id:016x}") == (TRACE, SPAN)
    assert root.attributes["http.response.status_code"] == 200
    assert root.attributes["zoo.model"] == "mnist14k.plus"
    assert set(by_name) == {"queue", "decode", "infer"}
    for span in by_name.values():
        assert span.parent.span_id == root.context.span_id
        assert root.start_time <= span.start_time <= span.end_time
    assert 0 < by_name["infer"].end_time - by_name["infer"].start_time < root.end_time - root.start_time
    (entry,) = (json.loads(line) for line in lines if line.startswith(b"{"))
    assert (entry["trace_id"], entry["span_id"]) == (TRACE, f"{root.context.span_id:016x}")


def test_spans_of_other_requests_and_of_errors(traced):
    client, spans, _ = traced
    client.get("/models/none")
    client.post("/models/mnist14k/predict", content=b"no image", headers=PNG)
    client.get("/v2", headers={"traceparent": f"00-{TRACE}-{SPAN}-00"})  # the caller does not sample
    roots = [span for span in spans() if span.parent is None]
    assert [(span.name, span.attributes["http.response.status_code"]) for span in roots] == [
        ("GET", 404),
        ("POST /models/{name}/predict", 400),
    ]


def test_tracing_is_off_by_default_and_says_what_is_missing(monkeypatch, capsys):
    for name in ENDPOINTS:
        monkeypatch.delenv(name, raising=False)
    assert start_tracer(Settings()) is None
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(ZooError, match=r"pip install 'pocketzoo\[otel\]'"):
        start_tracer(Settings(otel=True))
    monkeypatch.setenv(ENDPOINTS[0], "http://127.0.0.1:4318")
    assert start_tracer(Settings(otel=False)) is None
    assert "pocketzoo[otel]" not in capsys.readouterr().err
    assert start_tracer(Settings()) is None
    assert "pocketzoo[otel]" in capsys.readouterr().err


@pytest.mark.slow
def test_spans_reach_a_collector(tmp_path):
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="pip install 'pocketzoo[otel]'")
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    names = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            body = gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                names.extend(span.name for scope in resource.scope_spans for span in scope.spans)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Collector) as collector:
        threading.Thread(target=collector.serve_forever, daemon=True).start()
        endpoint = f"http://127.0.0.1:{collector.server_address[1]}"
        with serving(tmp_path, *OPTIONS, OTEL_EXPORTER_OTLP_ENDPOINT=endpoint) as server:
            assert httpx.post(
                f"{server.url}/models/mnist14k/predict", content=SEVEN.read_bytes(), headers=PNG
            ).is_success
            assert server.stop() == 0
        collector.shutdown()
    assert {"POST /models/{name}/predict", "queue", "decode", "infer"} <= set(names)
