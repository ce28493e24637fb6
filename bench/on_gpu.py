"""Measures everything on a machine with a GPU: `python -m bench.on_gpu --out FOLDER`. It needs no network.

Every step runs in its own process with a time limit, and its result is in FOLDER/on_gpu.json as soon as it ends. If a
step fails, its error is saved there, with the rows that it had by then, and the other steps still run. All steps but
`training` together end within `--minutes`. The same command resumes an interrupted one: it skips steps that have a
result, and `--again STEP` repeats one. `--device cpu` runs the same steps without a GPU.
Requirements: onnxruntime-gpu, torch with CUDA, and both datasets in $ZOO_DATA or decoded under $ZOO_HOME.
"""

import argparse
import json
import multiprocessing
import os
import platform
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

import numpy as np

from bench.load import closed_loop_of_one
from serve.devices import cores

MODELS = ("mnist14k.plus", "cifar90k.plus", "cifar93k.plus")  # for latency
BATCHES = (1, 64, 256, 1024)
LARGE_BATCHES = (1024, 2048, 4096)
BATCH_RUNS = {"mnist14k": "mnist", "cifar90k": "cifar10"}  # of `zoo predict`: model and dataset
BATCH_IMAGES = 60_000
LATENCY_S = 0.15  # per latency row, after its warm-up
CONNECTIONS = (1, 64, 256)
SERVE_S = 2.0  # per row of `serve`
MINUTES = 7.0  # for all steps but the training
CLIENTS_START_S = 1.5  # for all client processes to connect
MIN_STEP_S = 5.0  # a step with less time left is not started
SEEDS = "0-4"
RECIPE = "cifar90k.plus"
WaysOf = Callable[[str, int, str], dict[str, Callable[[], Callable[[], Any]]]]  # model, batch, device → name: opener
ZOO = (sys.executable, "-m", "serve.cli")
PACKAGES = ("onnxruntime-gpu", "onnxruntime", "torch", "numpy", "opencv-python-headless", "pyarrow")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for on_gpu.json and the files of the steps")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--only", help="steps to run, separated by commas")
    parser.add_argument("--again", default="", help="steps to repeat, separated by commas")
    parser.add_argument("--commit", default="", help="commit of the code, if git is not available")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="for all steps but the training")
    parser.add_argument("--models", default="*", help="pattern of the models for the step `parity`")
    parser.add_argument("--quick", action="store_true", help="few repetitions, to test the script")
    parser.add_argument("--step", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.step:
        result = STEPS[options.step][0](options)
        (options.out / f"{options.step}.step.json").write_text(json.dumps(result))
        return
    run_steps(options)


def run_steps(options: argparse.Namespace) -> None:
    """Run the steps that have no result yet, and save the file after each."""
    path = options.out / "on_gpu.json"
    saved = json.loads(path.read_text()) if path.exists() else {"steps": {}}
    selected = options.only.split(",") if options.only else list(STEPS)
    again = options.again.split(",")
    left_s = options.minutes * 60
    for name in selected:
        if "result" in saved["steps"].get(name, {}) and name not in again:
            continue
        limit_s = STEPS[name][1] if name == "training" else min(STEPS[name][1], left_s)
        if limit_s < min(MIN_STEP_S, STEPS[name][1]):
            print(f"=== {name}: no time left. Run the same command again.", flush=True)
            continue
        print(f"=== {name}", flush=True)
        saved["steps"][name] = without_folders(run_step(name, options, limit_s))
        left_s -= 0 if name == "training" else saved["steps"][name]["seconds"]
        path.write_text(json.dumps(saved, indent=1) + "\n")
        print(f"=== {name}: {short(saved['steps'][name])}", flush=True)


def run_step(name: str, options: argparse.Namespace, limit_s: float) -> dict[str, Any]:
    """Run a step in its own process; returns its result, or its error and the rows until then, and its duration."""
    started = time.perf_counter()
    command = [sys.executable, "-m", "bench.on_gpu", "--out", options.out, "--device", options.device, "--step", name]
    command += ["--commit", options.commit, "--models", options.models, *(["--quick"] if options.quick else [])]
    output, partial_rows = options.out / f"{name}.step.json", options.out / f"{name}.rows.json"
    for path in (output, partial_rows):
        path.unlink(missing_ok=True)
    step: dict[str, Any] = {}
    try:
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        ) as process:
            try:
                printed = "".join(process.communicate(timeout=limit_s))
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)  # with the servers and trainings that it has started
                raise
        if process.returncode:
            step["error"] = f"exit code {process.returncode}: {printed[-1500:]}"
        else:
            step["result"] = json.loads(output.read_text())
    except subprocess.TimeoutExpired:
        step["error"] = f"timed out after {limit_s:g} s"
    if "error" in step and partial_rows.exists():
        step["rows"] = json.loads(partial_rows.read_text())
    for path in (output, partial_rows):
        path.unlink(missing_ok=True)
    return step | {"seconds": round(time.perf_counter() - started, 1)}


def without_folders(value: Any) -> Any:
    """The value with file names instead of absolute paths in all its texts: the file is published."""
    if isinstance(value, str):
        return re.sub(r"(?<![\w.:/])/(?:[\w.+-]+/)+", "", value)
    if isinstance(value, list):
        return [without_folders(each) for each in value]
    return {key: without_folders(each) for key, each in value.items()} if isinstance(value, dict) else value


class Rows(list[dict[str, Any]]):
    """The rows of a step, which are on the disk as soon as they are there: a step that fails later keeps them."""

    def __init__(self, options: argparse.Namespace) -> None:
        super().__init__()
        self._path = options.out / f"{options.step}.rows.json"

    def append(self, row: dict[str, Any]) -> None:
        super().append(row)
        self._path.write_text(json.dumps(self))


def short(step: dict[str, Any]) -> str:
    text = json.dumps(step.get("result", step.get("error")))
    return f"{step['seconds']} s {text if len(text) < 1500 else text[:1500] + ' …'}"


# Steps: each takes the options and returns its result for the JSON file


def machine(options: argparse.Namespace) -> dict[str, Any]:
    """The machine, the versions and the commit that the figures belong to."""
    from bench.environment import environment, version

    query = "--query-gpu=name,driver_version,memory.total"
    commit = options.commit or _text("git", "rev-parse", "--short", "HEAD")
    return {
        **environment(),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "gpu": _text("nvidia-smi", query, "--format=csv,noheader") or None,
        "commit": commit or None,
        "python": platform.python_version(),
        **{package: version(package) for package in PACKAGES},
    }


def doctor(options: argparse.Namespace) -> list[str]:
    return _text(*ZOO, "doctor").splitlines()


def latency(options: argparse.Namespace, name: str, ways_of: WaysOf | None = None) -> list[dict[str, Any]]:
    """p50 and p99 in ms of the session alone and from arrays to scores: our CUDA options, others, torch, CPU.

    Args:
        ways_of: what is timed; `_ways` by default.
    """
    rows = Rows(options)
    for batch in BATCHES:
        for way, open_way in (ways_of or _ways)(name, batch, options.device).items():
            row = {"model": name, "batch": batch, "way": way}
            try:
                started = time.perf_counter()
                call = open_way()
                call()
                row["start_s"] = round(time.perf_counter() - started, 2)  # until the first result
                row |= _timed(call, 0.02 if options.quick else LATENCY_S)
            except Exception as error:  # a failure is a result too, and the other ways still run
                row["error"] = f"{type(error).__name__}: {str(error)[:300]}"
            rows.append(row)
    return rows


def first_run(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Seconds until the first scores in a fresh process: importing, opening, and the first run of one batch size."""
    rows = Rows(options)
    for name in MODELS[:1] if options.quick else MODELS:
        for batch in (1, 512):
            code = (
                "import json, time; started = time.perf_counter(); import numpy as np; import zoo; "
                f"from zoo.model import bind; model = zoo.load({name!r}, {options.device!r}); "
                "opened = time.perf_counter(); "
                f"bind(model, {batch}).run(np.zeros(({batch}, *model.card.input.shape), np.uint8)); "
                "print(json.dumps({'open_s': opened - started, 'first_run_s': time.perf_counter() - opened}))"
            )
            done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
            times = json.loads(done.stdout)
            rows.append({"model": name, "batch": batch, **{key: round(value, 2) for key, value in times.items()}})
    return rows


def serve(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Requests/s and latency of `zoo serve` on the GPU and on the CPU's cores, with 1, 64 and 256 connections.

    On the GPU with one process, and with one for every two cores.
    """
    rows = Rows(options)
    seconds = 0.5 if options.quick else SERVE_S
    for model, data in BATCH_RUNS.items():
        files, label = _files_of_one_label(model, data)
        several = str(max(1, cores() // 2))
        for device, workers in ((options.device, "1"), (options.device, several), ("cpu", "1"), ("cpu", "auto")):
            started = time.perf_counter()
            with _server(model, device, workers) as url:
                ready_s = round(time.perf_counter() - started, 1)
                for connections in CONNECTIONS:
                    load = load_of_clients(url, files, label, seconds, connections)
                    row = {"model": model, "device": device, "workers": workers, "connections": connections}
                    rows.append(row | {"ready_s": ready_s} | load)
    return rows


def parity(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Every model on its whole test set: accuracy, labels and logits that differ from the CPU's, rates."""
    import zoo
    from zoo.datasets import catalog as datasets
    from zoo.errors import ZooError
    from zoo.model import bind
    from zoo.scores import Scores

    rows = Rows(options)
    for card in zoo.list_models(options.models):
        test = datasets.load(card.trained.dataset.name, "test")
        images = test.images[:500] if options.quick else test.images
        labels = test.labels[: len(images)]
        row: dict[str, Any] = {"model": card.name}
        try:
            gpu = zoo.load(card.name, options.device)
        except ZooError as error:
            rows.append(row | {"refused": str(error)})
            continue
        binding = bind(gpu, 500)
        scores = [Scores(*binding.run(images[start : start + 500])) for start in range(0, len(images), 500)]
        cpu = zoo.load(card.name, "cpu")
        expected = [cpu.run(images[start : start + 16]) for start in range(0, len(images), 16)]
        of_gpu, of_cpu = Scores.joined(scores), Scores.joined(expected)
        actual, reference = of_gpu.logits, of_cpu.logits
        row |= {
            "pinned": binding.pinned,
            "accuracy": float((actual.argmax(1) == labels).mean()),
            "accuracy_cpu": float((reference.argmax(1) == labels).mean()),
            "labels_differ": int((actual.argmax(1) != reference.argmax(1)).sum()),
            "logits_off": float(np.abs(actual - reference).max()),
            "known_off": None
            if of_gpu.known is None or of_cpu.known is None
            else float(np.abs(of_gpu.known - of_cpu.known).max()),
            "plain_run_off": float(np.abs(gpu.run(images[:100]).logits - reference[:100]).max()),
        }
        for size in LARGE_BATCHES if card.name in MODELS and not options.quick else ():
            large, repeated = bind(gpu, size), np.resize(images, (size, *images.shape[1:]))
            row[f"per_second_{size}"] = round(size / _timed(partial(large.run, repeated), 0.1)["p50_ms"] * 1e3)
        rows.append(row)
    return rows


def tests(options: argparse.Namespace) -> dict[str, Any]:
    """The tests with the marker `gpu`. Other test files need packages that a GPU machine may lack."""
    files = [str(path) for path in sorted(Path("tests").rglob("test_*.py")) if "mark.gpu" in path.read_text()]
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-p", "no:cacheprovider", "-o", "addopts=", *files]
    done = subprocess.run([*command, "-W", "default", "--tb=short"], capture_output=True, text=True)
    lines = done.stdout.strip().splitlines()
    return {"summary": lines[-1] if lines else done.stderr[-300:], "end": [] if done.returncode == 0 else lines[-80:]}


def predict(options: argparse.Namespace) -> dict[str, Any]:
    """Seconds of `zoo predict` for one image, median of three."""
    times: dict[str, Any] = {}
    for device in ("auto", "cpu", options.device):
        command = [*ZOO, "predict", "examples/seven.png", "--model", "mnist14k", "--device", device]
        times[f"{device}_s"] = round(median(_seconds(command) for _ in range(3)), 3)
    return times


def piles(options: argparse.Namespace) -> list[dict[str, Any]]:
    """60,000 images from parquet to parquet, on the CPU's cores and on the GPU: images/s as the command prints them."""
    import pyarrow.parquet as pq

    rows = Rows(options)
    for model, data in BATCH_RUNS.items():
        source = _parquet(data, options.out, 3000 if options.quick else BATCH_IMAGES)
        tables = {}
        for device in ("cpu", options.device, "cpu", options.device):
            written = options.out / f"rows-{model}-{device}.parquet"
            written.unlink(missing_ok=True)
            command = [*ZOO, "predict", str(source), "--model", model, "--device", device, "-o", str(written)]
            started = time.perf_counter()
            done = subprocess.run(command, capture_output=True, text=True, timeout=60)
            wall = time.perf_counter() - started
            rate = re.search(r"\(([\d,]+) images/s\)", done.stderr)
            if done.returncode or not rate:
                raise RuntimeError(done.stderr[-500:])
            rows.append({"model": model, "device": device, "per_second": int(rate[1].replace(",", "")),
                         "wall_s": round(wall, 2)})  # fmt: skip
            tables[device] = pq.read_table(written)
            written.unlink()
        pairs = zip(*(tables[device]["label"].to_pylist() for device in ("cpu", options.device)), strict=True)
        rows[-1]["labels_differ"] = sum(cpu != gpu for cpu, gpu in pairs)
        source.unlink()
    return rows


def training_speed(options: argparse.Namespace) -> dict[str, Any]:
    """Images/s of the recipe on random images, one seed and five at once, without the graph capture."""
    import tempfile

    import torch

    from train import recipe
    from train.data import Split
    from train.device import Steps, Trainee
    from train.loop import TrainingJob
    from train.runs import Run

    settings, device = recipe.find(RECIPE), torch.device(options.device)
    n = 100 if options.quick else 50_000
    torch.backends.cudnn.benchmark = True
    images = torch.randint(0, 256, (n, 32, 32, 3), dtype=torch.uint8)
    data = Split("made up", images.to(device), torch.randint(0, 10, (n,)).to(device))
    result: dict[str, Any] = {"images": n, "batch": settings.batch_size}
    with tempfile.TemporaryDirectory() as folder:
        for count in (1, 5):
            jobs = [TrainingJob(settings, "full", seed, 100, 1, "cuda") for seed in range(count)]
            runs = [Run(Path(folder, str(count), f"seed{job.seed}")) for job in jobs]
            pairs = zip(jobs, runs, strict=True)
            trainees = [Trainee(job, run, data, device, False, False) for job, run in pairs]
            steps, times = Steps(trainees, device), []
            for epoch in range(3):
                started = time.perf_counter()
                for trainee in trainees:
                    trainee.begin_epoch(epoch)
                prepared = time.perf_counter()
                steps.epoch()
                losses = [trainee.end_epoch(epoch)["train_loss"] for trainee in trainees]
                times.append((time.perf_counter() - started, prepared - started))
            epoch_s, prepared_s = times[-1]
            result[f"seeds_{count}"] = {
                "epoch_s": round(epoch_s, 3),
                "prepare_s": round(prepared_s, 3),
                "images_per_s": round(n * count / epoch_s),
                "step_ms": round(epoch_s / (-(-n // settings.batch_size)) * 1e3, 3),
                "losses": losses,
            }
            del trainees, steps
    return result


def repeatable(options: argparse.Namespace) -> dict[str, Any]:
    """Whether the same seed gives the same weights twice, after one epoch."""
    folders = [options.out / f"repeat{number}" for number in (1, 2)]
    with ThreadPoolExecutor() as pool:
        futures = [pool.submit(_train, options, "--epochs", "1", "--restart", runs=folder) for folder in folders]
        for future in futures:
            future.result()
    weights = [(folder / RECIPE / "seed0" / "model.safetensors").read_bytes() for folder in folders]
    return {"same_bits": weights[0] == weights[1]}


def training(options: argparse.Namespace) -> dict[str, Any]:
    """The whole recipe with five seeds at once; their weights stay in the folder `runs`."""
    runs = options.out / "runs"
    started = time.perf_counter()
    _train(options, "--seeds", SEEDS, *(["--epochs", "1"] if options.quick else []), "--resume", runs=runs)
    results = [json.loads(path.read_text()) for path in sorted((runs / RECIPE).glob("seed*/result.json"))]
    accuracies = [result["accuracy"] for result in results]
    return {
        "recipe": RECIPE,
        "wall_s": round(time.perf_counter() - started, 1),
        "accuracies": accuracies,
        "mean": mean(accuracies),
        "sd": stdev(accuracies),
        "n": len(accuracies),
        "results": results,
    }


# Helpers of the steps


def _ways(name: str, batch: int, device: str) -> dict[str, Callable[[], Callable[[], Any]]]:
    """What `latency` times: each function opens a session or network and returns a call that ends with its result."""
    ways: dict[str, Callable[[], Callable[[], Any]]] = {}
    if device == "cuda":
        from zoo.runtime import CUDA_GRAPH, CUDA_OPTIONS_TF32, cuda_options

        ways["plain CUDA session"] = partial(_session, name, batch, {})
        ways["our options with TF32"] = partial(_session, name, batch, cuda_options() | CUDA_GRAPH | CUDA_OPTIONS_TF32)
        ways["torch eager"] = partial(_torch, name, batch, "eager")
        ways["torch CUDA graph"] = partial(_torch, name, batch, "graph")
    ways["ours, session only"] = partial(_bound, name, batch, device, "replay", True)
    ways["ours, array to scores"] = partial(_bound, name, batch, device, "run", True)
    if batch <= 64:
        ways["one CPU thread, array to scores"] = partial(_on_cpu, name, batch)
    return ways


def _compiled(name: str, batch: int, device: str) -> dict[str, Callable[[], Callable[[], Any]]]:
    """Compilers, which start slowly, in a step of their own."""
    return {
        "TensorRT": partial(_tensorrt, name, batch),
        "torch.compile": partial(_torch, name, batch, "compile"),
    }


def _other_options(name: str, batch: int, device: str) -> dict[str, Callable[[], Callable[[], Any]]]:
    """Sessions with options that we do not use, for the smallest and the largest batch."""
    from zoo.runtime import CUDA_GRAPH, CUDA_OPTIONS, cuda_options

    if batch not in (1, BATCHES[-1]):
        return {}
    ours = cuda_options() | CUDA_GRAPH
    return {
        "our options, no graph": partial(_session, name, batch, CUDA_OPTIONS),
        "our options, device memory": partial(_session, name, batch, ours),
        "our options, NHWC": partial(_session, name, batch, ours | {"prefer_nhwc": "1"}),
        **{
            f"our options, {search.lower()} search": partial(
                _session, name, batch, ours | {"cudnn_conv_algo_search": search}
            )
            for search in ("EXHAUSTIVE", "DEFAULT")
        },
        "ours, array to scores, device memory": partial(_bound, name, batch, device, "run", False),
    }


def _images(name: str, batch: int) -> Any:
    from zoo.registry import find

    return np.random.default_rng(0).integers(0, 256, (batch, *find(name).card.input.shape), np.uint8)


def _tensorrt(name: str, batch: int) -> Callable[[], Any]:
    """TensorRT through onnxruntime, without TF32 and with its CUDA graph."""
    options = {"trt_cuda_graph_enable": "1", "trt_engine_cache_enable": "0", "trt_fp16_enable": "0"}
    os.environ["NVIDIA_TF32_OVERRIDE"] = "0"
    return _session(name, batch, options, "TensorrtExecutionProvider")


def _session(
    name: str, batch: int, options: dict[str, str], provider: str = "CUDAExecutionProvider"
) -> Callable[[], Any]:
    """A bare onnxruntime session with these options of the provider, bound to memory of the device."""
    from bench.runtimes import bind_memory
    from zoo.registry import find
    from zoo.runtime import import_runtime

    runtime = import_runtime()
    runtime.preload_dlls()
    settings = runtime.SessionOptions()
    settings.log_severity_level = 3
    content = (find(name).folder / "model.onnx").read_bytes()
    session = runtime.InferenceSession(content, settings, providers=[(provider, options)])
    if session.get_providers()[0] != provider:
        raise RuntimeError(f"onnxruntime fell back to {session.get_providers()[0]}")
    images = _images(name, batch)
    binding, image, _ = bind_memory(session, "cuda", "image", images.shape, np.uint8, [(batch, 10)] * 2 + [(batch,)])
    image.update_inplace(images)

    def call() -> None:
        session.run_with_iobinding(binding)
        binding.synchronize_outputs()

    return call


def _bound(name: str, batch: int, device: str, method: str, pinned: bool) -> Callable[[], Any]:
    import zoo
    from zoo.model import bind

    model = zoo.load(name, device)  # type: ignore[arg-type]
    images = _images(name, batch)
    binding = bind(model, batch, pinned)
    if pinned and device == "cuda" and not binding.pinned:
        raise RuntimeError("page-locked memory is not available")
    binding.run(images)
    return binding.replay if method == "replay" else partial(binding.run, images)


def _on_cpu(name: str, batch: int) -> Callable[[], Any]:
    import zoo

    return partial(zoo.load(name, "cpu").run, _images(name, batch))


def _torch(name: str, batch: int, how: str) -> Callable[[], Any]:
    """The recipe's network on the GPU in channels_last memory without TF32; its normalised input is there already.

    Args:
        how: "eager"; "graph", captured once; or "compile", with torch's mode that uses CUDA graphs.
    """
    import torch

    from train import networks, recipe
    from train.evaluate import network_input
    from zoo.registry import find

    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    settings = recipe.find(name)
    network = networks.load(settings, find(name).folder / "model.safetensors").cuda()
    values = network_input(torch.from_numpy(_images(name, batch)), settings).cuda()

    if how == "compile":
        network = torch.compile(network, mode="reduce-overhead", dynamic=False)  # type: ignore[assignment]

    @torch.inference_mode()
    def eager() -> None:
        network(values)
        torch.cuda.synchronize()

    for _ in range(3):
        eager()
    if how != "graph":
        return eager
    captured = torch.cuda.CUDAGraph()
    with torch.inference_mode(), torch.cuda.graph(captured):
        network(values)

    def replay() -> None:
        captured.replay()
        torch.cuda.synchronize()

    return replay


def _timed(call: Callable[[], Any], seconds: float) -> dict[str, Any]:
    for _ in range(5):
        call()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 10 or (time.perf_counter() < end and len(times) < 2000):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    row = {"p50_ms": round(median(times) * 1e3, 4), "n": len(times)}
    return row | ({"p99_ms": round(float(np.percentile(times, 99)) * 1e3, 4)} if len(times) >= 500 else {})


def _files_of_one_label(model: str, data: str) -> tuple[list[bytes], str]:
    """64 PNG files of test images that the CPU gives the same label, and the label."""
    import cv2

    import zoo
    from zoo.datasets import catalog as datasets

    images = datasets.load(data, "test").images[:1000]
    network = zoo.load(model, "cpu")
    rows = network.predict([image.squeeze(-1) if image.shape[-1] == 1 else image for image in images])
    label = next(row.label for row in rows if row.label is not None)
    chosen = [image for image, row in zip(images, rows, strict=True) if row.label == label][:64]
    return [cv2.imencode(".png", image[..., ::-1])[1].tobytes() for image in chosen], label


@contextmanager
def _server(model: str, device: str, workers: str) -> Iterator[str]:
    """`zoo serve` with one model; the URL of its route once it is ready."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    command = [*ZOO, "serve", "--port", str(port), "--no-demo", "--no-access-log", "--max-queue", "1024"]
    process = subprocess.Popen([*command, "--models", f"{model}.plus", "--device", device, "--workers", workers])
    try:
        while True:
            with suppress(OSError):
                if urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/health/ready", timeout=2).status == 200:
                    break
            if process.poll() is not None:
                raise RuntimeError(f"zoo serve ended with exit code {process.returncode}")
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}/models/{model}/predict"
    finally:
        process.terminate()
        process.wait(20)


def load_of_clients(url: str, files: list[bytes], label: str, seconds: float, connections: int) -> dict[str, Any]:
    """Connections that send their next request after each response, from up to four client processes.

    Returns requests/s, latencies in ms, and n. Raises RuntimeError for a wrong response.
    """
    count = min(connections, 4, max(1, cores() // 4))
    shares = [connections // count + (number < connections % count) for number in range(count)]
    with ProcessPoolExecutor(count, multiprocessing.get_context("spawn")) as clients:
        begin = time.monotonic() + CLIENTS_START_S
        results = list(clients.map(partial(closed_loop_of_one, url, files, label, begin, seconds), shares))
    latencies = np.concatenate(results) * 1e3
    if not len(latencies):
        return {"per_second": 0, "n": 0}
    p50, p99 = np.percentile(latencies, (50, 99)).round(3).tolist()
    row = {"per_second": round(len(latencies) / seconds), "p50_ms": p50, "n": len(latencies)}
    return row | ({"p99_ms": p99} if len(latencies) >= 500 else {})


def _parquet(data: str, folder: Path, count: int) -> Path:
    """A parquet file with the dataset's test images as PNG files, repeated up to `count`."""
    import cv2
    import pyarrow as pa
    import pyarrow.parquet as pq

    from zoo.datasets import catalog as datasets

    images = datasets.load(data, "test").images
    with ThreadPoolExecutor() as pool:
        files = list(pool.map(lambda image: cv2.imencode(".png", image[..., ::-1])[1].tobytes(), images))
    names = [f"{number}.png" for number in range(count)]
    rows = [{"bytes": files[number % len(files)], "path": names[number]} for number in range(count)]
    path = folder / f"{data}-{count}.parquet"
    pq.write_table(pa.table({"image": rows}), path, row_group_size=2000)
    return path


def _train(options: argparse.Namespace, *arguments: str, runs: Path) -> None:
    """Run the training command; `--resume` is passed on only if there is a checkpoint."""
    has_checkpoint = any((runs / RECIPE).glob("seed*/checkpoint.safetensors"))
    passed = [argument for argument in arguments if argument != "--resume" or has_checkpoint]
    command = [sys.executable, "-m", "train", RECIPE, "--device", options.device, "--runs", str(runs), *passed]
    done = subprocess.run(command, capture_output=True, text=True)
    runs.mkdir(parents=True, exist_ok=True)
    (runs / "train.log").write_text(done.stdout + done.stderr)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[1:])}: {done.stderr[-1500:]}")


def _seconds(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, timeout=30)
    return time.perf_counter() - started


def _text(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=60).stdout.strip()
    except OSError:
        return ""


# Name: (function, time limit in seconds). The first ones are those that no earlier run has measured.
STEPS: dict[str, tuple[Callable[[argparse.Namespace], Any], float]] = {
    "machine": (machine, 20),
    "doctor": (doctor, 30),
    "tests": (tests, 60),
    "serve": (serve, 160),
    "piles": (piles, 70),
    "first_run": (first_run, 50),
    "parity": (parity, 70),
    **{f"latency-{name}": (partial(latency, name=name), 80) for name in MODELS},
    "repeatable": (repeatable, 60),
    "predict": (predict, 30),
    "training_speed": (training_speed, 50),
    "training": (training, 480),
    **{f"compiled-{name}": (partial(latency, name=name, ways_of=_compiled), 80) for name in MODELS[:2]},
    **{f"options-{name}": (partial(latency, name=name, ways_of=_other_options), 60) for name in MODELS[:2]},
}


if __name__ == "__main__":
    os.environ.setdefault("CUDA_MODULE_LOADING", "LAZY")
    main()
