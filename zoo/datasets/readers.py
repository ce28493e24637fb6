"""Readers for the three usual file layouts of MNIST and CIFAR-10; `catalog.py` checks the arrays.

Each takes files and returns `(images uint8 (N, H, W, C), labels uint8 (N,))`. No reader runs code from a file:
CIFAR-10's pickles are read by an unpickler that accepts only NumPy arrays and plain containers.
"""

import gzip
import pickle
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from zoo.errors import BadData, DataNotFound, ZooError, reason
from zoo.images.decode import decode_bytes

Arrays = tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]


def read_parquet(path: Path, image_column: str) -> Arrays:
    """Hugging Face's layout: a struct column with PNG `bytes`, and an integer column `label`."""
    try:
        import pyarrow.parquet
    except ImportError:
        raise DataNotFound("Reading parquet needs pyarrow: pip install 'pocketzoo[data]'.") from None
    try:
        table = pyarrow.parquet.read_table(path, columns=[image_column, "label"])
        pngs = table[image_column].combine_chunks().field("bytes").to_pylist()
        labels = table["label"].to_numpy()
        images = np.stack([decode_bytes(png, f"{path} row {row}").pixels for row, png in enumerate(pngs)])
    except (pyarrow.ArrowException, OSError, KeyError, ValueError, ZooError) as error:
        raise BadData(
            f"{path} is damaged or not the right parquet file ({reason(error)}): download it again."
        ) from None
    return images, labels.astype(np.uint8)


def read_idx(images_path: Path, labels_path: Path) -> Arrays:
    """MNIST's own layout, gzipped or not, as torchvision stores it in `MNIST/raw`."""
    images = _idx_array(images_path, dimensions=3)
    return images[..., np.newaxis], _idx_array(labels_path, dimensions=1)


def _idx_array(path: Path, dimensions: int) -> npt.NDArray[np.uint8]:
    header = 4 + 4 * dimensions
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        shape = np.frombuffer(data, ">u4", dimensions, offset=4)
        if data[:4] != bytes([0, 0, 8, dimensions]) or len(data) != header + int(np.prod(shape, dtype=np.int64)):
            raise ValueError(f"its size of {len(data)} bytes does not match its header")
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise BadData(f"{path} is damaged or not an IDX file ({error}): download it again.") from None
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape.astype(np.int64))


def read_cifar_batches(paths: list[Path]) -> Arrays:
    """CIFAR-10's Python batches, as torchvision stores them in `cifar-10-batches-py`."""
    images, labels = [], []
    for path in paths:
        try:
            with path.open("rb") as file:
                batch = _ArrayUnpickler(file, encoding="bytes").load()
            images.append(batch[b"data"].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
            labels.append(np.asarray(batch[b"labels"], np.uint8))
        except Exception as error:  # a damaged pickle can raise anything
            raise BadData(f"{path} is damaged or not a CIFAR-10 batch ({error}): download it again.") from None
    return np.ascontiguousarray(np.concatenate(images)), np.concatenate(labels)


class _ArrayUnpickler(pickle.Unpickler):
    """Unpickles NumPy arrays and plain containers. Any other class or function is refused before it is called."""

    _ALLOWED = frozenset({
        ("numpy.core.multiarray", "_reconstruct"), ("numpy._core.multiarray", "_reconstruct"),
        ("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode"),
    })  # fmt: skip

    def __init__(self, file: BinaryIO, encoding: str) -> None:
        super().__init__(file, encoding=encoding)

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._ALLOWED:
            raise pickle.UnpicklingError(f"it refers to {module}.{name}, which a data set does not need")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)
