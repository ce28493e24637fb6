"""How well the output `known` tells images of other sets: writes cards and `docs/experiments/known.json`.

The sets chose nothing: heads, bounds and recipes come from training and validation images and made ones
(`train/known.py`). Pictures take the path that a user's picture takes (`zoo/images/`), so a picture that is refused
gives no score; `refused` counts them. Sets that end in "as arrays" go into the network unchanged.
"""

import gzip
import json
import os
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import onnx

from train.data import held_out_data
from train.export import replace_card
from train.known import auroc
from zoo import registry
from zoo.card import Card, Input, UnknownSet
from zoo.classification import prepare_all, stack_pixels
from zoo.datasets import catalog
from zoo.errors import BadData, ExportError
from zoo.model import Model
from zoo.own_models import write

RESULTS = Path(__file__).parents[1] / "docs" / "experiments" / "known.json"
COUNT = 2000  # images of a set at most
Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

# Font files of Debian packages with handwriting, by the beginnings of their names: fonts-breip,
# fonts-comic-neue, fonts-dkg-handwriting, fonts-ecolier-court, fonts-femkeklaver, fonts-humor-sans, fonts-isabella,
# fonts-kristi, fonts-rufscript
HANDWRITING = (
    "Breip", "breip", "ComicNeue", "dkg", "Ecolier-court", "femkeklaver", "Humor-Sans", "Isabella", "Kristi",
    "Rufscript",
)  # fmt: skip
LETTERS = "ACDEFGHJKLMNPQRTUVWXYacdefhijkmnprtuvwxy"  # without those that look like a digit
TEXTURES = ("brick", "grass", "gravel")  # photographs in scikit-image's wheel
SIGNS = "signs/signs.zip"
NOTMNIST = "notmnist/t10k-images-idx3-ubyte.gz"


def sets(form: str, folder: Path) -> Iterator[tuple[str, Iterable[Any] | None]]:
    """Name and pictures of each set for models of that form; None for a set whose files are missing."""
    notmnist = _idx(folder / NOTMNIST)
    if form == "digit":
        grey = [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in _dataset("cifar10", folder)]
        yield "notMNIST, as arrays", notmnist
        yield "notMNIST", notmnist
        yield "CIFAR-10 in grey, as arrays", [cv2.resize(i, (28, 28), interpolation=cv2.INTER_AREA) for i in grey]
        yield "CIFAR-10 in grey", grey
        yield "letters in handwriting fonts", letters()
        yield "shapes", shapes(channels=1)
    else:
        yield "notMNIST", notmnist
        yield "MNIST", [image[:, :, 0] for image in _dataset("mnist", folder)]
        yield "signs", _zipped(folder / SIGNS)
        yield "textures", textures()
        yield "shapes", shapes(channels=3)
    yield "noise, as arrays", noise((28, 28, 1) if form == "digit" else (32, 32, 3))


def _dataset(name: str, folder: Path) -> Pixels:
    return catalog.load(name, "test", folder).images[:COUNT]


def _idx(path: Path) -> list[Pixels] | None:
    if not path.is_file():
        return None
    with gzip.open(path) as file:
        content = file.read()
    return list(np.frombuffer(content, np.uint8, offset=16).reshape(-1, 28, 28)[:COUNT])


def _zipped(path: Path) -> list[bytes] | None:
    if not path.is_file():
        return None
    with zipfile.ZipFile(path) as archive:
        names = sorted(name for name in archive.namelist() if name.lower().endswith((".jpg", ".png")))
        chosen = np.random.default_rng(0).permutation(len(names))[:COUNT]
        return [archive.read(names[index]) for index in chosen]


def letters() -> list[Pixels] | None:
    """Dark letters on white, each of `LETTERS` in each handwriting font of this machine."""
    from PIL import Image, ImageDraw, ImageFont

    files = sorted(path for path in Path("/usr/share/fonts").rglob("*.[ot]tf") if path.name.startswith(HANDWRITING))
    pictures = []
    for path in files:
        font = ImageFont.truetype(str(path), 90)
        for letter in LETTERS:
            page = Image.new("L", (180, 180), 255)
            ImageDraw.Draw(page).text((90, 90), letter, fill=0, font=font, anchor="mm")
            pixels = np.asarray(page, np.uint8)
            if (pixels < 128).sum() > 50:  # the font has this letter
                pictures.append(pixels)
    return pictures or None


def shapes(channels: int, count: int = 500) -> list[Pixels]:
    """Random shapes of scikit-image on white."""
    from skimage.draw import random_shapes

    pictures = []
    for seed in range(count):
        options: dict[str, Any] = {"max_shapes": 1 + seed % 3, "min_size": 20, "num_trials": 1000, "rng": seed}
        image, _ = random_shapes((96, 96), num_channels=channels, **options)  # type: ignore[no-untyped-call]
        pictures.append(np.asarray(image[:, :, 0] if channels == 1 else image, np.uint8))
    return pictures


def textures(count: int = 600) -> list[Pixels]:
    """Crops of photographs of surfaces."""
    import skimage

    random = np.random.default_rng(0)
    pictures = []
    for number in range(count):
        surface = np.asarray(getattr(skimage.data, TEXTURES[number % len(TEXTURES)])(), np.uint8)
        side = int(random.integers(32, 257))
        y, x = (int(random.integers(0, size - side + 1)) for size in surface.shape[:2])
        pictures.append(np.ascontiguousarray(surface[y : y + side, x : x + side]))
    return pictures


def noise(shape: tuple[int, int, int], count: int = 1000) -> list[Pixels]:
    """Uniform noise, and normal noise around grey."""
    random = np.random.default_rng(0)
    uniform = random.integers(0, 256, (count // 2, *shape))
    normal = np.clip(random.normal(128, 50, (count // 2, *shape)), 0, 255)
    return [*uniform.astype(np.uint8), *normal.astype(np.uint8)]


def measure(names: Iterable[str], folder: str | None, target: Path = registry.SHIPPED_FOLDER) -> Iterator[Card]:
    """Measure models on all sets, and write the figures into their cards and into `RESULTS`.

    Raises:
        ExportError: a model has no output `known`.
        BadData: the files of a set are missing.
    """
    if not (data := folder or os.environ.get("ZOO_DATA")):
        raise BadData("The folder of the sets is unknown: set --data or ZOO_DATA.")
    found: dict[Input, list[Pictures]] = {}
    for name in names:
        entry = registry.find(name)
        expected = entry.card.input
        if expected not in found:
            pairs = sets(expected.form, Path(data))
            found[expected] = [_prepared(title, pictures, expected) for title, pictures in pairs]
        yield _measure(entry, found[expected], folder, target)


class Pictures(NamedTuple):
    """The pictures of a set in the form of a network."""

    name: str
    images: Pixels  # `(N, H, W, C)`
    refused: int  # that could not be brought into the form


def _prepared(title: str, pictures: Iterable[Any] | None, expected: Input) -> Pictures:
    """As a user's pictures are prepared, or unchanged. Raises BadData."""
    if pictures is None:
        raise BadData(f"The set {title!r} is missing: see train/unknown.py for its files and fonts.")
    sources = list(pictures)
    if title.endswith("as arrays"):
        return Pictures(title, np.stack(sources).reshape(-1, *expected.shape), 0)
    prepared = prepare_all(sources, expected)
    images = stack_pixels(prepared)
    if images is None:
        raise BadData(f"All pictures of the set {title!r} were refused; the first: {prepared[0].error}")
    return Pictures(title, images, len(sources) - len(images))


def _measure(entry: registry.Entry, found: list[Pictures], folder: str | None, target: Path) -> Card:
    card, content = entry.card, entry.read("model.onnx")
    bound = card.calibration.known_from
    if bound is None or card.known is None:
        raise ExportError(f"{card.name} has no output known: python -m train known {card.name}")
    model = Model(content, "cpu", card.name)
    test = scores_of(model, held_out_data(card.trained.dataset.name, "full", folder).images.numpy())
    results, details = [], {}
    for title, images, refused in found:
        scores = scores_of(model, images)
        reached = np.quantile(test, 0.05, method="lower")
        result = UnknownSet(
            name=title,
            images=len(scores),
            auroc=round(auroc(test, scores), 4),
            false_positive_rate=round(float((scores >= reached).mean()), 4),
            known=round(float((scores >= bound).mean()), 4),
        )
        results.append(result)
        details[title] = asdict(result) | {"refused": refused}
    section = replace(card.known, test_known=round(float((test >= bound).mean()), 4), sets=tuple(results))
    new = replace(card, known=section)
    proto = onnx.load_model_from_string(content)
    replace_card(proto, new.embedded())
    files = {file.name: entry.read(file.name) for file in card.files} | {"model.onnx": proto.SerializeToString()}
    _record(card.name, {"test_known": section.test_known, "sets": details})
    return write(new.embedded(), files, target)


def _record(name: str, result: dict[str, Any]) -> None:
    """Add a model's figures to `RESULTS`."""
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    results[name] = result
    RESULTS.write_text(json.dumps(dict(sorted(results.items())), indent=1) + "\n", encoding="utf-8")


def scores_of(model: Model, images: Pixels) -> Floats:
    """The output `known` for arrays in the network's form, float32 `(N,)`. Raises ExportError."""
    parts = [model.run(images[start : start + 16]).known for start in range(0, len(images), 16)]
    present = [part for part in parts if part is not None]
    if not present:
        raise ExportError(f"{model.card.name} has no output known.")
    return np.concatenate(present)
