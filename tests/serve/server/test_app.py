"""The HTTP application, in this process: the response of each route, and errors."""

import asyncio
import json
import re
import time
import tracemalloc
from base64 import b64encode, encodebytes
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from starlette.testclient import TestClient

import serve.cli.main
from serve.server.app import build
from serve.server.log import LOG
from serve.service.asgi import HTTPError, status_of
from serve.service.pool import Pool, QueueFull, Runner
from serve.service.settings import Settings
from tests.support.paths import DEFAULT, REPOSITORY, VERSION
from zoo.errors import BadInput, ModelNotFound, WrongUsage, ZooError

SEVEN = REPOSITORY / "examples" / "seven.png"
PNG = {"Content-Type": "image/png"}


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    settings = Settings(
        demo=False, access_log=False, max_body_mb=1, folder=str(tmp_path_factory.mktemp("serve")), device="cpu"
    )
    with TestClient(build(settings), base_url="http://127.0.0.1") as client:
        yield client


@pytest.fixture(scope="module")
def locked(tmp_path_factory):
    settings = Settings(
        demo=False, access_log=False, models="mnist14k*", key="sésame", folder=str(tmp_path_factory.mktemp("serve"))
    )
    with TestClient(build(settings), base_url="http://127.0.0.1") as client:
        yield client


def command_row(*arguments):
    result = CliRunner().invoke(serve.cli.main.cli, ["predict", *arguments, "--format", "jsonl", "--device", "cpu"])
    return json.loads(result.stdout)


def post(client, path, **options):
    response = client.post(path, **options)
    return response.status_code, response.json()


def test_predict_returns_row_of_command(client):
    status, row = post(client, "/models/mnist14k/predict?top_k=2", content=SEVEN.read_bytes(), headers=PNG)
    expected = command_row(str(SEVEN), "--model", "mnist14k", "--top-k", "2")
    assert status == 200
    assert row == expected | {"input": "-"}
    assert len(row["top_k"]) == 2


def test_a_number_is_read_unless_single(client):
    import cv2

    from tests.zoo.test_reading import picture

    content = cv2.imencode(".png", picture("1984")[:, :, ::-1])[1].tobytes()
    status, row = post(client, "/models/mnist14k/predict", content=content, headers=PNG)
    assert status == 200
    assert row["label"] == "1984"
    assert [digit["label"] for digit in row["digits"]] == list("1984")
    status, row = post(client, "/models/mnist14k/predict?single=true", content=content, headers=PNG)
    assert status == 400
    assert "seems to contain 4 digits" in row["error"]


@pytest.mark.parametrize("charset", ["utf-7", "utf-16-le", "unicode_escape", "punycode", "no-such"])
def test_form_charset_never_causes_500(client, charset):
    """Some charsets decode a file name to surrogates, which no JSON can hold."""
    head = b'--b\r\nContent-Disposition: form-data; name="file"; filename="+2AA-\\ud800\xff.png"\r\n\r\n'
    kind = {"Content-Type": f"multipart/form-data; boundary=b; charset={charset}"}
    form = head + SEVEN.read_bytes() + b"\r\n--b--\r\n"
    status, answer = post(client, "/models/mnist14k/predict", content=form, headers=kind)
    assert (status == 200 and answer[0]["label"] == "7") or (status == 422 and answer["error"]), answer


@pytest.mark.parametrize("charset", ["punycode", "idna", "utf-7", "rot13", "hex"])
def test_form_ignores_slow_codecs(charset):
    """Python's punycode decoder takes 14 s for 500 KB."""
    from starlette.datastructures import Headers

    from serve.service.asgi import FormParser

    async def parts():
        yield b'--BB\r\nContent-Disposition: form-data; name="q-"\r\n\r\n' + b"x" * 250_000 + b"-" + b"a" * 250_000
        yield b"\r\n--BB--\r\n"

    headers = Headers({"content-type": f"multipart/form-data; boundary=BB; charset={charset}"})
    started = time.process_time()
    form = asyncio.run(FormParser(headers, parts()).parse_complete())
    assert time.process_time() - started < 1
    assert len(form["q-"]) == 500_001


def test_predict_photograph_with_fit(client):
    from skimage import data

    folder = Path(data.__file__).parent
    content = (folder / "chelsea.png").read_bytes()
    for fit in ("crop", "whole"):
        _, row = post(client, f"/models/resnet8/predict?fit={fit}", content=content, headers=PNG)
        expected = command_row(str(folder / "chelsea.png"), "--model", "resnet8", "--fit", fit)
        assert row == expected | {"input": "-"}


def test_form_returns_row_per_file(client):
    files = [
        ("file", ("a.png", SEVEN.read_bytes())),
        ("x", ("b.txt", b"no image")),
        ("file", ("c é.png", SEVEN.read_bytes())),
    ]
    status, rows = post(client, "/models/mnist14k/predict", files=files, data={"note": "a field, not a file"})
    assert status == 200
    assert [(row["input"], row["label"]) for row in rows] == [("a.png", "7"), ("b.txt", None), ("c é.png", "7")]
    assert re.search("b.txt is not a supported image.*PNG, JPEG", rows[1]["error"])


FORM = {"Content-Type": "multipart/form-data; boundary=b"}


def form(*heads, before=b""):
    parts = [b"--b\r\nContent-Disposition: form-data" + head + b"\r\n\r\n" + SEVEN.read_bytes() for head in heads]
    return before + b"\r\n".join(parts) + b"\r\n--b--\r\n"


PREAMBLES = [b"", b"\r\n", b"This is a form.\r\n", b"--bb\r\n--\n", b"x" * 100_000 + b"\r\n", b"\n\n"]


@pytest.mark.parametrize("preamble", PREAMBLES)
def test_form_accepts_preamble(client, preamble):
    status, rows = post(
        client, "/models/mnist14k/predict", content=form(b"; name=a; filename=a", before=preamble), headers=FORM
    )
    assert (status, [row["label"] for row in rows]) == (200, ["7"]), rows


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (b"; name=a; filename*=UTF-8''%e2%82%ac%20rates.png", "€ rates.png"),
        (b"; name=a; FileName*=iso-8859-1'en'%A3.png", "£.png"),
        (b"; name=a; filename*=utf-8''a%22;%0d%0a\\b", "a'"),
        (b"; name=a; filename=plain.png; filename*=UTF-8''other.png", "plain.png"),
        (b"; name=a; filename*=UTF-8''other.png; filename=plain.png", "plain.png"),
        (b"; name=a; filename*=no-such''%ff.png", "\ufffd.png"),
        (b"; name=a; filename*=UTF-8''", "-"),
    ],
)
def test_form_decodes_extended_filenames(client, head, name):
    status, rows = post(client, "/models/mnist14k/predict", content=form(head), headers=FORM)
    assert (status, [row["input"] for row in rows]) == (200, [name]), rows


def test_truncated_form_returns_422(client):
    """Returning rows for the complete files would hide that one is missing."""
    whole = form(b"; name=a; filename=a", b"; name=b; filename=b")
    for length in (len(whole) - 5, len(whole) - 30, len(whole) // 2 + 10, len(whole) // 2 - 40, 40, 3):
        status, answer = post(client, "/models/mnist14k/predict", content=whole[:length], headers=FORM)
        assert (status, "form" in answer["error"]) == (422, True), (length, answer)
    for end in (b"--", b"", b"\r\nThis was a form."):
        content = whole.removesuffix(b"--\r\n") + b"--" + end.removeprefix(b"--")
        assert len(post(client, "/models/mnist14k/predict", content=content, headers=FORM)[1]) == 2


def test_as_parameter_selects_object_or_list(client):
    one, two = [("file", ("a.png", SEVEN.read_bytes()))], [("file", (name, SEVEN.read_bytes())) for name in "ab"]
    path = "/models/mnist14k/predict"
    assert post(client, path, files=one)[1][0]["label"] == "7"
    assert post(client, path + "?as=list", files=one)[1][0]["label"] == "7"
    assert post(client, path + "?as=object", files=one)[1]["label"] == "7"
    assert post(client, path + "?as=object", content=SEVEN.read_bytes(), headers=PNG)[1]["label"] == "7"
    assert post(client, path + "?as=list", content=SEVEN.read_bytes(), headers=PNG)[1][0]["label"] == "7"
    status, answer = post(client, path + "?as=object", files=two)
    assert status == 422
    assert re.search("as=object.* has 2.*as=list", answer["error"])
    assert post(client, path + "?as=object", files=[("file", ("a.png", b"x"))])[0] == 400
    schema = client.get("/openapi.json").json()["paths"]["/models/{name}/predict"]["post"]
    assert {("as", "query"), ("single", "query")} <= {(one["name"], one["in"]) for one in schema["parameters"]}


def test_content_encoding_identity_is_accepted(client):
    headers = PNG | {"Content-Encoding": "Identity"}
    assert post(client, "/models/mnist14k/predict", content=SEVEN.read_bytes(), headers=headers)[1]["label"] == "7"
    assert infer(client, {"inputs": [GOOD]}, headers={"Content-Encoding": "identity"})[0] == 200
    assert infer(client, {"inputs": [GOOD]}, headers={"Content-Encoding": "gzip"})[0] == 415


BAD_REQUESTS = {
    "not an image": (400, "predict", {"content": b"text", "headers": PNG}, "is not a supported image"),
    "empty": (400, "predict", {"content": b"", "headers": PNG}, "is empty"),
    "other kind": (
        415,
        "predict",
        {"content": b"{}", "headers": {"Content-Type": "application/json"}},
        "--data-binary",
    ),
    "compressed": (
        415,
        "predict",
        {"content": b"x", "headers": {**PNG, "Content-Encoding": "gzip"}},
        "Content-Encoding",
    ),
    "too large": (413, "predict", {"content": bytes(1_000_001), "headers": PNG}, "larger than 1 MB"),
    "no boundary": (422, "predict", {"content": b"x", "headers": {"Content-Type": "multipart/form-data"}}, "form"),
    "no files": (422, "predict", {"files": [("f", (None, b"field"))]}, "has no files"),
    "top_k 0": (422, "predict?top_k=0", {"content": b"x", "headers": PNG}, "at least 1, not '0'"),
    "top_k word": (422, "predict?top_k=two", {"content": b"x", "headers": PNG}, "at least 1, not 'two'"),
    "top_k of many digits": (422, f"predict?top_k={'1' * 5000}", {"content": b"x", "headers": PNG}, "at least 1, not"),
    "as": (422, "predict?as=rows", {"content": b"x", "headers": PNG}, "one of object, list, not 'rows'"),
    "fit": (422, "predict?fit=tight", {"content": b"x", "headers": PNG}, "one of crop, whole, not 'tight'"),
    "single": (422, "predict?single=1", {"content": b"x", "headers": PNG}, "must be true or false, not '1'"),
    "parameter": (422, "predict?topk=1", {"content": b"x", "headers": PNG}, "no parameter 'topk'"),
}


@pytest.mark.parametrize("case", BAD_REQUESTS)
def test_bad_request_returns_status_and_message(client, case):
    expected_status, path, options, message = BAD_REQUESTS[case]
    status, answer = post(client, f"/models/mnist14k/{path}", **options)
    assert status == expected_status
    assert message in answer["error"]
    assert answer["error"].endswith((".", "@FILE."))


def test_body_without_length_is_rejected_while_it_arrives(client):
    """Of 100 MB, only little more than the limit of 1 MB is read. (TestClient would read all of it first.)"""
    sent, messages = 0, []

    async def receive():
        nonlocal sent
        sent += 100_000
        return {"type": "http.request", "body": bytes(100_000), "more_body": sent < 100_000_000}

    async def send(message):
        messages.append(message)

    scope = {"type": "http", "http_version": "1.1", "method": "POST", "path": "/models/mnist14k/predict",
             "query_string": b"", "headers": [(b"host", b"127.0.0.1"), (b"content-type", b"image/png")]}  # fmt: skip
    asyncio.run(client.app(scope, receive, send))
    assert messages[0]["status"] == 413
    assert 1_000_000 < sent <= 1_200_000


def test_unknown_model_method_and_path(client):
    assert post(client, "/models/mnst14k/predict")[1]["error"].count("mnst14k")
    assert client.get("/models/mnst14k").status_code == 404
    assert client.get("/v2/models/mnst14k").json()["error"].count("mnst14k")
    answer = client.get("/models/mnist14k/predict")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    assert re.search("Not found.*GET /nowhere.*/docs", client.get("/nowhere").json()["error"])


def test_models_returns_cards(client):
    import zoo

    cards = client.get("/models").json()
    assert [card["name"] for card in cards] == [card.name for card in zoo.list_models()]
    card = client.get("/models/mnist14k").json()
    assert card["name"] == DEFAULT
    assert card["parameters"]["keras"] == 14624


def test_every_response_has_request_id_and_timing(client):
    predicted = client.post("/models/mnist14k/predict", content=SEVEN.read_bytes(), headers=PNG)
    names = [part.split(";")[0].strip() for part in predicted.headers["server-timing"].split(",")]
    assert names == ["decode", "queue", "infer", "total"]
    response = client.get("/models", headers={"X-Request-ID": "from-the-client-1"})
    assert response.headers["x-request-id"] == "from-the-client-1"
    assert "total;dur=" in response.headers["server-timing"]
    ids = {client.get("/v2", headers={"X-Request-ID": bad}).headers["x-request-id"] for bad in ("", "a b", "x" * 200)}
    assert len(ids) == 3
    assert not ids & {"", "a b", "x" * 200}


def test_openapi_describes_all_routes(client):
    schema = client.get("/openapi.json").json()
    assert {"/models/{name}/predict", "/v2/models/{name}/infer", "/models", "/metrics"} <= set(schema["paths"])
    page = client.get("/docs").text
    assert "cdn" not in page


def test_metrics_count_requests_by_outcome_and_stage(client):
    def value(name):
        lines = [line for line in client.get("/metrics").text.splitlines() if line.startswith(name + " ")]
        return float(lines[0].split()[1])

    ok, bad = (
        'zoo_requests_total{outcome="ok",route="predict"}',
        'zoo_requests_total{outcome="bad_input",route="predict"}',
    )
    decoded = 'zoo_stage_seconds_count{stage="decode"}'
    before = value(ok), value(bad), value(decoded)
    post(client, "/models/mnist14k/predict", content=SEVEN.read_bytes(), headers=PNG)
    post(client, "/models/mnist14k/predict", content=b"no", headers=PNG)
    assert (value(ok), value(bad), value(decoded)) == (before[0] + 1, before[1] + 1, before[2] + 2)
    assert value("zoo_in_flight") == 1  # the scrape itself
    assert value("zoo_queue_length") == 0
    assert value('zoo_batch_rows_bucket{le="+Inf"}') >= 1


def test_metrics_count_unexpected_errors(client, monkeypatch):
    from zoo.images import prepare

    def broken(*_):
        raise KeyError("a fault")

    def count():
        text = client.get("/metrics").text
        return float(re.search(r"^zoo_unexpected_errors_total (\S+)$", text, re.M)[1])

    before = count()
    monkeypatch.setitem(prepare.CORRECTORS, "digit", broken)
    status, answer = post(client, "/models/mnist14k/predict", content=SEVEN.read_bytes())
    assert (status, "unexpected KeyError" in answer["error"]) == (400, True)
    assert count() == before + 1


@pytest.fixture
def image_counts(client):
    def count():
        lines = client.get("/metrics").text.splitlines()
        start = f'zoo_images_total{{model="{DEFAULT}",outcome="'
        return {line.split('"')[3]: float(line.split()[-1]) for line in lines if line.startswith(start)}

    before = count()
    return lambda: {word: value - before[word] for word, value in count().items() if value != before[word]}


def test_metrics_count_failed_inference(client, image_counts):
    tensor = {"name": "encoded", "datatype": "BYTES", "shape": [2], "data": [b64encode(b"no image").decode()] * 2}
    infer(client, {"inputs": [tensor]})
    assert image_counts() == {"failed": 2}


def test_metrics_count_unanswered_images(client, image_counts, monkeypatch):
    async def reject(pool, item):
        raise QueueFull("Full.")

    monkeypatch.setattr(Pool, "process", reject)
    post(client, "/models/mnist14k/predict", content=SEVEN.read_bytes(), headers=PNG)
    assert image_counts() == {"unanswered": 1}


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer sésame".encode()},
        {"X-API-Key": "sésame".encode()},
        {"Authorization": b"Basic " + b64encode("me:sésame".encode())},
    ],
)
def test_valid_key_is_accepted(locked, headers):
    assert locked.get("/models", headers=headers).status_code == 200


@pytest.mark.parametrize(
    "headers", [{}, {"Authorization": "Bearer wrong"}, {"X-API-Key": ""}, {"Authorization": "Basic %"}]
)
def test_without_key_only_health_is_public(locked, headers):
    answer = locked.post("/models/mnist14k/predict", content=b"x", headers=headers)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Basic")
    assert locked.get("/metrics", headers=headers).status_code == 401
    assert locked.get("/v2/health/live", headers=headers).json() == {"live": True}
    assert locked.get("/v2/health/ready", headers=headers).json() == {"ready": True}


def app(folder, **options):
    return TestClient(
        build(Settings(demo=False, access_log=False, models="mnist14k*", folder=str(folder), **options)), OWN
    )


OWN = "http://127.0.0.1"


@pytest.fixture(scope="module")
def sites(tmp_path_factory):
    """A server with two allowed host names, and two allowed CORS origins."""
    settings = {"allowed_hosts": ("zoo.example.org", "*.example.net"), "cors_origins": ("https://App.example", "null")}
    with app(tmp_path_factory.mktemp("serve"), host="0.0.0.0", key="k", **settings) as client:
        client.headers["X-API-Key"] = "k"
        yield client


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "127.0.0.1:8000", "localhost", "LOCALHOST:1", "localhost.", "[::1]", "[::1]:8000", "192.168.1.7",
     "10.0.0.1:80", "[fe80::1]:8000", "zoo.example.org", "ZOO.example.org.:8000", "a.example.net", "b.a.example.net"],
)  # fmt: skip
def test_addresses_and_allowed_hosts_are_accepted(sites, host):
    assert sites.get("/models", headers={"Host": host}).status_code == 200


FOREIGN_HOSTS = [
    "evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.nip.io", "example.net", "xexample.net",
    "zoo.example.org.evil.example", ":8000", "127.0.0.1@evil.example", "evil.example/127.0.0.1", "1.2.3", "a b",
    "localhost:99999999", "*", "[::1", "::1", "\xff",
]  # fmt: skip


@pytest.mark.parametrize("host", FOREIGN_HOSTS)
def test_foreign_host_returns_421(sites, client, host):
    """With DNS rebinding, the Host header has the attacker's name."""
    for app in (sites, client):
        for method, path in [("GET", "/models"), ("POST", "/models/mnist14k/predict"), ("GET", "/docs")]:
            answer = app.request(method, path, headers={"Host": host.encode("latin-1"), **PNG}, content=b"x")
            assert answer.status_code == 421, (path, answer.text)
            assert "--allowed-host" in answer.json()["error"]
        assert app.get("/v2/health/live", headers={"Host": host.encode("latin-1")}).status_code == 200


def test_allowed_host_wildcard_accepts_any_host(tmp_path):
    with app(tmp_path, allowed_hosts=("*",)) as client:
        assert client.get("/models", headers={"Host": "any.example"}).status_code == 200


def test_cross_origin_post_returns_403(sites, client):
    """Any page can send a form or text/plain without a preflight. A client without Origin is not a page."""

    def status(app, origin, host="127.0.0.1:8000", method="POST"):
        headers = {"Host": host, "Origin": origin, "Content-Type": "image/png"}
        return app.request(method, "/models/mnist14k/predict", content=SEVEN.read_bytes(), headers=headers).status_code

    for origin in ("http://evil.example", "http://127.0.0.1:3000", "http://localhost:8000", "http://10.0.0.1:8000",
                   "http://127.0.0.1:8000.evil.example", "file://", "null", "", "http://127.0.0.1", "garbage",
                   "https://127.0.0.1", "moz-extension://1234"):  # fmt: skip
        assert status(client, origin) == 403, origin
        assert status(client, origin, method="DELETE") == 403, origin
        assert status(client, origin, method="GET") == 405, origin
    assert status(client, "http://127.0.0.1:8000") == 200
    assert status(client, "http://127.0.0.1", "127.0.0.1:80") == 200
    assert status(client, "https://127.0.0.1", "127.0.0.1:443") == 200
    for origin in (
        "https://app.example",
        "https://App.example",
        "null",
        "https://zoo.example.org",
        "http://a.example.net",
    ):
        assert status(sites, origin) == 200, origin
    for origin in ("http://app.example", "https://app.example:444", "https://evil.example"):
        assert status(sites, origin) == 403, origin


def test_no_cors_headers_by_default(client):
    for method, path in [("GET", "/models"), ("OPTIONS", "/models/mnist14k/predict"), ("GET", "/nowhere")]:
        answer = client.request(
            method, path, headers={"Origin": "https://app.example", "Access-Control-Request-Method": "POST"}
        )
        assert not [name for name in answer.headers if name.startswith("access-control-")]
        assert answer.status_code != 204


def test_cors_origins_may_read_every_response(sites):
    page = {"Origin": "https://app.example"}
    for method, path, headers, status in [
        ("GET", "/models", {}, 200),
        ("GET", "/nowhere", {}, 404),
        ("POST", "/models/mnist14k/predict", PNG, 400),
        ("GET", "/models", {"X-API-Key": "wrong"}, 401),
        ("GET", "/models", {"Host": "evil.example"}, 421),
        ("GET", "/v2/health/ready", {}, 200),
        ("GET", "/models/mnist14k/predict", {}, 405),
    ]:
        answer = sites.request(method, path, headers=page | headers, content=b"x")
        assert answer.status_code == status
        assert answer.headers["access-control-allow-origin"] == "https://app.example"
        assert "X-Request-ID" in answer.headers["access-control-expose-headers"]
        assert "Origin" in answer.headers["vary"]
    other = sites.get("/models", headers={"Origin": "https://other.example"})
    assert "access-control-allow-origin" not in other.headers
    assert "Origin" in other.headers["vary"]
    assert "Origin" in sites.get("/models").headers["vary"]


def test_preflight_requests_are_answered(sites, tmp_path):
    """A preflight request carries no key."""
    preflight = {
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type",
        "X-API-Key": "",
    }
    for path in ("/models/mnist14k/predict", "/v2/models/mnist14k/infer", "/models"):
        answer = sites.options(path, headers=preflight | {"Origin": "https://app.example"})
        assert (answer.status_code, answer.content) == (204, b"")
        assert answer.headers["access-control-allow-origin"] == "https://app.example"
        assert "POST" in answer.headers["access-control-allow-methods"]
        assert answer.headers["access-control-allow-headers"] == "authorization,content-type"
        assert answer.headers["access-control-max-age"] == "600"
        assert "Origin" in answer.headers["vary"]
        assert sites.options(path, headers=preflight | {"Origin": "https://other.example"}).status_code == 403
    with app(tmp_path, cors_origins=("*",)) as anybody:
        for answer in (
            anybody.options("/models", headers=preflight | {"Origin": "https://other.example"}),
            anybody.post("/models/mnist14k/predict", content=SEVEN.read_bytes(), headers=PNG),
            anybody.get("/nowhere", headers={"Origin": "null"}),
        ):
            assert answer.headers["access-control-allow-origin"] == "*"


@pytest.mark.parametrize(
    "options",
    [{"allowed_hosts": (value,)} for value in ("http://a", "a/b", "a:80", "", "a b", "a.*", "*a")]
    + [{"cors_origins": (value,)} for value in ("a.example", "https://", "https://a/b", "", "https://*.a")],
)
def test_invalid_hosts_and_origins_raise_wrong_usage(tmp_path, options):
    with pytest.raises(WrongUsage, match=r"--(allowed-host|cors-origin) must be"):
        build(Settings(demo=False, access_log=False, models="mnist14k*", folder=str(tmp_path), **options))


@pytest.mark.parametrize("path", ["/models", "/models/mnist14k", "/v2", "/v2/models/mnist14k", "/v2/health/live",
                                  "/v2/health/ready", "/v2/models/mnist14k/ready", "/metrics", "/docs",
                                  "/openapi.json"])  # fmt: skip
def test_routes_accept_head_and_trailing_slash(client, path):
    get, head, slash = client.get(path), client.head(path), client.get(path + "/", follow_redirects=False)
    assert (get.status_code, head.status_code, slash.status_code) == (200, 200, 200)
    assert head.content == b""
    assert head.headers["content-type"] == get.headers["content-type"]
    if path != "/metrics":
        assert slash.content == get.content
        assert head.headers["content-length"] == str(len(get.content))


def test_classify_routes_accept_trailing_slash(client):
    assert post(client, "/models/mnist14k/predict/", content=SEVEN.read_bytes(), headers=PNG)[1]["label"] == "7"
    assert infer(client, {"inputs": [GOOD]}, "/v2/models/mnist14k/infer/")[0] == 200


def infer(client, request, path="/v2/models/mnist14k/infer", **options):
    answer = client.post(path, **({"json": request} | options))
    return answer.status_code, answer.json()


def test_infer_json_tensor(client, model):
    images = np.random.default_rng(0).integers(0, 256, (3, 28, 28, 1), np.uint8)
    for data in (images.ravel().tolist(), images.tolist()):
        tensor = {"name": "image", "datatype": "UINT8", "shape": [3, 28, 28, 1], "data": data}
        status, answer = infer(client, {"id": "mine", "inputs": [tensor]})
        assert status == 200
        assert (answer["id"], answer["model_name"], answer["model_version"]) == ("mine", DEFAULT, VERSION)
        outputs = {output["name"]: output for output in answer["outputs"]}
        scores = model.run(images)
        assert np.array_equal(np.float32(outputs["logits"]["data"]).reshape(3, 10), scores.logits)
        assert outputs["probabilities"]["shape"] == [3, 10]
        assert outputs["label"]["data"] == [str(label) for label in scores.logits.argmax(1)]


def test_infer_base64_image_files(client, model):
    tensor = {"name": "encoded", "datatype": "BYTES", "shape": [1], "data": [b64encode(SEVEN.read_bytes()).decode()]}
    status, answer = infer(
        client, {"inputs": [tensor], "outputs": [{"name": "label"}]}, f"/v2/models/mnist14k/versions/{VERSION}/infer"
    )
    assert (status, answer["outputs"]) == (200, [{"name": "label", "datatype": "BYTES", "shape": [1], "data": ["7"]}])
    tensor["data"] = [b64encode(b"no image").decode()]
    status, answer = infer(client, {"inputs": [tensor]})
    assert status == 400
    assert answer["error"].startswith("Image 1 of 1 is not a supported image")


def test_infer_base64_with_line_breaks(client):
    text = "\r\n ".join(encodebytes(SEVEN.read_bytes()).decode().splitlines()) + "\n"
    tensor = {"name": "encoded", "datatype": "BYTES", "shape": [1], "data": [text]}
    status, answer = infer(client, {"inputs": [tensor], "outputs": [{"name": "label"}]})
    assert (status, answer["outputs"][0]["data"]) == (200, ["7"])


def test_infer_accepts_null_for_optional_fields(client):
    request = {"id": None, "parameters": None, "outputs": None, "inputs": [GOOD | {"parameters": None}]}
    status, answer = infer(client, request)
    assert status == 200
    assert "id" not in answer
    request["outputs"] = [{"name": "label", "parameters": None}]
    assert infer(client, request)[0] == 200


def test_infer_json_over_4_mb_returns_413(tmp_path):
    """JSON takes up to thirty times its size in memory as objects."""
    tensor = {"name": "encoded", "datatype": "BYTES", "shape": [1], "data": [b64encode(bytes(2_900_000)).decode()]}
    large = tensor | {"data": [b64encode(bytes(3_100_000)).decode()]}
    head = json.dumps({"inputs": [tensor | {"data": None, "parameters": {"binary_data_size": 10_000_004}}]}).encode()
    with app(tmp_path) as client:
        status, answer = infer(client, {"inputs": [tensor]})
        assert (status, "Image 1 of 1" in answer["error"]) == (400, True), "accepted, but not an image"
        for options in ({"json": {"inputs": [large]}},
                        {"content": json.dumps({"inputs": [large]}).encode(), "json": None,
                         "headers": {"Inference-Header-Content-Length": str(4_133_000)}}):  # fmt: skip
            status, answer = infer(client, None, **options)
            assert status == 413
            assert re.search("4 MB of JSON.*binary_data_size", answer["error"])
        content = head + (10_000_000).to_bytes(4, "little") + bytes(10_000_000)
        length = {"Inference-Header-Content-Length": str(len(head))}
        status, answer = infer(client, None, json=None, content=content, headers=length)
        assert (status, "Image 1 of 1" in answer["error"]) == (400, True), "the limit is for the JSON only"


def test_infer_nested_json_takes_bounded_memory(client):
    """240,000 lists in 1 MB of JSON take less than 60 MB."""
    content = json.dumps({"inputs": [GOOD | {"data": []}]}).encode().removesuffix(b"]}]}") + b"[0]," * 240_000
    tracemalloc.start()
    try:
        assert infer(client, None, content=content + b"0]}]}", json=None)[0] == 422
        assert tracemalloc.get_traced_memory()[1] < 60e6
    finally:
        tracemalloc.stop()


GOOD = {"name": "image", "datatype": "UINT8", "shape": [1, 28, 28, 1], "data": [0] * 784}
WRONG_REQUESTS = {
    "no inputs": ({}, "takes one input"),
    "two": ({"inputs": [GOOD, GOOD]}, "takes one input"),
    "name": ({"inputs": [GOOD | {"name": "x"}]}, "no input 'x'"),
    "datatype": ({"inputs": [GOOD | {"datatype": "FP32"}]}, "must be UINT8, not 'FP32'"),
    "shape": ({"inputs": [GOOD | {"shape": [1, 32, 32, 3]}]}, "shape [N, 28, 28, 1], not [1, 32, 32, 3]"),
    "no rows": ({"inputs": [GOOD | {"shape": [0, 28, 28, 1]}]}, "positive integers"),
    "shape of words": ({"inputs": [GOOD | {"shape": ["a"]}]}, "positive integers"),
    "values": ({"inputs": [GOOD | {"data": [0] * 783}]}, "has 784 values, but 'image' has 783"),
    "range": ({"inputs": [GOOD | {"data": [256] * 784}]}, "from 0 to 255"),
    "floats": ({"inputs": [GOOD | {"data": [0.5] * 784}]}, "from 0 to 255"),
    "ragged": ({"inputs": [GOOD | {"data": [[1], [1, 2]]}]}, "nested according to its shape"),
    "deeper": ({"inputs": [GOOD | {"data": [[[[[0]]]] * 784]}]}, "nested according to its shape"),
    "words": ({"inputs": [GOOD | {"data": ["0"] * 784}]}, "from 0 to 255"),
    "truths": ({"inputs": [GOOD | {"data": [True] * 784}]}, "from 0 to 255"),
    "below": ({"inputs": [GOOD | {"data": [-1] * 784}]}, "from 0 to 255"),
    "name that is a list": ({"inputs": [GOOD | {"name": ["image"]}]}, "no input ['image']"),
    "no data": ({"inputs": [{**GOOD, "data": None}]}, "neither 'data' nor"),
    "output": ({"inputs": [GOOD], "outputs": [{"name": "boxes"}]}, "no output 'boxes'"),
    "output that is a list": ({"inputs": [GOOD], "outputs": [{"name": []}]}, "no output []"),
    "output twice": ({"inputs": [GOOD], "outputs": [{"name": "logits"}] * 2}, "listed twice"),
    "files": (
        {"inputs": [{"name": "encoded", "datatype": "BYTES", "shape": [1001], "data": [""] * 1001}]},
        "1000 image files per request, not 1001",
    ),
    "outputs": ({"inputs": [GOOD], "outputs": "label"}, "'outputs' must be a list"),
    "parameters": ({"inputs": [GOOD | {"parameters": 3}]}, "'parameters' must be an object"),
    "classification": (
        {"inputs": [GOOD], "outputs": [{"name": "label", "parameters": {"classification": 3}}]},
        "not supported",
    ),
    "binary that is not there": ({"inputs": [GOOD | {"parameters": {"binary_data_size": 784}}]}, "0 bytes follow"),
    "base64": ({"inputs": [{"name": "encoded", "datatype": "BYTES", "shape": [1], "data": ["%"]}]}, "base64"),
    "count": ({"inputs": [{"name": "encoded", "datatype": "BYTES", "shape": [2], "data": ["aa=="]}]}, "but 1 items"),
    "id": ({"id": 3, "inputs": [GOOD]}, "'id' must be a string"),
    "a list": ([1], "not a JSON object"),
}


@pytest.mark.parametrize("case", WRONG_REQUESTS)
def test_wrong_infer_request_returns_422(client, case):
    request, message = WRONG_REQUESTS[case]
    status, answer = infer(client, request)
    assert status == 422
    assert message in answer["error"]
    assert set(answer) == {"error"}


def test_malformed_infer_request_returns_400_or_422(client):
    assert infer(client, None, content=b"{", json=None)[0] == 400
    for declared in ("99", "-1", "x", "9" * 5000):
        length = {"Inference-Header-Content-Length": declared}
        assert infer(client, None, content=b"{}", json=None, headers=length)[0] == 422
    status, answer = infer(client, {"inputs": [GOOD]}, "/v2/models/mnist14k/versions/7/infer")
    assert status == 404
    assert re.search(f"{DEFAULT}.*'7'.*'{VERSION}'", answer["error"])


def test_infer_checks_values_before_allocating(client):
    """Each element of a NumPy array of strings takes as much memory as the longest string."""
    tensor = GOOD | {"data": ["x" * 500_000, *["y"] * 783]}
    tracemalloc.start()
    try:
        assert infer(client, {"inputs": [tensor]})[0] == 422
        assert tracemalloc.get_traced_memory()[1] < 50e6
    finally:
        tracemalloc.stop()


def test_infer_stops_reading_items_after_shape(client):
    head = json.dumps({"inputs": [{"name": "encoded", "datatype": "BYTES", "shape": [2],
                                   "parameters": {"binary_data_size": 400_000}}]}).encode()  # fmt: skip
    status, answer = infer(client, None, content=head + bytes(400_000), json=None,
                           headers={"Inference-Header-Content-Length": str(len(head))})  # fmt: skip
    assert status == 422
    assert re.search(r"shape \[2\].* 3 or more", answer["error"])


def test_unexpected_errors_are_logged_once_a_minute(client, monkeypatch, capsys):
    monkeypatch.setattr("serve.server.predict_route.Named", None)
    answers = [client.post("/models/mnist14k/predict", content=b"x", headers=PNG) for _ in range(50)]
    assert {answer.status_code for answer in answers} == {500}
    assert all(answer.headers["x-request-id"] in answer.json()["error"] for answer in answers)
    LOG.flush()
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("{")]
    assert len(lines) == 1
    assert lines[0].startswith(f"zoo: request {answers[0].headers['x-request-id']} failed: TypeError in predict (")
    assert "predict_route.py" in lines[0]


def test_deadline_returns_504(tmp_path, monkeypatch):
    """The deadline does not affect the next requests."""
    settings = Settings(demo=False, access_log=False, models="mnist14k*", deadline_ms=300, folder=str(tmp_path))
    slow = [True]

    async def delayed(pool, item):
        if slow.pop():
            await asyncio.sleep(60)
        return await process(pool, item)

    process = Pool.process
    monkeypatch.setattr(Pool, "process", delayed)
    with TestClient(build(settings), base_url="http://127.0.0.1") as client:
        late = client.post("/models/mnist14k/predict", content=SEVEN.read_bytes(), headers=PNG)
        assert late.status_code == 504
        assert re.search("300 ms.*Try again", late.json()["error"])
        assert late.headers["retry-after"] == "1"
        for _ in range(3):
            slow.append(False)
            assert post(client, "/models/mnist14k/predict", content=SEVEN.read_bytes(), headers=PNG)[1]["label"] == "7"
            time.sleep(0.2)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_dead_worker_makes_server_not_live(tmp_path, monkeypatch):
    def die(self, images):
        raise SystemExit

    app = build(Settings(demo=False, access_log=False, models="mnist14k*", folder=str(tmp_path)))
    monkeypatch.setattr(Runner, "run", die)
    with TestClient(app, base_url="http://127.0.0.1") as client:
        assert client.get("/v2/health/live").status_code == 200
        assert client.post("/models/mnist14k/predict", content=SEVEN.read_bytes(), headers=PNG).status_code == 503
        dead = client.get("/v2/health/live")
        assert (dead.status_code, dead.json()) == (503, {"live": False})
        assert client.get("/v2/models/mnist14k/ready").status_code == 503


class TooDark(BadInput):
    """An error class of another package."""


@pytest.mark.parametrize(
    ("error", "status"),
    [(TooDark("x"), 400), (BadInput("x"), 400), (ModelNotFound("x"), 404), (QueueFull("x"), 503), (ZooError("x"), 500),
     (HTTPError(418, "x"), 418), (ValueError("x"), 500)],
)  # fmt: skip
def test_status_of_error_is_that_of_its_base_class(error, status):
    assert status_of(error) == status


def test_cards_are_encoded_once(client, monkeypatch):
    """A response costs the event loop a fraction of a millisecond, so readers do not delay predictions."""
    client.get("/models")
    began = time.process_time()
    for _ in range(20):
        assert client.get("/models").status_code == 200
    assert (time.process_time() - began) / 20 < 0.004  # includes the client of the test; the server takes 0.3 ms
