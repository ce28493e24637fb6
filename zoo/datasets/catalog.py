"""MNIST and CIFAR-10 as uint8 arrays, exactly as published: the digest of every array is checked.

The source is `folder` (or `$ZOO_DATA`), in the layout of Hugging Face or of torchvision; without a folder, it is the
Hugging Face hub. Decoded arrays are cached in `$ZOO_HOME/data`.
"""

import hashlib
import os
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from zoo.atomic import replacing
from zoo.datasets.readers import Arrays, read_cifar_batches, read_idx, read_parquet
from zoo.errors import BadData, DataNotFound, reason
from zoo.registry import home

Split = Literal["train", "test"]
SPLITS: tuple[Split, ...] = ("train", "test")


@dataclass(frozen=True)
class DatasetInfo:
    """The metadata of a data set."""

    name: str
    title: str
    licence: str
    repository: str  # on the Hugging Face hub
    parquet: dict[Split, str]  # file in that repository
    image_column: str
    raw: dict[Split, tuple[str, ...]]  # files in torchvision's layout
    idx: bool  # whether those are IDX files (images and labels apart), whose headers are part of the digests
    image_shape: tuple[int, int, int]  # H, W, C
    images: dict[Split, int]
    labels: tuple[str, ...]
    validation: int  # images of the shuffled training set that are the validation split
    digests: dict[Split, tuple[str, str]] = field(repr=False)  # of the published images and labels; see `digests`


@dataclass(frozen=True)
class Dataset:
    """The images and labels of a split, in the published order."""

    info: DatasetInfo
    images: npt.NDArray[np.uint8]  # `(N, H, W, C)`
    labels: npt.NDArray[np.uint8]  # `(N,)`, indices into `info.labels`


DATASETS = {
    info.name: info
    for info in (
        DatasetInfo(
            name="mnist",
            title="MNIST",
            licence="MIT, as ylecun/mnist states",
            repository="ylecun/mnist",
            parquet={split: f"mnist/{split}-00000-of-00001.parquet" for split in SPLITS},
            image_column="image",
            raw={
                "train": ("MNIST/raw/train-images-idx3-ubyte", "MNIST/raw/train-labels-idx1-ubyte"),
                "test": ("MNIST/raw/t10k-images-idx3-ubyte", "MNIST/raw/t10k-labels-idx1-ubyte"),
            },
            idx=True,
            image_shape=(28, 28, 1),
            images={"train": 60_000, "test": 10_000},
            labels=tuple("0123456789"),
            validation=5_000,
            digests={  # md5 of the published IDX files, header included
                "train": ("6bbc9ace898e44ae57da46a324031adb", "a25bea736e30d166cdddb491f175f624"),
                "test": ("2646ac647ad5339dbf082846283269ea", "27ae3e4e09519cfbb04c329615203637"),
            },
        ),
        DatasetInfo(
            name="cifar10",
            title="CIFAR-10",
            licence="not stated by its authors (uoft-cs/cifar10)",
            repository="uoft-cs/cifar10",
            parquet={split: f"plain_text/{split}-00000-of-00001.parquet" for split in SPLITS},
            image_column="img",
            raw={
                "train": tuple(f"cifar-10-batches-py/data_batch_{number}" for number in range(1, 6)),
                "test": ("cifar-10-batches-py/test_batch",),
            },
            idx=False,
            image_shape=(32, 32, 3),
            images={"train": 50_000, "test": 10_000},
            labels=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
            validation=5_000,
            digests={  # sha256 of the arrays in C order; of the labels as in uoft-cs/cifar10
                "train": (
                    "47af8b02cfcfb6cdf3dbbd1969ad7f1b70f4413f6f80f437b020ee4e5bc8304a",
                    "2b7cd2f24487317614016b72ffd53071c3062f592f0eb300c18a770d41ae1253",
                ),
                "test": (
                    "f9b1e2130bab680db56eb06d886f7f1ad0f1183907ceff4659d1735c890f5b04",
                    "cec8a24a1e92aa2ecaa0bbd3dbfa86bf6cd8759fbd209a832824c8cf0afca9d5",
                ),
            },
        ),
    )
}


def load(name: str, split: Split, folder: str | os.PathLike[str] | None = None, download: bool = True) -> Dataset:
    """Load one split, checked against the published digests.

    Args:
        name: "mnist" or "cifar10".
        split: "train" or "test".
        folder: the folder of the data, which is read and checked each time. Default: the cache, then `$ZOO_DATA`, then
            the Hugging Face hub.
        download: whether the data may be downloaded from the hub.
    Raises:
        DataNotFound: there are no data.
        BadData: the data are damaged or not the published ones, or the name is unknown.
    """
    if name not in DATASETS:
        raise BadData(f"Unknown data set {name!r}: choose {' or '.join(DATASETS)}.")
    info = DATASETS[name]
    cache = home() / "data" / f"{name}-{split}"
    if folder is None and (cached := _from_cache(info, split, cache)):
        return cached
    folder = folder or os.environ.get("ZOO_DATA")
    if folder is None and not download:
        raise DataNotFound(f"{info.title} is not available: set ZOO_DATA to a folder that contains it.")
    origin, arrays = _read(info, split, folder)
    if digests(info, *arrays) != info.digests[split]:
        raise BadData(f"{origin} is not the published {info.title} {split} set (wrong digest): download it again.")
    _write_cache(cache, arrays)
    return Dataset(info, *arrays)


def digests(info: DatasetInfo, images: npt.NDArray[np.uint8], labels: npt.NDArray[np.uint8]) -> tuple[str, str]:
    """Digests of images and labels, comparable with the published ones."""
    if info.idx:
        image_header = struct.pack(">4I", 0x803, *images.shape[:3])
        label_header = struct.pack(">2I", 0x801, len(labels))
        return _hex("md5", image_header, images), _hex("md5", label_header, labels)
    return _hex("sha256", b"", images), _hex("sha256", b"", labels)


def _hex(algorithm: str, header: bytes, array: npt.NDArray[np.uint8]) -> str:
    digest = hashlib.new(algorithm, header, usedforsecurity=False)
    digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _read(info: DatasetInfo, split: Split, folder: str | os.PathLike[str] | None) -> tuple[str, Arrays]:
    if folder is None:
        path = _download(info, split)
        return str(path), read_parquet(path, info.image_column)
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise BadData(f"{root} is not a folder: set --data or ZOO_DATA to a folder that contains {info.title}.")
    for path in (root / info.repository / info.parquet[split], root / info.parquet[split]):
        if path.is_file():
            return str(path), read_parquet(path, info.image_column)
    for base in (root, root / Path(info.raw[split][0]).parent.name, root / "raw"):
        files = [file for name in info.raw[split] if (file := _raw_file(base, name))]
        if len(files) == len(info.raw[split]):
            return str(files[0].parent), read_idx(*files) if info.idx else read_cifar_batches(files)
    raise DataNotFound(
        f"{root} holds no {info.title} {split} set: expected {info.repository}/{info.parquet[split]} "
        f"or {info.raw[split][0]}."
    )


def _raw_file(base: Path, name: str) -> Path | None:
    """A file in a folder or below it, or its original .gz, which torchvision keeps beside it."""
    for path in (base / name, base / Path(name).name):
        for candidate in (path, path.with_name(path.name + ".gz")):
            if candidate.is_file():
                return candidate
    return None


def _download(info: DatasetInfo, split: Split) -> Path:
    try:
        from huggingface_hub import hf_hub_download
    except ImportError:
        raise DataNotFound(
            f"{info.title} is not available: set ZOO_DATA to a folder that contains it, or pip install "
            "'pocketzoo[data]' to download it from the Hugging Face hub."
        ) from None
    try:
        return Path(hf_hub_download(info.repository, info.parquet[split], repo_type="dataset"))
    except Exception as error:  # the hub's client raises many classes; all mean that there is no file
        raise DataNotFound(
            f"{info.title} could not be downloaded from the Hugging Face hub ({reason(error)}): "
            "check the network, or set ZOO_DATA to a folder that contains it."
        ) from error


def _from_cache(info: DatasetInfo, split: Split, cache: Path) -> Dataset | None:
    try:
        arrays = np.load(f"{cache}-images.npy"), np.load(f"{cache}-labels.npy")
    except (OSError, ValueError, EOFError):
        return None
    complete = arrays[0].shape == (info.images[split], *info.image_shape) and len(arrays[1]) == info.images[split]
    return Dataset(info, *arrays) if complete and digests(info, *arrays) == info.digests[split] else None


def _write_cache(cache: Path, arrays: Arrays) -> None:
    """Write decoded arrays. Errors are ignored: without the cache, the next call is only slower."""
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        for part, array in zip(("images", "labels"), arrays, strict=True):
            with replacing(Path(f"{cache}-{part}.npy")) as partial:
                np.save(partial, array)
    except OSError:
        return
