"""`zoo bench`: latency and throughput of models on this machine, and which batch size and device to use.

All measurements of a model are interleaved: each gets a turn of about 10 ms, again and again until the time is over, so
that a change of the machine's speed affects all of them. A median is printed with its number of calls, a 99th
percentile only for 1,000 calls or more.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import click

from serve.cli.options import FiniteRange, complete_models, json_option
from serve.service.settings import DEFAULT_MODEL
from zoo.errors import DeviceUnavailable, ModelNotFound, printable

if TYPE_CHECKING:
    from zoo.model import Model

TURN_S = 0.01  # of one measurement; at least one call
WARM_UP_CALLS = 3
WARM_UP_SHARE = 0.2  # of the time, at most
P99_MIN_CALLS = 1000  # with fewer, the slowest hundredth is a few calls
MAX_BATCH = 4096
PICTURE_SIZE = (500, 375)  # of the JPEG file that is classified by models of photographs


@dataclass
class Measurement:
    """One thing that is timed, and the seconds of its calls."""

    model: str
    device: str
    runtime: str
    scope: str  # "array": the network only; "file": an image file's bytes to a row
    batch: int  # images per call
    call: Callable[[], object]
    seconds: list[float] = field(default_factory=list)

    def row(self) -> Row:
        median = statistics.median(self.seconds)
        enough = len(self.seconds) >= P99_MIN_CALLS
        p99 = statistics.quantiles(self.seconds, n=100)[98] if enough else None
        return Row(
            self.model,
            self.device,
            self.runtime,
            self.scope,
            self.batch,
            len(self.seconds),
            median * 1e3,
            None if p99 is None else p99 * 1e3,
            self.batch / median,
        )


@dataclass(frozen=True)
class Row:
    """The result of one measurement, as `--json` prints it."""

    model: str
    device: str
    runtime: str
    scope: str
    batch: int
    calls: int
    median_ms: float  # of a call
    p99_ms: float | None  # None for fewer than `P99_MIN_CALLS` calls
    images_per_s: float  # at the median


def measure(measurements: list[Measurement], seconds: float) -> list[Row]:
    """Time all measurements in turns for about `seconds` together, after a warm-up."""
    started = time.perf_counter()
    for measurement in measurements:
        for _ in range(WARM_UP_CALLS):
            measurement.call()
            if time.perf_counter() - started > WARM_UP_SHARE * seconds:
                break
    end = time.perf_counter() + seconds
    while True:
        for measurement in measurements:
            turn = time.perf_counter()
            while True:
                before = time.perf_counter()
                measurement.call()
                after = time.perf_counter()
                measurement.seconds.append(after - before)
                if after - turn > TURN_S or after > end:
                    break
        if time.perf_counter() > end:
            return [measurement.row() for measurement in measurements]


def measurements_of(name: str, devices: list[str], batches: list[int]) -> Iterator[Measurement]:
    """What is timed for one model: arrays in each batch size on each device and runtime, and one image file.

    Raises:
        ModelNotFound, BadModel, DeviceUnavailable.
    """
    from functools import partial

    import numpy as np

    from zoo.loading import load
    from zoo.model import bind, onnx_bytes
    from zoo.runtime import import_runtime

    runtime = f"onnxruntime {import_runtime().__version__}"
    for device in devices:
        model = load(name, device)  # type: ignore[arg-type]  # one of zoo.runtime.DEVICES
        card = model.card
        arrays = np.random.default_rng(0).integers(0, 256, (max(batches), *card.input.shape), np.uint8)
        for batch in batches:
            run = bind(model, batch).run if model.device == "cuda" else model.run
            yield Measurement(card.name, model.device, runtime, "array", batch, partial(run, arrays[:batch]))
        if device == "cpu":
            yield Measurement(card.name, "cpu", runtime, "file", 1, partial(model.predict, image_file(model)))
            for batch in batches:
                if (openvino := _openvino(onnx_bytes(model), (batch, *card.input.shape))) is not None:
                    version, classify = openvino
                    yield Measurement(card.name, "cpu", version, "array", batch, partial(classify, arrays[:batch]))


def image_file(model: Model) -> bytes:
    """A typical file: a PNG of the network's size for digits, a JPEG of a made picture for photographs."""
    import io

    import numpy as np
    from PIL import Image

    if model.card.input.form == "digit":
        pixels = np.zeros((28, 28), np.uint8)
        pixels[6:22, 13:16] = 255  # a one
        image, form = Image.fromarray(pixels), "PNG"
    else:
        waves = np.sin(np.linspace(0, 40, PICTURE_SIZE[0] * PICTURE_SIZE[1] * 3)).reshape(*PICTURE_SIZE[::-1], 3)
        image, form = Image.fromarray((127 + 120 * waves).astype(np.uint8)), "JPEG"
    file = io.BytesIO()
    image.save(file, form)
    return file.getvalue()


def _openvino(content: bytes, shape: tuple[int, ...]) -> tuple[str, Callable[[Any], object]] | None:
    """The version of OpenVINO, and a function that runs the network for arrays of this shape on one thread.

    None if OpenVINO is not installed.
    """
    try:
        import openvino
    except ImportError:
        return None
    core = openvino.Core()
    options = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    network = core.read_model(content)
    network.reshape(list(shape))  # a fixed shape is its fastest mode
    compiled = core.compile_model(network, "CPU", options)
    return f"openvino {openvino.__version__.split('-')[0]}", lambda images: compiled(images)


def advice(rows: list[Row]) -> str:
    """What the rows of one model mean, in a few sentences."""
    arrays = [row for row in rows if row.scope == "array" and row.runtime.startswith("onnxruntime")]
    sentences = []
    cpu = [row for row in arrays if row.device == "cpu"]
    cuda = [row for row in arrays if row.device == "cuda"]
    if cpu:
        best = max(cpu, key=lambda row: row.images_per_s)
        sentences.append(
            f"CPU, one thread: batches of {best.batch:,} are fastest, {best.images_per_s:,.0f} images/s per core."
        )
        one, file = _find(cpu, 1), next((row for row in rows if row.scope == "file"), None)
        if one and file:
            share = min(1.0, one.median_ms / file.median_ms)
            sentences.append(f"An image file takes {file.median_ms:.3g} ms, of which the network is {share:.0%}.")
        others = [row for row in rows if row.runtime.startswith("openvino")]
        ratios = [(row.batch, row.median_ms / same.median_ms) for row in others if (same := _find(cpu, row.batch))]
        if ratios:
            text = ", ".join(f"{ratio:.2f} at batch {batch:,}" for batch, ratio in ratios)
            sentences.append(f"OpenVINO takes this many times as long: {text}.")
    if cpu and cuda:
        count, largest = cuda_from(cpu, cuda), max(row.batch for row in cuda)
        if count is None:
            sentences.append(f"CPU: CUDA is not faster than one core for up to {largest:,} images at once.")
        elif count <= 1:
            sentences.append("CUDA is faster than one core even for one image.")
        else:
            sentences.append(f"CPU up to {count - 1:,} images at once, CUDA above (compared with one core).")
    elif cuda:
        best = max(cuda, key=lambda row: row.images_per_s)
        sentences.append(f"CUDA: batches of {best.batch:,} are fastest, {best.images_per_s:,.0f} images/s.")
    if len(arrays) > 0 and min(row.calls for row in rows) < 20:
        sentences.append("Some rows have fewer than 20 calls: a longer --seconds makes them more certain.")
    return " ".join(sentences)


def cuda_from(cpu: list[Row], cuda: list[Row]) -> int | None:
    """The number of images in one call from which CUDA is faster than one core; None: not within the batches.

    On the CPU, time per image is that of the fastest batch or of the call itself, because work can be split. On CUDA,
    times between two measured batches are interpolated.
    """
    points = sorted((row.batch, row.median_ms) for row in cuda)
    per_image = min(row.median_ms / row.batch for row in cpu)
    one = min(((row.batch, row.median_ms) for row in cpu), default=(1, per_image))
    for count in range(1, points[-1][0] + 1):
        cpu_ms = one[1] if count <= one[0] else max(one[1], count * per_image)
        if _interpolated(points, count) < cpu_ms:
            return count
    return None


def _interpolated(points: list[tuple[int, float]], count: int) -> float:
    """The time of a call with `count` images; a smaller batch than the first takes as long as the first."""
    if count <= points[0][0]:
        return points[0][1]
    for (low, low_ms), (high, high_ms) in pairwise(points):
        if count <= high:
            return low_ms + (high_ms - low_ms) * (count - low) / (high - low)
    return points[-1][1]


def _find(rows: list[Row], batch: int) -> Row | None:
    return next((row for row in rows if row.batch == batch), None)


def parse_batches(context: click.Context, parameter: click.Parameter, value: str) -> list[int]:
    """`1,16,64` as numbers, ascending, each once."""
    parts = value.split(",")
    if not all(part.strip().isdecimal() and 1 <= int(part) <= MAX_BATCH for part in parts):
        raise click.BadParameter(f"{value!r} is not numbers from 1 to {MAX_BATCH:,} with commas, such as 1,16,64.")
    return sorted({int(part) for part in parts})


@click.command("bench")
@click.argument("models", nargs=-1, metavar="[MODEL]...", shell_complete=complete_models)
@click.option(
    "--batch",
    "batches",
    default="1,16,64",
    show_default=True,
    callback=parse_batches,
    metavar="N,N,N",
    help="Images per call.",
)
@click.option(
    "--seconds",
    type=FiniteRange(0.1, 3600),
    default=5.0,
    show_default=True,
    metavar="S",
    help="Time per model, besides a warm-up.",
)
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="Device; auto measures the CPU, and CUDA if it is available.",
)
@json_option
def bench(models: tuple[str, ...], batches: list[int], seconds: float, device: str, as_json: bool) -> None:
    """Measure latency and throughput of models on this machine.

    MODEL is a model name, a pattern with wildcards, or a path. Scope "array" is the network alone on ready arrays, on
    one thread; "file" is an image file's bytes to a row. Other programs that run at the same time make times longer.
    """
    import json

    results = []
    for name in _names(models or (DEFAULT_MODEL,)):
        rows = measure(list(measurements_of(name, _devices(device), batches)), seconds)
        results.append({"model": rows[0].model, "advice": advice(rows), "rows": [asdict(row) for row in rows]})
        if not as_json:
            _print(rows, printable(str(results[-1]["advice"])))
    if as_json:
        click.echo(json.dumps(results, indent=2))


def _names(models: tuple[str, ...]) -> list[str]:
    """Patterns replaced by the names that match. Raises ModelNotFound."""
    import zoo
    from zoo import registry

    names: list[str] = []
    for model in models:
        if registry.is_pattern(model):
            matches = [card.name for card in zoo.list_models(model)]
            if not matches:
                raise ModelNotFound(registry.not_found(model, [card.name for card in zoo.list_models()]))
            names += matches
        else:
            names.append(model)
    return names


def _devices(device: str) -> list[str]:
    """The devices to measure. With "auto", CUDA is left out where no session can be opened on it."""
    from zoo.loading import load
    from zoo.runtime import has_cuda

    if device != "auto":
        return [device]
    if not has_cuda():
        return ["cpu"]
    try:
        load(DEFAULT_MODEL, "cuda")
    except DeviceUnavailable:
        return ["cpu"]
    return ["cpu", "cuda"]


def _print(rows: list[Row], text: str) -> None:
    from serve.cli.output import print_table

    headers = ["model", "device", "runtime", "scope", "batch", "calls", "median ms", "p99 ms", "images/s"]
    print_table(
        headers,
        [
            [
                row.model, row.device, row.runtime, row.scope, f"{row.batch:,}", f"{row.calls:,}",
                f"{row.median_ms:.3f}", "–" if row.p99_ms is None else f"{row.p99_ms:.3f}", f"{row.images_per_s:,.0f}",
            ]
            for row in rows
        ],
        right=frozenset({4, 5, 6, 7, 8}),
    )  # fmt: skip
    click.echo(f"{text}\n")
