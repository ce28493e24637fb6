"""Batch prediction: images/s of the pipeline with its workers started, beside common alternatives.

    pytest bench/test_batch.py --benchmark-only

Starting the workers takes as long as classifying thousands of images; meanwhile the command classifies the first images
itself. The rate in its summary includes the start.
"""

import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import zoo
from bench.measure import time_rounds
from bench.runtimes import bare_session
from serve.batch.formats import encode
from serve.batch.inputs import expand
from serve.batch.pipeline import BatchJob, classify, identities, split
from serve.batch.resume import Parts
from serve.batch.workers import Workers
from zoo import registry
from zoo.classification import CHUNK, prepare_all, stack_pixels
from zoo.columns import classify_columns, make_columns
from zoo.images.decode import decode_bytes
from zoo.images.read import Named, read_file

ROUNDS = 5
PROCESSES = 2


@pytest.fixture(scope="module")
def data_folder() -> Path:
    if not os.environ.get("ZOO_DATA"):
        pytest.skip("the datasets are missing: set ZOO_DATA to their folder")
    return Path(os.environ["ZOO_DATA"])


@pytest.fixture(scope="module")
def mnist_files(data_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Paths of the 10,000 MNIST test images as PNG files."""
    folder = tmp_path_factory.mktemp("mnist")
    parquet = data_folder / "ylecun" / "mnist" / "mnist" / "test-00000-of-00001.parquet"
    for number, image in enumerate(expand(str(parquet)).images()):
        assert isinstance(image, Named)
        (folder / f"{number:05}.png").write_bytes(image.data)
    return sorted(map(str, folder.iterdir()))


def count(results: Iterable[Any]) -> int:
    return sum(result.count for result in results)


def test_files_beside_loop_one_process_and_dataloader(benchmark: Any, model: zoo.Model, mnist_files: list[str]) -> None:
    """10,000 PNG files, mnist14k, rows as JSON lines."""
    job = BatchJob(model, encoding="jsonl")
    with Workers(partial(classify, job), PROCESSES) as workers:
        workers.wait_until_ready()
        times = time_rounds(
            {
                "ours": lambda: count(workers.results(split(mnist_files))),
                "one_process": lambda: count(classify(job, chunk) for chunk in split(mnist_files)),
                "simple_loop": lambda: simple_loop(model, mnist_files),
                "dataloader": lambda: dataloader(mnist_files),
            },
            ROUNDS,
        )
        results = benchmark.pedantic(lambda: list(workers.results(split(mnist_files))), rounds=3)
    ratios = {name: float(np.median(seconds / times["ours"])) for name, seconds in times.items()}
    benchmark.extra_info |= {
        "scope": "files to rows, workers ready", "model": model.card.name, "images": len(mnist_files),
        "processes": PROCESSES, "batch": CHUNK, "rounds": ROUNDS,
        **{f"{name}_us_an_image": round(float(np.median(seconds)) / len(mnist_files) * 1e6, 1)
           for name, seconds in times.items()},
        "ratios": {f"time over that of {name.replace('_', ' ')}": round(1 / ratios[name], 3)
                   for name in ("simple_loop", "one_process", "dataloader")},
    }  # fmt: skip
    rows = b"".join(result.payload for result in results).splitlines()
    assert len(rows) == len(mnist_files)
    # Measured 2.2 to 2.5, 0.91 to 0.98 and 2.5 to 3.5 on two days (docs/decisions/0007-batch.md)
    assert ratios["simple_loop"] >= 2.0
    assert ratios["one_process"] / 2 >= 0.8
    assert ratios["dataloader"] >= 2


def simple_loop(model: zoo.Model, names: list[str]) -> list[int]:
    """What one writes first: Pillow and a session with one thread, one image at a time."""
    from PIL import Image

    session = bare_session(registry.find(model.card.name))
    labels = []
    for name in names:
        pixels = np.asarray(Image.open(name), np.uint8)[np.newaxis, :, :, np.newaxis]
        labels.append(int(session.run(None, {"image": pixels})[1].argmax()))
    return labels


def dataloader(names: list[str]) -> Any:
    """PyTorch's usual way: a DataLoader with 2 workers, batches of 256, the eager module on two cores."""
    import torch
    from safetensors.torch import load_file
    from torch.utils.data import DataLoader

    from train import networks, recipe

    threads = torch.get_num_threads()
    torch.set_num_threads(PROCESSES)
    network = networks.build(recipe.find("mnist14k")).eval()
    network.load_state_dict(load_file(registry.find("mnist14k").folder / "model.safetensors"))
    with torch.inference_mode():
        batches: Any = DataLoader(Files(names), batch_size=256, num_workers=2)  # type: ignore[arg-type]
        labels = torch.cat([network(batch).softmax(1).argmax(1) for batch in batches])
    torch.set_num_threads(threads)
    return labels


class Files:
    """A dataset of image files, with the transforms of torchvision's tutorials."""

    def __init__(self, names: list[str]) -> None:
        from torchvision.transforms import Compose, Normalize, ToTensor

        self.names, self.transform = names, Compose([ToTensor(), Normalize((0.0,), (1.0,))])

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Any:
        from PIL import Image

        with Image.open(self.names[index]) as image:
            return self.transform(image)


def test_parquet_beside_one_core(benchmark: Any, data_folder: Path) -> None:
    """The CIFAR-10 test set as it is published; twice the rate of decoding and inferring on one core is the limit."""
    model = zoo.load("cifar93k", device="cpu")
    path = data_folder / "uoft-cs" / "cifar10" / "plain_text" / "test-00000-of-00001.parquet"
    job = BatchJob(model, encoding="jsonl")
    images = [image for image in expand(str(path)).images() if isinstance(image, Named)]

    def one_core() -> None:
        for start in range(0, len(images), CHUNK):
            model.run(np.stack([decode_bytes(one.data, one.name).pixels for one in images[start : start + CHUNK]]))

    with Workers(partial(classify, job), PROCESSES) as workers:
        workers.wait_until_ready()
        ours = lambda: count(workers.results(split(rows_of(str(path)))))  # noqa: E731
        times = time_rounds({"ours": ours, "one_core": one_core}, ROUNDS)
        assert benchmark.pedantic(ours, rounds=1) == len(images)
    share = float(np.median(times["one_core"] / times["ours"])) / 2
    benchmark.extra_info |= {
        "scope": "parquet to rows, workers ready", "model": model.card.name, "images": len(images),
        "processes": PROCESSES, "batch": CHUNK, "rounds": ROUNDS,
        **{f"{name}_us_an_image": round(float(np.median(seconds)) / len(images) * 1e6, 1)
           for name, seconds in times.items()},
        "ratios": {"time over that of decoding and inferring on one core": round(1 / share / 2, 3)},
    }  # fmt: skip
    # 0.81 to 0.86 before a process with limits read the file; starting it takes 0.2 s (docs/decisions/0007-batch.md).
    assert share >= 0.55


@pytest.mark.full
def test_rate_is_independent_of_the_number_of_images(benchmark: Any, model: zoo.Model, mnist_files: list[str]) -> None:
    """1,000, 10,000 and 100,000 images; the first several times in a round, so that all see the same machine."""
    job = BatchJob(model, encoding="jsonl")
    with Workers(partial(classify, job), PROCESSES) as workers:
        workers.wait_until_ready()
        thousand, ten, hundred = mnist_files[:1000], mnist_files, mnist_files * 10

        def repeated(names: list[str], times: int) -> Callable[[], list[int]]:
            return lambda: [count(workers.results(split(names))) for _ in range(times)]

        times = time_rounds(
            {"1000": repeated(thousand, 10), "10000": repeated(ten, 1), "100000": repeated(hundred, 1)}, rounds=2
        )
        benchmark.pedantic(repeated(thousand, 1), rounds=3)
    per_thousand = {name: seconds / (100 if name == "100000" else 10) for name, seconds in times.items()}
    rates = {name: float(1000 / np.median(seconds)) for name, seconds in per_thousand.items()}
    benchmark.extra_info |= {
        "scope": "files to rows, workers ready", "model": model.card.name, "processes": PROCESSES,
        "images_per_s": {name: round(rate) for name, rate in rates.items()},
        "slowest_to_fastest": round(min(rates.values()) / max(rates.values()), 3),
    }  # fmt: skip
    assert min(rates.values()) / max(rates.values()) >= 0.8


NAIVE_LOOP = """
import sys
import numpy as np, onnxruntime, pyarrow as pa, pyarrow.parquet
from PIL import Image
names = open(sys.argv[2]).read().split()
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(sys.argv[1], options)
scores = []
for name in names:
    pixels = np.asarray(Image.open(name), np.uint8)[np.newaxis, :, :, np.newaxis]
    scores.append(session.run(None, {"image": pixels})[1][0])
scores = np.array(scores)
table = pa.table({"input": names, "label": scores.argmax(1), "probability": scores.max(1)})
pyarrow.parquet.write_table(table, sys.argv[3])
"""


@pytest.mark.parametrize("images", [10_000, pytest.param(100_000, marks=pytest.mark.full)])
def test_whole_command_beside_naive_loop(
    benchmark: Any, model: zoo.Model, mnist_files: list[str], tmp_path: Path, images: int
) -> None:
    """`zoo predict @LIST -o rows.parquet`, start included, and a loop in one process, also as a process of its own."""
    (tmp_path / "list").write_text("\n".join(mnist_files * (images // len(mnist_files))))
    onnx = str(registry.find(model.card.name).folder / "model.onnx")
    arguments = {
        "ours": ["-m", "serve.cli", "predict", f"@{tmp_path}/list", "-o", f"{tmp_path}/ours.parquet", "--device", "cpu",
                 "-m", model.card.name],
        "naive_loop": ["-c", NAIVE_LOOP, onnx, f"{tmp_path}/list", f"{tmp_path}/naive.parquet"],
    }  # fmt: skip

    def run(name: str) -> None:
        subprocess.run([sys.executable, *arguments[name]], check=True, capture_output=True)

    times = time_rounds({"ours": lambda: run("ours"), "naive_loop": lambda: run("naive_loop")}, ROUNDS)
    benchmark.pedantic(run, ("ours",), rounds=1)
    ratio = float(np.median(times["naive_loop"] / times["ours"]))
    benchmark.extra_info |= {
        "scope": "whole command, start included", "model": model.card.name, "images": images, "rounds": ROUNDS,
        **{f"{name}_images_per_s": round(images / float(np.median(seconds))) for name, seconds in times.items()},
        "ratios": {"time over that of the naive loop": round(1 / ratio, 3)},
    }  # fmt: skip
    assert ratio >= {10_000: 1.4, 100_000: 2.0}[images]  # measured: 1.73 and 2.59; the aim is 2.0 and 2.8


@pytest.mark.parametrize("name", ["mnist14k", "cifar93k"])
@pytest.mark.parametrize("source", ["files", "parquet"])
def test_share_of_the_limit(
    benchmark: Any, data_folder: Path, mnist_files: list[str], tmp_path: Path, name: str, source: str
) -> None:
    """From image files, or a parquet file of images, to a parquet file of rows; workers started.

    The limit is the network alone on all cores: the same sessions in the same processes on arrays, `CHUNK` images per
    call. CPU time per image of the parent and of a worker is measured in the same rounds; the stages of a worker are
    measured one by one in this process.
    """
    model = zoo.load(name, device="cpu")
    dataset = {"mnist": "ylecun/mnist/mnist", "cifar10": "uoft-cs/cifar10/plain_text"}[model.card.trained.dataset.name]
    parquet = str(data_folder / dataset / "test-00000-of-00001.parquet")
    if source == "files":
        files = mnist_files if model.card.trained.dataset.name == "mnist" else write_files(parquet, tmp_path / "images")
    named = [image for image in expand(parquet).images() if isinstance(image, Named)]
    total = len(named)
    arrays = np.stack([one.pixels for one in prepare_all(named, model.card.input) if one.pixels is not None])
    job = BatchJob(model, encoding="parquet", identify=True)
    cpu: dict[str, list[float]] = {"parent": [], "workers": []}

    with Workers(partial(classify, job), PROCESSES) as workers, Workers(partial(network, model, arrays), 2) as bare:
        workers.wait_until_ready()
        bare.wait_until_ready()
        pids = [child.pid or 0 for child in multiprocessing.active_children()]

        def ours() -> None:
            before = time.process_time(), sum(map(cpu_seconds, pids))
            output = Parts(tmp_path / "rows.parquet", "parquet", {}, resume=False)
            for block in workers.results(split(files if source == "files" else rows_of(parquet))):
                output.write(block)
            output.finish()
            cpu["parent"].append(time.process_time() - before[0])
            cpu["workers"].append(sum(map(cpu_seconds, pids)) - before[1])
            (tmp_path / "rows.parquet").unlink()

        def limit() -> None:
            assert sum(bare.results([["first half"], ["second half"]])) == total

        times = time_rounds({"ours": ours, "limit": limit}, ROUNDS)
        benchmark.pedantic(ours, rounds=1)
    share = float(np.median(times["limit"] / times["ours"]))
    micro = 1e6 / total
    benchmark.extra_info |= {
        "scope": f"{source} to parquet, workers started",
        "model": model.card.name,
        "images": total,
        "processes": PROCESSES,
        "batch": CHUNK,
        "rounds": ROUNDS,
        "images_per_s": round(total / float(np.median(times["ours"]))),
        "limit_images_per_s": round(total / float(np.median(times["limit"]))),
        "share_of_the_limit": round(share, 3),
        "parent_us_per_image": round(float(np.median(cpu["parent"])) * micro, 1),
        "worker_us_per_image": round(float(np.median(cpu["workers"])) * micro, 1),
        "stages_us_per_image": stages(model, list(files) if source == "files" else named),
        "ratios": {"time over that of the network alone": round(1 / share, 3)},
    }
    assert share >= MIN_SHARES[name, source]


# The aim is 0.70 (files) and 0.75 (parquet) for mnist14k, and 0.85 for cifar93k. Measured on two cores: 0.59, 0.56, and
# 0.67, 0.64 (docs/decisions/0007-batch.md).
MIN_SHARES = {
    ("mnist14k", "files"): 0.5,
    ("mnist14k", "parquet"): 0.45,
    ("cifar93k", "files"): 0.6,
    ("cifar93k", "parquet"): 0.5,
}


def rows_of(parquet: str) -> Iterable[Any]:
    """The rows of a parquet file, to be read by workers."""
    argument = expand(parquet)
    argument.read_in_workers(True)
    return argument.images()


def write_files(parquet: str, folder: Path) -> list[str]:
    """Paths of the images of a parquet file, written as files."""
    folder.mkdir()
    for number, image in enumerate(expand(parquet).images()):
        assert isinstance(image, Named)
        (folder / f"{number:05}.png").write_bytes(image.data)
    return sorted(map(str, folder.iterdir()))


def network(model: zoo.Model, images: Any, half: list[str]) -> int:
    """In a worker: the session alone, on half of the arrays."""
    middle = len(images) // 2
    part = images[:middle] if half == ["first half"] else images[middle:]
    for start in range(0, len(part), CHUNK):
        model.run(part[start : start + CHUNK])
    return len(part)


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def stages(model: zoo.Model, sources: list[Any], count: int = 2048) -> dict[str, float]:
    """Microseconds per image of each stage, alone and one after the other, on one core; the best of three."""
    blocks = list(split(iter(sources[:count])))
    prepared = [prepare_all(block, model.card.input) for block in blocks]
    arrays = [pixels for block in prepared if (pixels := stack_pixels(block)) is not None]
    columns = [classify_columns(model, block) for block in prepared]
    functions: dict[str, Callable[[], object]] = {
        "read and identify": lambda: [(read(block), identities(block)) for block in blocks],
        "read, decode and check": lambda: [prepare_all(block, model.card.input) for block in blocks],
        "network": lambda: [
            model.run(array[start : start + CHUNK]) for array in arrays for start in range(0, len(array), CHUNK)
        ],
        "columns": lambda: [
            make_columns(model.card, block, scores) for block, scores in zip(prepared, probabilities, strict=True)
        ],
        "Arrow": lambda: [encode(one, "parquet") for one in columns],
        "all": lambda: [classify(BatchJob(model, encoding="parquet", identify=True), block) for block in blocks],
    }
    probabilities = [
        np.concatenate([model.run(array[start : start + CHUNK])[1] for start in range(0, len(array), CHUNK)])
        for array in arrays
    ]
    times = time_rounds(functions, 3)
    number = sum(map(len, blocks))
    return {name: round(float(seconds.min()) / number * 1e6, 2) for name, seconds in times.items()}


def read(block: list[Any]) -> list[bytes]:
    return [read_file(source) if isinstance(source, str) else source.data for source in block]
