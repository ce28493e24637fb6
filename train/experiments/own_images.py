"""What `zoo fit` reaches on sets that it was not tuned for, beside scikit-learn on the same split.

    python -m train.experiments.own_images                # all cases, three seeds, bounded by each case's minutes
    python -m train.experiments.own_images digits --seeds 1 --epochs 60

Every case trains as `zoo fit` does, reads its test split once, and is written into docs/experiments/own-images.json.
The baseline is a linear SVM on histograms of oriented gradients (colour: with a 4x4 thumbnail), or a logistic
regression on the pixels where images are 8x8. It learns from the training and validation images together.
"""

import json
import os
import resource
import statistics
import tempfile
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np
from PIL import Image

from train.fit import data as own
from train.fit.run import FitOptions, prepare
from train.fit.run import fit as train_own
from train.runs import environment
from zoo.datasets import catalog

RESULTS = Path(__file__).parents[2] / "docs" / "experiments" / "own-images.json"


@dataclass(frozen=True)
class Case:
    """A data set, the options of `zoo fit`, and what it must reach."""

    title: str
    write: Callable[[Path], Path]
    minutes: float
    target: float | None
    options: dict[str, Any] = field(default_factory=dict)


def signs(folder: Path) -> Path:
    return Path(os.environ["ZOO_DATA"]) / "signs" / "signs.zip"


def thousand_signs(folder: Path) -> Path:
    """The first 100 pictures of each sign by a seeded order."""
    rng = np.random.default_rng(0)
    with zipfile.ZipFile(signs(folder)) as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".jpg"))
        for label in "0123456789":
            of_label = [name for name in names if name.split("/")[-2] == label]
            for index in rng.permutation(len(of_label))[:100]:
                path = folder / label / Path(of_label[index]).name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(archive.read(of_label[index]))
    return folder


def digits(folder: Path) -> Path:
    """scikit-learn's 1,797 digits of 8x8 pixels, as PNG files."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    _write(folder, (bunch.images * (255 / 16)).round().astype(np.uint8), [str(label) for label in bunch.target])
    return folder


def cifar(folder: Path) -> Path:
    """200 training images of each class in `train/`, and 2,000 images of CIFAR-10's test set in `test/`."""
    for split, per_class in (("train", 200), ("test", 200)):
        dataset = catalog.load("cifar10", split)  # type: ignore[arg-type]
        rng = np.random.default_rng(0)
        for label, name in enumerate(dataset.info.labels):
            rows = rng.permutation(np.flatnonzero(dataset.labels == label))[:per_class]
            _write(folder / split, dataset.images[rows], [name] * len(rows))
    return folder


def _write(folder: Path, images: own.Pixels, labels: list[str]) -> None:
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        (folder / label).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / label / f"{number}.png")


CASES = {
    "signs": Case("2,062 photographs of hand signs", signs, 10, 0.95),
    "signs-fast": Case("2,062 photographs of hand signs", signs, 2, 0.90),
    "digits": Case("scikit-learn's digits", digits, 1, 0.985),
    "cifar-2000": Case("2,000 training images of CIFAR-10, from scratch", cifar, 5, 0.62),
    "signs-1000": Case("1,000 of the hand signs at 32x32, from scratch", thousand_signs, 2, None, {"size": 32}),
    "signs-1000-from": Case(
        "1,000 of the hand signs at 32x32, from cifar90k.plus", thousand_signs, 2, None, {"initial": "cifar90k.plus"}
    ),
}


def run_case(key: str, seed: int, epochs: int | None) -> dict[str, Any]:
    """Train one case with one seed, and its baseline."""
    case = CASES[key]
    with tempfile.TemporaryDirectory() as temporary:
        source = case.write(Path(temporary) / key)
        os.environ["ZOO_HOME"] = temporary + "/home"
        started, cpu = time.perf_counter(), _cpu_seconds()
        card = train_own(
            source, f"{key}.fit", seed=seed, epochs=epochs, minutes=case.minutes, progress=True, say=click.echo,
            **case.options,
        )  # fmt: skip
        result = {
            "accuracy": card.trained.accuracy.value,
            "interval95": list(card.trained.accuracy.interval95),
            "test_images": card.trained.accuracy.images,
            "epochs": card.trained.training.epochs,
            "wall_s": round(time.perf_counter() - started, 1),
            "cpu_s": round(_cpu_seconds() - cpu, 1),
            "threads": card.trained.training.environment["threads"],
            "load": round(os.getloadavg()[0], 1),
        }
        options = FitOptions(seed=seed, size=case.options.get("size"), initial=case.options.get("initial"))
        result["baseline"] = round(baseline(prepare(source, key, options)[0]), 4)
    return result


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def baseline(prepared: own.OwnData) -> float:
    """The test accuracy of scikit-learn on the same split."""
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import LinearSVC

    features = np.stack([_features(image) for image in prepared.images])
    tested = prepared.split == "test"
    model = make_pipeline(StandardScaler(), LinearSVC(C=0.01, max_iter=3000))
    model.fit(features[~tested], prepared.classes[~tested])
    return float(model.score(features[tested], prepared.classes[tested]))


def _features(image: own.Pixels) -> Any:
    from skimage.feature import hog

    cell = 8 if image.shape[0] >= 64 else 4
    found = hog(image.mean(2), pixels_per_cell=(cell, cell), cells_per_block=(2, 2))
    step = image.shape[0] // 4
    return np.concatenate([found, image[: step * 4, : step * 4].reshape(4, step, 4, step, -1).mean((1, 3)).ravel()])


@click.command()
@click.argument("keys", nargs=-1, type=click.Choice(list(CASES)))
@click.option("--seeds", default=3, show_default=True, help="Number of seeds, from 0.")
@click.option(
    "--epochs", type=int, help="Number of epochs instead of the case's minutes, for a machine with other work."
)
@click.option("--to", "path", type=click.Path(path_type=Path), default=RESULTS, help="JSON file of the results.")
def main(keys: tuple[str, ...], seeds: int, epochs: int | None, path: Path) -> None:
    """Train the cases that have no result yet."""
    results = json.loads(path.read_text()) if path.exists() else {"cases": {}}
    for seed in range(seeds):
        for key in keys or CASES:
            case = CASES[key]
            entry = results["cases"].setdefault(
                key, {"title": case.title, "minutes": case.minutes, "target": case.target, "runs": {}}
            )
            if str(seed) not in entry["runs"]:
                entry["runs"][str(seed)] = run_case(key, seed, epochs)
                entry["mean"] = round(statistics.mean(x["accuracy"] for x in entry["runs"].values()), 5)
                entry["baseline"] = round(statistics.mean(x["baseline"] for x in entry["runs"].values()), 5)
                results["environment"] = environment()
                path.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
