"""Attacks on the page: access to files of the machine, to files of other visitors, and denial of service."""

import asyncio
import hashlib
import html
import http.server
import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from base64 import b64encode
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import httpx
import numpy as np
import orjson
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import serve.cli.main
import zoo
from serve.demo import text
from serve.demo.files import FILE_BYTES, FOLDER_BYTES, FileStore, safe_name, set_folder
from serve.demo.jobs import JobFailed, JobQueue, JobRunner
from serve.demo.result import answer as answer_html
from serve.service.settings import DEFAULT_MODEL, Settings
from tests.support.paths import CARD, DEFAULT, REPOSITORY
from tests.support.server import children_of, resident_mb, serving, wait_for
from zoo.errors import ZooError
from zoo.images.read import Named
from zoo.rows import Guess, Row

EXAMPLES = REPOSITORY / "examples"
SEVEN = EXAMPLES / "seven.png"
DECISION = REPOSITORY / "docs" / "decisions" / "0011-page-security.md"
META = {"meta": {"_type": "gradio.FileData"}}
FAST = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The page in this process, mounted as by the server: client, guard, Gradio's application, and files."""
    from fastapi import FastAPI
    from starlette.responses import JSONResponse
    from starlette.testclient import TestClient

    from serve.service.metrics import Metrics
    from serve.service.models import Service

    folder = tmp_path_factory.mktemp("page")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", "")
        files_folder = set_folder(folder / "files")
        options = Settings(models="mnist14k*", folder=str(folder), device="cpu")
        service = Service(options)
        app = FastAPI()

        @app.exception_handler(ZooError)
        async def handle_zoo_error(_, error):
            return JSONResponse({"error": str(error)}, getattr(error, "status", 500))

        metrics = Metrics(folder / "metrics", 0, 1, list(service.runners))

        async def mount_in_loop():  # without a running loop, Gradio creates some and leaves them open
            from serve.demo.page import mount

            mount(app, service, metrics, options, files_folder)

        asyncio.run(mount_in_loop())
        service.pool.start()
        guard = app.routes[-1].app._app
        with TestClient(app, base_url="http://127.0.0.1") as client:
            yield SimpleNamespace(client=client, guard=guard, gradio=guard._page, files=guard._files, app=app)
        service.pool.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server in processes of its own; `files` is the folder of its uploads."""
    folder = tmp_path_factory.mktemp("server")
    (folder / "temporary").mkdir()
    with serving(folder, "--models", "mnist14k*", TMPDIR=str(folder / "temporary")) as server:
        server.files = next((folder / "temporary").glob("zoo-serve-*/files"))
        yield server


def client_of(server):
    return httpx.Client(base_url=server.url, timeout=90)


def upload(client, *contents, names=None):
    files = [("files", (name, content)) for name, content in zip(names or ["x.png"] * 99, contents, strict=False)]
    answer = client.post("/gradio_api/upload", files=files)
    assert answer.status_code == 200, answer.text
    return answer.json()


def file(path):
    return {"path": path} | META


def start(client, name, data, **more):
    return client.post(f"/gradio_api/call/{name}", json={"data": data} | more)


def outcome(client, name, data, **more):
    """Run an event. Returns the kind and the data of its last message."""
    started = start(client, name, data, **more)
    assert started.status_code == 200, started.text
    text = client.get(f"/gradio_api/call/{name}/{started.json()['event_id']}").text
    event, data = re.findall(r"event: (\w+)\ndata: (.*)\n", text)[-1]
    return event, json.loads(data)


# Access to files


@pytest.fixture(scope="module")
def local_web():
    """A web server on this machine that records the requested paths."""
    requested = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            requested.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(SEVEN.read_bytes())

        def log_message(self, *_):
            pass

    web = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=web.serve_forever, daemon=True).start()
    yield SimpleNamespace(url=f"http://127.0.0.1:{web.server_port}", requested=requested)
    web.shutdown()
    web.server_close()


def foreign_paths(files, own):
    """Paths to anything but an upload of the visitor, in many spellings."""
    token, name = own.split("/")
    (files / token / "link").symlink_to("/etc/passwd")
    (files / token / "folder").mkdir()
    os.mkfifo(files / token / "pipe")
    return [
        "/etc/passwd", "/proc/self/environ", "/dev/zero", "/dev/stdin", "file:///etc/passwd", "../../../etc/passwd",
        f"{token}/../../../../etc/passwd", f"{token}/..", f"{token}/.", token, f"{token}/", f"{token}/link",
        f"{token}/folder", f"{token}/pipe", f"{token}/link/../{name}", f"./{own}", f"/{own}", f"{own}/", f"{own}\0",
        str(files / own), str(files / token), str(files), "", ".", "/", f"{'A' * 22}/{name}", f"{token}/none.png",
        f"{token}//{name}", f"{token}\\{name}", f"{token}/{name}\n", f"{token}/" + "x" * 300, "\udc80/\udc80",
    ]  # fmt: skip


SHAPES = {
    "file": file,
    "without meta": lambda path: {"path": path},
    "stream": lambda path: file(path) | {"is_stream": True},
    "with URL": lambda path: file(path) | {"url": "http://127.0.0.1:1/x.png"},
    "plain": lambda path: path,
}
FUNCTIONS = {
    "predict": lambda value: [value, DEFAULT, "crop", False],
    "inside": lambda value: [value, DEFAULT],
    "compare": lambda value: [value, "digit"],
    "batch": lambda value: [[value], DEFAULT, "csv"],
}


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_events_read_only_uploaded_files(server, name, shape):
    with client_of(server) as client:
        own = upload(client, SEVEN.read_bytes())[0]
        before = len(server.log)
        for path in foreign_paths(server.files, own):
            value = SHAPES[shape](path)
            if name == "predict" and value == "":
                continue
            body = json.dumps({"data": FUNCTIONS[name](value)})
            answer = client.post(f"/gradio_api/call/{name}", content=body, headers={"content-type": "application/json"})
            assert answer.status_code == 400, (path, answer.text)
            assert "root:" not in answer.text
            assert str(server.files) not in answer.text
        assert "Traceback" not in server.log[before:]
        assert httpx.get(f"{server.url}/v2/health/ready").status_code == 200


@pytest.mark.slow
@pytest.mark.parametrize("name", FUNCTIONS)
def test_events_fetch_no_urls(server, local_web, name):
    with client_of(server) as client:
        own = upload(client, SEVEN.read_bytes())[0]
        for value in (
            file(f"{local_web.url}/path"),
            {"path": None, "url": f"{local_web.url}/url"} | META,
            {"url": f"{local_web.url}/url"} | META,
            f"{local_web.url}/plain",
            file(own) | {"url": f"{local_web.url}/beside"},
        )[: 4 if name == "inside" else 5]:  # the valid event takes seconds for "inside"
            answer = start(client, name, FUNCTIONS[name](value))
            assert answer.status_code == (200 if isinstance(value, dict) and value.get("path") == own else 400)
            if answer.status_code == 200:
                client.get(f"/gradio_api/call/{name}/{answer.json()['event_id']}")
        client.get(f"/gradio_api/file={local_web.url}/file")
        client.get(f"/gradio_api/proxy={local_web.url}/proxy")
    assert local_web.requested == []


def raw_get(server, target):
    """The response to a request with exactly this target; HTTP clients would normalise it."""
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(b"GET " + target + b" HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
        with connection.makefile("rb") as answer:
            return answer.read()


@pytest.mark.slow
def test_files_are_served_by_id_only(server):
    with client_of(server) as client:
        own = upload(client, SEVEN.read_bytes())[0]
        assert client.get(f"/gradio_api/file={own}").content == SEVEN.read_bytes()
        assert client.get(f"/gradio_api/file={own}", headers={"Range": "bytes=1-3"}).content == b"PNG"
    for path in foreign_paths(server.files, own):
        plain = path.encode(errors="surrogateescape")
        quoted = "".join(f"%{byte:02x}" for byte in plain).encode()
        for kind in (b"file=", b"file/", b"proxy=", b"stream/"):
            for spelled in (quoted, plain) if plain.isascii() and plain.decode().isprintable() else (quoted,):
                answer = raw_get(server, b"/gradio_api/" + kind + spelled)
                assert answer.startswith((b"HTTP/1.1 404", b"HTTP/1.1 405", b"HTTP/1.1 400")), (kind, path, answer)
                assert b"root:" not in answer


@pytest.mark.slow
def test_visitors_cannot_access_files_of_others(server):
    with client_of(server) as mine, client_of(server) as other:
        own = upload(mine, SEVEN.read_bytes(), names=["secret.png"])[0]
        again = upload(other, SEVEN.read_bytes(), names=["secret.png"])[0]
        assert own.split("/")[0] != again.split("/")[0], "the same content must not have the same folder"
        event, (table, rows) = outcome(mine, "batch", [[file(own)], DEFAULT, "csv"])
        assert (event, "secret.png" in table) == ("complete", True)
        for folder in (str(server.files), ".", "", own.split("/")[0], str(server.files / own.split("/")[0])):
            assert start(other, "batch", [[file(folder)], DEFAULT, "csv"]).status_code == 400
        public = "".join(other.get(path).text for path in ("/", "/config", "/gradio_api/info", "/metrics", "/models"))
        for known in (own, rows["path"]):
            assert mine.get(f"/gradio_api/file={known}").status_code == 200
            assert known.split("/")[0] not in public
            digest = hashlib.sha256(SEVEN.read_bytes()).hexdigest()
            assert other.get(f"/gradio_api/file={digest}/{known.split('/')[1]}").status_code == 404


@pytest.fixture
def store(tmp_path):
    """A store of uploads, and the id of the only file in it."""
    files = FileStore(tmp_path, 10**6)
    return files, files.id(files.save("a.png", b"x", ""))


@given(st.text() | st.from_regex(r"[A-Za-z0-9_-]{22}/[^/]*", fullmatch=True))
@FAST
def test_only_ids_resolve_to_files(store, text):
    files, own = store
    assert files.path(own).read_bytes() == b"x"
    assert text == own or files.path(text) is None


@given(st.text(st.characters(exclude_categories=())))
@FAST
def test_safe_name_is_a_plain_file_name(name):
    safe = safe_name(name)
    assert 0 < len(safe.encode()) <= 200
    assert not set(safe) & set("/\\\0*?[]<>&\"'%#\n\r\t")
    assert not safe.startswith(".")


@pytest.mark.slow
def test_upload_keeps_file_name(server):
    with client_of(server) as client:
        for name, expected in {"sieben Ü (1).png": "sieben Ü (1).png", "a/b/c.png": "c.png", "..": "file"}.items():
            assert upload(client, b"x", names=[name])[0].split("/")[1] == expected


@pytest.mark.slow
@pytest.mark.parametrize("name", ["x.html", "x.svg", "x.xml", "x.js", "x.pdf", "x.png.htm", "x"])
def test_uploads_are_never_served_as_pages(server, name):
    content = b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/><script>alert(1)</script>"
    with client_of(server) as client:
        answer = client.get(f"/gradio_api/file={upload(client, content, names=[name])[0]}")
        assert answer.headers["content-type"] == "application/octet-stream"
        assert answer.headers["content-disposition"].startswith("attachment")
        picture = client.get(f"/gradio_api/file={upload(client, content, names=['x.png'])[0]}")
        assert picture.headers["content-type"] == "image/png"
        for one in (answer, picture):
            assert one.headers["x-content-type-options"] == "nosniff"
            assert "sandbox" in one.headers["content-security-policy"]


@pytest.mark.slow
def test_svg_in_event_is_served_as_attachment(server):
    """Gradio would serve an SVG inline, and to everybody, as a file of the application."""
    with client_of(server) as client:
        own = upload(client, b"<svg xmlns='http://www.w3.org/2000/svg'/>", names=["x.svg"])[0]
        outcome(client, "predict", [file(own), DEFAULT, "crop", False])
        answer = client.get(f"/gradio_api/file={own}")
        assert answer.headers["content-disposition"].startswith("attachment")


# Paths in responses


PATH_PATTERNS = [
    re.compile(rb"/(?:tmp|etc|proc|home|root|usr|var|work)/"),
    re.compile(rb"site-packages"),
    re.compile(re.escape(str(REPOSITORY)).encode()),
]


@pytest.mark.slow
def test_responses_contain_no_server_paths(server, tmp_path):
    with client_of(server) as client:
        paths = ["/", "/config", "/theme.css", "/manifest.json", "/gradio_api/info"]
        answers = [client.get(path).content for path in [*paths, "/gradio_api/info?all_endpoints=True"]]
        bad = io.BytesIO()
        with zipfile.ZipFile(bad, "w") as archive:
            archive.writestr("a.png", b"\x89PNG\r\n\x1a\nbroken")
        contents = {
            "a.heic": b"\0\0\0\x18ftypheic", "b.png": b"\x89PNG\r\n\x1a\nbroken", "c.txt": b"text", "d.png": b"",
            "e.zip": b"PK\x03\x04broken", "f.zip": bad.getvalue(), "g.parquet": b"PAR1", "h.gz": b"\x1f\x8b8",
            "i.png": SEVEN.read_bytes(),
        }  # fmt: skip
        for name, content in contents.items():
            own = upload(client, content, names=[name])[0]
            for function, data in FUNCTIONS.items():
                if (name == "i.png" and function == "inside") or (name[0] in "abc" and function in ("inside", "batch")):
                    continue  # takes seconds, and the others cover it
                event, result = outcome(client, function, data(file(own)))
                answers.append(json.dumps(result).encode())
                if function == "predict" and name != "i.png":
                    assert event == "complete"
                    assert "<strong>No answer</strong>" in result[0]
                    assert result[1]["error"]
                    assert own.split("/")[0] not in json.dumps(result)
                if function == "batch":
                    visible = result[0] if event == "complete" else result["error"]
                    assert own.split("/")[0] not in visible, "only the name"
    for one in answers:
        for pattern in PATH_PATTERNS:
            assert not pattern.search(one), pattern.search(one)


@pytest.mark.slow
def test_responses_hide_paths_with_special_characters(tmp_path):
    temporary = tmp_path / 'a b ü "q" %41'
    temporary.mkdir()
    with serving(tmp_path, "--models", "mnist14k.plus", TMPDIR=str(temporary)) as server, client_of(server) as client:
        own = upload(client, SEVEN.read_bytes())[0]
        _, (_, rows) = outcome(client, "batch", [[file(own)], DEFAULT, "csv"])
        assert re.fullmatch(r"[\w-]{22}/rows.csv", rows["path"])
        assert b"x.png" in client.get(rows["url"]).content


# Routes


def routes_of(app):
    """(method, path template) of every route of a FastAPI application, including its routers."""
    routes = set()
    for route in app.routes:
        if (inner := getattr(route, "original_router", None)) is not None:
            routes |= routes_of(inner)
        elif getattr(route, "path", None) is not None:
            routes |= {(method, route.path) for method in getattr(route, "methods", None) or {"MOUNT"}}
    return routes


EXAMPLE_PARTS = {
    "session_hash": "abc", "run": "1", "component_id": "1", "segment_id": "1", "ext": "ts", "api_name": "predict",
    "event_id": "0" * 32, "id": "1", "environment": "client", "type": "x", "file_name": "x.js", "size": "1", "key": "k",
    "endpoint": "x", "record_id": "1", "asset_id": "1", "url_path:path": "http://x/", "path_or_url:path": "/etc/passwd",
    "path:path": "x/y.js",
}  # fmt: skip
PASSED_TO_GRADIO = {
    ("GET", "/"), ("HEAD", "/"), ("GET", "/config"), ("GET", "/theme.css"), ("GET", "/favicon.ico"),
    ("GET", "/manifest.json"), ("GET", "/gradio_api/info"), ("GET", "/gradio_api/app_id"),
    ("GET", "/gradio_api/heartbeat/{session_hash}"), ("POST", "/gradio_api/queue/join"),
    ("GET", "/gradio_api/queue/data"), ("POST", "/gradio_api/call/{api_name}"),
    ("GET", "/gradio_api/call/{api_name}/{event_id}"), ("POST", "/gradio_api/call/v2/{api_name}"),
    ("GET", "/gradio_api/call/v2/{api_name}/{event_id}"),
}  # fmt: skip
SERVED_BY_GUARD = {
    ("GET", "/assets/{path:path}"),
    ("GET", "/static/{path:path}"),
    ("POST", "/gradio_api/upload"),
    ("GET", "/gradio_api/upload_progress"),
}


def test_only_listed_gradio_routes_are_reachable(page, monkeypatch):
    """A new version of Gradio may add routes. They are not reachable until somebody lists them."""
    from serve.demo.guard import ROUTES

    routes = routes_of(page.gradio)
    assert len(routes) > 60, "Gradio has fewer routes than expected"
    assert routes >= PASSED_TO_GRADIO | SERVED_BY_GUARD
    reached = []

    async def gradio(scope, receive, send):
        reached.append(scope["path"])

    async def status_of(method, path):
        statuses = []
        scope = {"type": "http", "method": method, "path": path, "query_string": b"", "headers": [], "client": None}

        async def receive():
            return {"type": "http.disconnect"}

        async def send(message):
            statuses.append(message.get("status"))

        try:
            await page.guard(scope, receive, send)
        except Exception as error:
            return getattr(error, "status_code", None) or getattr(error, "status", None)
        return statuses[0]

    monkeypatch.setattr(page.guard, "_page", gradio)
    for method, template in sorted(routes):
        path = re.sub(r"\{([^}]*)\}", lambda part: EXAMPLE_PARTS[part[1]], template)
        listed = any(method in route.methods and route.pattern.fullmatch(path) for route in ROUTES)
        assert listed == ((method, template) in PASSED_TO_GRADIO | SERVED_BY_GUARD), (method, template)
        if (method, template) not in PASSED_TO_GRADIO:
            status = asyncio.run(status_of("GET" if method == "MOUNT" else method, path))
            assert not reached, f"{method} {template} reaches Gradio"
            assert listed or status in (404, 405), (method, template, status)


def test_decision_document_lists_reachable_routes():
    from serve.demo.guard import ROUTES

    listed = re.findall(r"^\| `([A-Z, ]+) (/\S*)` \|", DECISION.read_text(), re.M)
    assert {(methods, path) for methods, path in listed} == {(", ".join(one.methods), one.path) for one in ROUTES}


def test_all_frontend_files_are_reachable_and_nothing_else():
    import gradio

    from serve.demo.guard import ROUTES

    patterns = [route.pattern for route in ROUTES if route.path == "/{path}"]
    frontend = Path(gradio.__file__).parent / "templates" / "frontend"
    for folder in ("assets", "static"):
        for path in (frontend / folder).rglob("*"):
            if path.is_file():
                assert any(one.fullmatch(f"/{path.relative_to(frontend)}") for one in patterns), path
    for path in ("/assets/../x", "/static/..%2fx", "/assets/.hidden", "/static/a//b", "/assets/", "/assets/a\\b"):
        assert not any(one.fullmatch(path) for one in patterns), path


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/gradio_api/component_server"), ("POST", "/gradio_api/run/predict"), ("POST", "/gradio_api/stream/x"),
        ("POST", "/gradio_api/api/predict"), ("POST", "/gradio_api/process_recording"), ("POST", "/gradio_api/cancel"),
        ("POST", "/gradio_api/vibe-edit"), ("GET", "/gradio_api/vibe-code"), ("POST", "/login"), ("TRACE", "/"),
        ("GET", "/gradio_api/startup-events"), ("GET", "/gradio_api/deep_link?session_hash=x"),
        ("GET", "/gradio_api/dev/reload"), ("GET", "/gradio_api/mcp/schema"), ("GET", "/gradio_api/openapi.json"),
        ("GET", "/gradio_api/queue/status"), ("GET", "/monitoring/summary"), ("GET", "/gradio_api//config"),
        ("GET", "/config/"), ("OPTIONS", "/config"),
    ],
)  # fmt: skip
def test_other_gradio_routes_return_404_or_405(server, method, path):
    answer = httpx.request(method, server.url + path, headers={"Origin": server.url})
    assert answer.status_code in (404, 405)
    assert list(answer.json()) in (["error"], ["error", "detail"])


@pytest.mark.slow
@pytest.mark.parametrize("path", ["/static/" + "a" * 256, "/static/" + "a/" * 2100 + "b", "/assets/" + "b" * 5000])
def test_too_long_file_names_return_404(server, path):
    answer = httpx.get(server.url + path)
    assert answer.status_code == 404
    assert list(answer.json()) == ["error"]


@pytest.mark.slow
def test_truncated_upload_returns_400(server):
    body = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\nhalf'
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    answer = httpx.post(server.url + "/gradio_api/upload", content=body, headers=headers)
    assert answer.status_code == 400
    assert "final boundary" in answer.json()["error"]


def test_stale_session_with_unfetched_results_is_dropped(page, monkeypatch):
    from serve.demo import sessions as module

    sessions, now = module.Sessions(page.gradio), time.monotonic()
    ages = {f"old{number}": 10 + 0.1 * number for number in range(module.MAX_SESSIONS)}  # seconds, less than IDLE_S
    sessions._last_used = {name: now - age for name, age in ages.items()}
    monkeypatch.setattr(sessions, "_unfetched", lambda session: {"event"} if session in ages else set())
    sessions.admit("new")
    assert "new" in sessions._last_used
    assert max(ages, key=ages.__getitem__) not in sessions._last_used
    assert len(sessions) == module.MAX_SESSIONS


@pytest.mark.slow
def test_deep_links_are_ignored(server):
    """Gradio would read it from a folder of uploads."""
    plain = httpx.get(server.url + "/config").json()
    assert httpx.get(server.url + "/config?deep_link=abc").json() == plain


@pytest.mark.slow
@pytest.mark.parametrize("header", ["X-Forwarded-Host", "X-Gradio-Server"])
def test_forwarded_host_headers_are_ignored(server, header):
    for path in ("/", "/config", "/gradio_api/info", "/config"):
        answer = httpx.get(server.url + path, headers={header: "http://evil.example"})
        assert "evil.example" not in answer.text
        assert "evil.example" not in httpx.get(server.url + path).text


@pytest.mark.slow
def test_no_cors_headers_for_other_origins(server):
    for path in ("/config", "/gradio_api/info", "/"):
        answer = httpx.get(server.url + path, headers={"Origin": "http://evil.example"})
        assert not [name for name in answer.headers if name.startswith("access-control")]


@pytest.mark.slow
def test_event_without_json_content_type_returns_415(server):
    """Browsers send these three content types to any host without a preflight request."""
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
        body = json.dumps({"data": ["", DEFAULT, False]})
        answer = httpx.post(server.url + "/gradio_api/call/draw", content=body, headers={"content-type": kind})
        assert answer.status_code == 415


@pytest.mark.slow
def test_page_policy_forbids_other_hosts(server):
    policy = httpx.get(server.url + "/").headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "http" not in policy


# Gradio without the guard


def test_gradio_itself_checks_file_paths(page):
    from starlette.testclient import TestClient

    blocks = page.gradio.get_blocks()
    assert blocks.has_launched
    assert blocks.is_running
    with TestClient(page.gradio) as bare:
        event, result = outcome(bare, "compare", [file("/etc/passwd"), "digit"])
        assert event == "error"
        assert result == {"error": None}, "without a reason"
        event, result = outcome(bare, "batch", [[file("/dev/zero")], DEFAULT, "csv"])
        assert event == "error"
    blocks._queue.stopped = False


# Content of events


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False) | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["path", "url", "meta", "a"]), inner),
    max_leaves=12,
)


@given(st.sampled_from([*sorted(FUNCTIONS), "draw"]), ANYTHING, st.booleans())
@FAST
def test_any_event_data_gets_valid_status(page, name, data, by_name):
    path = f"/gradio_api/call/{'v2/' * by_name}{name}"
    answer = page.client.post(path, content=orjson.dumps(data), headers={"content-type": "application/json"})
    assert answer.status_code in (200, 400, 429), answer.text
    if answer.status_code != 200:
        assert answer.json()["error"].endswith(".")


@given(ANYTHING, ANYTHING, ANYTHING)
@FAST
def test_any_queue_event_gets_valid_status(page, session, function, data):
    event = {"session_hash": session, "fn_index": function, "data": data, "batched": True, "trigger_id": data}
    answer = page.client.post(
        "/gradio_api/queue/join", content=orjson.dumps(event), headers={"content-type": "application/json"}
    )
    assert answer.status_code in (200, 400, 429), answer.text


def test_invalid_event_returns_4xx(page):
    kind = {"content-type": "application/json"}
    path = "/gradio_api/call/draw"
    for body in (b"", b"{", b"[]", b'"x"', b"\xff", b"NaN", b"[" * 5000, b'{"data": ' + b"[" * 5000):
        assert page.client.post(path, content=body, headers=kind).status_code == 400, body[:9]
    large = json.dumps({"data": ["x" * 1_000_001, DEFAULT, False]})
    assert page.client.post(path, content=large, headers=kind).status_code == 413
    assert start(page.client, "draw", ["", DEFAULT, False], session_hash="../x").status_code == 400
    assert start(page.client, "draw", ["", DEFAULT, False], session_hash="x" * 65).status_code == 400
    assert start(page.client, "draw", ["", DEFAULT, 1]).status_code == 400
    assert start(page.client, "draw", ["", "mnist14k.none"]).status_code == 400
    assert start(page.client, "card", [DEFAULT]).status_code == 404, "a private function"
    assert page.client.get("/gradio_api/queue/data?session_hash=nobody").status_code == 404
    assert page.client.get(f"/gradio_api/call/draw/{'0' * 32}").status_code == 404


def test_full_disk_returns_503(page, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("serve.demo.files.shutil.copyfileobj", full)
        folders = len(list(page.files.root.iterdir()))
        answer = page.client.post("/gradio_api/upload", files={"files": ("x.png", b"x")})
        assert answer.status_code == 503
        assert "No space left on device" in answer.json()["error"]
        assert len(list(page.files.root.iterdir())) == folders


def test_files_are_counted_per_address(page):
    own = upload(page.client, SEVEN.read_bytes())[0]
    _, (_, rows) = outcome(page.client, "batch", [[file(own)], DEFAULT, "csv"])
    for known in (own, rows["path"]):
        assert page.files._folders[known.split("/")[0]].owner == "testclient"


def test_event_with_too_many_files_returns_413(page, monkeypatch):
    own = upload(page.client, SEVEN.read_bytes())[0]
    assert start(page.client, "batch", [[file(own)] * 201, DEFAULT, "csv"]).status_code == 413
    monkeypatch.setattr(page.guard, "_max_event_file_bytes", 5 * len(SEVEN.read_bytes()))
    assert start(page.client, "batch", [[file(own)] * 6, DEFAULT, "csv"]).status_code == 413


@pytest.mark.parametrize(
    "body", [b"", b"x", b"--x\r\n\r\n\r\n--x--", b"--x\r\nContent-Disposition: form-data\r\n\r\na"]
)
def test_malformed_upload_returns_400(page, body):
    answer = page.client.post("/gradio_api/upload", content=body, headers={"content-type": "multipart/form-data"})
    assert answer.status_code == 400
    kind = {"content-type": "multipart/form-data; boundary=x"}
    answer = page.client.post("/gradio_api/upload", content=body, headers=kind)
    assert (answer.status_code, answer.json()) in ((400, answer.json()), (200, []))
    assert page.client.post("/gradio_api/upload", content=body).status_code == 415


def test_upload_of_too_many_files_returns_400(page):
    files = [("files", ("x.png", b"x"))] * 201
    assert page.client.post("/gradio_api/upload", files=files).status_code == 400


def test_upload_progress_ends(page, monkeypatch):
    monkeypatch.setattr("serve.demo.guard.UPLOAD_BEGINS_S", 0.1)
    form = {"files": ("x.png", b"x")}
    assert page.client.post("/gradio_api/upload?upload_id=u1", files=form).status_code == 200
    began = time.monotonic()
    assert page.client.get("/gradio_api/upload_progress?upload_id=u1").text == 'data: {"msg": "done"}\n\n'
    assert time.monotonic() - began < 20, "the upload has already ended"
    assert page.guard._uploads == {}


# Storage limits


def test_sweep_removes_old_and_unknown_files(tmp_path):
    (tmp_path / "leftover").mkdir()
    (tmp_path / "leftover" / "file").write_text("of a process that died")
    (tmp_path / "vibe_edit_history").mkdir()
    files = FileStore(tmp_path, 10**6)
    assert [path.name for path in tmp_path.iterdir()] == ["vibe_edit_history"]
    path = files.save("a.png", b"x", "me")
    (tmp_path / "stray").write_text("of Gradio")
    files.sweep()
    assert path.exists()
    assert not (tmp_path / "stray").exists()
    files._max_age_s = -1.0
    files.sweep()
    assert not path.parent.exists()
    assert files.path(files.id(path)) is None
    assert files.size == 0


def test_flooding_owner_loses_own_files_only(tmp_path):
    one = 1000 + FOLDER_BYTES + FILE_BYTES
    files = FileStore(tmp_path, 10 * one)
    mine = [files.save("a.png", b"x" * 1000, "me") for _ in range(3)]
    flood = [files.save("a.png", b"x" * 1000, "other") for _ in range(30)]
    assert all(path.exists() for path in mine)
    assert [path.exists() for path in flood] == [False] * 23 + [True] * 7
    assert files.size == 10 * one
    assert len(list(tmp_path.iterdir())) == 10


@pytest.mark.slow
@pytest.mark.attack
def test_uploads_are_bounded_on_disk(tmp_path):
    """With --max-body-mb 0.05, all files together may take 32 times as much."""
    (tmp_path / "t").mkdir()
    options = ("--models", "mnist14k.plus", "--max-body-mb", "0.05", "--no-access-log")
    with serving(tmp_path, *options, TMPDIR=str(tmp_path / "t")) as server, client_of(server) as client:
        ids = [upload(client, bytes(40_000))[0] for _ in range(100)]
        used = sum(path.lstat().st_size for path in (tmp_path / "t").rglob("*") if path.is_file())
        assert used <= 32 * 50_000 + 100_000
        assert client.get(f"/gradio_api/file={ids[0]}").status_code == 404
        assert client.get(f"/gradio_api/file={ids[-1]}").status_code == 200


@pytest.mark.slow
@pytest.mark.attack
def test_sessions_use_bounded_memory(tmp_path):
    """200 sessions send events of almost 1 MB, the largest size, and fetch no result."""
    with serving(tmp_path, "--models", "mnist14k.plus", "--no-access-log") as server, client_of(server) as client:
        process = max([server.process.pid, *server.children()], key=resident_mb)

        def flood(sessions, size):
            for number in range(sessions):
                assert (
                    start(client, "draw", ["x" * size, DEFAULT, False], session_hash=f"s{size}x{number}").status_code
                    == 200
                )

        flood(20, 10)
        before = resident_mb(process)
        flood(200, 950_000)
        grown = resident_mb(process) - before
        assert grown < 200, f"{grown:.0f} MB by 200 sessions"
        flood(200, 10)
        assert resident_mb(process) - before < 200


def test_idle_sessions_are_forgotten(page, monkeypatch):
    """They are removed from Gradio's own tables too."""
    sessions, gradio = page.guard._sessions, page.gradio
    queue, holder = gradio.get_blocks()._queue, gradio.state_holder
    for number in range(80):
        outcome(page.client, "draw", ["", DEFAULT, False], session_hash=f"gone{number}")
    assert len(holder.session_data) <= 64
    start(page.client, "draw", ["", DEFAULT, False], session_hash="unread")
    wait_for(lambda: not sessions._unanswered("unread"))
    monkeypatch.setattr(sessions, "_idle_s", -1.0)
    sessions.sweep()
    tables = [holder.session_data, holder.time_last_used, queue.pending_messages_per_session,
              queue.pending_event_ids_session, sessions._last_used]  # fmt: skip
    for table in tables:
        assert not [name for name in table if str(name).startswith(("gone", "unread"))]
    assert not gradio.iterators
    assert not queue.event_ids_to_events


def test_too_many_sessions_return_503(page, monkeypatch):
    from serve.demo import sessions

    monkeypatch.setattr(sessions, "MAX_SESSIONS", len(page.guard._sessions) + 2)
    assert start(page.client, "draw", ["", DEFAULT, False], session_hash="first").status_code == 200
    assert start(page.client, "draw", ["", DEFAULT, False], session_hash="second").status_code == 200
    third = start(page.client, "draw", ["", DEFAULT, False], session_hash="third")
    assert third.status_code == 503
    assert "Try again in a minute" in third.json()["error"]
    assert start(page.client, "draw", ["", DEFAULT, False], session_hash="first").status_code == 200


def test_session_with_unfetched_results_returns_429(page, monkeypatch):
    sessions = page.guard._sessions
    queue = sessions._queue
    monkeypatch.setitem(queue.pending_event_ids_session, "greedy", {str(number) for number in range(16)})
    assert start(page.client, "draw", ["", DEFAULT, False], session_hash="greedy").status_code == 429
    assert start(page.client, "draw", ["", DEFAULT, False], session_hash="modest").status_code == 200


def test_gradio_queue_is_bounded(page):
    blocks = page.gradio.get_blocks()
    assert blocks._queue.max_size == 64
    assert not blocks.api_open
    for function in blocks.fns.values():
        if function.api_name not in ("batch", "inside"):  # limited by JobQueue
            assert function.concurrency_limit == "default" or 1 <= function.concurrency_limit <= 8, function.api_name


# Jobs


def run_job(jobs, kind, **request):
    async def run():
        return await jobs.run(kind, request, lambda done, total: None)

    return asyncio.run(run())


def batch_request(*paths, folder, **more):
    return {"paths": [str(path) for path in paths], "model": DEFAULT, "form": "csv", "folder": str(folder)} | more


@pytest.mark.slow
def test_job_result_equals_command_output(tmp_path):
    jobs = JobRunner()
    result = run_job(jobs, "batch", **batch_request(SEVEN, folder=tmp_path))
    command = CliRunner().invoke(serve.cli.main.cli, ["predict", str(SEVEN), "--format", "csv", "--device", "cpu"])
    assert (tmp_path / result["file"]).read_text() == command.stdout.replace(str(SEVEN), SEVEN.name)
    assert ">7</td>" in result["table"]
    (tmp_path / "x.zip").write_bytes(b"PK\x03\x04broken")
    with pytest.raises(ZooError, match=r"damaged.*zip"):
        run_job(jobs, "batch", **batch_request(tmp_path / "x.zip", folder=tmp_path))


@pytest.mark.slow
def test_job_is_stopped_at_deadline(tmp_path):
    """A pipe without a writer stands in for a file that blocks its reader for ever. (The guard accepts no pipes.)"""
    os.mkfifo(tmp_path / "pipe")
    began = time.monotonic()
    with pytest.raises(JobFailed, match="stopped after 2 s"):
        run_job(JobRunner(deadline_s=2.0), "batch", **batch_request(tmp_path / "pipe", folder=tmp_path))
    assert time.monotonic() - began < 20
    jobs = JobRunner()
    jobs.close()
    with pytest.raises(JobFailed):
        run_job(jobs, "batch", **batch_request(tmp_path / "pipe", folder=tmp_path))
    assert not jobs._processes


def test_job_memory_is_limited(tmp_path):
    """In a process of its own, as a job is; it allocates twice the limit."""
    code = "from serve.demo import job; job._set_limits(); b = bytearray(2 * job.MAX_MEMORY_BYTES)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "MemoryError" in done.stderr
    assert done.returncode == 1


@pytest.mark.slow
def test_job_exits_when_server_is_killed(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    code = (
        "import asyncio, sys; from serve.demo.jobs import JobRunner; "
        "asyncio.run(JobRunner().run('batch', eval(sys.argv[1]), print))"
    )
    request = batch_request(tmp_path / "pipe", folder=tmp_path)
    parent = subprocess.Popen([sys.executable, "-c", code, repr(request)])
    wait_for(lambda: children_of(parent.pid), 30)
    (job,) = children_of(parent.pid)
    wait_for(lambda: "Threads:\t1\n" not in Path(f"/proc/{job}/status").read_text(), 30)  # the job has begun
    parent.kill()
    parent.wait()
    wait_for(lambda: not Path(f"/proc/{job}").exists(), 30)


def test_batch_returns_rows_within_limits(tmp_path, monkeypatch):
    from serve.demo import batches

    monkeypatch.setattr(batches, "MAX_IMAGES", 3)
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for number in range(5):
            archive.write(SEVEN, f"{number}.png")
    result = batches.classify([str(tmp_path / "x.zip")], DEFAULT, "csv", str(tmp_path), lambda done, total: None)
    assert re.search("limits of the page are 3 images and 40 s.*zoo predict", result["table"])
    assert len((tmp_path / result["file"]).read_text().splitlines()) == 4
    monkeypatch.setattr(batches, "TIME_LIMIT_S", -1.0)
    result = batches.classify([str(tmp_path / "x.zip")], DEFAULT, "csv", str(tmp_path), lambda done, total: None)
    assert "3 images in -1 s." in result["table"]


async def in_turn(queue, *visitors):
    """Let visitors wait for slots, one after the other. Each holds its slot until its event in `done` is set.

    Returns the sessions that got a slot, in order; the events; and the tasks.
    """
    order, done = [], {session: asyncio.Event() for session, _ in visitors}

    async def visit(session, address):
        async with queue.slot(session, address):
            order.append(session)
            await done[session].wait()

    tasks = {}
    for session, address in visitors:
        tasks[session] = asyncio.create_task(visit(session, address))
        await asyncio.sleep(0)
    return order, done, tasks


def test_address_with_fewest_jobs_is_next():
    async def run():
        queue = JobQueue(max_running=2, max_waiting=8)
        visitors = [("a1", "a"), ("a2", "a"), ("a3", "a"), ("a4", "a"), ("b1", "b")]
        order, done, tasks = await in_turn(queue, *visitors)
        assert order == ["a1", "a2"]
        done["a1"].set()
        await tasks["a1"]
        await asyncio.sleep(0)
        assert order[2:] == ["b1"], "it arrived last, but has no running job"
        tasks["a3"].cancel()
        done["a2"].set()
        await tasks["a2"]
        await asyncio.sleep(0.01)
        assert order[3:] == ["a4"]
        for session in ("a4", "b1"):
            done[session].set()
            await tasks[session]
        async with queue.slot("a1", "a"), queue.slot("a2", "a"):
            pass  # all slots are free again

    asyncio.run(run())


def test_jobs_per_session_and_address_are_limited():
    async def run():
        queue = JobQueue(max_running=1, max_waiting=4)
        _, _, tasks = await in_turn(queue, ("a1", "a"), ("a2", "a"), ("a3", "a"), ("a4", "a"), ("a5", "a"))
        with pytest.raises(JobFailed, match="already have a job"):
            async with queue.slot("a1", "c"):
                pass
        more = asyncio.create_task(in_turn(queue, ("b1", "b")))
        await asyncio.sleep(0)
        with pytest.raises(JobFailed, match="jobs are already waiting"):
            async with queue.slot("c1", "c"):
                pass
        for task in [*tasks.values(), more]:
            task.cancel()
        await asyncio.gather(*tasks.values(), more, return_exceptions=True)

    asyncio.run(run())


def giant_tar():
    """1.5 KB that declare a member of 8 TB."""
    info = tarfile.TarInfo("x.png")
    info.size = 8 * 2**40
    return info.tobuf(tarfile.GNU_FORMAT) + bytes(1024 - 19)


@pytest.mark.slow
@pytest.mark.attack
def test_archive_bomb_does_not_block_other_visitors(server):
    with client_of(server) as attacker, client_of(server) as visitor:
        bomb = upload(attacker, giant_tar(), names=["x.tar"])[0]
        own = upload(visitor, SEVEN.read_bytes())[0]
        start(attacker, "batch", [[file(bomb)], DEFAULT, "csv"])
        began = time.monotonic()
        event, (table, _) = outcome(visitor, "batch", [[file(own)], DEFAULT, "csv"], session_hash="visitor")
        assert event == "complete"
        assert ">7</td>" in table
        assert time.monotonic() - began < 30, "half of the deadline of a job"


@pytest.mark.slow
@pytest.mark.attack
def test_flood_of_jobs_does_not_delay_drawing(server):
    """Of 60 inspections at once, of seconds each, two run, a few wait, and the others are rejected at once."""
    with client_of(server) as client:
        own = upload(client, SEVEN.read_bytes())[0]
        events = []
        running = before = len(jobs_of(server))  # of other tests
        for number in range(60):
            answer = start(client, "inside", [file(own), DEFAULT], session_hash=f"flood{number}")
            assert answer.status_code == 200
            events.append(answer.json()["event_id"])
        for _ in range(10):
            began = time.monotonic()
            event, _ = outcome(client, "draw", ["", DEFAULT, False])
            assert event == "complete"
            assert time.monotonic() - began < 5
            running = max(running, len(jobs_of(server)))
        assert 1 <= running - before <= 2
        rejected = client.get(f"/gradio_api/call/inside/{events[-1]}").text
        assert "jobs are already waiting. Try again in a minute." in rejected
        assert httpx.get(f"{server.url}/v2/health/ready").status_code == 200


def jobs_of(server):
    """The ids of the job processes of a server."""
    jobs = []
    for command in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if b"serve.demo.job" in command.read_bytes():
                parent = int((command.parent / "stat").read_text().rpartition(")")[2].split()[1])
                if parent in (server.process.pid, *server.children()):
                    jobs.append(int(command.parent.name))
        except OSError:
            continue
    return jobs


@pytest.mark.slow
@pytest.mark.attack
def test_flood_of_events_uses_bounded_memory(server):
    """8 clients for 5 seconds; each event is in a session of its own, and no result is fetched."""
    process = max([server.process.pid, *server.children()], key=resident_mb)
    seven = "data:image/png;base64," + b64encode(SEVEN.read_bytes()).decode()
    statuses = Counter()

    def flood(name, until):
        with client_of(server) as client:
            number = 0
            while time.monotonic() < until:
                number += 1
                answer = start(client, "draw", [seven, DEFAULT, False], session_hash=f"{name}x{number}")
                statuses[answer.status_code] += 1

    with client_of(server) as client:
        outcome(client, "draw", [seven, DEFAULT, False])
        before = resident_mb(process)
        threads = [threading.Thread(target=flood, args=(n, time.monotonic() + 5)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert set(statuses) <= {200, 429, 503}, statuses
        assert resident_mb(process) - before < 150
        row = httpx.post(f"{server.url}/models/{DEFAULT}/predict", content=SEVEN.read_bytes(), timeout=30)
        assert row.json()["label"] == "7"
        assert "Traceback" not in server.log


@pytest.mark.slow
def test_server_with_running_events_stops_at_once(tmp_path):
    """Regression: a thread of a running event kept the process alive until it was killed after 30 s."""
    with serving(tmp_path, "--models", "mnist14k*") as server, client_of(server) as client:
        own = upload(client, SEVEN.read_bytes())[0]
        start(client, "inside", [file(own), DEFAULT])
        for number in range(12):
            start(client, "compare", [file(own), "digit"], session_hash=f"s{number}")
        began = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - began < 15
        assert "Traceback" not in server.log


# Text


@pytest.mark.slow
def test_all_interfaces_have_the_same_default_model(server, page):
    library = zoo.load(DEFAULT_MODEL, device="cpu").card.name
    command = json.loads(
        CliRunner().invoke(serve.cli.main.cli, ["predict", str(SEVEN), "--format", "jsonl", "--device", "cpu"]).stdout
    )["model"]
    get = httpx.get(f"{server.url}/models/{DEFAULT_MODEL}").json()["name"]
    post = httpx.post(f"{server.url}/models/{DEFAULT_MODEL}/predict", content=SEVEN.read_bytes()).json()["model"]
    components = httpx.get(f"{server.url}/config").json()["components"]
    pickers = {one["props"]["value"] for one in components if one["type"] == "dropdown"}
    assert {library, command, get, post} | pickers == {DEFAULT}


def answered(row, card, name="x"):
    """HTML of the answer for a row of a 28x28 image."""
    pixels = np.zeros((28, 28, 1), np.uint8)
    item = SimpleNamespace(
        rows=[row], prepared=[SimpleNamespace(pixels=pixels)], decode_s=0.0, infer_s=0.0,
        runner=SimpleNamespace(model=SimpleNamespace(card=card)),
    )  # fmt: skip
    return answer_html(item, Named(name, SEVEN.read_bytes()))


def test_uncalibrated_model_claims_no_mistake_rate():
    row = Row("x", "m", "7", 0.4, True)
    unmeasured = replace(CARD, calibration=replace(CARD.calibration, temperature=1.0, unsure_below=0.5))
    assert re.search("Unsure.*Half of this model's mistakes", html.unescape(answered(row, CARD)))
    uncalibrated = answered(row, unmeasured)
    assert "The probability is below 50.00 %, the default threshold." in uncalibrated
    assert "mistakes" not in uncalibrated
    doubtful = answered(replace(row, probability=0.99), CARD)  # for example, a part of the ink was left out
    assert re.search("Unsure.*correction is doubtful", doubtful)
    assert "probability is below" not in doubtful
    assert "no calibration run" in text.card(unmeasured, 1)
    assert "no calibration run" not in text.card(CARD, 1)


@pytest.mark.parametrize(
    ("probability", "figure"),
    [(1.0, ">100<"), (0.99999, ">&gt;99<"), (0.995, ">&gt;99<"), (0.99, ">99<"), (0.5, ">50<")],
)
def test_bars_below_certainty_are_not_shown_as_100_percent(probability, figure):
    row = Row("x", "m", "7", probability, False, top_k=(Guess("7", probability), Guess("1", 1 - probability)))
    shown = answered(row, CARD)
    assert figure in shown
    assert ">0<" not in shown.replace('class="zoo-name">0<', "")


def test_answer_escapes_labels_corrections_and_errors():
    evil = "<img src=x onerror=alert(1)>"
    card = replace(CARD, labels=(evil, *CARD.labels[1:]))
    row = Row(evil, "m", evil, 0.9, False, top_k=(Guess(evil, 0.9),), corrections=(evil,))
    for shown in (answered(row, card), answered(Row(evil, "m", error=evil), card), answered(row, card, evil)):
        assert "<img src=x" not in shown


def test_uncalibrated_models_are_recognised():
    for card in zoo.list_models():
        calibrated = not card.calibration.source.startswith("no calibration run")
        assert text.is_calibrated(card.calibration) == calibrated, card.name


@pytest.mark.parametrize("name", ["batch", "compare", "inside"])
def test_empty_submit_returns_hint(page, name):
    data = {"batch": [None, DEFAULT, "csv"], "compare": [None, "digit"], "inside": [None, DEFAULT]}[name]
    event, result = outcome(page.client, name, data)
    assert event == "complete"
    assert re.fullmatch(r'<p class="zoo-hint" role="status">Choose [^<*]*</p>', result[0])


def test_file_names_are_escaped(page):
    own = upload(page.client, b"no image", names=["<img src=x onerror=alert(1)>.png"])[0]
    _, (table, _) = outcome(page.client, "batch", [[file(own)], DEFAULT, "csv"])
    assert "<img src=x" not in html.unescape(table)
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as archive:
        archive.writestr("<img src=x onerror=alert(1)>.png", b"no image")
    own = upload(page.client, inner.getvalue(), names=["x.zip"])[0]
    _, (table, _) = outcome(page.client, "batch", [[file(own)], DEFAULT, "csv"])
    assert "<img src=x" not in table
    assert "&lt;img src=x" in table


def join_queue(client, config, css_class, data, session):
    """Run the event of the component with that CSS class. Returns its output."""
    (component,) = [one["id"] for one in config["components"] if css_class in (one["props"].get("elem_classes") or [])][
        :1
    ]
    (function,) = [one["id"] for one in config["dependencies"] if component in one["inputs"]]
    return run_event(client, function, data, session)


def run_event(client, function, data, session):
    event = {"data": data, "fn_index": function, "session_hash": session}
    assert client.post("/gradio_api/queue/join", json=event).status_code == 200
    text = client.get(f"/gradio_api/queue/data?session_hash={session}").text
    messages = [json.loads(line.removeprefix("data: ")) for line in text.splitlines() if line]
    return next(one["output"] for one in messages if one["msg"] == "process_completed")


def test_model_that_was_removed_gets_the_same_message_after_a_refresh(page):
    """Regression: after new choices, Gradio's own check refused the model, with a traceback."""
    dependencies = {one["id"]: one for one in page.client.get("/config").json()["dependencies"]}
    refresh = next(number for number, one in dependencies.items() if one["inputs"] == one["outputs"] != [])
    show = next(number for number, one in dependencies.items() if len(one["inputs"]) == 6)
    drawing = "data:image/png;base64," + b64encode(SEVEN.read_bytes()).decode()

    def answer(session, model):
        data = ["draw", drawing, None, model, "crop", False]
        return run_event(page.client, show, data, session)["data"][0]

    assert run_event(page.client, refresh, [DEFAULT] * 3, "refreshed")["data"][0]["choices"]
    for session in ("refreshed", "new"):
        assert "The model mnist14k.gone is not on this server, or no longer." in answer(session, "mnist14k.gone")
        assert ">7<" in answer(session, DEFAULT)


@pytest.mark.slow
def test_examples_work_after_temporary_files_are_cleaned(tmp_path):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    with serving(tmp_path, "--models", "mnist14k.plus", TMPDIR=str(temporary)) as server, client_of(server) as client:
        config = client.get("/config").json()
        for step, cleaned in enumerate(("zoo-serve-*/files/*", "zoo-serve-*/files", "none")):
            for path in temporary.glob(cleaned):
                shutil.rmtree(path)
            output = join_queue(client, config, "zoo-examples", ["two.jpg", DEFAULT], f"example{step}")
            content = client.get(output["data"][0]["url"]).content
            assert content == (EXAMPLES / "two.jpg").read_bytes()
            _, (_, row) = outcome(client, "predict", [output["data"][0], DEFAULT, "crop", False])
            assert row["label"] == "2"
        output = join_queue(client, config, "zoo-examples", ["../../etc/passwd", DEFAULT], "other")
        assert re.search("no such example.*seven.png", output["error"])
