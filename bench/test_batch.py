"""Batch prediction: images/s of the pipeline with its workers started, beside common alternatives.

    pytest bench/test_batch.py --benchmark-only

Starting the workers takes as long as classifying thousands of images; meanwhile the command classifies the first images
itself. The rate in its summary includes the start.
"""

import os
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import zoo
from bench.measure import time_rounds
from bench.runtimes import bare_session
from serve.batch.inputs import expand
from serve.batch.pipeline import BatchJob, classify, split
from serve.batch.workers import Workers
from zoo import registry
from zoo.images.decode import decode_bytes
from zoo.images.read import Named
from zoo.model import CHUNK

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
        ours = lambda: count(workers.results(split(expand(str(path)).images())))  # noqa: E731
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
    assert share >= 0.75  # measured 0.81 to 0.86, the aim is 0.9 (docs/decisions/0007-batch.md)


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
