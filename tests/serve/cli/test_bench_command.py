"""`zoo bench`: what is measured, for how long, and the advice."""

import json
import time
from itertools import pairwise

import pytest

from serve.cli.bench import P99_MIN_CALLS, Measurement, Row, advice, cuda_from, measure


def row(device, batch, median_ms, scope="array", runtime="onnxruntime 1", calls=100):
    return Row("m", device, runtime, scope, batch, calls, median_ms, None, batch / median_ms * 1e3)


def test_json_has_each_batch_and_a_file(run):
    code, out, err = run("bench", "mnist4k", "--batch", "2,1,2", "--seconds", 0.3, "--json", "--device", "cpu")
    (result,) = json.loads(out)
    assert (code, err, result["model"]) == (0, "", "mnist4k.plus")
    rows = [row for row in result["rows"] if row["runtime"].startswith("onnxruntime")]
    assert [(row["scope"], row["batch"]) for row in rows] == [("array", 1), ("array", 2), ("file", 1)]
    for row in result["rows"]:
        assert row["calls"] >= 1
        assert row["images_per_s"] == pytest.approx(row["batch"] / row["median_ms"] * 1e3)
        assert (row["p99_ms"] is None) == (row["calls"] < P99_MIN_CALLS)
    assert result["advice"].startswith("CPU, one thread: batches of ")


def test_table_of_a_pattern(run):
    code, out, _ = run("bench", "mnist4k*", "cifar90k", "--batch", "1", "--seconds", 0.1)
    assert code == 0
    assert [line.split()[0] for line in out.splitlines() if "  file  " in line] == ["mnist4k.plus", "cifar90k.plus"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nothing.here"], 3, "nothing.here"),
        (["nothing*"], 3, "No model matches"),
        (["mnist4k", "--batch", "0"], 2, "is not numbers from 1 to 4,096"),
        (["mnist4k", "--batch", "1,x"], 2, "is not numbers from 1 to 4,096"),
        (["mnist4k", "--seconds", "0"], 2, "--seconds"),
        (["mnist4k", "--device", "cuda"], 3, "CUDA"),
    ],
)
def test_errors(run, arguments, code, message):
    exit_code, out, err = run("bench", *arguments)
    assert (exit_code, out) == (code, "")
    assert message in err


def test_measurements_take_turns_within_the_time():
    calls = []

    def slow(name, seconds):
        def call():
            calls.append(name)
            time.sleep(seconds)

        return call

    measurements = [
        Measurement("m", "cpu", "r", "array", batch, slow(name, seconds))
        for name, batch, seconds in (("fast", 1, 0.0005), ("slow", 8, 0.03))
    ]
    started = time.perf_counter()
    fast, slow_row = measure(measurements, 0.5)
    assert 0.4 < time.perf_counter() - started < 3
    assert fast.median_ms < slow_row.median_ms
    assert slow_row.calls >= 3
    assert fast.calls > slow_row.calls  # a turn is time, not a call
    assert sum(a != b for a, b in pairwise(calls)) >= 2 * slow_row.calls - 2


def test_p99_needs_enough_calls():
    few, many = (Measurement("m", "cpu", "r", "array", 1, print, [0.001] * 989 + [0.002] * count) for count in (10, 11))
    assert few.row().p99_ms is None
    assert many.row().p99_ms == pytest.approx(2)


def test_advice_with_cuda():
    cpu = [row("cpu", 1, 0.1), row("cpu", 16, 0.8), row("cpu", 64, 4.0)]  # at best 0.05 ms per image
    cuda = [row("cuda", 1, 1.0), row("cuda", 64, 1.2), row("cuda", 256, 2.0)]
    count = cuda_from(cpu, cuda)
    assert 20 < count < 24  # 0.05 · n = 1 + 0.2 · (n - 1) / 63 at n = 21.3
    assert f"CPU up to {count - 1} images at once, CUDA above" in advice([*cpu, *cuda])
    never = [row("cuda", 1, 1.0), row("cuda", 16, 1.1)]
    assert cuda_from(cpu, never) is None
    assert "CUDA is not faster than one core for up to 16 images" in advice([*cpu, *never])
    assert "even for one image" in advice([*cpu, row("cuda", 1, 0.01), row("cuda", 64, 0.02)])


def test_advice_on_files_other_runtimes_and_few_calls():
    others = [row("cpu", 1, 0.4, scope="file"), row("cpu", 1, 0.2, runtime="openvino 1")]
    assert advice([row("cpu", 1, 0.1), row("cpu", 16, 0.8), *others]) == (
        "CPU, one thread: batches of 16 are fastest, 20,000 images/s per core. "
        "An image file takes 0.4 ms, of which the network is 25%. "
        "OpenVINO takes this many times as long: 2.00 at batch 1."
    )
    assert "fewer than 20 calls" in advice([row("cpu", 1, 0.1, calls=3)])
